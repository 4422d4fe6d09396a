"""The network of the tiny voice: ids of frames to log-mels, exactly 69,072 parameters, and its training."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import lessons

from vivace.core.bundle import atomic_file

PARAMETERS = 69_072
ROWS = 128  # of the embedding: phonemes, places, and some that stay unused
WIDTH, FIRST, INNER = 24, 64, 60  # numbers for an id; channels of the first layer, and of those behind it
DILATIONS = (1, 1, 2, 4)
CROP, BATCH, CHUNK = 160, 24, 40  # frames of a crop, crops of a step, steps between two looks at the clock
RATE, WARM = 2e-3, 0.02  # learning rate at most; share of the time in which it rises
SAVE_EVERY = 60.0  # seconds
MOST_GAIN = 1.5
QUIET = -10.0  # log power below which a mel is not heard beside the others: not learned


def build(columns: int, mean: np.ndarray, scale: float = 1.0) -> Any:
    """[batch, frames, columns] ids -> [batch, frames, mels], which begin at `mean`. `scale` scales the channels (tests
    use a narrow one)."""
    first, inner = (max(4, round(scale * channels)) for channels in (FIRST, INNER))
    given = keras.Input((None, columns), dtype="int32", name="ids")
    x = keras.layers.Embedding(ROWS, WIDTH, name="table")(given)
    x = keras.layers.Reshape((-1, columns * WIDTH))(x)
    x = keras.layers.Conv1D(first, 1, activation="relu")(x)
    for k, dilation in enumerate(DILATIONS):
        made = keras.layers.Conv1D(inner, 3, padding="same", dilation_rate=dilation, activation="relu")(x)
        x = keras.layers.Add()([x, made]) if k else made
    model = keras.Model(given, keras.layers.Conv1D(len(mean), 1)(x), name="tiny")
    model.layers[-1].bias.assign(mean)
    return model


def train(
    folder: Path,
    out: Path,
    *,
    minutes: float,
    scale: float = 1.0,
    tell: Callable[[str], None] = print,
) -> Any:
    """Trains for `minutes` (of one core) on the lessons in `folder`, those before an interruption included, and saves
    the model with its optimizer at `out`, its adapter beside it. Returns the model."""
    import torch

    torch.set_num_threads(1)
    adapter, taught = lessons.read(folder)
    ids = np.concatenate([ids for ids, _ in taught]).astype(np.int32)
    mels = np.maximum(np.concatenate([mels for _, mels in taught]), QUIET)
    if int(ids.max()) >= ROWS:
        raise ValueError(f"the lessons have ids up to {ids.max()}, the table {ROWS} rows")
    kept, done = out.with_name("training.keras"), out.with_name("training.json")
    spent, chunk = json.loads(done.read_text(encoding="utf-8")) if done.exists() else (0.0, 0)
    keras.utils.set_random_seed(0)
    if chunk:
        model = keras.saving.load_model(kept)
    else:
        model = build(ids.shape[1], mels.mean(axis=0), scale)
        model.compile(keras.optimizers.Adam(RATE), "mean_absolute_error")
    saved, limit = time.process_time(), 60 * minutes
    crops = np.arange(CROP)
    while spent < limit:
        begun = time.process_time()
        share = spent / limit
        model.optimizer.learning_rate = RATE * min(1.0, share / WARM + 0.01) * 0.5 * (1.02 + np.cos(np.pi * share))
        starts = np.random.default_rng(chunk).integers(0, len(ids) - CROP, (CHUNK * BATCH, 1))
        found = model.fit(ids[starts + crops], mels[starts + crops], batch_size=BATCH, shuffle=False, verbose=0)
        chunk, spent = chunk + 1, spent + time.process_time() - begun
        if chunk % 10 == 0:
            tell(f"step {chunk * CHUNK}, {spent / 60:.1f} of {minutes:g} min: {found.history['loss'][0]:.4f}")
        if time.process_time() - saved > SAVE_EVERY and spent < limit:
            model.save(kept)
            atomic_file(done, json.dumps([spent, chunk]).encode())
            saved = time.process_time()
    restore_variance(model, ids[: 40 * CROP][None], mels[: 40 * CROP])
    model.save(out)
    out.with_suffix(".json").write_text(json.dumps(adapter, ensure_ascii=False, indent=1), encoding="utf-8")
    return model


def restore_variance(model: Any, ids: np.ndarray, mels: np.ndarray) -> None:
    """Scales each mel of the last layer so that it varies as much as the teacher's: what is learned by the mean error
    varies too little, which muffles the voice (global variance: Toda and Tokuda 2007)."""
    made = model.predict(ids, verbose=0)[0]
    gain = np.clip(mels.std(axis=0) / np.maximum(made.std(axis=0), 1e-3), 1.0, MOST_GAIN)
    last, mean = model.layers[-1], made.mean(axis=0)
    kernel, bias = last.get_weights()
    last.set_weights([kernel * gain, mean + (bias - mean) * gain])

"""Passes that train a Keras model on: what they leave in the file, and that it is still a model that listens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from families import keras_maker
from vivace.core.bundle import Bundle
from vivace.core.contracts import Context
from vivace.core.errors import UsageError
from vivace.core.stage import RuntimeOptions
from vivace.engine.sessions import open_sessions
from vivace.passes import _retrain, finetune_sparse, int8_static, keras_int8, qat

pytest.importorskip("torch")
keras = pytest.importorskip("keras")
if keras.backend.backend() != "torch":
    pytest.skip("Keras runs on another backend", allow_module_level=True)


def lesson(count: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Three bands of frequencies, each louder in its own label."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, count)
    x = rng.normal(-6, 1, (count, 24, 20))
    for k, label in enumerate(y):
        x[k, :, label * 6 : label * 6 + 6] += 2
    return x.astype(np.float32), y


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from vivace.families import keras_model

    folder = tmp_path_factory.mktemp("learner")
    model = keras_maker.classifier(8)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(*lesson(), epochs=6, batch_size=20, verbose=0)
    return keras_model.import_(keras_maker.write(model, keras_maker.LISTENS, folder / "m.keras"), folder / "bundle")


def context(**changes: Any) -> Context:
    x, _ = lesson(8)
    return replace(Context(lambda stage: [{"input": row[None]} for row in x], training=lesson), **changes)


def right(bundle: Bundle) -> float:
    x, y = lesson(90)
    session = open_sessions(bundle, RuntimeOptions(threads=1))["model"]
    found = float(np.mean(session.run({"input": x})["output"].argmax(axis=1) == y))
    session.close()
    return found


def weights(bundle: Bundle) -> list[np.ndarray]:
    graph = onnx.load(str(bundle.file("model.onnx"))).graph
    return [numpy_helper.to_array(i) for i in graph.initializer if sum(size > 1 for size in i.dims) >= 2]


def test_qat_leaves_an_integer_graph_that_still_names_the_clips(bundle: Bundle, tmp_path: Path) -> None:
    child = qat.apply(bundle, tmp_path / "out", qat.Settings(epochs=2, batch=20), context())
    assert "int8" in child.stages[0].precision
    assert all(w.dtype == np.int8 for w in weights(child))
    assert right(child) > 0.95
    assert child.history[-1].name == "qat"
    assert not list(tmp_path.glob(".*training*")), "the checkpoint goes when the pass is done"


def test_rounding_is_that_of_the_quantized_graph() -> None:
    """What training computes with is what int8_static stores."""
    import torch

    weight = np.random.default_rng(0).normal(size=(3, 5, 7)).astype(np.float32)
    rounded = qat._on_grid_by_channel(torch.from_numpy(weight)).numpy()
    scale = np.abs(weight).max(axis=(0, 1)) / 127
    assert np.allclose(rounded, np.round(weight / scale) * scale, atol=1e-6)
    values = torch.linspace(-0.3, 1.7, 50)
    grid = qat._on_grid(values)
    assert len(torch.unique(torch.round(grid / (2.0 / 255)))) == 50
    assert float((grid - values).abs().max()) <= 2.0 / 255


def test_gradients_pass_the_rounding() -> None:
    import torch

    value = torch.tensor([0.3, -0.7], requires_grad=True)
    (qat._through(value, torch.round(value)) * torch.tensor([2.0, 3.0])).sum().backward()
    assert value.grad is not None and value.grad.tolist() == [2.0, 3.0]


def test_pruning_zeroes_the_share_that_was_asked_for(bundle: Bundle, tmp_path: Path) -> None:
    settings = finetune_sparse.Settings(sparsity=0.6, epochs=3, batch=20)
    child = finetune_sparse.apply(bundle, tmp_path / "out", settings, context())
    for weight in weights(child):
        assert np.mean(weight == 0) == pytest.approx(0.6, abs=0.03)
    assert np.mean(weights(bundle)[0] == 0) < 0.05
    assert right(child) > 0.9


def test_thinning_keeps_the_largest() -> None:
    weight = np.array([[0.1, -3.0], [2.0, -0.2]], np.float32)
    assert finetune_sparse.thinned(weight, 0.5).tolist() == [[0, -3.0], [2.0, 0]]
    assert finetune_sparse.thinned(weight, 0.1) is weight


def test_an_interrupted_training_ends_where_one_without_a_break_does(tmp_path: Path) -> None:
    x, y = lesson(60)
    seen: list[str] = []

    def stop(message: str, share: float) -> None:
        seen.append(message)
        if "epoch 2/3" in message and len(seen) < 100:
            raise KeyboardInterrupt

    asked: dict[str, Any] = {"epochs": 3, "rate": 0.001, "batch": 20, "checkpoint": tmp_path / "c.npz"}
    with pytest.raises(KeyboardInterrupt):
        _retrain.train(keras_maker.classifier(8), x, y, tell=stop, **asked)
    assert (tmp_path / "c.npz").is_file()
    later: list[str] = []
    steps: list[int] = []
    resumed, straight = keras_maker.classifier(8), keras_maker.classifier(8)
    _retrain.train(resumed, x, y, tell=lambda message, share: later.append(message), each_step=steps.append, **asked)
    assert "training, epoch 2/3" in later
    assert "training, epoch 1/3" not in later
    assert steps == [4, 5, 6, 7, 8, 9]  # three in an epoch
    assert not list(tmp_path.iterdir())
    _retrain.train(straight, x, y, tell=lambda message, share: None, **asked)
    for a, b in zip(resumed.get_weights(), straight.get_weights(), strict=True):
        assert np.allclose(a, b, atol=1e-6)


def test_only_epochs_from_which_on_the_best_counts_can_be_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sparse enough only later: an early epoch that names more clips is not what was asked for."""
    x, y = lesson(60)
    model = keras_maker.classifier(8)
    shares = iter((1.0, 0.0))
    monkeypatch.setattr(
        type(model),
        "predict",
        lambda self, clips, verbose: np.eye(3)[
            (y[np.random.default_rng(0).permutation(60)[::10]] + (next(shares) < 0.5)) % 3
        ],
    )
    _retrain.train(
        model, x, y, epochs=2, rate=0.001, batch=20, checkpoint=tmp_path / "c.npz", tell=lambda message, share: None,
        each_step=lambda step: model.get_layer(index=-1).bias.assign(np.full(3, float(step))), best_from=2,
    )  # fmt: skip
    assert model.get_layer(index=-1).bias.numpy().tolist() == [6.0] * 3


@pytest.mark.parametrize("module", [qat, finetune_sparse])
def test_what_cannot_be_trained_is_a_sentence(module: Any, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs labelled clips to train on: --training FOLDER"):
        module.apply(bundle, tmp_path / "out", module.Settings(), context(training=None))
    plain = replace(bundle, family="generic")
    with pytest.raises(UsageError, match="family generic keeps nothing"):
        module.apply(plain, tmp_path / "out", module.Settings(), context())
    with pytest.raises(UsageError):
        module.Settings(epochs=0)


def test_the_same_operators_are_quantized_as_without_training(bundle: Bundle, tmp_path: Path) -> None:
    static = int8_static.apply(bundle, tmp_path / "static", int8_static.Settings(), context())
    trained = qat.apply(bundle, tmp_path / "qat", qat.Settings(epochs=1, batch=20), context())
    kinds = [
        sorted(node.op_type for node in onnx.load(str(b.file("model.onnx"))).graph.node) for b in (static, trained)
    ]
    assert kinds[0] == kinds[1]


def test_keras_quantizes_its_dense_layers(bundle: Bundle, tmp_path: Path) -> None:
    child = keras_int8.apply(bundle, tmp_path / "out", keras_int8.Settings(), context())
    whole = [w for w in weights(child) if w.dtype == np.int32]
    assert len(whole) == 1 and np.abs(whole[0]).max() == 127, "Keras multiplies in 32 bits"
    assert any(w.dtype == np.float32 for w in weights(child)), "convolutions stay as they are"
    assert child.stages[0].precision == "mixed int8"
    assert right(child) > 0.95

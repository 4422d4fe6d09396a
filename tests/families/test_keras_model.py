"""Keras models: equal to Keras, and nothing in a file is run unasked."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from families import keras_maker
from vivace.core.bundle import Bundle
from vivace.core.errors import ModelError, UsageError
from vivace.core.stage import RuntimeOptions
from vivace.engine.sessions import open_sessions
from vivace.families import _custom, keras_model
from vivace.workflows.import_ import import_model

pytest.importorskip("torch")
keras = pytest.importorskip("keras")
if keras.backend.backend() != "torch":
    pytest.skip("Keras runs on another backend", allow_module_level=True)
layers = keras.layers


def imported(model: Any, folder: Path, adapter: dict[str, Any] = keras_maker.LISTENS, suffix: str = ".keras") -> Bundle:
    return keras_model.import_(keras_maker.write(model, adapter, folder / f"model{suffix}"), folder / "bundle")


def run(bundle: Bundle, x: np.ndarray) -> np.ndarray:
    sessions = open_sessions(bundle, RuntimeOptions(threads=1))
    try:
        return next(iter(sessions["model"].run({"input": x}).values()))
    finally:
        sessions["model"].close()


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_the_graph_equals_keras_on_every_batch_and_length(tmp_path: Path, suffix: str) -> None:
    model = keras_maker.classifier()
    model.compile("adam", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    model.fit(rng.standard_normal((8, 30, 20)), rng.integers(0, 3, 8), verbose=0)
    bundle = imported(model, tmp_path, suffix=suffix)
    assert bundle.stages[0].inputs["input"].shape == ("batch", "time", 20)
    for batch, length in ((1, 7), (4, 48), (2, 201)):
        x = rng.standard_normal((batch, length, 20)).astype(np.float32)
        assert np.abs(run(bundle, x) - model.predict(x, verbose=0)).max() < 1e-5
    saved = bundle.defaults["saved"]
    trained = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert saved["optimizer"] == pytest.approx(2 * 4 * trained, abs=64), "Adam keeps two numbers for each weight"
    assert saved["file"] > saved["optimizer"]


def test_a_batch_norm_becomes_part_of_its_convolution(tmp_path: Path) -> None:
    import onnx

    bundle = imported(keras_maker.classifier(), tmp_path)
    kinds = [node.op_type for node in onnx.load(str(bundle.file("model.onnx"))).graph.node]
    assert kinds.count("Conv") == 2
    assert not {"Mul", "BatchNormalization"} & set(kinds)


@pytest.mark.parametrize(
    "middle",
    [
        lambda x: layers.LayerNormalization()(layers.SeparableConv1D(8, 3, padding="same")(x)),
        lambda x: layers.Conv1DTranspose(8, 4, strides=2, padding="same")(x),
        lambda x: layers.MultiHeadAttention(2, 8)(x, x),
        lambda x: layers.Add()([x, layers.DepthwiseConv1D(5, padding="same", activation="gelu")(x)]),
        lambda x: layers.Conv1D(8, 5, padding="causal", dilation_rate=2)(x),
    ],
    ids=["separable", "transposed", "attention", "residual", "causal"],
)
def test_other_layers_are_equal_too(tmp_path: Path, middle: Any) -> None:
    inputs = keras.Input((None, 20))
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(middle(inputs))))
    bundle = imported(model, tmp_path)
    x = np.random.default_rng(1).standard_normal((2, 53, 20)).astype(np.float32)
    assert np.abs(run(bundle, x) - model.predict(x, verbose=0)).max() < 1e-4


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the Lambda of `_lambda_file` writes when it is run."""
    monkeypatch.setenv("PLANTED", str(tmp_path / "planted"))
    return tmp_path / "planted"


def _lambda_file(path: Path, planted: Path) -> Path:
    touch = lambda x: (__import__("pathlib").Path(__import__("os").environ["PLANTED"]).touch(), x)[1]  # noqa: E731
    inputs = keras.Input((None, 20))
    hidden = layers.Lambda(touch, name="quiet")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(hidden)))
    written = keras_maker.write(model, keras_maker.LISTENS, path)
    planted.unlink()  # Keras ran it while the model was built
    return written


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_lambda_is_not_run(tmp_path: Path, planted: Path, suffix: str) -> None:
    path = _lambda_file(tmp_path / f"bad{suffix}", planted)
    with pytest.raises(ModelError, match=r"'quiet' is a Lambda.*not run.*--allow-code"):
        keras_model.import_(path, tmp_path / "out")
    assert not planted.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_the_planted_code_does_run_where_it_is_allowed(tmp_path: Path, planted: Path, suffix: str) -> None:
    """Else the test above proves nothing."""
    path = _lambda_file(tmp_path / f"bad{suffix}", planted)
    keras_model.import_(path, tmp_path / "out", allow_code=True)
    assert planted.exists()


def test_a_module_named_in_the_file_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted_module.py").write_text("open(__file__ + '.ran', 'w').close()\nclass Dense: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = keras_maker.write(keras_maker.classifier(), keras_maker.LISTENS, tmp_path / "good.keras")
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    next(one for one in config["config"]["layers"] if one["class_name"] == "Dense")["module"] = "planted_module"
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with pytest.raises(ModelError, match="needs the class Dense, which is not part of Keras"):
        keras_model.import_(path, tmp_path / "out")
    assert not list(tmp_path.glob("*.ran"))
    assert "planted_module" not in sys.modules


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.97])
def test_a_truncated_file_is_a_sentence(tmp_path: Path, suffix: str, share: float) -> None:
    path = keras_maker.write(keras_maker.classifier(), keras_maker.LISTENS, tmp_path / f"cut{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelError) as caught:
        keras_model.import_(path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


CUSTOM = """
import keras

class Louder(keras.layers.Layer):
    def call(self, x):
        return keras.ops.tanh(x * 2)
"""


def test_a_custom_class_is_asked_for_and_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_layers.py").write_text(CUSTOM, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (louder,) = _custom.objects(["my_layers:Louder"]).values()
    inputs = keras.Input((None, 20))
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(louder()(inputs))))
    path = keras_maker.write(model, keras_maker.LISTENS, tmp_path / "own.keras")
    with pytest.raises(ModelError, match=r"needs the class Louder.*--custom MODULE:Louder"):
        keras_model.import_(path, tmp_path / "out")
    with pytest.raises(UsageError, match="my_layers:Softer"):
        keras_model.import_(path, tmp_path / "out", custom=["my_layers:Louder", "my_layers:Softer"])
    bundle = import_model(path, tmp_path / "out", custom=["my_layers:Louder"])
    x = np.random.default_rng(1).standard_normal((2, 40, 20)).astype(np.float32)
    assert np.abs(run(bundle, x) - model.predict(x, verbose=0)).max() < 1e-5
    with pytest.raises(UsageError, match=r"--custom my_layers:Louder"):  # a bundle imports nothing by itself
        keras_model.source(bundle)
    again = keras_model.source(bundle, ["my_layers:Louder"])
    assert np.allclose(again.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)


def test_a_layer_that_cannot_be_converted_is_named(tmp_path: Path) -> None:
    inputs = keras.Input((None, 20))
    model = keras.Model(inputs, layers.Dense(3)(layers.GRU(8, name="memory")(layers.Dense(8)(inputs))))
    with pytest.raises(
        ModelError, match=r"layer 'memory' \(GRU\) cannot be converted to ONNX; .*fixed number of steps"
    ):
        imported(model, tmp_path)
    odd = layers.Activation("relu", name="odd")
    odd.call = lambda x: keras.ops.convert_to_tensor(np.sort(keras.ops.convert_to_numpy(x)))
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(odd(inputs))))
    with pytest.raises(ModelError, match=r"layer 'odd' \(Activation\) cannot be converted to ONNX; put a layer"):
        keras_model.converted(model)
    fixed = keras.Input((4, 20))
    model = keras.Model(fixed, layers.Dense(3)(layers.GRU(8, name="memory")(fixed)))
    bundle = imported(model, tmp_path)
    x = np.random.default_rng(1).standard_normal((2, 4, 20)).astype(np.float32)
    assert np.abs(run(bundle, x) - model.predict(x, verbose=0)).max() < 1e-5


def test_other_faults_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"x")
    assert keras_model.recognise(tmp_path / "saved")
    with pytest.raises(ModelError, match=r"SavedModel.*save it as a \.keras file"):
        keras_model.import_(tmp_path / "saved", tmp_path / "out")
    path = keras_maker.write(keras_maker.classifier(), keras_maker.LISTENS, tmp_path / "two.keras")
    keras_maker.classifier().save_weights(tmp_path / "only.weights.h5")
    with pytest.raises(ModelError, match="weights only"):
        keras_model.import_(tmp_path / "only.weights.h5", tmp_path / "out")
    path.with_suffix(".json").unlink()
    with pytest.raises(ModelError, match=r"two.json is not there"):
        keras_model.import_(path, tmp_path / "out")
    a, b = keras.Input((None, 20)), keras.Input((None, 20))
    two = keras.Model([a, b], layers.Dense(3)(layers.GlobalAveragePooling1D()(layers.Add()([a, b]))))
    with pytest.raises(ModelError, match="2 inputs and 1 outputs"):
        imported(two, tmp_path)


def test_an_option_of_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hum.json").write_text('{"toy": 1}')
    with pytest.raises(UsageError, match="--custom does not belong to models of the family toy"):
        import_model(tmp_path / "hum.json", tmp_path / "out", custom=["a:b"])


def test_export_is_the_graph_and_its_adapter(tmp_path: Path) -> None:
    bundle = imported(keras_maker.classifier(), tmp_path)
    files = keras_model.export(bundle, tmp_path / "out")
    assert [file.name for file in files] == ["model.onnx", "model.json"]
    assert json.loads(files[1].read_text(encoding="utf-8")) == keras_maker.LISTENS

"""A bundle for the tests of bundles."""

from __future__ import annotations

from pathlib import Path

from vivace.core.bundle import Bundle, Step
from vivace.core.stage import Stage, TensorSpec

STAGES = (
    Stage("text", "stages/text.onnx", inputs={"ids": TensorSpec("int64", ("batch", "n"))}, frame_rate=100.0),
    Stage("decoder", "stages/decoder.onnx", precision="int8", outputs={"wave": TensorSpec("float32", (1, "t"))}),
)
SAMPLE = Bundle(
    Path("unused"),
    "ann",
    "toy",
    8000,
    STAGES,
    voices=("ann", "bob"),
    defaults={"noise_scale": 0.5, "hop": 80},
    history=(Step("first", "1", {"rows": 8}, "abc", 0.5),),
)


def fill(folder: Path) -> None:
    (folder / "stages").mkdir()
    for stage in STAGES:
        (folder / stage.file).write_bytes(stage.name.encode() * 10)
    (folder / "voice.json").write_text("{}", encoding="utf-8")

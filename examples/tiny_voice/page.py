"""The page of the tiny voice: sizes, quality and times with their intervals, and which step each gain came from."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from keras_steps import gate_said, size_table, table, time_table, written

COMMAND = "python examples/tiny_voice/run.py --out build/tiny"


def write_page(found: dict[str, Any], path: Path) -> str:
    """Writes the page, and `found` as JSON beside it; returns the page."""
    facts = found["machine"]
    settings = ", ".join(f"{key} {value}" for key, value in found["settings"].items())
    quality = found["quality"]
    weights = 4 * found["parameters"]
    lines = [
        "# A tiny voice: a Keras network to INT8",
        "",
        f"Written by `{COMMAND}`. {found['parameters']:,} parameters ({weights / 1024:.2f} KB in fp32) make log-mels "
        "of phonemes, as the Piper voice `en_US-joe-medium` says them without noise; Griffin-Lim makes samples.",
        "",
        f"{found['created']}; {facts['cpu']}, {facts['cores']} cores, Python {facts['python']}; {settings}.",
        "",
        "## Size, and what it comes from",
        "",
        *size_table(found["sizes"], "KB of 1024 bytes", 1024),
        "",
        f"## Quality on {quality['texts']} sentences that are not in the training set",
        "",
        "Predicted MOS by DistillMOS, word error rate by Whisper tiny.en; 95% intervals.",
        "",
        *table(
            ("voice", "predicted MOS", "WER, %"),
            [[arm, _mos(one["predicted_mos"]), _wer(one["wer"])] for arm, one in quality["arms"].items()],
        ),
        "",
        _change(quality),
        "",
        f"## Time of one utterance: {found['speech_seconds']:.1f} s of speech, batch 1",
        "",
        "The network alone:",
        "",
        *time_table(found["seconds"]),
        *(f"| {arm} | not measured: {why} | – | – |" for arm, why in found["missing"].items()),
        _gpu(found["gpu"]),
        "",
        _griffin_lim(found),
        "",
        *gate_said(found),
    ]
    return written(lines, found, path)


def _mos(found: dict[str, float]) -> str:
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _wer(found: dict[str, float]) -> str:
    return f"{100 * found['value']:.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


def _change(quality: dict[str, Any]) -> str:
    mos, wer = quality["change"]["predicted_mos"], quality["change"]["wer"]
    share = 100 / quality["arms"]["ONNX, fp32"]["predicted_mos"]["value"]
    return (
        "INT8 against its own fp32, paired: predicted MOS "
        f"{mos['value']:+.3f} ({mos['low']:+.3f} to {mos['high']:+.3f}), "
        f"which is {share * mos['value']:+.1f}% ({share * mos['low']:+.1f} to {share * mos['high']:+.1f}); "
        f"WER {100 * wer['value']:+.1f} points ({100 * wer['low']:+.1f} to {100 * wer['high']:+.1f})."
    )


def _gpu(found: dict[str, Any]) -> str:
    """A row of the table of times."""
    if not found["seconds"]:
        return f"| GPU | not measured: {found['why']}; `{COMMAND}` measures it where there is one | – | – |"
    return f"| {found['device']}, PyTorch | {1000 * statistics.median(found['seconds']):.2f} | – | – |"


def _griffin_lim(found: dict[str, Any]) -> str:
    runs = found["griffin_lim"]
    low, middle, high = (1000 * cut for cut in statistics.quantiles(runs, n=4))
    network = 1000 * statistics.median(found["seconds"]["ONNX Runtime, INT8"])
    return (
        f"Griffin-Lim, which every arm needs: {middle:.1f} ms ({low:.1f} to {high:.1f}), n = {len(runs)}. "
        f"The network in INT8 is {100 * network / (network + middle):.1f}% of the whole."
    )

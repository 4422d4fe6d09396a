"""Turns the DistillMOS weights into the ONNX file that `vivace.metrics.predicted_mos` reads, and records golden scores.

    pip install torch==2.13.0 onnx onnxscript onnxruntime soundfile
    pip install --no-deps distillmos==0.9.1 xls-r-sqa==0.1.0
    python scripts/convert_distillmos.py

Writes src/vivace/metrics/data/distillmos.onnx and tests/metrics/golden/distillmos.json (scores of the untouched
PyTorch model on the clips beside it). Prints how far the ONNX file is from the original, with and without the
half-precision storage of its weights.

The graph takes one segment of at most 122,880 samples at 16 kHz. Short clips are padded with silence by the
original, and silence costs the convolutions as much as speech; here the caller leaves most of it out, and the graph
repeats the one feature frame that silence produces until the transformer has its 384 frames.
"""

from __future__ import annotations

import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "src/vivace/metrics/data"
CLIPS = ROOT / "tests/metrics/clips"
GOLDEN = ROOT / "tests/metrics/golden/distillmos.json"
SEGMENT = 122_880
WINDOW, HOP = 320, 160
FRAMES = 384
EDGE = 4  # frames at the end that see the zero padding of the convolutions


def original(**options: Any) -> nn.Module:
    """The published model. It imports torchaudio for reading files only, so an empty module takes its place."""
    sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))
    from distillmos import ConvTransformerSQAModel

    return ConvTransformerSQAModel(**options).eval()


class Segment(nn.Module):
    """The original's layers behind a short-time Fourier transform written as a convolution."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.cnn, self.head = model.cnn.cnn, model.transformer_pool_attn
        sample = np.arange(WINDOW)
        phase = 2 * np.pi * np.outer(np.arange(WINDOW // 2 + 1), sample) / WINDOW
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * sample / WINDOW)
        basis = np.stack([np.cos(phase), -np.sin(phase)]) * hann
        self.register_buffer("basis", torch.tensor(basis.reshape(-1, 1, WINDOW), dtype=torch.float32))

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        # The original divides by (peak + 1e-8); the exporter takes the addition of so little for one of nothing.
        x = samples * 1e8 / (samples.abs().amax(dim=1, keepdim=True) * 1e8 + 1)
        x = functional.pad(x, ((WINDOW - HOP) // 2,) * 2, mode="reflect")
        spectrum = functional.conv1d(x[:, None], self.basis, stride=HOP).reshape(1, 2, WINDOW // 2 + 1, -1)
        magnitude = spectrum.square().sum(dim=1, keepdim=True).sqrt().clip(1e-12)
        features = self.cnn(spectrum * magnitude**-0.7).flatten(1, -2)
        n = features.shape[-1]
        i = torch.arange(FRAMES)
        stretched = features.index_select(2, torch.maximum(torch.clamp(i, max=n - EDGE - 1), i - FRAMES + n))
        return 1 + 4 * self.head(stretched.permute(0, 2, 1))


def export(model: nn.Module) -> onnx.ModelProto:
    hops = torch.export.Dim("hops", min=10, max=FRAMES)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "distillmos.onnx")
        torch.onnx.export(
            Segment(model).eval(),
            (torch.zeros(1, 200 * 2 * HOP),),
            path,
            dynamo=True,
            input_names=["samples"],
            output_names=["mos"],
            dynamic_shapes={"samples": {1: 2 * HOP * hops}},
            external_data=False,
            verbose=False,
        )
        graph = onnx.load(path)
    for node in graph.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*graph.graph.input, *graph.graph.output, *graph.graph.initializer]:
        del value.metadata_props[:]
    del graph.graph.value_info[:]
    del graph.graph.metadata_props[:]
    return graph


def half_storage(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weight matrices in half precision, each with a Cast that the runtime folds while it loads; arithmetic stays fp32.

    The Fourier basis keeps its precision: it meets the signal before the compression that lifts quiet bins.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    graph, casts = small.graph, []
    for tensor in graph.initializer:
        basis = list(tensor.dims) == [WINDOW + 2, 1, WINDOW]
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2 or basis:
            continue
        name, array = tensor.name, numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(small, full_check=True)
    return small


def main() -> None:
    sys.path.insert(0, str(ROOT / "src"))
    import onnxruntime
    import soundfile

    from vivace.metrics.predicted_mos import mos_of

    clips = {path.stem: soundfile.read(path, dtype="float32")[0] for path in sorted(CLIPS.glob("*.flac"))}
    model = original()
    with torch.no_grad():
        golden = {name: model(torch.from_numpy(clip)[None]).item() for name, clip in clips.items()}
    exact = export(original(segmenting_in_forward=False))
    small = half_storage(exact)
    for label, graph in (("fp32", exact), ("fp16 storage", small)):
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        apart = {name: mos_of(session, clip) - golden[name] for name, clip in clips.items()}
        print(f"{label}: {graph.ByteSize() / 1e6:.2f} MB, furthest {max(map(abs, apart.values())):.2e}", apart)
    DATA.mkdir(exist_ok=True)
    onnx.save(small, DATA / "distillmos.onnx")
    GOLDEN.parent.mkdir(exist_ok=True)
    record = {"source": f"distillmos 0.9.1, torch {torch.__version__}", "scores": golden}
    GOLDEN.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

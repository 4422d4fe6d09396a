"""Turns the Resemblyzer voice encoder into the ONNX file that `vivace.metrics.speaker_similarity` reads, and records
golden embeddings.

    pip install torch==2.13.0 onnx onnxruntime soundfile librosa==0.11.0
    pip download --no-deps resemblyzer==0.1.4
    python scripts/convert_resemblyzer.py Resemblyzer-0.1.4-py3-none-any.whl

Writes src/vivace/metrics/data/resemblyzer.onnx and tests/metrics/golden/resemblyzer.json (embeddings of the clips
beside it by PyTorch and librosa, without the package's trimming of pauses). Prints how far the ONNX file, with its
weights in half precision, is from the original.

The encoder (generalized end-to-end loss, Wan et al. 2018) is three LSTM layers of 256 over 40 mel powers, a linear
layer, ReLU and unit length: small enough to write its graph out here.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "src/vivace/metrics/data"
CLIPS = ROOT / "tests/metrics/clips"
GOLDEN = ROOT / "tests/metrics/golden/resemblyzer.json"
MELS, HIDDEN, LAYERS, WINDOW = 40, 256, 3, 160
RATE, HOP = 16_000, 160

Weights = dict[str, torch.Tensor]
Floats = NDArray[np.float32]


def weights(wheel: Path) -> Weights:
    """The tensors of the pretrained encoder inside the package."""
    with zipfile.ZipFile(wheel) as archive:
        file = io.BytesIO(archive.read("resemblyzer/pretrained.pt"))
    state: Weights = torch.load(file, map_location="cpu", weights_only=True)["model_state"]
    return state


def graph(state: Weights) -> onnx.ModelProto:
    """mels [n, 160, 40] -> embeddings [n, 256] of unit length; weight matrices stored in half precision."""
    nodes, tensors = [], []

    def constant(name: str, array: NDArray[np.float32]) -> str:
        if array.ndim < 2 or array.shape[-1] == 8 * HIDDEN:
            tensors.append(numpy_helper.from_array(array, name))
        else:
            tensors.append(numpy_helper.from_array(array.astype(np.float16), f"{name}.half"))
            nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
        return name

    def gates(name: str) -> NDArray[np.float32]:
        """PyTorch orders them input, forget, cell, output; ONNX input, output, forget, cell."""
        i, f, c, o = np.split(state[name].numpy(), 4)
        return np.concatenate([i, o, f, c])

    nodes.append(helper.make_node("Transpose", ["mels"], ["x0"], perm=[1, 0, 2]))
    for n in range(LAYERS):
        w = constant(f"w{n}", gates(f"lstm.weight_ih_l{n}")[None])
        r = constant(f"r{n}", gates(f"lstm.weight_hh_l{n}")[None])
        b = constant(f"b{n}", np.concatenate([gates(f"lstm.bias_ih_l{n}"), gates(f"lstm.bias_hh_l{n}")])[None])
        nodes.append(helper.make_node("LSTM", [f"x{n}", w, r, b], [f"y{n}", f"last{n}"], hidden_size=HIDDEN))
        nodes.append(helper.make_node("Squeeze", [f"y{n}", "directions"], [f"x{n + 1}"]))
    del nodes[-1]
    tensors.append(numpy_helper.from_array(np.array([1]), "directions"))
    tensors.append(numpy_helper.from_array(np.array([0]), "first"))
    matrix, bias = constant("linear", state["linear.weight"].numpy()), constant("bias", state["linear.bias"].numpy())
    nodes += [
        helper.make_node("Squeeze", [f"last{LAYERS - 1}", "first"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", matrix, bias], ["projected"], transB=1),
        helper.make_node("Relu", ["projected"], ["positive"]),
        helper.make_node("LpNormalization", ["positive"], ["embeddings"], axis=1, p=2),
    ]
    mels = helper.make_tensor_value_info("mels", TensorProto.FLOAT, ["n", WINDOW, MELS])
    embeddings = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["n", HIDDEN])
    model = helper.make_model(
        helper.make_graph(nodes, "resemblyzer", [mels], [embeddings], tensors),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
        producer_name="vivace",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def original(state: Weights, samples: Floats) -> Floats:
    """The package's `embed_utterance` for one clip, on its own layers and librosa's mel powers."""
    import librosa

    lstm = torch.nn.LSTM(MELS, HIDDEN, LAYERS, batch_first=True)
    lstm.load_state_dict({k.removeprefix("lstm."): v for k, v in state.items() if k.startswith("lstm.")})
    level = np.sqrt(np.mean(samples.astype(np.float64) ** 2))
    samples = samples * max(1.0, 10 ** (-30 / 20) / level)
    step, frames = round(RATE / 1.3 / HOP), -(-(len(samples) + 1) // HOP)
    starts = list(range(0, max(1, frames - WINDOW + step + 1), step))
    if len(starts) > 1 and (len(samples) - starts[-1] * HOP) / (WINDOW * HOP) < 0.75:
        starts.pop()
    samples = np.pad(samples, (0, max(0, (starts[-1] + WINDOW) * HOP - len(samples))))
    mel = librosa.feature.melspectrogram(y=samples, sr=RATE, n_fft=400, hop_length=HOP, n_mels=MELS).astype(np.float32)
    windows = np.stack([mel.T[at : at + WINDOW] for at in starts])
    with torch.no_grad():
        last = lstm(torch.from_numpy(windows))[1][0][-1]
        raw = torch.relu(last @ state["linear.weight"].T + state["linear.bias"])
        mean = (raw / raw.norm(dim=1, keepdim=True)).mean(dim=0)
        result: Floats = (mean / mean.norm()).numpy()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wheel", type=Path, help="the downloaded package")
    state = weights(parser.parse_args().wheel)
    sys.path.insert(0, str(ROOT / "src"))
    import soundfile

    from vivace.metrics import speaker_similarity

    DATA.mkdir(exist_ok=True)
    onnx.save(graph(state), DATA / "resemblyzer.onnx")
    clips = {path.stem: soundfile.read(path, dtype="float32")[0] for path in sorted(CLIPS.glob("*.flac"))}
    golden = {name: original(state, clip) for name, clip in clips.items()}
    for name, clip in clips.items():
        ours = speaker_similarity.embedding(clip)
        print(f"{name}: cosine {ours @ golden[name]:.6f}, furthest {np.abs(ours - golden[name]).max():.1e}")
    between = {f"{a} {b}": (round(float(golden[a] @ golden[b]), 4)) for a in golden for b in golden if a < b}
    print(f"{(DATA / 'resemblyzer.onnx').stat().st_size / 1e6:.2f} MB; the original between clips: {between}")
    record = {
        "source": f"resemblyzer 0.1.4, torch {torch.__version__}, librosa",
        "embeddings": {name: [round(float(x), 5) for x in e] for name, e in golden.items()},
    }
    GOLDEN.write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

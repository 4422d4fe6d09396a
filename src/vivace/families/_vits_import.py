"""From one VITS graph to the stages of a bundle: cut, proven, described. What Piper voices and others share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vivace.core.errors import ModelError
from vivace.core.stage import Array, Stage, TensorSpec
from vivace.families import _vits_graph as vits
from vivace.families._receptive_field import receptive_field
from vivace.families._vits_proof import prove


@dataclass(frozen=True, eq=False)
class Parts:
    """A voice in parts: ONNX models by stage name, samples of a frame, and the context of frames on each side that
    makes a window of decoder or flow equal to the whole."""

    models: Mapping[str, Any]
    hop: int
    overlap: int
    flow_overlap: int

    def stages(self, rate: int) -> tuple[Stage, ...]:
        rates = {vits.TEXT: rate / self.hop, vits.FLOW: rate / self.hop, vits.DECODER: float(rate)}
        return tuple(replace(_stage(name, model), frame_rate=rates[name]) for name, model in self.models.items())

    @property
    def defaults(self) -> dict[str, int]:
        """What `Voice` reads of them in a bundle's defaults."""
        return {"hop": self.hop, "overlap": self.overlap, "flow_overlap": self.flow_overlap}

    def write(self, folder: Path, stages: tuple[Stage, ...]) -> None:
        import onnx

        (folder / "stages").mkdir()
        for stage in stages:
            onnx.save(self.models[stage.name], str(folder / stage.file))


def take_apart(model: Any, tokens: Array, original: Callable[[Array], Array] | None = None) -> Parts:
    """Cuts a graph with Piper's signature and proves the cut exact on `tokens` [n] (all that the voice knows), and the
    graph like the `original` that it was made from. Raises ModelError if it is no VITS voice."""
    parts = vits.split(model)
    overlap, hop = receptive_field(parts[vits.DECODER])
    flow_overlap, _ = receptive_field(parts[vits.FLOW], vits.in_time(parts[vits.FLOW]))
    prove(model, parts, tokens, hop, overlap, flow_overlap, original)
    return Parts(parts, hop, overlap, flow_overlap)


def _stage(name: str, model: Any) -> Stage:
    from onnx import helper

    def spec(value: Any) -> TensorSpec:
        kind = value.type.tensor_type
        dims = tuple(d.dim_value or d.dim_param or f"d{k}" for k, d in enumerate(kind.shape.dim))
        if any(isinstance(dim, bytes) for dim in dims):  # what protobuf gives for a name that is no UTF-8
            raise ModelError(f"the shape of {value.name} is damaged; copy the voice's .onnx again")
        return TensorSpec(str(helper.tensor_dtype_to_np_dtype(kind.elem_type)), dims)

    inputs = {i.name: spec(i) for i in model.graph.input}
    outputs = {o.name: spec(o) for o in model.graph.output}
    return Stage(name, f"stages/{name}.onnx", inputs=inputs, outputs=outputs)

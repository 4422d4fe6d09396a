"""The parts that cost most, in words with figures: what limits each of them, and therefore what could help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vivace.workflows._ceiling import Ceiling
from vivace.workflows._macs import MULTIPLYING
from vivace.workflows._prefix import figures
from vivace.workflows._stopwatch import DECODE, ENGINE, TOKENS

TOP = 3
NEAR = 0.6  # of the ceiling: from here on, better code for the same arithmetic gains little
FAR = 0.3  # of the ceiling: below it, neither arithmetic nor memory explains the time
MANY = 0.3  # of a part's time in operators that do not multiply: from here on, they are to blame
WORTH_SAYING = 0.02  # of a part's time
OTHERS = {
    TOKENS: "spent in the text front end: no pass on the model changes it",
    ENGINE: "spent between the stages on noise, padding and copies: fewer and longer runs help",
}

Json = Mapping[str, Any]


def sentences(
    parts: Sequence[Json], operators: Mapping[str, Json], ceiling: Ceiling, decode: Json | None = None
) -> list[str]:
    """One sentence for each of the TOP parts, the slowest first, from the rows and views of the profile. `decode` is
    what is known of the steps of a model that makes its frames step by step."""
    slowest = sorted(parts, key=lambda part: -float(part["ms"]))[:TOP]
    return [
        f"{part['name']}: {100 * part['share']:.0f}% of the time ({part['ms']:.1f} ms)"
        + _why(part, operators.get(part.get("stage", part["name"])), ceiling, decode)
        for part in slowest
    ]


def _why(part: Json, view: Json | None, ceiling: Ceiling, decode: Json | None) -> str:
    if part["name"] in OTHERS:
        return f"; {OTHERS[part['name']]}"
    if part["name"] != DECODE or not decode:
        return f"; {_stage(part, view, ceiling)}"
    steps = f", {figures(part['ms'] / part['calls'])} ms a step"
    grows = f"{figures(decode['ms_per_100_frames'])} ms every 100 frames"
    if not decode["rises"]:
        return f"{steps}, grows by no more than {grows}; {_stage(part, view, ceiling)}"
    if decode["pass"]:
        return f"{steps}, grows by {grows}: use {decode['pass']}"
    return f"{steps}, grows by {grows} (each step attends to all before it); {_stage(part, view, ceiling)}"


def _stage(part: Json, view: Json | None, ceiling: Ceiling) -> str:
    if "macs" not in part:
        return "its operations cannot be counted, because it is no ONNX file"
    if part["ceiling_share"] is None:
        lacking = ", ".join(p for p in part["macs_by_precision"] if p not in ceiling.gmacs)
        return f"{part['gmacs_per_s']:.0f} GMAC/s in {lacking}, for which this machine's peak could not be measured"
    if part["bound"] == "memory" and part["ceiling_share"] >= FAR:
        return (
            f"{100 * part['memory_share']:.0f}% of this machine's memory bandwidth at {part['intensity']:.1f} MACs per"
            f" byte, so smaller weights and activations or fused operators help, faster arithmetic does not"
        )
    reached = f"{100 * part['compute_share']:.0f}% of this machine's {_precision(part)} peak"
    in_int8 = part.get("gain_in_int8")
    if part["ceiling_share"] >= NEAR:
        gain = f"; its arithmetic in INT8 would make the whole {in_int8:.2f}x as fast" if in_int8 else ""
        return f"{reached}, so only {_cheaper(part)} help{gain}"
    gain = f"; at that peak the whole would be {part['gain_at_ceiling']:.2f}x as fast"
    if in_int8:
        gain += f", with its arithmetic in INT8 and the rest as now {in_int8:.2f}x"
    idle = [kind for kind in view["types"] if kind["op"] not in MULTIPLYING] if view else []
    share = sum(float(kind["share"]) for kind in idle)
    if part["ceiling_share"] < FAR:
        blamed = "fusing or dropping operators that do not multiply helps most"
        why = blamed if share >= MANY else "its operators run badly on this machine"
        reached = f"only {reached}, so {why}"
    return reached + gain + (_idle(idle, share) if share >= WORTH_SAYING else "")


def _precision(part: Json) -> str:
    """The precision that a part's MACs are in, or all of them, the commonest first."""
    macs = part["macs_by_precision"]
    return " and ".join(sorted(macs, key=lambda p: -int(macs[p]))) or "arithmetic"


def _cheaper(part: Json) -> str:
    macs = part["macs_by_precision"]
    if macs.get("int8", 0) > part["macs"] / 2:
        return "fewer operations"
    return f"cheaper arithmetic ({'INT8' if 'bf16' in macs else 'INT8, bf16'}) or fewer operations"


def _idle(kinds: Sequence[Json], share: float) -> str:
    """How much of a part's time goes to operators that do not multiply, and to which."""
    calls = sum(float(kind["calls"]) for kind in kinds)
    most = " and ".join(kind["op"] for kind in kinds[:2])
    return (
        f"; {100 * share:.0f}% of its time goes to operators that do not multiply ({calls:,.0f} runs, most in {most})"
    )

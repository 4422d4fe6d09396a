"""The page and its plot, from figures alone: no sentence claims what no figure says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _peers import figures as f
from _peers.phases import METRICS, WARM, WHOLE_ROUNDS
from vivace.workflows._report_plots import PALETTE

OURS, PEERS, DROPIN = PALETTE[0], PALETTE[6], PALETTE[4]
TEXTS = {"short": 13, "medium": 50, "long": 258}  # characters
Cells = list[list[str]]


def page(name: str, field: f.Field, found: Mapping[str, Any], facts: Mapping[str, Any], notes: Sequence[str]) -> str:
    """`found` holds the figures of the phases that were run, by phase; `facts` is the machine."""
    versions = ", ".join(
        f"{tool} {facts['packages'][tool]}"
        for tool in ("vivace", "piper-tts", "sherpa-onnx", "onnxruntime", "openvino", "numpy")
        if tool in facts["packages"]
    )
    lines = [
        "# Against its peers on a CPU",
        "",
        f"`en_US-joe-medium` (Piper, 63 MB), {found['created'][:10]}. {facts['cpu']} ({', '.join(facts['flags'])}), "
        f"{facts['cores']} cores, {facts['memory_gb']} GB, Python {facts['python']}; {versions}.",
        "",
        "Every arm is a process of its own and goes from text to float samples. In each round every arm speaks every "
        "text, in shuffled order. Medians with 95% intervals; ratios are of medians, rounds resampled jointly, and "
        "above 1 is faster. Every arm draws new noise, and so new lengths, in every round. Before the first, each "
        f"process speaks {WARM} texts of all lengths: OpenVINO compiles for a length when it first meets it.",
        "",
        "- `plain ORT`: ONNX Runtime alone on the original file, phonemes by piper-tts.",
        "- `piper-tts, own settings`: its Python interface as it comes; it has no thread option and takes all cores.",
        "- `piper-tts, 1 thread (session replaced)`: the same voice object with a session of one thread put into it.",
        "- `sherpa-onnx`: its OfflineTts with phonemes by piper-tts, as its 2.0 wants them, and its metadata added to "
        "the original file.",
        *(f"- {note}" for note in notes),
    ]
    if any(found.get(key) for key in ("latency", "memory", "throughput")):
        lines += ["", f"![latency, memory, throughput]({name}.png)"]
    sections = {
        "latency": ("Latency", _latency),
        "varied": ("Latency of sentences spoken for the first time", _varied),
        "ttfa": ("First audio", _first),
        "load": ("Load", _load),
        "memory": ("Memory", _memory),
        "throughput": ("Throughput, all cores busy", _throughput),
        "quality": ("Quality", _quality),
        "dropins": ("The exported file inside other tools", _dropins),
        "verdicts": ("Where a peer is better", _verdicts),
    }
    for key, (title, write) in sections.items():
        if found.get(key):
            lines += ["", f"## {title}", "", *write(field, found)]
    if found.get("rest"):
        lines += ["", "## What else ran", "", _rest(found["rest"])]
    return "\n".join(lines) + "\n"


def _latency(field: f.Field, found: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for threads in field.groups:
        rows = [r for r in found["latency"] if r["threads"] == threads]
        marks = list(rows[0]["times"])
        said = list(rows[0]["seconds"])
        head = [
            "arm",
            *(f"{t} ({TEXTS[t]} characters), ms" for t in said),
            "RTF, long",
            *(f"{m}, all texts" for m in marks),
        ]
        cells = [
            [r["arm"], *(ms(r["seconds"][t]) for t in said), f"{r['rtf']['long']:.3f}"]
            + [_times(r["times"][m]["all"]) for m in marks]
            for r in rows
        ]
        lines += [f"{f.words(threads)}, {rows[0]['n']} rounds:", "", *table(head, cells), ""]
        own = [r for r in rows if field.arm(r["key"]).ours]
        by_text = [
            [r["arm"], m.removeprefix("times "), *(_times(r["times"][m][t]) for t in (*said, "all"))]
            for r in own
            for m in marks
        ]
        lines += table(["arm", "against", *said, "all"], by_text) + [""]
    return lines[:-1]


def _varied(field: f.Field, found: Mapping[str, Any]) -> list[str]:
    n = found["varied"][0]["n"]
    lines = [
        f"{n} sentences of 10 to 269 characters, each spoken once by every arm after other texts: what a runtime "
        "prepares for one length helps it little here.",
        "",
    ]
    for threads in field.groups:
        rows = [r for r in found["varied"] if r["threads"] == threads]
        marks = list(rows[0]["times"])
        head = ["arm", "median, ms", "p95, ms", "slowest, ms", "RTF", *marks]
        cells = [
            [r["arm"], ms(r["seconds"]["varied"]), f"{1000 * r['p95']['varied']:.0f}"]
            + [f"{1000 * r['slowest']['varied']:.0f}", f"{r['rtf']['varied']:.3f}"]
            + [_times(r["times"][m]["varied"]) for m in marks]
            for r in rows
        ]
        lines += [f"{f.words(threads)}:", "", *table(head, cells), ""]
    return lines[:-1]


def _first(field: f.Field, found: Mapping[str, Any]) -> list[str]:
    sizes = found["ttfa_texts"]
    lines = [
        f"Streamed: Vivace as `vivace say --raw`, the others sentence by sentence, which is what they can. A sentence "
        f"of {sizes['sentence']} characters, and a paragraph of {sizes['paragraph']} whose first sentence has "
        f"{found['ttfa_first_sentence']}. `gap-free`: when playing could "
        f"so as never to wait for samples (median of {WHOLE_ROUNDS} rounds at most).",
        "",
    ]
    for threads in field.groups:
        rows = [r for r in found["ttfa"] if r["threads"] == threads]
        marks = list(rows[0]["sentence"]["times"])
        head = ["arm"]
        for text in sizes:
            head += [f"{text}: first audio, ms", f"{text}: its length, s", f"{text}: gap-free, ms"]
        cells = []
        for r in rows:
            row = [r["arm"]]
            for text in sizes:
                row += [ms(r[text]["first"]), f"{r[text]['piece']:.2f}", f"{1000 * r[text]['gapless']['value']:.0f}"]
            cells.append(row)
        lines += [f"{f.words(threads)}, {rows[0]['n']} rounds:", "", *table(head, cells), ""]
        own = [r for r in rows if field.arm(r["key"]).ours]
        ratios = [
            [r["arm"], m.removeprefix("times "), *(_times(r[text]["times"][m]) for text in sizes)]
            for r in own
            for m in marks
        ]
        lines += table(["first audio", "against", *sizes], ratios) + [""]
    return lines[:-1]


def _load(field: f.Field, found: Mapping[str, Any]) -> list[str]:
    rows = found["load"]
    head = ["arm", "imports, s", "load, s", "start of the process to loaded, s", "to the first short text spoken, s"]
    names = ("import_s", "load_s", "ready_s", "to_audio_s")
    cells = [[_label(field, r["key"]) + r["first"], *(seconds(r[name]) for name in names)] for r in rows]
    return [
        f"Fresh processes, files in the page cache, {rows[0]['n']} rounds. Vivace keeps the graphs that it prepared at "
        "the first load of a bundle on a machine; `the first time` is a load with nothing kept.",
        "",
        *table(head, cells),
    ]


def _memory(field: f.Field, found: Mapping[str, Any]) -> list[str]:
    sizes = found["memory_texts"]
    head = ["arm", "after load, MB", f"peak, {sizes['long']} characters, MB", f"peak, {sizes['book']:,} characters, MB"]
    cells = [
        [_label(field, r["key"]), f"{r['loaded_mb']:.0f}", f"{r['long_mb']['value']:.0f}"]
        + [f"{r['book_mb']['value']:.0f}"]
        for r in found["memory"]
    ]
    return [
        "Resident memory of fresh processes (10^6 bytes). What a tool hands out piece by piece is let go at once; "
        "sherpa-onnx also keeps the whole audio until it returns.",
        "",
        *table(head, cells),
    ]


def _throughput(field: f.Field, found: Mapping[str, Any]) -> list[str]:
    rows = found["throughput"]
    head = ["who works", "audio-seconds per second", f"times the best peer ({rows[0]['best_peer']})", "memory, MB"]
    cells = [
        [r["crew"], interval(r["rate"], 1), _times(r["times_best_peer"]), f"{r['most_mb']['value']:.0f}"] for r in rows
    ]
    return [
        f"{found['throughput_size']} sentences a round, each taken by whoever is free; {rows[0]['n']} rounds. "
        "Processes have one thread each, but for piper-tts as it comes; a pool is Vivace's `Pool`: one process, a "
        "thread for each core, weights in memory once. Memory: the most that all processes of the row held together "
        "while they spoke, as proportional "
        f"set size, with no other row's running (median of {rows[0]['most_mb']['n']}).",
        "",
        *table(head, cells),
    ]


def _quality(field: f.Field, found: Mapping[str, Any]) -> list[str]:
    rows = found["quality"]
    cells = [[_label(field, r["key"]), *(interval(r[name], 3) for name in METRICS)] for r in rows]
    return [
        f"{rows[0]['n']} sentences, spoken once by each arm with noise of its own: the intervals are not paired, and "
        "small differences are noise. Whether a bundle harms its voice is judged by the gate, with paired noise.",
        "",
        *table(["arm", *METRICS], cells),
    ]


def _dropins(field: f.Field, found: Mapping[str, Any]) -> list[str]:
    rows = found["dropins"]
    said = list(rows[0]["times"])
    cells = [
        [f"{r['arm']}, {f.words(r['threads'])}", *(_times(r["times"][t]) for t in said), _times(r["all"])] for r in rows
    ]
    return [
        "Times faster than the original file in the same tool at as many threads.",
        "",
        *table(["arm", *said, "all"], cells),
    ]


def _verdicts(field: f.Field, found: Mapping[str, Any]) -> list[str]:
    lines = [
        "Every figure above in which a peer's is better than a Vivace arm's and the interval of the ratio (for "
        "quality: of the difference, sentence by sentence) leaves no doubt. Peers have the original file and as many "
        "threads; load, memory and quality are compared once, with tools at one thread and piper-tts as it comes.",
    ]
    rows = found["verdicts"]
    for key in dict.fromkeys(r["arm"] for r in rows):
        own = [r for r in rows if r["arm"] == key]
        worse = [r for r in own if r["better"] == "peer"]
        better = sum(r["better"] == "vivace" for r in own)
        label = _label(field, key)
        told = f"{len(own)} comparisons: {label} is better in {better}, a peer in {len(worse)}, "
        lines += ["", told + f"no clear difference in {len(own) - better - len(worse)}."]
        if worse:
            cells = [
                [r["measure"], _label(field, r["peer"]), value(r["peer_value"], r["unit"])]
                + [value(r["vivace"], r["unit"]), _gain(r)]
                for r in worse
            ]
            lines += ["", *table(["measure", "peer", "peer's figure", label, "the peer's lead"], cells)]
    return lines


def _gain(row: Mapping[str, Any]) -> str:
    return f"+{interval(row['gain'], 3)}" if row["measure"].startswith("quality") else _times(row["gain"])


def _rest(rest: Mapping[str, Any]) -> str:
    return (
        f"While all arms rested, {100 * rest['median']:.1f}% of the machine was at work (median of {rest['n']} looks "
        f"between rounds; {100 * rest['most']:.1f}% at most)."
    )


def plot(path: Path, field: f.Field, found: Mapping[str, Any]) -> None:
    """Latency of each text and group above, memory and throughput below; intervals as whiskers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = found.get("latency", [])
    said = list(rows[0]["seconds"]) if rows else []
    groups = [[r for r in rows if r["threads"] == t] for t in field.groups] if rows else []
    below = [name for name in ("memory", "throughput") if found.get(name)]
    heights = [len(group) for group in groups] + ([max(len(found[name]) for name in below)] if below else [])
    if not heights:  # first audio or load alone
        return
    drawn = Figure(figsize=(13, 0.36 * sum(heights) + 1.1 * len(heights)), layout="constrained")
    FigureCanvasAgg(drawn)
    bands = drawn.subfigures(len(heights), 1, height_ratios=[h + 2 for h in heights], squeeze=False)[:, 0]
    for group, band in zip(groups, bands, strict=False):
        panels = band.subplots(1, len(said), sharey=True)
        for text, axes in zip(said, panels, strict=True):
            bars = [(r["arm"], r["seconds"][text], _colour(field, r["key"])) for r in group]
            _bars(axes, bars, f"{text} ({TEXTS[text]} characters), ms, {f.words(group[0]['threads'])}", 1000)
    if below:
        panels = bands[-1].subplots(1, len(below), squeeze=False)[0]
        for name, axes in zip(below, panels, strict=True):
            if name == "memory":
                bars = [(_label(field, r["key"]), r["long_mb"], _colour(field, r["key"])) for r in found["memory"]]
                _bars(axes, bars, "peak memory on the long text, MB", 1)
            else:
                bars = [(r["crew"], r["rate"], _colour(field, r["key"])) for r in found["throughput"]]
                _bars(axes, bars, "throughput, audio-seconds per second", 1)
    drawn.savefig(path, dpi=100)


def _bars(axes: Any, bars: Sequence[tuple[str, Mapping[str, Any], str]], title: str, scale: float) -> None:
    places = range(len(bars))
    values = [scale * bar["value"] for _, bar, _ in bars]
    # One observation has no interval, and so no whisker.
    ends = [(bar["low"], bar["high"]) if bar["high"] is not None else (bar["value"],) * 2 for _, bar, _ in bars]
    down = [max(0.0, v - scale * low) for v, (low, _) in zip(values, ends, strict=True)]
    up = [max(0.0, scale * high - v) for v, (_, high) in zip(values, ends, strict=True)]
    axes.barh(places, values, xerr=[down, up], color=[colour for *_, colour in bars], height=0.7, capsize=2)
    room = 1.18 * max(v + u for v, u in zip(values, up, strict=True))
    for place, v, u in zip(places, values, up, strict=True):
        axes.text(v + u + 0.01 * room, place, f"{v:.0f}" if v >= 100 else f"{v:.1f}", va="center", fontsize=8)
    axes.set_xlim(0, room)
    axes.set_yticks(places, [name for name, *_ in bars], fontsize=8)
    axes.set_title(title, fontsize=9, loc="left")
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()


def _colour(field: f.Field, key: str) -> str:
    arm = field.arm(key)
    return OURS if arm.ours else DROPIN if arm.original else PEERS


def _label(field: f.Field, key: str) -> str:
    """An arm by name and threads; a crew by its own name."""
    arm = next((arm for arm in field.arms if arm.key == key), None)
    if arm is None:
        return key
    return arm.name if arm.threads == 0 or "thread" in arm.name else f"{arm.name}, {f.words(arm.threads)}"


def _bare(title: str) -> str:
    return title.removeprefix("times ")


def ms(i: Mapping[str, Any]) -> str:
    return interval({k: 1000 * v if k != "n" and v is not None else v for k, v in i.items()}, 1)


def seconds(i: Mapping[str, Any]) -> str:
    return interval(i, 2)


def value(x: float, unit: str) -> str:
    if unit == "s":
        return f"{1000 * x:.1f} ms"
    return f"{x:.0f} MB" if unit == "MB" else f"{x:.3g} {unit}".strip()


def _times(i: Mapping[str, Any]) -> str:
    return interval(i, 2)


def interval(i: Mapping[str, Any], digits: int) -> str:
    if i["low"] is None or i["high"] is None or i["low"] == i["high"]:
        return f"{i['value']:.{digits}f}"
    return f"{i['value']:.{digits}f} [{i['low']:.{digits}f}, {i['high']:.{digits}f}]"


def table(head: Sequence[str], rows: Cells) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines]

"""An optimize report of realistic shape with real (synthesized) audio. Loaded by test_report.py."""

import io
from dataclasses import replace

import numpy as np
import soundfile

from vivace.core.report import Measurement, Report

RATE = 22_050
TEXTS = {
    "Good morning.": 0.9,
    "The lighthouse keeper counted <b>seven</b> ships & one boat.": 2.8,
    "Anyone who has walked the coast road in winter knows how the wind leans on the doors, how the gulls keep to the "
    "harbour wall, and how the one lamp in the baker's window seems to hold the street together until morning.": 9.5,
}
MARKUP = '<script>alert("x")</script>'


def interval(value, half=None, n=40):
    return {
        "value": value,
        "low": None if half is None else round(value - half, 6),
        "high": None if half is None else round(value + half, 6),
        "n": n,
    }


def speech(seconds, hiss=0.0):
    """Harmonic tones with moving pitch and formants: sounds like a hum, looks like speech."""
    t = np.arange(int(seconds * RATE)) / RATE
    pitch = 120 + 25 * np.sin(2 * np.pi * 0.7 * t) - 4 * t
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    formants = [500 + 220 * np.sin(2 * np.pi * 2.3 * t), 1500 + 500 * np.sin(2 * np.pi * 1.7 * t + 1), 2700 + 0 * t]
    voice = sum(
        np.sin(k * phase) * sum(np.exp(-(((k * pitch - f) / 170) ** 2)) / (1 + j) for j, f in enumerate(formants))
        for k in range(1, 30)
    )
    envelope = np.clip(np.sin(2 * np.pi * 2.1 * t) * 3 + 1.2, 0, 1)
    noise = np.random.default_rng(0).normal(size=t.size)
    return (
        0.16 * voice * envelope
        + (0.002 + hiss) * noise
        + 0.01 * noise * np.clip(np.sin(2 * np.pi * 2.1 * t + 3.9) * 9 - 7.4, 0, 1)
    ).clip(-1, 1)


def flac(samples):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="FLAC")
    return buffer.getvalue()


def variant(k, label, kept, size, speeds, scores, peak, load):
    base = {"short": (13, 57.0, 0.071), "medium": (50, 225.0, 0.078), "long": (258, 1035.0, 0.081)}
    latency = []
    for threads, speed in speeds.items():
        for text, (characters, ms, rtf) in base.items():
            p50 = ms / (1.0 if threads == 1 else 1.42) / speed
            latency.append(
                {
                    "text": text,
                    "characters": characters,
                    "threads": threads,
                    "p50_ms": p50,
                    "p95_ms": p50 * 1.07,
                    "rtf": rtf * p50 / ms,
                    "ttfa_ms": min(p50, 60 + 0.29 * p50),
                    "n": 15,
                    "speedup": interval(speed, 0.024 * speed, 15),
                }
            )
    mos, dnsmos, wer, mcd = scores
    return {
        "id": f"v{k}",
        "label": label,
        "digest": f"{k:x}" * 64,
        "kept": kept,
        "size_mb": size,
        "load_s": interval(load, 0.03, 5),
        "peak_mb": peak,
        "latency": latency,
        "overall": interval(speeds[1], 0.02, 15) if k else None,
        "scores": {
            "predicted_mos": interval(mos, 0.06),
            "dnsmos": interval(dnsmos, 0.05),
            "wer": interval(wer, 0.018),
            "mel_cepstral_distance": interval(mcd, 0.11 if mcd else None),
            "duration_ratio": interval(1.0 if k < 2 else 1.003, 0.004),
            "clipping": interval(0.00002 * k, 0.00002),
            "silence": interval(0.31, 0.02),
        },
        "worst_decile": {"predicted_mos": mos - 0.42, "dnsmos": dnsmos - 0.3},
        "clips": [{"text": text, "file": f"audio/v{k}-{n}.flac"} for n, text in enumerate(TEXTS)],
    }


def quality(metric, unit, better, parent, difference, half, margin, ok):
    return {
        "metric": metric,
        "unit": unit,
        "better": better,
        "parent": interval(parent, 0.06 if unit == "predicted MOS" else 0.018),
        "child": interval(parent + difference, 0.06 if unit == "predicted MOS" else 0.018),
        "difference": interval(difference, half),
        "margin": margin,
        "rule": "reported only" if margin is None else "a rule in words",
        "ok": ok,
    }


def trial(name, label, parent, child, kept, reasons, speed, sizes, mos, settings, objective="speed"):
    return {
        "pass": name,
        "label": label,
        "settings": settings,
        "objective": objective,
        "parent": parent,
        "child": child,
        "kept": kept,
        "reasons": reasons,
        "seconds": 184.2,
        "speed": [
            {"text": text, "threads": 1, "ratio": interval(speed, 0.02 * speed, 15), "ok": speed > 1.03}
            for text in ("short", "medium", "long", "all")
        ],
        "size": {"parent_mb": sizes[0], "child_mb": sizes[1], "ok": sizes[1] <= sizes[0]},
        "quality": [
            quality("predicted_mos", "predicted MOS", "up", 4.21, mos, 0.031, 0.2105, mos > -0.17),
            quality("dnsmos", "predicted MOS", "up", 3.31, mos * 0.6, 0.04, None, None),
            quality("wer", "", "down", 0.05, -0.004 if mos > -0.2 else 0.009, 0.008, 0.01, mos > -0.2),
            quality("mel_cepstral_distance", "dB", "down", 0.0, 1.9, 0.1, None, None),
            quality("clipping", "share", "down", 0.0, 0.00004, 0.00002, 0.001, True),
        ],
    }


def report():
    variants = [
        variant(*row[:4], {1: row[4], 2: row[5]}, row[6:10], *row[10:])
        for row in (
            (0, "original", True, 63.2, 1.0, 1.0, 4.21, 3.31, 0.050, 0.0, 598.0, 1.31),
            (1, "+ layout_conv2d", True, 63.1, 1.10, 1.06, 4.21, 3.31, 0.045, 0.02, 566.0, 1.22),
            (2, "+ int8_dynamic", False, 18.7, 0.36, 0.34, 3.71, 2.98, 0.050, 5.84, 420.0, 0.61),
            (3, "+ int8_static (flow, text)", True, 39.8, 1.32, 1.19, 4.19, 3.30, 0.045, 1.92, 512.0, 0.97),
            (4, "+ int8_static (all of the decoder)", False, 20.4, 1.83, 1.49, 3.14, 2.71, 0.059, 6.9, 431.0, 0.7),
            (5, "+ int8_static (decoder, first stages)", True, 21.5, 1.74, 1.46, 4.16, 3.28, 0.045, 2.7, 438.0, 0.74),
        )
    ]
    variants[0]["latency"] = [{**row, "speedup": None} for row in variants[0]["latency"]]
    trials = [
        trial("layout_conv2d", "layout_conv2d", "v0", "v1", True,
              ["1.10× as fast (1.08 to 1.12), the sound is the same to 3e-7"], 1.10, (63.2, 63.1), 0.0, {}),
        trial("int8_dynamic", "int8_dynamic", "v1", "v2", False,
              ["slower: 0.36× on medium text, the lower bound must exceed 1.0",
               "predicted MOS falls by 0.50 (0.47 to 0.53), more than the margin of 0.211"],
              0.36, (63.1, 18.7), -0.50, {"per_channel": True}),
        trial("int8_static", "int8_static (flow, text)", "v1", "v3", True, ["faster, quality within its margins"],
              1.20, (63.1, 39.8), -0.02, {"stages": "flow,text", "method": "minmax"}),
        trial("int8_static", "int8_static (all of the decoder)", "v3", "v4", False,
              [f"predicted MOS falls by 1.05, more than the margin of 0.211 {MARKUP}"], 1.39, (39.8, 20.4), -1.05,
              {"stages": "decoder", "method": "percentile", "percentile": 99.99}),
        trial("int8_static", "int8_static (decoder, first stages)", "v3", "v5", True,
              ["faster, quality within its margins"], 1.32, (39.8, 21.5), -0.03,
              {"stages": "decoder", "keep": ["stage2", "ups.2", "conv_post"], "percentile": 99.99}),
    ]  # fmt: skip
    details = {
        "command": "vivace optimize joe.onnx --recipe cpu-int8 --speed 1.4 --size 22 --out joe-fast",
        "texts": {"evaluation": 100, "source": "built in"},
        "recipe": {"name": "cpu-int8", "summary": "INT8 where it cannot be heard", "objective": "speed", "passes": []},
        "budget": {"speed": 1.4, "size_mb": 22},
        "margins": {
            "predicted_mos": {"margin": 0.05, "rule": "95% interval of the loss within 5% of the parent's"},
            "wer": {"margin": 0.01, "rule": "up by at most 1 points"},
            "clipping": {"margin": 0.001, "rule": "at most 2% of the clips worse by more than 0.001"},
        },
        "variants": variants,
        "trials": trials,
        "noise_floor": [
            {
                "metric": "predicted_mos",
                "difference": interval(0.012, 0.028),
                "unit": "predicted MOS",
                "margin": 0.2105,
            },
            {"metric": "wer", "difference": interval(-0.002, 0.006), "unit": "", "margin": 0.01},
        ],
        "sensitivity": [
            damage(
                "white noise, 30 dB below speech", ["predicted_mos", "mel_cepstral_distance"], ["wer"], -0.61, 0.001
            ),
            damage("last word cut off", ["wer"], ["predicted_mos", "mel_cepstral_distance"], 0.01, 0.094),
            damage("clipped at 30% of full scale", ["predicted_mos", "mel_cepstral_distance"], ["wer"], -0.88, 0.006),
            damage("every second phoneme silent", ["predicted_mos", "wer", "mel_cepstral_distance"], [], -1.9, 0.61),
        ],
        "attribution": [
            share("layout_conv2d", True, 1.10, 0.17, 0.1, 0.002, "exact"),
            share("int8_dynamic", False, 0.36, None, 44.4, None, "refused"),
            share("int8_static (flow, text)", True, 1.20, 0.33, 23.3, 0.559, ""),
            share("int8_static (all of the decoder)", False, 1.39, None, 19.4, None, "refused"),
            share("int8_static (decoder, first stages)", True, 1.32, 0.50, 18.3, 0.439, ""),
        ],
        "budget_met": True,
        "verdict": "",
        "seconds": 1384.0,
        "final": "v5",
    }
    return Report(
        "optimize",
        (
            Measurement("size", 21.5, "MB", "down"),
            Measurement("speedup", 1.74, "x", "up", 15, 1.70, 1.78, "medium text, 1 thread"),
            Measurement("predicted_mos", 4.16, "predicted MOS", "up", 100, 4.10, 4.22, "100 sentences"),
        ),
        bundles={"parent": "a" * 64, "child": "b" * 64},
        machine={
            "cpu": "AMD EPYC 9R14",
            "flags": ["avx2", "avx512f", "avx512_vnni", "avx512_bf16"],
            "cores": 2,
            "memory_gb": 23.6,
            "system": "Linux x86_64",
            "python": "3.11.9",
            "packages": {"vivace": "0.1.0", "numpy": "2.4.6", "onnxruntime": "1.27.0"},
        },
        settings={"threads": [1, 2], "rounds": 15, "seed": 0},
        details=details,
        created="2026-03-14T09:26:53+00:00",
    )


FLOW = [f"flow/flows.{k}" for k in (6, 4, 2, 0)]
EARLY, MIDDLE = "dec/conv_pre to dec/resblocks.1", "dec/ups.1 to dec/resblocks.3"
NATIVE = "text: onnxruntime fp32 2-D; flow: onnxruntime fp32 split; decoder: onnxruntime fp32 blocked"
BF16 = "text: onnxruntime fp32 2-D; flow: openvino bf16; decoder: openvino bf16 2-D"


def searched():
    """The report of a search: the first candidate was refused, the second kept."""
    tried = [
        (NATIVE, 0.73, 0.0, 0.0, 63.0, False),
        (BF16, 0.529, 0.004, 0.008, 62.9, False),
        (f"{BF16}; INT8 (minmax) in {', '.join([*FLOW, EARLY])}", 0.495, 0.047, 0.026, 40.2, False),
        (f"{BF16}; INT8 (minmax) in {EARLY}", 0.505, 0.006, 0.011, 61.2, False),
        (f"{BF16}; INT8 (minmax) in {EARLY}, dec/resblocks.2, {MIDDLE}", 0.513, 0.087, 0.022, 58.7, False),
        (
            f"{NATIVE}; INT8 (minmax) in {FLOW[0]}, {EARLY}; INT8 (percentile) in {FLOW[2]}",
            0.606,
            0.024,
            0.022,
            45.0,
            False,
        ),
        (f"{NATIVE}; INT8 (minmax) in {EARLY}", 0.694, -0.015, 0.009, 59.7, False),
        (f"{NATIVE}; INT8 (minmax) in {MIDDLE}", 0.701, 0.038, 0.024, 57.1, True),
    ]
    first, second = tried[2][0], tried[3][0]
    keys = ("what", "time", "loss", "error", "mb", "moved")
    figures = [(t[1], t[2], t[4]) for t in tried]
    trials = [
        dict(zip(keys, t, strict=True))
        | {"chosen": t[0] == second}
        | {"front": not any(o != f and all(a <= b for a, b in zip(o, f, strict=True)) for o in figures)}
        for t, f in zip(tried, figures, strict=True)
    ]
    ways = {
        "text": (("onnxruntime fp32 2-D", 6.6), ("onnxruntime fp32", 6.9)),
        "flow": (("openvino bf16", 10.9), ("onnxruntime fp32 split", 12.0), ("onnxruntime fp32", 13.0)),
        "decoder": (("openvino bf16 2-D", 23.1), ("onnxruntime fp32 blocked", 37.0), ("onnxruntime fp32", 55.6)),
    }
    costs = [("flow", name, "minmax", 0.011, 0.012, (1.89, 0.32)) for name in FLOW]
    costs += [("decoder", EARLY, "minmax", -0.015, 0.009, (3.07, 0.08))]
    costs += [
        ("decoder", MIDDLE, method, loss, 0.024, (0.91, -0.57))
        for method, loss in (("minmax", 0.038), ("percentile", 0.029))
    ]
    passes = [
        "graph_cleanup",
        "layout_conv2d (stages=text,decoder, blocked=False)",
        "int8_static (stages=decoder, include=7 patterns)",
        "place (precision=bf16, stages=flow,decoder)",
    ]

    def judged(k, words, parent, kept, reasons, mos):
        told = trial("+".join(p.split(" ")[0] for p in passes), f"candidate {k}: {words}", "v0", f"v{k}", kept, reasons,
                     2.0, (63.2, 61.2), mos, {"passes": passes})  # fmt: skip
        row = variant(
            k, f"+ candidate {k}: {words}", kept, 61.2, {1: 2.0, 2: 1.9}, (4.21 + mos, 3.3, 0.05, 1.1), 520.0, 0.4
        )
        return told, row

    base = report()
    refused = judged(
        1, first, "v0", False, ["predicted MOS falls by 0.25 (0.21 to 0.29), more than the margin of 0.211"], -0.25
    )
    kept = judged(2, second, "v0", True, [], -0.01)
    details = {
        **base.details,
        "command": "vivace optimize joe.onnx -o best --search --minutes 10",
        "recipe": {"name": "search for latency", "summary": second, "objective": "speed", "passes": []},
        "budget": {},
        "variants": [base.details["variants"][0], refused[1], kept[1]],
        "trials": [refused[0], kept[0]],
        "attribution": [share(name, True, 1.2, 0.25, 0.5, 0.25, "") for name in passes],
        "final": "v2",
        "search": {
            "objective": "latency",
            "minutes": 10.0,
            "margin": 0.103,
            "stages": [{"stage": s, "way": way, "ms": ms} for s, found in ways.items() for way, ms in found],
            "parts": [
                {
                    "stage": stage,
                    "part": part,
                    "method": method,
                    "predicted_mos_lost": loss,
                    "standard_error": error,
                    "ms_won": dict(zip((ways[stage][1][0], ways[stage][0][0]), won, strict=True)),
                }
                for stage, part, method, loss, error, won in costs
            ],
            "trials": trials,
        },
    }  # fmt: skip
    return replace(base, details=details)


def damage(name, seen, missed, mos, wer):
    return {
        "damage": name,
        "refused": True,
        "seen_by": seen,
        "missed_by": missed,
        "quality": [
            quality("predicted_mos", "predicted MOS", "up", 4.21, mos, 0.04, 0.2105, "predicted_mos" not in seen),
            quality("wer", "", "down", 0.05, wer, 0.01, 0.01, "wer" not in seen),
        ],
    }


def share(name, kept, factor, speed, saved, size, note):
    return {
        "pass": name,
        "kept": kept,
        "speed_factor": factor,
        "speed_share": speed,
        "size_saved_mb": saved,
        "size_share": size,
        "note": note,
    }


def audio():
    """The clips that `report` names, as FLAC files."""
    hiss = {0: 0.0, 1: 0.0, 2: 0.02, 3: 0.001, 4: 0.06, 5: 0.002}
    return {
        f"audio/v{k}-{n}.flac": flac(speech(seconds, amount))
        for k, amount in hiss.items()
        for n, seconds in enumerate(TEXTS.values())
    }

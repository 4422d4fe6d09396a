"""Resident memory of a bundle that speaks, measured in a process of its own so that nothing else is counted.

Run as `python -m vivace.workflows._memory BUNDLE THREADS TEXTS`, with the text on standard input.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from vivace.core.bundle import Bundle, open_bundle
from vivace.core.errors import VivaceError
from vivace.core.machine import resident
from vivace.core.speech import Request
from vivace.core.stage import RuntimeOptions
from vivace.engine.engine import Engine
from vivace.workflows._stopwatch import read_all


def peak_memory(bundle: Bundle, text: str, threads: int, together: int = 1) -> tuple[float, float]:
    """(after load, peak) in MB (10^6 bytes) of a fresh process that loads `bundle` and speaks `text` once, or
    so many times `together`.

    Raises VivaceError with the child's own last line if it fails.
    """
    numbers = [str(threads), str(together)]
    command = [sys.executable, "-m", "vivace.workflows._memory", str(bundle.path.resolve()), *numbers]
    done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", check=False)  # noqa: S603 - self
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise VivaceError(f"memory could not be measured: {reason}")
    loaded, peak = json.loads(done.stdout.strip().splitlines()[-1])
    return loaded, peak


def measure(path: Path, text: str, threads: int, together: int = 1) -> tuple[float, float]:
    """The same for this process: MB after loading the bundle, and the most this process ever held."""
    from vivace.workflows import _task

    options, bundle = RuntimeOptions(threads=threads), open_bundle(path, verify=False)
    if _task.listens(bundle):
        return _task.memory_once(bundle, threads)
    with Engine(bundle, options, max_batch=together) as engine:
        loaded = resident("VmRSS")
        read_all(engine, [Request(f"memory-{seed}", text, seed=seed) for seed in range(together)])
        return loaded, resident("VmHWM")


def main() -> None:
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
        print(json.dumps(measure(Path(sys.argv[1]), text, *map(int, sys.argv[2:]))))
    except VivaceError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

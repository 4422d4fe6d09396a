"""What this machine is: the facts that a figure is worth nothing without."""

from __future__ import annotations

import os
import platform
import re
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = ("vivace", "numpy", "onnx", "onnxruntime", "openvino", "torch", "piper-tts", "sherpa-onnx")
CPU_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "i8mm",
    "bf16",
)

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})  # x86: one of them multiplies in bf16

PROC = Path("/proc")
M_MMAP_THRESHOLD = -3  # malloc.h
MADV_DONTNEED = 4  # mman.h
NICER = 5  # than before; a third of the time of those that are not, where both want a core
HIDE = "VIVACE_HIDE_CPU_FLAGS"  # comma-separated flags to be treated as absent: how a tool decides without them


def cores() -> int:
    """Cores that this process may use (an affinity mask counts, hyper-threads count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resident(field: str = "VmRSS", pid: int = 0) -> float:
    """VmRSS (now) or VmHWM (peak) in MB (10^6 bytes) of a process (0: this one); 0 if there is no such process.

    Not `ru_maxrss` where /proc is there: Linux hands the parent's peak down to a child through exec.
    """
    try:
        status = (PROC / str(pid or "self") / "status").read_text(encoding="utf-8")
    except OSError:
        if pid or PROC.is_dir():
            return 0.0
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most * (1 if sys.platform == "darwin" else 1024) / 1e6
    found = re.search(rf"^{field}:\s*(\d+) kB", status, re.M)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


@cache
def _glibc(name: str) -> Any:
    import ctypes

    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # not glibc
        return lambda *given: 0


def give_back() -> None:
    """Hands heap that is free, but kept by glibc for later, back to the system; elsewhere nothing. Requests that were
    spoken at once for a moment would otherwise cost their memory for ever (malloc_trim(3))."""
    _glibc("malloc_trim")(0)


def map_large_blocks() -> None:
    """From now on this process hands blocks of 1 MB and more back as soon as they are freed; without glibc nothing. By
    itself it learns to keep larger and larger ones in its heap, which fills with holes (M_MMAP_THRESHOLD in
    mallopt(3))."""
    _glibc("mallopt")(M_MMAP_THRESHOLD, 1 << 20)


def forget_mapped(folder: Path) -> None:
    """Takes what this process has read of files in `folder` that are mapped read-only out of its memory; it comes back
    where it is read again (MADV_DONTNEED in madvise(2)). For weights of which a runtime made its own copy."""
    import ctypes

    for line in _read(str(PROC / "self" / "maps")).splitlines():
        span, access, _, _, _, *name = line.split(maxsplit=5)
        if access[:2] == "r-" and name and folder in Path(name[0]).parents:
            begin, end = (int(address, 16) for address in span.split("-"))
            _glibc("madvise")(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), MADV_DONTNEED)


def stand_back() -> None:
    """From now on other processes have the cores first: all threads of this one, and those that they begin, are nicer
    than before (nice(2)). For good, since who is not root cannot take it back."""
    tasks = PROC / "self" / "task"
    for task in tasks.iterdir() if tasks.is_dir() else [Path("0")]:  # by thread on Linux, elsewhere at once
        with suppress(OSError):  # it has ended, or a sandbox forbids it: it goes on as before
            os.setpriority(os.PRIO_PROCESS, int(task.name), os.getpriority(os.PRIO_PROCESS, int(task.name)) + NICER)


def cache_folder() -> Path:
    """Where Vivace keeps what can be made again, by the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "vivace"


def processor() -> dict[str, Any]:
    """CPU and its relevant instruction sets, system: what a compiled model depends on."""
    info = _read("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.M)
    features = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.M)
    flags = set(features[1].split()) if features else set()
    hidden = {name.strip() for name in os.environ.get(HIDE, "").split(",")}
    return {
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "flags": [flag for flag in CPU_FLAGS if flag in flags and flag not in hidden],
        "system": f"{platform.system()} {platform.machine()}",
    }


def multiplies_bf16() -> bool:
    """Whether the CPU itself multiplies in bf16. Where it does not, libraries emulate it: 2 to 3 times fp32's time."""
    return bool({*BF16_FLAGS, "bf16"} & set(describe()["flags"]))


@cache
def describe() -> dict[str, Any]:
    """CPU, its relevant instruction sets, cores, memory in GB, system, Python and package versions."""
    memory = re.search(r"^MemTotal:\s*(\d+)", _read("/proc/meminfo"), re.M)
    facts = processor()
    return {
        "cpu": facts["cpu"],
        "flags": facts["flags"],
        "cores": cores(),
        "memory_gb": round(int(memory[1]) / 2**20, 1) if memory else None,
        "system": facts["system"],
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def timing_key() -> str:
    """What a timing depends on beside the model: one that was kept holds only where this is the same."""
    return " ".join(str(describe()[name]) for name in ("cpu", "flags", "cores", "python", "packages"))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:  # not Linux: the facts it holds are left out
        return ""


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # takes longer to import than all of this module

    try:
        return version(package)
    except PackageNotFoundError:
        return ""

from __future__ import annotations

import json
import mmap
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.memory import mapped
from vivace.core import machine

CPUINFO = """processor\t: 0
model name\t: Imaginary CPU 9000
flags\t\t: fpu avx2 avx512f avx512_vnni other
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd i8mm\n"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    machine.describe.cache_clear()
    yield
    machine.describe.cache_clear()


def given_files(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    monkeypatch.setattr(machine, "_read", lambda path: files.get(path, ""))


def test_description_is_plain_json_and_true_of_this_process() -> None:
    facts = machine.describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cores"] == machine.cores() >= 1
    assert facts["packages"]["numpy"]
    assert facts["cpu"]


@pytest.mark.parametrize(
    ("flags", "has"), [("avx512_vnni", False), ("avx512_bf16", True), ("amx_bf16", True), ("bf16", True)]
)
def test_bf16_is_arithmetic_only_where_the_cpu_says_so(monkeypatch: pytest.MonkeyPatch, flags: str, has: bool) -> None:
    given_files(monkeypatch, {"/proc/cpuinfo": f"flags\t\t: avx2 {flags}\n"})
    assert machine.multiplies_bf16() is has


def test_reads_an_x86_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    given_files(monkeypatch, {"/proc/cpuinfo": CPUINFO, "/proc/meminfo": "MemTotal:       25165824 kB\n"})
    facts = machine.describe()
    assert facts["cpu"] == "Imaginary CPU 9000"
    assert facts["flags"] == ["avx2", "avx512f", "avx512_vnni"]
    assert facts["memory_gb"] == 24.0


@pytest.mark.parametrize(
    ("hidden", "left"),
    [
        ("", ["avx2", "avx512f", "avx512_vnni"]),
        ("avx512_vnni", ["avx2", "avx512f"]),
        ("avx512f,avx2,nonsense", ["avx512_vnni"]),
        ("avx512_vnni, avx2", ["avx512f"]),
        ("avx512", ["avx2", "avx512f", "avx512_vnni"]),  # whole names only
    ],
)
def test_flags_can_be_hidden(monkeypatch: pytest.MonkeyPatch, hidden: str, left: list[str]) -> None:
    given_files(monkeypatch, {"/proc/cpuinfo": CPUINFO})
    monkeypatch.setenv(machine.HIDE, hidden)
    assert machine.describe()["flags"] == left


def test_reads_an_arm_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    given_files(monkeypatch, {"/proc/cpuinfo": ARM})
    assert machine.describe()["flags"] == ["asimd", "i8mm"]


def test_leaves_out_what_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    given_files(monkeypatch, {})
    facts = machine.describe()
    assert facts["flags"] == []
    assert facts["memory_gb"] is None
    assert facts["cpu"]


def test_a_package_that_is_not_installed_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PACKAGES", ("numpy", "no-such-package-at-all"))
    assert list(machine.describe()["packages"]) == ["numpy"]


def test_a_file_that_is_not_there_reads_as_nothing(tmp_path: Path) -> None:
    assert machine._read(str(tmp_path / "none")) == ""


def test_cores_follow_the_affinity_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    assert machine.cores() == 3


def test_cores_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.cores() == 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc keeps freed heap, others do not")
def test_heap_that_is_free_is_given_back() -> None:
    """In a process of its own: the heap of this one has seen too much."""
    code = """
from vivace.core.machine import give_back, resident
pieces = [bytearray(b"x" * 60_000) for _ in range(3000)]  # too small for pages of their own
kept = pieces[-1]
del pieces
before = resident()
give_back()
print(before - resident())
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True)
    assert float(told.stdout) > 100


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc keeps freed heap, others do not")
def test_large_blocks_are_given_back_when_they_are_freed() -> None:
    """glibc maps the first ones too, and keeps the next in its heap, where what lives above them holds them."""
    code = """
import ctypes
import sys
from vivace.core.machine import map_large_blocks, resident
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def block(size):
    made = libc.malloc(size)
    ctypes.memset(made, 1, size)
    return made
if sys.argv[1] == "mapped":
    map_large_blocks()
libc.free(block(8_000_000))  # after this glibc's own limit is 8 MB
large = []
for _ in range(30):
    large.append(block(2_000_000))
    block(60_000)  # lives on
before = resident()
for made in large:
    libc.free(made)
print(before - resident())
"""
    told = [
        float(
            subprocess.run(
                [sys.executable, "-c", code, how], capture_output=True, text=True, encoding="utf-8", check=True
            ).stdout
        )
        for how in ("mapped", "as it is")
    ]
    assert told[0] > 50 > 20 > told[1]


@pytest.mark.skipif(not machine.PROC.is_dir(), reason="/proc tells what is mapped")
def test_files_that_are_mapped_to_be_read_leave_memory_and_come_back(tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    maps = {}
    for folder, access in (("own", mmap.ACCESS_READ), ("other", mmap.ACCESS_READ), ("own", mmap.ACCESS_COPY)):
        path = tmp_path / folder / f"weights {access}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        with path.open("rb") as file:
            maps[path] = mmap.mmap(file.fileno(), 0, access=access)
        assert maps[path][:] == data
    copied = maps[tmp_path / "own" / f"weights {mmap.ACCESS_COPY}.bin"]
    copied[0] = data[0] ^ 1
    machine.forget_mapped(tmp_path / "own")
    assert [mapped(path) > 1e6 for path in maps] == [False, True, True]
    assert copied[0] == data[0] ^ 1
    assert all(found[1:] == data[1:] for found in maps.values())

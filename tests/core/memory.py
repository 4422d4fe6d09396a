"""What of a file is in this process's memory."""

from __future__ import annotations

import re
from pathlib import Path


def mapped(path: Path) -> float:
    """Bytes, in all places where it is mapped."""
    maps = Path("/proc/self/smaps").read_text(encoding="utf-8")
    found = re.findall(rf" {re.escape(str(path))}\n.*?^Rss: +(\d+) kB", maps, re.MULTILINE | re.DOTALL)
    return 1024.0 * sum(int(kilobytes) for kilobytes in found)

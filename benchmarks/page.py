"""How much the page weighs, and how soon it can be used: a server with a tiny voice and a real Chromium, both here.

    python benchmarks/page.py --loads 15

Every load begins with an empty cache. Usable: the voices can be chosen and the button pressed. Writes page.json beside
the other measurements with `-o docs/measurements`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import vivace
from vivace.core import machine
from vivace.server.process import bind

PATIENCE = 60


def load(browser: Any, url: str) -> dict[str, Any]:
    """One visit: bytes and requests over the wire, and seconds from asking until it can be used."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page, finished, hosts = context.new_page(), [], set()
    page.on("requestfinished", lambda request: finished.append(request))
    page.on("request", lambda r: hosts.add(r.url.split("/")[2]))
    begun = time.perf_counter()
    page.goto(url)
    page.wait_for_selector("#variants li")
    usable = time.perf_counter() - begun
    painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0") / 1000
    sizes = [request.sizes() for request in finished]  # asked here: in the handler, the context may be closing
    context.close()
    return {
        "usable_s": usable,
        "painted_s": painted,
        "bytes": sum(size["responseBodySize"] + size["responseHeadersSize"] for size in sizes),
        "requests": len(sizes),
        "hosts": sorted(hosts),
    }


def measure(loads: int) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "hum.json").write_text(json.dumps({"toy": 1, "seed": 3}), encoding="utf-8")
        vivace.import_model(folder / "hum.json", folder / "hum")
        with bind("127.0.0.1", 0) as free:
            port = free.getsockname()[1]
        words = [sys.executable, "-m", "vivace.cli.main", "serve", str(folder / "hum"), "--port", str(port), "-q"]
        server = subprocess.Popen(words)
        try:
            url = f"http://127.0.0.1:{port}/"
            end = time.monotonic() + PATIENCE
            while not answers(url):
                assert time.monotonic() < end, "the server did not come up"
                time.sleep(0.1)
            with sync_playwright() as started:
                browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                found = [load(browser, url) for _ in range(loads + 1)][1:]  # the first one warms the browser
                browser.close()
        finally:
            server.terminate()
            server.wait(PATIENCE)
    return {
        "machine": machine.describe(),
        "loads": loads,
        "kilobytes": max(f["bytes"] for f in found) / 1000,
        "requests": max(f["requests"] for f in found),
        "hosts": sorted({host.split(":")[0] for f in found for host in f["hosts"]}),
        "usable_ms": quartiles([1000 * f["usable_s"] for f in found]),
        "painted_ms": quartiles([1000 * f["painted_s"] for f in found]),
    }


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def quartiles(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"low": round(low, 1), "median": round(middle, 1), "high": round(high, 1), "max": round(max(values), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=int, default=15)
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()
    found = measure(args.loads)
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        (args.out / "page.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

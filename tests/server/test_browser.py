"""The pages in a real Chromium: somebody types and hears, rates a whole test, and reads the result. Nothing is fetched
from elsewhere, little is fetched at all, and axe-core finds no serious fault."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("fastapi")

from listening.panel import listen, make  # noqa: E402
from server.conftest import Served, serving  # noqa: E402
from vivace.cli import main as cli  # noqa: E402
from vivace.core.bundle import open_bundle  # noqa: E402
from vivace.listening.design import Design  # noqa: E402
from vivace.listening.results import results  # noqa: E402
from vivace.listening.store import LISTENER, OWNER, Store  # noqa: E402
from vivace.server.service import Settings  # noqa: E402
from vivace.workflows.listening import from_bundles  # noqa: E402

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
MOST_BYTES = 300_000
PHONE, DESK = (390, 844), (1280, 900)
COUNT_SAMPLES = """
window.samples = 0; window.loudest = 0; window.states = [];
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (...when) {
  window.samples += this.buffer.length;
  for (const s of this.buffer.getChannelData(0)) window.loudest = Math.max(window.loudest, Math.abs(s));
  window.states.push(this.context.state);
  return start.apply(this, when);
};
"""

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here")


def axe_script() -> str:
    """axe-core's own file; on import the package that brings it reads it in the machine's encoding."""
    found = importlib.util.find_spec("axe_playwright_python")
    if not found or not found.origin:
        pytest.skip("axe-playwright-python is not installed")
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Looked:
    """A page that notes what goes wrong and what it fetched."""

    def __init__(self, browser: Any, served: Served, size: tuple[int, int] = DESK, scheme: str = "light") -> None:
        view = {"width": size[0], "height": size[1]}
        self._context = browser.new_context(viewport=view, color_scheme=scheme, reduced_motion="reduce")
        self.page = self._context.new_page()
        self.page.set_default_timeout(30_000)
        self.url, self.faults, self._finished = served.url, list[str](), list[Any]()
        self.page.add_init_script(COUNT_SAMPLES)
        self.page.on("console", lambda m: self.faults.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._asked)
        self.page.on("requestfinished", lambda request: self._finished.append(request))

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.url, "blob:", "data:", "about:")):
            self.faults.append(f"asked {request.url}")

    @property
    def bytes(self) -> int:
        sizes = [request.sizes() for request in self._finished]
        return sum(size["responseBodySize"] + size["responseHeadersSize"] for size in sizes)

    def __enter__(self) -> Looked:
        return self

    def __exit__(self, *problem: object) -> None:
        self._context.close()
        assert problem[0] or not self.faults, self.faults


@pytest.fixture(scope="module")
def listening(
    make_variant: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, Store]]:
    """A server with a voice in two variants, and a test of the two."""
    paths = [make_variant("fast", seed=1), make_variant("safe", seed=2)]
    bundles = {"old": open_bundle(paths[0]), "new": open_bundle(paths[1])}
    design = Design("preference", "Which one sounds better?", 0.1, checks=2)
    store = from_bundles(tmp_path_factory.mktemp("test") / "t.sqlite", design, bundles, ["one two", "three", "four"])
    ties, clock = make(tmp_path_factory.mktemp("ties"), Design("acr", "How good?", 0.2, checks=2), texts=4)
    for worse in ([1, 1, 0, 1], [1, 0, 0, 1]):  # five in eight
        says = partial(lambda worse, t: 1 if t.expected else 4 - t.first.system * worse[t.first.text], worse)
        listen(ties, clock, says, pause=60)
    with serving(Settings({"toy": paths}, listen=(store.path, ties.path))) as served:
        yield served, store


def test_somebody_types_and_hears(browser: Any, listening: tuple[Served, Store]) -> None:
    with Looked(browser, listening[0]) as looked:
        page = looked.page
        page.goto(f"{looked.url}/")
        page.wait_for_selector("#variants li >> nth=1")
        assert looked.bytes < MOST_BYTES
        page.fill("#text", "these are some words to hear, and a few more of them.")
        page.select_option("#variant", "safe")
        page.press("#text", "Control+Enter")
        page.wait_for_selector("#takes tr", state="attached")
        heard = page.evaluate("[window.samples, window.loudest, window.states]")
        assert heard[0] > 24_000 and heard[1] > 0.01 and set(heard[2]) == {"running"}
        shown = {name: page.inner_text(f"#{name}") for name in ("ttfa", "rtf", "length", "by")}
        assert shown["ttfa"].endswith(" ms") and float(shown["rtf"]) > 0 and shown["by"] == "safe"
        assert abs(float(shown["length"].split()[0]) - heard[0] / 24_000) < 0.1
        for canvas in ("wave", "spectrum"):
            colours = page.evaluate(
                f"(() => {{ const c = document.getElementById('{canvas}'); const d = c.getContext('2d')"
                ".getImageData(0, 0, c.width, c.height).data; return new Set(new Uint32Array(d.buffer)).size })()"
            )
            assert colours > 4, f"nothing is drawn on {canvas}"
        page.evaluate(  # a short take may have ended before anybody looks
            "() => { window.pressed = []; const play = document.getElementById('play'); new MutationObserver(() => "
            "window.pressed.push(play.getAttribute('aria-pressed'))).observe(play, { attributes: true }) }"
        )
        page.click("#takes button")
        page.wait_for_function("window.pressed.includes('true')")
        page.keyboard.press("Escape")
        page.wait_for_selector('#play[aria-pressed="false"]')
        with page.expect_download() as saved:
            page.click("#save")
        assert Path(saved.value.path()).read_bytes()[:4] == b"RIFF"


def test_what_cannot_be_spoken_is_said(browser: Any, listening: tuple[Served, Store]) -> None:
    with Looked(browser, listening[0]) as looked:
        looked.page.goto(f"{looked.url}/")
        looked.page.wait_for_selector("#variants li")
        looked.page.fill("#text", "   ")
        looked.page.click("#go")
        assert "type a text" in looked.page.inner_text("#alert")
        looked.page.fill("#text", "<b onmouseover=alert(1)>words</b>")
        looked.page.click("#go")
        looked.page.wait_for_selector("#takes tr", state="attached")
        assert "<b onmouseover" in looked.page.inner_text("#takes .said")
        assert looked.page.is_hidden("#alert")


def test_a_server_with_keys_asks_for_one(browser: Any, make_variant: Callable[..., Path]) -> None:
    with serving(Settings({"toy": [make_variant("one")]}, keys=("secret",))) as served:
        looked = Looked(browser, served)
        looked.page.goto(f"{served.url}/")
        looked.page.fill("#key", "secret")
        looked.page.keyboard.press("Enter")
        looked.page.wait_for_selector("#variants li")
        looked.page.click("#go")
        looked.page.wait_for_selector("#takes tr", state="attached")
        assert all("401" in fault for fault in looked.faults)


def rate(page: Any, says: Callable[[int], str], trials: int) -> None:
    """Hears and answers, by keyboard alone."""
    for k in range(trials):
        where = page.inner_text("#where")
        for key in ("a", "b"):
            page.keyboard.press(key)
            page.wait_for_selector(f".clip >> nth={'ab'.index(key)} >> text=heard; play it again")
        page.keyboard.press(says(k))
        page.keyboard.press("Enter")
        _moved(page, where)


def _moved(page: Any, where: str) -> None:
    page.wait_for_selector(f'#end:not([hidden]), #where:not(:text-is("{where}"))')


def test_a_whole_test_is_rated_left_taken_up_again_and_read(browser: Any, listening: tuple[Served, Store]) -> None:
    served, store = listening
    who = store.invite("Ann")
    address = f"{served.url}/listen#{store.token(LISTENER, str(who), 1)}"
    wanted = store.answers(who)

    def key(k: int) -> str:
        """Passes the checks, and prefers the new voice."""
        trial = wanted[k]
        first = trial.expected == "first" or (not trial.expected and trial.first.system == 1)
        return "1" if first else "3"

    with Looked(browser, served, PHONE) as looked:
        looked.page.goto(address)
        looked.page.click("#begin")
        assert looked.page.is_disabled("#next") and looked.page.is_disabled("[name=answer] >> nth=0")
        rate(looked.page, key, 2)
    with Looked(browser, served, PHONE) as looked:
        looked.page.goto(address)
        looked.page.wait_for_selector("#how-long:has-text('answered 2 of 5')")
        looked.page.click("#begin")
        rate(looked.page, lambda k: key(k + 2), 3)
        looked.page.wait_for_selector("#end:not([hidden])")
        looked.page.fill("#comment", "<img src=x onerror=\"document.title='caught'\"> good")
        looked.page.click("text=Send")
        looked.page.wait_for_selector("text=Sent, thank you")
    found = results(store)
    assert found.counted == 1 and found.comparisons[0].difference and found.comparisons[0].difference.mean == 1.0
    with Looked(browser, served) as looked:
        looked.page.goto(f"{served.url}/listen/results#{store.token(OWNER, 'all', 1)}")
        looked.page.wait_for_selector("#people tr")
        told = looked.page.inner_text("#found")
        assert "100% prefer new to old" in told and "Ann" in told and "<img src=x" in told
        assert looked.page.title() != "caught" and looked.page.query_selector("#comments img") is None


def test_the_page_and_the_terminal_show_the_same_figures(
    browser: Any, listening: tuple[Served, Store], capsys: pytest.CaptureFixture[str]
) -> None:
    served = listening[0]
    store = Store(served.service.settings.listen[1])
    assert results(store).comparisons[0].difference.mean == -0.625  # type: ignore[union-attr]
    assert cli.main(["listen", "results", str(store.path)]) == 0
    told = capsys.readouterr().out
    assert "-0.62 " in told and "3.38 " in told and " 38%" in told
    with Looked(browser, served) as looked:
        looked.page.goto(f"{served.url}/listen/results#{store.token(OWNER, 'all', 3000)}")
        looked.page.wait_for_selector("#people tr")
        shown = looked.page.text_content("#found")
        assert "new lies −0.62 from old" in shown and "38% ties" in shown
        assert "new: 3.38 (" in looked.page.get_attribute("#mos svg", "aria-label")


def test_a_link_that_is_none_is_told(browser: Any, listening: tuple[Served, Store]) -> None:
    served, store = listening
    good = store.token(LISTENER, "1", 1)
    for token, told in [("", "not complete"), (good[:-4] + "AAAA", "not valid"), ("x", "no test here")]:
        looked = Looked(browser, served)
        looked.page.goto(f"{served.url}/listen#{token}")
        looked.page.wait_for_selector("#alert:not([hidden])")
        assert told in looked.page.inner_text("#alert") and looked.page.is_hidden("#start")


@pytest.mark.parametrize(("size", "scheme"), [(DESK, "light"), (PHONE, "dark"), ((320, 640), "light")])
def test_no_serious_fault_for_those_who_see_or_move_otherwise(
    browser: Any, listening: tuple[Served, Store], size: tuple[int, int], scheme: str
) -> None:
    served, store = listening
    with Looked(browser, served, size, scheme) as looked:
        page = looked.page
        script = axe_script()

        def check(where: str) -> None:
            page.evaluate(script)
            found = page.evaluate("axe.run()")["violations"]
            serious = [
                (fault["id"], [node["target"] for node in fault["nodes"]])
                for fault in found
                if fault["impact"] in ("serious", "critical", "moderate")
            ]
            assert not serious, (where, serious)
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0], f"{where} is wider than the screen"
            hidden = "[...document.querySelectorAll('.scroll')].filter(s => s.scrollWidth > s.clientWidth).length"
            assert page.evaluate(hidden) == 0, f"a table of {where} is wider than the screen"

        page.goto(f"{served.url}/")
        page.wait_for_selector("#variants li")
        check("empty")
        page.click("#go")
        page.wait_for_selector("#takes tr", state="attached")
        check("spoken")
        page.goto(f"{served.url}/listen#{store.token(LISTENER, str(store.invite()), 1)}")
        page.wait_for_selector("#begin")
        check("listen")
        page.click("#begin")
        page.wait_for_selector(".clip")
        check("trial")
        page.click(".clip")
        page.wait_for_selector(".clip >> nth=0 >> text=heard; play it again")
        check("heard")
        page.goto(f"{served.url}/listen/results#{store.token(OWNER, 'all', 1)}")
        page.wait_for_selector("#people tr")
        check("results")

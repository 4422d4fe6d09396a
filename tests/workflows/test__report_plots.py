import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from vivace.workflows import _report_plots as plots


def drawn(colour=plots.PALETTE[0], title="a"):
    made = plots.figure(3, 2)
    ax = plots.axes(made)
    ax.plot([0, 1], [0, 1], color=colour, marker="o")
    ax.set_title(plots.plain(title), color=plots.INK)
    return made


def test_svg_is_one_element_that_scales_and_names_itself():
    text = plots.svg(drawn(), 'one "line" & <more>')
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("viewBox") and root.get("width") is None
    assert root.get("role") == "img" and root.get("aria-label") == 'one "line" & <more>'
    assert "metadata" not in text and "<?xml" not in text and "<!DOCTYPE" not in text
    assert 'aria-hidden="true"' in plots.svg(drawn())


def test_svg_takes_its_colours_from_the_page_and_keeps_them_as_fallback():
    text = plots.svg(drawn(plots.PALETTE[1]))
    assert "var(--plot-2, #d55e00)" in text and "var(--plot-muted, #59636e)" in text and "currentColor" in text
    assert not re.search(r": #[0-9a-f]{6}(?=;|\")", text.replace("#ffffff", ""))


def test_svg_text_stays_text_whatever_it_holds():
    root = ET.fromstring(plots.svg(drawn(title="costs $5 to $7 <b>")))
    words = ["".join(t.itertext()) for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "costs $5 to $7 <b>" in words


def test_two_plots_share_no_id_and_equal_ones_are_equal():
    one, two = plots.svg(drawn()), plots.svg(drawn(title="b"))
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in (one, two)]
    assert ids[0] and ids[1] and not ids[0] & ids[1]
    for text, known in zip((one, two), ids, strict=True):
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text)) == known
    assert plots.svg(drawn()) == one


def points():
    return [
        plots.Point(0, "original", 60.0, 4.2, None, (4.1, 4.3)),
        plots.Point(1, "kept", 60.0, 4.2, (59.0, 61.0), (4.1, 4.3)),
        plots.Point(2, "refused", 20.0, 3.1),
        plots.Point(3, "final", 22.0, 4.15, (21.0, 23.0), None),
    ]


def test_points_are_numbered_apart_even_at_the_same_place():
    text = plots.plot_points(points(), "x", "y", alt="points", band=(4.0, 4.2), limit=22.0)
    root = ET.fromstring(text)
    placed = {}
    for element in root.iter("{http://www.w3.org/2000/svg}text"):
        words = "".join(element.itertext())
        if words in ("0", "1", "2", "3") and "middle" in (element.get("style") or ""):
            numbers = re.findall(r"-?[\d.]+", element.get("transform") or "")
            placed[words] = (float(element.get("x") or numbers[-2]), float(element.get("y") or numbers[-1]))
    assert {"0", "1", "2", "3"} <= set(placed)
    assert np.hypot(*np.subtract(placed["0"], placed["1"])) > 8


def test_every_mark_has_a_colour_and_a_shape_of_its_own():
    assert len({colour for colour, _ in plots.MARKS.values()}) == len({s for _, s in plots.MARKS.values()}) == 4


@pytest.mark.parametrize("rows", [[[plots.Bar(120.0, 130.0), plots.Bar(80.0, None, True)], []], [[], []]])
def test_latency_bars_carry_their_figures(rows):
    text = plots.plot_latency({"Short $x$ text": rows}, [("0 original", "original"), ("1 <b>", "final")], alt="bars")
    words = ["".join(t.itertext()) for t in ET.fromstring(text).iter("{http://www.w3.org/2000/svg}text")]
    assert "Short $x$ text" in words and "1 <b>" in words
    assert ("120" in words and "80.0" in words) == bool(rows[0])


def test_spectrograms_stand_on_one_time_axis():
    pictures = [("Original", np.zeros((80, 50), np.float32)), ("Final", np.full((80, 25), -80, np.float32))]
    text = plots.plot_spectrograms(pictures, [1.0, 0.5], 11_025, "two spectrograms")
    widths = [float(w) for w in re.findall(r'<image[^>]* width="([\d.]+)"', text)]
    if not widths:
        widths = [float(m) for m in re.findall(r"matrix\(([\d.]+)", text)]
    words = ["".join(t.itertext()) for t in ET.fromstring(text).iter("{http://www.w3.org/2000/svg}text")]
    assert text.count("data:image/png;base64,") == 2
    assert {"Original", "Final", "seconds", "8", "0.25"} <= set(words) and "16" not in words

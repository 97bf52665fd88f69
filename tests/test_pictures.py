"""The card's pictures: the same bytes each time, labels that can be read, and none where letters are missing."""

from __future__ import annotations

import re
import struct
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from selfinstruct_hub.release.page import canvas, pictures, rings, statistics
from tests.test_card import ROUNDS, ROWS, VERBS, shards_of

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture
def figures(tmp_path: Path) -> dict[str, Any]:
    files = shards_of(tmp_path, ROWS)
    return {**statistics.measured(tmp_path, files, ROUNDS), "verbs": VERBS}


def chunks(path: Path) -> dict[str, bytes]:
    """The chunks of a PNG, the data of several of a kind joined."""
    data, found, place = path.read_bytes(), dict[str, bytes](), 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind = data[place + 4 : place + 8].decode()
        found[kind] = found.get(kind, b"") + data[place + 8 : place + 8 + length]
        place += length + 12
    return found


def test_every_picture_is_drawn_described_and_the_same_bytes_again(
    figures: dict[str, Any], tmp_path: Path
) -> None:
    drawn = pictures.draw(figures, tmp_path / "a")
    with matplotlib.rc_context({"font.size": 30, "figure.dpi": 10, "axes.facecolor": "red"}):
        again = pictures.draw(figures, tmp_path / "b")
    assert [path.name for path in drawn] == ["growth.png", "lengths.png", "novelty.png", "verbs.png"]
    for one, other in zip(drawn, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
        parts = chunks(one)
        # No date, no software; wide enough for a page at twice the density; no part can be seen through.
        assert set(parts) == {"IHDR", "pHYs", "IDAT", "IEND"}
        width, height, _, colours = struct.unpack(">IIBB", parts["IHDR"][:10])
        assert width == 1200
        rows = zlib.decompress(parts["IDAT"])
        assert colours in (2, 6)
        if colours == 6:
            assert rows[1:5][3] == 255
        assert len(rows) > height
    texts = pictures.described(figures, drawn)
    assert list(texts) == [f"assets/{path.name}" for path in drawn]
    assert texts["assets/verbs.png"].endswith("First come name (2, mostly tree), write (1, mostly note).")
    assert "5 after 3 rounds" in texts["assets/growth.png"]
    assert "60% in the first round, 100% in the last" in texts["assets/growth.png"]


@pytest.mark.parametrize(
    ("without", "left_out"),
    [
        ({"rounds": ROUNDS[:1]}, "growth"),
        ({"novelty": {"accepted": None, "rejected": None}}, "novelty"),
        ({"verbs": None}, "verbs"),
        ({"verbs": {**VERBS, "verbs": []}}, "verbs"),
    ],
)
def test_what_was_not_measured_is_not_drawn(
    figures: dict[str, Any], tmp_path: Path, without: dict[str, Any], left_out: str
) -> None:
    drawn = pictures.draw({**figures, **without}, tmp_path)
    assert left_out not in {path.stem for path in drawn}
    assert len(drawn) == 3


def test_a_round_without_candidates_keeps_its_place(figures: dict[str, Any]) -> None:
    rounds = [{**ROUNDS[0], "round": n, "candidates": 10, "acceptance": n / 10} for n in (1, 2, 3, 4)]
    rounds[1].update(candidates=0, acceptance=None)
    left, right = pictures._growth({**figures, "rounds": rounds}).axes
    (line,) = right.lines
    drawn = {x: round(float(y), 3) for x, y in zip(*line.get_data(), strict=True) if y == y}
    labels = dict(zip(right.get_xticks(), (text.get_text() for text in right.get_xticklabels()), strict=True))
    assert {labels[x]: y for x, y in drawn.items()} == {"1": 10, "3": 30, "4": 40}
    assert [text.get_text() for text in left.get_xticklabels()] == ["1", "2", "3", "4"]


def test_no_label_lies_on_a_bar(figures: dict[str, Any]) -> None:
    """Neither the legend of novelty, where exact copies were rejected, nor a median beside the highest bar."""
    counts = [0] * 19 + [1000]
    both = {"count": 1000, "median": 1.0, "histogram": {"width": 0.05, "counts": counts, "above": 0}}
    novelty = pictures._novelty({"novelty": {"accepted": both, "rejected": both}})
    lengths = pictures._lengths(figures)
    for figure in (novelty, lengths):
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
        for axes in figure.axes:
            labels = [*axes.texts, *filter(None, [axes.get_legend(), axes.yaxis.label])]
            for label in labels:
                box = label.get_window_extent(renderer)
                assert box.x0 >= 0, label
                assert not any(
                    bar.get_window_extent(renderer).overlaps(box) for bar in axes.patches if bar.get_height()
                )


def test_without_inputs_there_are_two_histograms(figures: dict[str, Any]) -> None:
    figures["input"]["words"] = None
    assert [axes.get_title("left") for axes in pictures._lengths(figures).axes] == ["Instructions", "Outputs"]


def test_without_matplotlib_there_are_none(
    figures: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "find_spec", lambda name: None)
    assert pictures.draw(figures, tmp_path) == []
    assert not (tmp_path / "assets").exists()


def test_labels_of_the_rings_do_not_touch_each_other() -> None:
    """Twenty verbs with four objects, from common to rare; labels that do not fit are left out or shortened."""
    names = "write give find create make describe generate design have explain identify classify provide".split()
    names += "suggest summarise rewrite construct determine analyse characterisation".split()
    verbs = [
        {
            "verb": verb,
            "instructions": 4000 // (place + 2),
            "objects": [
                {"object": thing, "instructions": 900 // (place + 1) // (rank + 1) + 1}
                for rank, thing in enumerate(
                    ("essay", "internationalisation", "list", "antidisestablishmentarianism")
                )
            ],
        }
        for place, verb in enumerate(names)
    ]
    figure = rings.drawn({"verbs": {"verbs": verbs}})
    figure.canvas.draw()
    (axes,) = figure.axes
    boxes = [(text, _corners(text, figure.canvas.get_renderer())) for text in axes.texts]
    assert len(boxes) > 50
    assert {name for name in names if any(text.get_text() == name for text in axes.texts)} >= set(names[:15])
    assert any(text.get_text().endswith("…") for text in axes.texts)
    assert min(text.get_fontsize() for text in axes.texts) >= 8
    for place, (text, box) in enumerate(boxes):
        for other, its_box in boxes[place + 1 :]:
            assert _apart(box, its_box), (text.get_text(), other.get_text())


def _corners(text: Any, renderer: Any) -> list[tuple[float, float]]:
    """The corners of a turned text, in points of the screen, a little inside its line so that only ink counts."""
    import numpy as np
    from matplotlib.transforms import Affine2D

    turned, text_rotation = text.get_rotation(), text.get_rotation()
    text.set_rotation(0)
    box = text.get_window_extent(renderer).padded(-2)
    text.set_rotation(text_rotation)
    x, y = text.get_transform().transform(text.get_position())
    corners = [(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1)]
    return [tuple(p) for p in Affine2D().rotate_deg_around(x, y, turned).transform(np.array(corners))]


def _apart(one: list[tuple[float, float]], other: list[tuple[float, float]]) -> bool:
    """Whether a side of two rectangles divides them (separating axes)."""
    for shape in (one, other):
        for (ax, ay), (bx, by) in pairwise(shape):
            normal = (by - ay, ax - bx)
            mine = [x * normal[0] + y * normal[1] for x, y in one]
            its = [x * normal[0] + y * normal[1] for x, y in other]
            if max(mine) <= min(its) or max(its) <= min(mine):
                return True
    return False


@pytest.mark.parametrize(
    ("texts", "fonts"),
    [
        (["essay", "Größe", "résumé", "письмо"], ["DejaVu Sans"]),
        (["مقال"], None),  # has to be shaped
        (["निबंध"], None),
        (["\U000323af"], None),  # in no font; fonts of last resort do not count
    ],
)
def test_fonts_are_those_that_have_the_letters(texts: list[str], fonts: list[str] | None) -> None:
    assert rings.fonts_for(texts) == fonts


def test_a_font_that_is_gone_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib keeps a list of fonts in its cache, and a font may be removed, or be no font."""
    from matplotlib import font_manager

    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    gone = [font_manager.FontEntry(fname=str(path), name=path.stem) for path in (tmp_path / "gone.ttf", broken)]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", gone)
    assert rings.fonts_for(["文章"]) is None


def test_letters_that_no_font_has_leave_the_rings_out(
    figures: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib import font_manager

    own = [font for font in font_manager.fontManager.ttflist if font.name.startswith(("DejaVu", "Last Resort"))]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    thing = {"object": "文章", "instructions": 2}
    verbs = {**VERBS, "verbs": [{"verb": "写", "instructions": 2, "objects": [thing]}]}
    assert "verbs.png" not in {path.name for path in pictures.draw({**figures, "verbs": verbs}, tmp_path)}


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (950, "950"), (1500, "1.5k"), (20_000, "20k"), (3e6, "3M")]
)
def test_numbers_on_an_axis_are_short(value: float, shown: str) -> None:
    assert canvas.in_short(value) == shown


def test_light_colours_are_colours() -> None:
    assert all(re.fullmatch("#[0-9a-f]{6}", canvas.lighter(colour)) for colour in rings._RING)

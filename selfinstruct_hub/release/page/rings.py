"""The picture of verbs and their objects: two rings, as in the Self-Instruct paper, and fonts for the labels."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from selfinstruct_hub.release.page.canvas import GROUND, INK, figure, lighter

# These have a frame or a blank for every character, and no letters, or coarse ones.
_LAST_RESORT = ("Last Resort", ".LastResort", "LastResort", "Unifont", "Adobe Blank")
_SMALLEST = 8.0  # points; shown at half size these are letters of 8 pixels
# Twenty colours that neighbours can be told apart by, all dark enough for white letters.
_RING = tuple(
    """
    #33608c #b3552e #3d7a4f #8a3f6b #6b6a2c #4a4f96 #a33b42 #2e7c84 #84562b #61509a
    #2f6f5f #9c4a78 #55702d #3a5fa8 #a0522d #276d7a #7d4a8f #7a6428 #44708f #8f4550
    """.split()
)
# Scripts whose letters take other shapes beside each other, or run from right to left: not every matplotlib can.
_SHAPED = tuple(
    """
    ARABIC HEBREW SYRIAC THAANA NKO MONGOLIAN DEVANAGARI BENGALI GURMUKHI GUJARATI ORIYA TAMIL TELUGU KANNADA
    MALAYALAM SINHALA THAI LAO TIBETAN MYANMAR KHMER
    """.split()
)


def drawn(statistics: Mapping[str, Any]) -> Any:
    """Two rings: a verb's part of the inner one is its share, and outside it lie its commonest objects."""
    verbs = statistics["verbs"]["verbs"]
    labels = [text for verb in verbs for text in (verb["verb"], *(thing["object"] for thing in verb["objects"]))]
    fonts = fonts_for(labels)
    if fonts is None:
        return None
    picture = figure(8, 8)
    axes = picture.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02), aspect="equal")
    axes.axis("off")
    # A verb is as wide as its objects that are shown, so that both rings close.
    widths = [[thing["instructions"] for thing in verb["objects"]] for verb in verbs]
    whole = sum(map(sum, widths))
    begin = 90.0
    for place, (verb, shown) in enumerate(zip(verbs, widths, strict=True)):
        color = _RING[place % len(_RING)]
        span = 360 * sum(shown) / whole
        _slice(axes, (begin - span, begin), (0.26, 0.60), color, verb["verb"], 13, "white", fonts)
        inner = begin
        for thing, count in zip(verb["objects"], shown, strict=True):
            part = 360 * count / whole
            _slice(axes, (inner - part, inner), (0.61, 1.0), lighter(color), thing["object"], 12, INK, fonts)
            inner -= part
        begin -= span
    return picture


def _slice(
    axes: Any,
    angles: tuple[float, float],
    radii: tuple[float, float],
    color: str,
    label: str,
    size: float,
    ink: str,
    fonts: Sequence[str],
) -> None:
    """A part of a ring, with its label along the radius where there is room for it. Angles are degrees, radii
    shares of the half width, the size of letters is in points."""
    from matplotlib.patches import Wedge

    inner, outer = radii
    axes.add_patch(
        Wedge((0, 0), outer, *angles, width=outer - inner, facecolor=color, edgecolor=GROUND, linewidth=1)
    )
    points = 8 * 72 / 2.04  # of the half width
    arc = math.radians(angles[1] - angles[0])
    edge = outer - 0.02
    middle = (angles[0] + angles[1]) / 2
    while size >= _SMALLEST:
        shown = _fitting(label, size, (outer - inner - 0.04) * points, fonts)
        # A line must fit where the slice is narrowest along it, which is at the inner end.
        if size <= 0.8 * arc * (edge - _width(shown, tuple(fonts)) * size / points) * points:
            break
        size -= 0.5
    else:
        return
    # Letters never stand on their heads.
    flipped = 90 < middle % 360 < 270
    axes.text(
        edge * math.cos(math.radians(middle)),
        edge * math.sin(math.radians(middle)),
        shown,
        rotation=middle + 180 if flipped else middle,
        rotation_mode="anchor",
        ha="left" if flipped else "right",
        va="center_baseline",
        fontsize=size,
        color=ink,
        family=list(fonts),
        parse_math=False,
    )


def _fitting(label: str, size: float, room: float, fonts: Sequence[str]) -> str:
    """`label`, or so much of it as `room` points hold in letters of `size`."""
    shown = label
    while len(shown) > 1 and _width(shown, tuple(fonts)) * size > room:
        shown = shown.rstrip("…")[:-1] + "…"
    return shown


@lru_cache(maxsize=1024)
def _width(text: str, fonts: tuple[str, ...]) -> float:
    """The width of `text` in letters of size 1."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    path = TextPath((0, 0), text, prop=FontProperties(family=list(fonts), size=10))
    return float(path.get_extents().width) / 10


def in_words(statistics: Mapping[str, Any]) -> str:
    verbs = statistics["verbs"]["verbs"]
    said = ", ".join(
        f"{verb['verb']} ({verb['instructions']:,}, mostly {verb['objects'][0]['object']})" for verb in verbs[:5]
    )
    return f"Two rings: the {len(verbs)} commonest verbs and up to four objects of each. First come {said}."


def fonts_for(texts: Iterable[str]) -> list[str] | None:
    """Font families that have every character of `texts` between them, matplotlib's own first; None where no
    installed font helps, or letters would have to be shaped."""
    wanted = {character for text in texts for character in text if not character.isspace()}
    if any(unicodedata.name(character, "").startswith(_SHAPED) for character in wanted):
        return None
    from matplotlib import font_manager

    own = "DejaVu Sans"
    missing = {ord(character) for character in wanted} - _characters(font_manager.findfont(own))
    if not missing:
        return [own]
    there = sorted(font_manager.fontManager.ttflist, key=lambda one: (one.style != "normal", one.name, one.fname))
    for entry in there:
        if not entry.name.startswith(_LAST_RESORT) and missing <= _characters(entry.fname):
            return [own, entry.name]
    return None


def _characters(file: str) -> set[int]:
    """The characters of a font; none where matplotlib remembers a file that is gone, or cannot read it."""
    from matplotlib.ft2font import FT2Font

    try:
        return set(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return set()

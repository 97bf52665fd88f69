"""Draws the card's pictures from a release's statistics, with matplotlib where it is installed.

The same statistics give the same bytes with the same matplotlib: no date, no software's name, no settings of the
user's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

from selfinstruct_hub.release.page import rings
from selfinstruct_hub.release.page.canvas import (
    BLUE,
    GREEN,
    GROUND,
    INK,
    ORANGE,
    SOFT,
    figure,
    in_short,
    lighter,
    styled,
)

FOLDER = "assets"
_DOTS = 150  # an inch; pages show the pictures at half their width or more


# A release with fewer says all of it in its tables.
LEAST_TASKS = 20


def available() -> bool:
    """Whether pictures can be drawn here."""
    return find_spec("matplotlib") is not None


def draw(statistics: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws into `folder`/assets what `statistics` has figures for. Returns the files, none without matplotlib.

    Verbs are left out where no installed font has their letters; the card has a table then.
    """
    if not available():
        return []
    import matplotlib

    drawn = []
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever matplotlibrc says
        for name, (has_figures, picture, _) in _PICTURES.items():
            if has_figures(statistics) and (made := picture(statistics)) is not None:
                path = folder / FOLDER / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                made.savefig(path, format="png", dpi=_DOTS, metadata={"Software": None})
                drawn.append(path)
    return drawn


def names(statistics: Mapping[str, Any]) -> set[str]:
    """Files of the pictures that `statistics` has figures for."""
    return {f"{name}.png" for name, (has_figures, *_) in _PICTURES.items() if has_figures(statistics)}


def described(statistics: Mapping[str, Any], drawn: Iterable[Path]) -> dict[str, str]:
    """What each of the pictures `drawn` shows, in words, by its path in the release: its alternative text."""
    return {f"{FOLDER}/{path.name}": _PICTURES[path.stem][2](statistics) for path in drawn}


# Lengths.

_PARTS = (("instruction", "instructions", BLUE), ("input", "inputs", ORANGE), ("output", "outputs", GREEN))


def _lengths(statistics: Mapping[str, Any]) -> Any:
    parts = [part for part in _PARTS if statistics[part[0]]["words"]]
    picture = figure(8, 3.3)
    for place, (part, name, color) in enumerate(parts, start=1):
        found = statistics[part]["words"]
        axes = styled(picture.add_subplot(1, len(parts), place), name.capitalize())
        bins = found["histogram"]
        width, counts = bins["width"], [*bins["counts"]]
        # What is beyond the last bin has one of its own, in a lighter colour, and the axis says so.
        edges = [width * i for i in range(len(counts))]
        axes.bar(edges, counts, width=width * 0.92, align="edge", color=color)
        axes.set_ylim(0, 1.16 * max(*counts, bins["above"]))  # the median's label stands above every bar
        end = width * len(counts)
        if bins["above"]:
            axes.bar([end], [bins["above"]], width=width * 0.92, align="edge", color=color, alpha=0.45)
        axes.axvline(found["median"] + 0.5, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        left = found["median"] <= end / 2
        axes.annotate(
            f"median {found['median']}",
            (found["median"] + 0.5, 1),
            xycoords=("data", "axes fraction"),
            xytext=(5 if left else -5, -4),
            textcoords="offset points",
            ha="left" if left else "right",
            va="top",
            fontsize=11,
            color=INK,
            bbox={"facecolor": GROUND, "edgecolor": "none", "pad": 0.5},
        )
        axes.set_xlim(0, end + (width if bins["above"] else 0))
        axes.set_xlabel("words" + (f" (last bar: {end:,}+)" if bins["above"] else ""), color=SOFT, fontsize=11)
        axes.yaxis.set_major_formatter(in_short)
        axes.locator_params(axis="x", nbins=4, integer=True)
        axes.locator_params(axis="y", nbins=5, integer=True)
    return picture


def _lengths_in_words(statistics: Mapping[str, Any]) -> str:
    said = [
        f"{name} {found['median']:,} (95% have at most {found['p95']:,})"
        for part, name, _ in _PARTS
        if (found := statistics[part]["words"])
    ]
    return "Histograms of lengths in words. Medians: " + ", ".join(said) + "."


# Novelty.


def _novelty(statistics: Mapping[str, Any]) -> Any:
    kinds = [("accepted", BLUE), ("rejected", ORANGE)]
    picture = figure(8, 3.3)
    picture.subplots_adjust(left=0.1)
    axes = styled(picture.add_subplot())
    both = [(name, color, found) for name, color in kinds if (found := statistics["novelty"][name])]
    for place, (name, color, found) in enumerate(both):
        width = found["histogram"]["width"]
        counts = found["histogram"]["counts"]
        bar = width * 0.92 / len(both)
        lefts = [width * (i + 0.04) + place * bar for i in range(len(counts))]
        axes.bar(lefts, counts, width=bar, align="edge", color=color, label=f"{name} ({found['count']:,})")
    axes.set_xlim(-0.01, 1.01)
    axes.tick_params(axis="x", pad=7)
    axes.set_xticks([i / 10 for i in range(11)])
    axes.set_xlabel("ROUGE-L with the nearest neighbour", color=SOFT, fontsize=11)
    axes.set_ylabel("candidates", color=SOFT, fontsize=11)
    axes.yaxis.set_major_formatter(in_short)
    axes.locator_params(axis="y", nbins=6, integer=True)
    # Above the bars: exact copies would be where a corner of the picture is.
    above = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2, "ncols": len(both)}
    axes.legend(frameon=False, fontsize=11, labelcolor=INK, **above)
    return picture


def _novelty_in_words(statistics: Mapping[str, Any]) -> str:
    said = [
        f"{name} candidates have a median of {found['median']:.2f}"
        for name in ("accepted", "rejected")
        if (found := statistics["novelty"][name])
    ]
    return "Histogram of ROUGE-L with the nearest neighbour: " + ", ".join(said) + "."


# Growth.


def _growth(statistics: Mapping[str, Any]) -> Any:
    rounds = statistics["rounds"]
    names = [str(one["round"]) for one in rounds]
    whole = list(accumulate(one["tasks"] for one in rounds))
    picture = figure(8, 3.3)
    left = styled(picture.add_subplot(1, 2, 1), "Tasks in all")
    before = [a - one["tasks"] for a, one in zip(whole, rounds, strict=True)]
    places = range(len(rounds))
    left.bar(places, before, color=lighter(BLUE))
    left.bar(places, [one["tasks"] for one in rounds], bottom=before, color=BLUE)
    left.yaxis.set_major_formatter(in_short)
    left.locator_params(axis="y", nbins=5, integer=True)
    right = styled(picture.add_subplot(1, 2, 2), "Accepted share of candidates")
    # A round without candidates has its place, and a gap there.
    shares = [100 * one["acceptance"] if one["candidates"] else math.nan for one in rounds]
    right.plot(places, shares, color=GREEN, marker="o", linewidth=2, markersize=5)
    right.set_ylim(0, 105)
    right.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    for axes in (left, right):
        axes.set_xlabel("round", color=SOFT, fontsize=11)
        axes.set_xlim(-0.7, len(names) - 0.3)
        step = -(-len(names) // 12)
        axes.set_xticks(range(0, len(names), step), names[::step])
    return picture


def _growth_in_words(statistics: Mapping[str, Any]) -> str:
    rounds = statistics["rounds"]
    first, last = (f"{one['acceptance'] or 0:.0%}" for one in (rounds[0], rounds[-1]))
    return (
        f"Tasks by round, {sum(one['tasks'] for one in rounds):,} after {len(rounds)} rounds, and the accepted "
        f"share of the candidates: {first} in the first round, {last} in the last."
    )


# What there is to draw: whether there are figures for it, the picture (or None), and what it shows in words.
_Picture = tuple[
    Callable[[Mapping[str, Any]], bool], Callable[[Mapping[str, Any]], Any], Callable[[Mapping[str, Any]], str]
]
_PICTURES: dict[str, _Picture] = {
    "growth": (lambda found: len(found["rounds"]) > 1, _growth, _growth_in_words),
    "lengths": (lambda found: bool(found["instruction"]["words"]), _lengths, _lengths_in_words),
    "novelty": (
        lambda found: any(found["novelty"][k] for k in ("accepted", "rejected")),
        _novelty,
        _novelty_in_words,
    ),
    "verbs": (lambda found: bool((found.get("verbs") or {}).get("verbs")), rings.drawn, rings.in_words),
}

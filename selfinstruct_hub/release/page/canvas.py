"""What the card's pictures have in common: ground, colours, letters, axes.

The ground is light and their own, so that they can be read on a dark page. matplotlib is imported when it is used.
"""

from __future__ import annotations

from typing import Any

GROUND, INK, SOFT, GRID = "#fbfbfa", "#1f2328", "#59636e", "#d9dde1"
BLUE, ORANGE, GREEN = "#2f6db5", "#d9822b", "#3f8f5f"


def figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Places are fixed: finding them takes as long again as drawing.
    found = Figure(figsize=(width, height), facecolor=GROUND)
    found.subplots_adjust(left=0.075, right=0.98, top=0.88, bottom=0.19, wspace=0.24)
    FigureCanvasAgg(found)
    return found


def styled(axes: Any, title: str = "") -> Any:
    axes.set_facecolor(GROUND)
    axes.tick_params(colors=SOFT, labelsize=11, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.spines["bottom"].set(visible=True, color=GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    if title:
        axes.set_title(title, color=INK, fontsize=13, loc="left")
    return axes


def in_short(value: float, _: Any = None) -> str:
    """A number for an axis: 950, 1.5k, 20k, 3M."""
    for size, name in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{name}"
    return f"{value:g}"


def lighter(color: str) -> str:
    """`color` (#rrggbb) with three fifths of white."""
    mixed = (round(int(color[i : i + 2], 16) * 0.38 + 255 * 0.62) for i in (1, 3, 5))
    return "#" + "".join(f"{part:02x}" for part in mixed)

"""A few lines at the bottom of a terminal that stand still and change: of a run, or of a number that is known.

Everything else that is said scrolls by above them. They fold where they are wider than the terminal, and are
drawn anew several times a second whether anything comes or not.
"""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from selfinstruct_hub.config import Prices
from selfinstruct_hub.figures import counted
from selfinstruct_hub.show.pieces import console_of, duration, ends_before, is_live
from selfinstruct_hub.show.views import Figures, RunView

_FRAMES_PER_SECOND = 4
_SHORTEST_BAR = 10


class LiveView(RunView):
    """A run on a terminal."""

    seconds_between_troubles = 60.0  # the lines below count them

    def __init__(self, prices: Prices | None = None) -> None:
        super().__init__(prices)
        self._console = console_of(sys.stderr)
        self._live = Live(
            console=self._console,
            get_renderable=self._picture,
            refresh_per_second=_FRAMES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
        )

    def __enter__(self) -> LiveView:
        super().__enter__()
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        super().__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def _picture(self) -> RenderableType:
        figures = self.figures()
        return picture(figures, self._console.width) if figures is not None else Group()


def picture(figures: Figures, width: int) -> RenderableType:
    """A run in three to five lines, on a terminal of 80 columns; more where `width` is less."""
    progress = figures.progress
    answered = counted(progress.requests, "answer")
    lines = [
        Text(", ".join(part for part in (figures.flying, figures.speeds, answered) if part)),
        Text(figures.dropped),
        Text(figures.troubles, style="yellow"),
        Text(_whole(figures)),
    ]
    for line in lines:
        line.overflow = "fold"
    return Group(_head(figures, width), *(line for line in lines if line.plain))


def _head(figures: Figures, width: int) -> RenderableType:
    """How far the round is, with a bar where there is room for one."""
    progress, coming = figures.progress, figures.forecast
    name = progress.title
    done = f"{progress.accepted:,} of {counted(progress.wanted, progress.unit)}"
    left = [f"about {duration(coming.seconds)} left"] if coming else []
    if len("  ".join((name, done, *left))) + 2 + _SHORTEST_BAR > width:
        return Text(", ".join((f"{name}: {done}", *left)), overflow="fold")
    head = Table.grid(padding=(0, 2, 0, 0), expand=True)
    head.add_column()
    head.add_column(ratio=1)
    bar = ProgressBar(total=max(1, progress.wanted), completed=progress.accepted)
    head.add_row(name, bar, done, *left)
    return head


def _whole(figures: Figures) -> str:
    """The run as a whole: what it has taken, and what is to come."""
    coming, progress = figures.forecast, figures.progress
    spent = f" and {figures.spent}" if figures.spent else ""
    parts = [f"{_clock(figures.seconds)}{spent} so far"]
    if progress.later:
        parts.append(f"{counted(progress.later, 'task')} in later rounds")
    if coming is not None and coming.limit is not None:
        parts.append(ends_before(coming, figures.whole, progress.unit))
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02}:{int(seconds % 60):02}"


class CountView:
    """Shows how many of a known number are done, on a terminal. Use as a context manager."""

    def __init__(self, what: str) -> None:
        console = console_of(sys.stderr)
        self._progress = Progress(
            TextColumn(what),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not is_live(console),
        )
        self._bar: TaskID | None = None

    def __enter__(self) -> CountView:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def observe(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = self._progress.add_task("", total=total)
        self._progress.update(self._bar, completed=done)

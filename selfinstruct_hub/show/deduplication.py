"""`dedup` as it goes on, and what became of a file: in lines for a person, as one object for a program."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from selfinstruct_hub import dedup
from selfinstruct_hub.figures import counted
from selfinstruct_hub.show.pieces import console_of, duration, is_live, speed

# Narrow, so that a million rows fit into 80 columns.
_BAR = 12
_SECONDS_TO_FORESEE = 3.0  # before which a speed says little of what is to come


class DedupView:
    """Rows read, kept and dropped, and the time left, on a terminal. Use as a context manager."""

    def __init__(self) -> None:
        console = console_of(sys.stderr)
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=_BAR),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            disable=not is_live(console),
        )
        self._bar: TaskID
        self._first: tuple[float, dedup.Progress] | None = None

    def __enter__(self) -> DedupView:
        self._progress.start()
        self._bar = self._progress.add_task("", total=None)  # a cluster takes its time to start
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def observe(self, progress: dedup.Progress) -> None:
        if not progress.rows:
            said = f"reading what to compare with: {counted(progress.held, 'text')}"
        else:
            said = self._rows(progress)
        total = 1.0 if progress.share is not None else None
        self._progress.update(self._bar, description=said, total=total, completed=progress.share or 0.0)

    def _rows(self, progress: dedup.Progress) -> str:
        now = time.monotonic()
        began, first = self._first = self._first or (now, progress)
        seconds = now - began
        parts = [counted(progress.rows, "row"), f"{progress.dropped:,} dropped"]
        if seconds >= _SECONDS_TO_FORESEE:
            parts.append(speed((progress.rows - first.rows) / seconds, "rows"))
            done = (progress.share or 0.0) - (first.share or 0.0)
            if progress.share and progress.share < 1 and done > 0:
                parts.append(f"{duration(seconds * (1 - progress.share) / done)} left")
        return ", ".join(parts)


def dedup_lines(result: dedup.Deduplicated) -> list[str]:
    """What became of a file, line by line."""
    column = f", column `{result.column}`" if result.column is not None else ""
    name = "standard input" if str(result.file) == "-" else str(result.file)
    lines = [f"{name}: {result.kind}{column}, {counted(result.rows, 'row')}, threshold {result.threshold:g}"]
    if result.against:
        files = ", ".join(f"{name} ({counted(count, 'text')})" for name, count in result.against.items())
        lines.append(f"compared with {files}")
    counts = {"kept": result.kept}
    counts |= {f"dropped, {reason}": number for reason, number in result.drops.items()}
    if result.bad:
        counts["left out, bad"] = result.bad
    width, digits = max(map(len, counts)), max(len(f"{number:,}") for number in counts.values())
    for name, number in counts.items():
        share = f"  {number / result.rows:6.1%}" if result.rows else ""
        lines.append(f"{name:{width}}  {number:>{digits},}{share}")
    if result.tokenless:
        lines.append(
            f"{counted(result.tokenless, 'kept row has', 'kept rows have')} not one letter or digit in "
            f"`{result.column}`, so nothing to compare"
        )
    of_rows = f", {speed(result.rows_per_second, 'rows')}" if result.rows else ""
    lines.append(f"{result.seconds:.1f} s{of_rows}")
    if str(result.out) != "-":
        lines.append(f"kept rows: {result.out}")
    lines.append(f"dropped rows, with reason, neighbour and score: {result.dropped}")
    return lines


def dedup_json(result: dedup.Deduplicated) -> dict[str, Any]:
    """The same for a program."""
    return {
        "file": str(result.file),
        "kind": result.kind,
        "column": result.column,
        "threshold": result.threshold,
        "rows": result.rows,
        "kept": result.kept,
        "dropped": dict(result.drops),
        "bad": result.bad,
        "without_tokens": result.tokenless,
        "against": dict(result.against),
        "seconds": round(result.seconds, 3),
        "rows_per_second": round(result.rows_per_second, 1),
        "out": str(result.out),
        "dropped_file": str(result.dropped),
    }

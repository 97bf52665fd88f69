"""`dedup` as it goes on, and what became of a file: in lines for a person, as one object for a program."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from selfinstruct_hub import dedup
from selfinstruct_hub.release.card import counted
from selfinstruct_hub.show.pieces import console_of, duration, is_live, speed

_SECONDS_TO_FORESEE = 3.0  # before which a speed says little of what is to come


class DedupView:
    """Rows read, kept and dropped, and the time left, on a terminal. Use as a context manager."""

    def __init__(self) -> None:
        console = console_of(sys.stderr)
        self._progress = Progress(
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not is_live(console),
        )
        self._bar: TaskID | None = None
        self._began: float | None = None

    def __enter__(self) -> DedupView:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def observe(self, progress: dedup.Progress) -> None:
        if self._bar is None:
            self._bar = self._progress.add_task("", total=None)
        if not progress.rows:
            said = f"reading what to compare with: {counted(progress.held, 'text')}"
        else:
            now = time.monotonic()
            self._began = self._began or now
            said = self._rows(progress, now - self._began)
        total = 1.0 if progress.share is not None else None
        self._progress.update(self._bar, description=said, total=total, completed=progress.share or 0.0)

    def _rows(self, progress: dedup.Progress, seconds: float) -> str:
        parts = [f"{counted(progress.rows, 'row')}, {progress.kept:,} kept, {progress.dropped:,} dropped"]
        if seconds >= _SECONDS_TO_FORESEE:
            parts.append(speed(progress.rows / seconds, "rows"))
            if progress.share and progress.share < 1:
                parts.append(f"about {duration(seconds * (1 / progress.share - 1))} left")
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

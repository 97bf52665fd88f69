"""What a person sees of a run: a live line on a terminal, plain lines from time to time elsewhere, tables.

Progress goes to standard error, results to standard output, so that output pipes.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from selfinstruct_hub import grow
from selfinstruct_hub.doctor import Finding
from selfinstruct_hub.exchange import Imported

_SECONDS_BETWEEN_LINES = 10.0


class RunView:
    """Shows the progress of a run. Use as a context manager; `observe` is the hook."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._live: Progress | None = None
        self._bar: Any = None
        self._round = 0
        self._last_line = 0.0

    def __enter__(self) -> RunView:
        if self._console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rest]}"),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def observe(self, progress: grow.Progress) -> None:
        rest = (
            f"{progress.candidates} candidates, {progress.requests} answers, {progress.in_flight} in flight, "
            f"{progress.generated_tokens:,} tokens"
        )
        if self._live:
            if progress.round != self._round:
                if self._bar is not None:
                    self._live.remove_task(self._bar)
                self._bar = self._live.add_task("", total=progress.wanted, rest="")
            self._live.update(
                self._bar, completed=progress.accepted, description=f"round {progress.round}", rest=rest
            )
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.say(f"round {progress.round}: {progress.accepted} of {progress.wanted} tasks; {rest}")
        self._round = progress.round


class CountView:
    """Shows how many of a known number are done, on a terminal. Use as a context manager."""

    def __init__(self, what: str) -> None:
        self._progress = Progress(
            TextColumn(what),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._bar: Any = None

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


def print_import(result: Imported) -> None:
    """What became of an imported file, on standard output."""
    console = _output()
    bad = f", {len(result.bad):,} bad ones left out" if result.bad else ""
    console.print(
        f"{result.format}: {result.rows:,} rows with {result.candidates:,} instructions{bad}; "
        f"{result.tasks:,} tasks accepted with {result.instances:,} instances",
        highlight=False,
        soft_wrap=True,
    )
    for title, counts in (
        ("dropped because", result.drops),
        ("instances dropped from accepted tasks", result.lost_instances),
    ):
        if counts:
            console.print(_reasons_table(title, counts))
    if result.without_instances:
        console.print(
            f"{result.without_instances:,} accepted instructions came without instances: they count for novelty "
            "and can be shown in prompts, and no row is published of them",
            highlight=False,
            soft_wrap=True,
        )
    if result.round is not None:
        place = f"released as {result.release}" if result.release else "no row to release yet"
        console.print(f"round {result.round}: {place}", highlight=False, soft_wrap=True)


def rounds_table(rounds: list[dict[str, Any]]) -> Table:
    """Rounds with their counts, as `status` holds them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (
        "round",
        "version",
        "tasks",
        "rows",
        "requests",
        "candidates",
        "accepted",
        "similar",
        "tokens",
        "state",
    ):
        table.add_column(name, justify="left" if name in ("version", "state") else "right", no_wrap=True)
    for round_ in rounds:
        share = f"{round_['acceptance']:.1%}" if round_["acceptance"] is not None else "-"
        mean, p90 = round_["similarity"]["mean"], round_["similarity"]["p90"]
        state = "complete" if round_["complete"] else f"open, {round_['wanted']} wanted"
        table.add_row(
            str(round_["round"]),
            round_["version"],
            f"{round_['tasks']:,}",
            f"{round_['rows']:,}",
            f"{round_['requests']:,}",
            f"{round_['candidates']:,}",
            share,
            "-" if mean is None else f"{mean:.2f}/{p90:.2f}",
            f"{round_['tokens']['generated']:,}",
            state,
        )
    return table


def stages_table(rounds: list[dict[str, Any]]) -> Table:
    """Every step of the rounds whose recipe has several: what it took, cost and lost."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("round", "step", "requests", "parsed", "candidates", "tokens", "dropped"):
        table.add_column(
            name, justify="left" if name in ("step", "dropped") else "right", no_wrap=name != "dropped"
        )
    for round_ in rounds:
        for name, stage in round_["stages"].items():
            table.add_row(
                str(round_["round"]),
                name,
                f"{stage['requests']:,}",
                f"{stage['parsed']:,}",
                f"{stage['candidates']:,}",
                f"{stage['tokens']['generated']:,}",
                ", ".join(f"{reason} {count:,}" for reason, count in stage["drops"].items()) or "-",
            )
    return table


def drops_table(rounds: list[dict[str, Any]]) -> Table:
    """Dropped candidates by reason, the commonest first."""
    drops: Counter[str] = Counter()
    for round_ in rounds:
        drops.update(round_["drops"])
    return _reasons_table("dropped because", dict(drops.most_common()))


def _reasons_table(title: str, counts: Mapping[str, int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title, no_wrap=True)
    table.add_column("number", justify="right")
    for reason, count in counts.items():
        table.add_row(reason, f"{count:,}")
    return table


def print_status(status: dict[str, Any]) -> None:
    """The status on standard output."""
    console = _output()
    console.print(
        f"recipe {status['recipe']}, language {status['language']}, {status['seeds']:,} seed tasks, "
        f"{status['tasks']:,} tasks accepted in {status['rows']:,} rows",
        highlight=False,
    )
    if not status["rounds"]:
        console.print("no rounds yet", highlight=False)
        return
    console.print(rounds_table(status["rounds"]))
    last = status["rounds"][-1]
    if not last["complete"] and last["unjudged"]:
        console.print(f"{last['unjudged']:,} more answers are stored and wait for their turn", highlight=False)
    if several := [round_ for round_ in status["rounds"] if len(round_["stages"]) > 1]:
        console.print()
        console.print(stages_table(several))
    if any(round_["drops"] for round_ in status["rounds"]):
        console.print()
        console.print(drops_table(status["rounds"]))
    if lost := sum(sum(round_["lost_instances"].values()) for round_ in status["rounds"]):
        console.print(f"\n{lost:,} instances were dropped from tasks that go on without them", highlight=False)
    if status["versions"]:
        console.print(f"\nreleases: {', '.join(status['versions'])}", highlight=False)


def print_finding(finding: Finding) -> None:
    """One line of `doctor`."""
    mark = {True: "ok  ", False: "FAIL", None: "note"}[finding.ok]
    _output().print(f"{mark}  {finding.name}: {finding.text}", markup=False, highlight=False, soft_wrap=True)


def _output() -> Console:
    # A pipe has no width; rich would cut tables at 80 columns.
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160)

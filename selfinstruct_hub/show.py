"""What a person sees of a run: a live line on a terminal, plain lines from time to time elsewhere, tables.

Progress goes to standard error, results to standard output, so that output pipes.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from selfinstruct_hub import grow
from selfinstruct_hub.doctor import Finding
from selfinstruct_hub.exchange import Imported
from selfinstruct_hub.release.card import counted

_SECONDS_BETWEEN_LINES = 10.0
_PIPE_WIDTH = 100_000
_GAP = 2  # between columns
_TEXTS = ("version", "state", "recipe", "step")  # columns that are set left
_DROPPED = "dropped because"
_LOST = "instances dropped from accepted tasks"


class RunView:
    """Shows the progress of a run. Use as a context manager; `observe` is the hook."""

    def __init__(self) -> None:
        self._console = _console(sys.stderr)
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
                # Two lines rather than a cut one.
                TextColumn("{task.fields[rest]}", table_column=Column(overflow="fold")),
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
        self._console.print(text, soft_wrap=True)

    def observe(self, progress: grow.Progress) -> None:
        rest = (
            f"{counted(progress.candidates, 'candidate')}, {counted(progress.requests, 'answer')}, "
            f"{progress.in_flight} in flight, {counted(progress.generated_tokens, 'token')}"
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
            done = f"{progress.accepted:,} of {counted(progress.wanted, 'task')}"
            self.say(f"round {progress.round}: {done}; {rest}")
        self._round = progress.round


class CountView:
    """Shows how many of a known number are done, on a terminal. Use as a context manager."""

    def __init__(self, what: str) -> None:
        console = _console(sys.stderr)
        self._progress = Progress(
            TextColumn(what),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
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
    bad = f", {counted(len(result.bad), 'bad row')} left out" if result.bad else ""
    console.print(
        f"{result.format}: {counted(result.rows, 'row')} with {counted(result.candidates, 'instruction')}{bad}; "
        f"{counted(result.tasks, 'task')} accepted with {counted(result.instances, 'instance')}"
    )
    for title, counts in ((_DROPPED, result.drops), (_LOST, result.lost_instances)):
        if counts:
            _print_reasons(console, title, {None: counts})
    if result.without_instances:
        console.print(
            f"{counted(result.without_instances, 'accepted instruction')} came without instances: good for "
            "novelty and for prompts, but no row is published"
        )
    for release in result.packaged:
        console.print(f"released what an earlier start had left: {release}", soft_wrap=True)
    if result.round is not None:
        place = f"released as {result.release}" if result.release else "no row to release yet"
        console.print(f"round {result.round}: {place}", soft_wrap=True)


def print_status(status: dict[str, Any]) -> None:
    """The status on standard output: every figure of it, at any width."""
    console = _output()
    console.print(
        f"recipe {status['recipe']}, language {status['language']}, {counted(status['seeds'], 'seed task')}, "
        f"{counted(status['tasks'], 'task')} accepted in {counted(status['rows'], 'row')}"
    )
    rounds = status["rounds"]
    if not rounds:
        console.print("no rounds yet")
        return
    _print_rows(console, [_round_row(round_) for round_ in rounds], keys=("round",))
    last = rounds[-1]
    if not last["complete"] and last["unjudged"]:
        waiting = counted(last["unjudged"], "more answer waits for its", "more answers wait for their")
        console.print(f"{waiting} turn")
    if several := [round_ for round_ in rounds if len(round_["stages"]) > 1]:
        console.print()
        _print_rows(
            console,
            [_stage_row(r["round"], name, stage) for r in several for name, stage in r["stages"].items()],
            keys=("round", "step"),
        )
        for round_ in several:
            for name, stage in round_["stages"].items():
                if stage["drops"]:
                    reasons = ", ".join(f"{reason} {count:,}" for reason, count in stage["drops"].items())
                    console.print(f"dropped in round {round_['round']}, {name}: {reasons}")
    for title, key in ((_DROPPED, "drops"), (_LOST, "lost_instances")):
        if any(round_[key] for round_ in rounds):
            console.print()
            _print_reasons(console, title, {round_["round"]: round_[key] for round_ in rounds})
    if status["versions"]:
        console.print()
        console.print(f"releases: {', '.join(status['versions'])}")


def print_finding(finding: Finding) -> None:
    """One line of `doctor`."""
    mark = {True: "ok  ", False: "FAIL", None: "note"}[finding.ok]
    _output().print(f"{mark}  {finding.name}: {finding.text}", soft_wrap=True)


def _round_row(round_: Mapping[str, Any]) -> dict[str, str]:
    mean, p90 = round_["similarity"]["mean"], round_["similarity"]["p90"]
    return {
        "round": str(round_["round"]),
        "version": round_["version"],
        "tasks": f"{round_['tasks']:,}",
        "rows": f"{round_['rows']:,}",
        "candidates": f"{round_['candidates']:,}",
        "accepted": "-" if round_["acceptance"] is None else f"{round_['acceptance']:.1%}",
        "similar": "-" if mean is None else f"{mean:.2f}/{p90:.2f}",
        "state": "complete" if round_["complete"] else f"open, {round_['wanted']:,} wanted",
        "recipe": round_["recipe"],
        "requests": f"{round_['requests']:,}",
        "parsed": f"{round_['parsed']:,}",
        "tokens in": f"{round_['tokens']['prompt']:,}",
        "tokens out": f"{round_['tokens']['generated']:,}",
        "unused": f"{round_['unjudged']:,}",
    }


def _stage_row(number: int, name: str, stage: Mapping[str, Any]) -> dict[str, str]:
    return {
        "round": str(number),
        "step": name,
        "requests": f"{stage['requests']:,}",
        "parsed": f"{stage['parsed']:,}",
        "candidates": f"{stage['candidates']:,}",
        "tokens in": f"{stage['tokens']['prompt']:,}",
        "tokens out": f"{stage['tokens']['generated']:,}",
    }


def _print_reasons(console: Console, title: str, counts: Mapping[int | None, Mapping[str, int]]) -> None:
    """Reasons, the commonest first, with their number in all and in each of several rounds."""
    whole: Counter[str] = Counter()
    for of_round in counts.values():
        whole.update(of_round)
    rows = []
    for reason, number in whole.most_common():
        row = {title: reason, "number": f"{number:,}"}
        if len(counts) > 1:
            row |= {f"round {round_}": f"{found.get(reason, 0):,}" for round_, found in counts.items()}
        rows.append(row)
    _print_rows(console, rows, keys=(title,), left=(title,))


def _print_rows(
    console: Console, rows: Sequence[Mapping[str, str]], *, keys: Sequence[str], left: Sequence[str] = _TEXTS
) -> None:
    for place, columns in enumerate(_blocks(rows, keys, console.width)):
        if place:
            console.print()
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in columns:
            table.add_column(name, justify="left" if name in left else "right", overflow="fold")
        for row in rows:
            table.add_row(*(row[name] for name in columns))
        console.print(table)


def _blocks(rows: Sequence[Mapping[str, str]], keys: Sequence[str], width: int) -> Iterator[list[str]]:
    """The columns of `rows` in blocks that are as wide as `width` at most, each beginning with the `keys`: what
    does not fit beside the rest comes below it, and nothing is cut."""

    def taken(columns: Sequence[str]) -> int:
        return sum(max(cell_len(text) for text in (c, *(row[c] for row in rows))) + _GAP for c in columns) - _GAP

    block = list(keys)
    for name in rows[0]:
        if name in keys:
            continue
        if len(block) > len(keys) and taken([*block, name]) > width:
            yield block
            block = list(keys)
        block.append(name)
    yield block


def _output() -> Console:
    # A pipe has no width: there, every table is one table and every line one line.
    return _console(sys.stdout, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def _console(file: TextIO, width: int | None = None) -> Console:
    """Prints texts as they are: paths and names may hold what looks like markup."""
    return Console(file=file, width=width, markup=False, emoji=False, highlight=False)

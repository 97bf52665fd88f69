"""Results on standard output: the status, what became of an import, findings. Every figure at any width."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from selfinstruct_hub.doctor import Finding
from selfinstruct_hub.exchange import Imported
from selfinstruct_hub.figures import counted, spans
from selfinstruct_hub.show.pieces import console_of

_PIPE_WIDTH = 100_000
_GAP = 2  # between columns
_TEXTS = ("version", "state", "recipe", "step")  # columns that are set left
_DROPPED = "dropped because"
_LOST = "instances dropped from accepted tasks"
_FAILED = "requests given up because"


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
        _print_state(console, status)
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
    for title, key in ((_DROPPED, "drops"), (_LOST, "lost_instances"), (_FAILED, "failed")):
        if any(round_[key] for round_ in rounds):
            console.print()
            _print_reasons(console, title, {round_["round"]: round_[key] for round_ in rounds})
    if status["versions"]:
        console.print()
        console.print(f"releases: {', '.join(status['versions'])}")
    _print_state(console, status)


def _print_state(console: Console, status: Mapping[str, Any]) -> None:
    """What was changed, what is not at its end, and what is wrong, each in a line of its own."""
    revisions = [_revision_row(one) for one in status["revisions"]]
    if revisions:
        console.print()
        _print_rows(console, revisions, keys=("revision",), left=("revision", "kind", "rounds", "state"))
    if status["unfinished"]:
        console.print()
        console.print(f"unfinished: {status['unfinished']}")
    for problem in status["problems"]:
        console.print(f"problem: {problem}")


def _revision_row(revision: Mapping[str, Any]) -> dict[str, str]:
    return {
        "revision": revision["version"],
        "kind": revision["kind"],
        "rounds": spans(revision["rounds"]),
        "state": revision["state"],
    }


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
    return console_of(sys.stdout, width=None if sys.stdout.isatty() else _PIPE_WIDTH)

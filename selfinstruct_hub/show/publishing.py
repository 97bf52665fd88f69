"""What a person sees of a push, a pull and a difference of versions: how far it is, and what came of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TransferSpeedColumn

from selfinstruct_hub.difference import Difference
from selfinstruct_hub.figures import counted
from selfinstruct_hub.hub.pull import PulledVersion
from selfinstruct_hub.hub.steps import Pushed, Step, size
from selfinstruct_hub.show.pieces import console_of, is_live

_PATHS_SHOWN = 8


class TransferView:
    """Lines of what is done, on standard error, and on a terminal a bar of bytes. Use as a context manager."""

    def __init__(self) -> None:
        self._console = console_of(sys.stderr)
        self._progress = Progress(
            BarColumn(bar_width=24),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=self._console,
            transient=True,
            disable=not is_live(self._console),
            redirect_stdout=False,
        )
        self._bar: TaskID | None = None

    def __enter__(self) -> TransferView:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def moved(self, done: int, total: int) -> None:
        """So many bytes of all."""
        if self._bar is None:
            self._bar = self._progress.add_task("", total=total)
        self._progress.update(self._bar, completed=done, total=total)


def print_push(done: Pushed, *, as_json: bool) -> None:
    """What a push has done or would do, on standard output."""
    if as_json:
        print(json.dumps(done.as_dict(), ensure_ascii=False, indent=2))
        return
    for line in _push_lines(done):
        print(line)


def _push_lines(done: Pushed) -> list[str]:
    lines = []
    if done.dry_run:
        lines.append("dry run: nothing was written")
        if done.created:
            lines.append(f"would make {'private' if done.private else 'public'} dataset {done.repo}")
        if done.create_pr and done.steps:
            lines.append("would open a pull request instead of a commit and a tag")
        lines += [f"{version}: has its commit, would be tagged" for version in done.tagged]
        for step in done.steps:
            lines += _plan(step)
    else:
        lines += [f"{version}: tagged; its commit was there" for version in done.tagged]
        for step in done.steps:
            if step.pull_request:
                lines.append(
                    f"{step.version}: pull request {step.pull_request}; it has no tag yet: merge it, then push "
                    "again tags it"
                )
            else:
                assert step.commit is not None
                lines.append(f"{step.version}: published, commit {step.commit[:8]}")
    if done.waiting:
        lines.append(f"waiting until that is merged: {', '.join(done.waiting)}")
    if done.published:
        lines.append(f"published before: {', '.join(done.published)}")
    if not (done.steps or done.tagged):
        lines.append("nothing to do")
    return [*lines, done.url]


def _plan(step: Step) -> list[str]:
    new = counted(len(step.added) + len(step.changed), "file")
    same = f", {counted(step.unchanged, 'file')} as before" if step.unchanged else ""
    lines = [f"{step.version}: would send {new}, {size(step.bytes)}{same}"]
    for what, paths in (("add", step.added), ("change", step.changed), ("delete", step.deleted)):
        lines += [f"  {what:<6}  {_sized(path, step)}" for path in paths[:_PATHS_SHOWN]]
        if len(paths) > _PATHS_SHOWN:
            lines.append(f"  {what:<6}  {len(paths) - _PATHS_SHOWN:,} more")
    return lines


def _sized(path: str, step: Step) -> str:
    return f"{path} ({size(step.sizes[path])})" if path in step.sizes else path


def print_pull(found: PulledVersion, directory: Path) -> None:
    """What was pulled, on standard output."""
    print(
        f"pulled {found.repo} {found.version} (commit {found.commit[:8]}): {counted(found.rounds, 'round')}, "
        f"{counted(found.tasks, 'task')}, {counted(found.rows, 'row')}"
    )
    if found.unpublished_tasks:
        print(
            f"{counted(found.unpublished_tasks, 'task')} without instances had no row, so the novelty gate does "
            "not know them here"
        )
    print(f"next: selfinstruct-hub grow {directory} makes {found.next_version}")


def print_difference(found: Difference, *, as_json: bool) -> None:
    """What changed between two releases, on standard output."""
    if as_json:
        print(json.dumps(found.as_dict(), ensure_ascii=False, indent=2))
        return
    names = ("same", "added", "removed", "changed")
    print(f"{found.before} to {found.after}: " + ", ".join(f"{found.totals[name]:,} {name}" for name in names))
    table: list[tuple[str, ...]] = [("round", *names)]
    for round_ in found.rounds:
        counts = (round_.same, len(round_.added), len(round_.removed), len(round_.changed))
        table.append((str(round_.round), *(f"{count:,}" for count in counts)))
    widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))

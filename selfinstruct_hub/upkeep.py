"""`gc`: what a workspace can do without, on request. Prompts and answers' texts of frozen rounds, and what a death
while packaging has left.

Never touches rows, verdicts, counts, costs or how rounds stood before a revision: every release that is built
later is the same to the byte.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct_hub.errors import PoolError, ReleaseError, UsageError
from selfinstruct_hub.figures import spans
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.pool.file import log_of
from selfinstruct_hub.release import inventory
from selfinstruct_hub.rounds import check_no_revision
from selfinstruct_hub.status import unreleased
from selfinstruct_hub.workspace import Workspace, is_release

_UNFINISHED = ".building-*"


@dataclass(frozen=True)
class Collected:
    """What was dropped, or would be. `size` are bytes of prompts and texts, `before` and `after` those of the pool
    (`after` is None where nothing was done); `not_shrunk` says why the file is as large as before. `removed` and
    `left` are folders that a death while packaging has left: without a manifest, and with one."""

    dry_run: bool
    rounds: tuple[int, ...]
    kept: tuple[int, ...]  # rounds that are open or have no release yet
    answers: int
    size: int
    before: int
    after: int | None
    not_shrunk: str | None
    removed: tuple[Path, ...]
    left: tuple[Path, ...]

    @property
    def won(self) -> int:
        """Bytes that the disk has back."""
        return 0 if self.after is None else max(0, self.before - self.after)

    def as_dict(self) -> dict[str, Any]:
        return {
            "dry_run": self.dry_run,
            "rounds": list(self.rounds),
            "kept_rounds": list(self.kept),
            "answers": self.answers,
            "text_bytes": self.size,
            "pool_bytes": {"before": self.before, "after": self.after},
            "won_bytes": self.won,
            "not_shrunk": self.not_shrunk,
            "removed": [str(folder) for folder in self.removed],
            "left": [str(folder) for folder in self.left],
        }


def collect(workspace: Workspace, *, rounds: Sequence[int] | None = None, dry_run: bool = False) -> Collected:
    """Drops prompts and texts of the answers of frozen `rounds` (None: all of them), and gives their space back.

    `dry_run` changes nothing. Raises UsageError for a round that is not there or not frozen, PoolError while a
    revision is open.
    """
    with workspace.locked(), _opened(workspace) as pool:
        check_no_revision(pool)
        inventory.check(workspace.releases, pool)
        waiting = {number for edition in unreleased(workspace, pool) for number in _of(edition.round.number, pool)}
        there = {round_.number: round_.complete and round_.number not in waiting for round_ in pool.rounds()}
        for number in rounds or ():
            if number not in there:
                raise UsageError(
                    f"{workspace.path}: has no round {number}; its rounds are {spans(there) or 'none'}"
                )
            if not there[number]:
                raise UsageError(
                    f"{workspace.path}: round {number} is not frozen yet, and its answers are still needed; "
                    f"frozen are {spans(n for n, frozen in there.items() if frozen) or 'none'}"
                )
        chosen = [n for n, frozen in there.items() if frozen and (rounds is None or n in rounds)]
        texts = {number: pool.texts_of(number) for number in chosen}
        held = tuple(number for number in chosen if texts[number][0])
        before = _size(workspace.pool_file)
        after, not_shrunk = None, None
        unfinished, left = _leftovers(workspace.releases)
        if not dry_run:
            if held:
                pool.drop_texts(held)
            if pool.may_shrink:
                not_shrunk = _shrunk(pool)
            after = _size(workspace.pool_file)
            for folder in unfinished:
                _remove(folder)
        return Collected(
            dry_run=dry_run,
            rounds=held,
            kept=tuple(number for number, frozen in there.items() if not frozen),
            answers=sum(answers for answers, _ in texts.values()),
            size=sum(size for _, size in texts.values()),
            before=before,
            after=after,
            not_shrunk=not_shrunk,
            removed=unfinished,
            left=left,
        )


def _opened(workspace: Workspace) -> Pool:
    workspace.check_pool_not_lost()
    pool = Pool.open(workspace.pool_file)
    try:
        pool.check()  # what is damaged is not written anew
    except BaseException:
        pool.close()
        raise
    return pool


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise ReleaseError(f"{folder}: cannot be removed ({error.strerror}); check its permissions") from None


def _of(round_number: int, pool: Pool) -> list[int]:
    """The rounds whose answers a version may still need that is not packaged: its own; and any changed one."""
    revised = [number for revision in pool.revisions() for number in revision.rounds]
    return [round_number, *revised]


def _shrunk(pool: Pool) -> str | None:
    """Gives the disk back what the pool does not use any more; or says why that cannot be."""
    size, unused = pool.size()
    needed = size - unused
    # The file is written anew beside, and then once more into its log.
    places = {place.stat().st_dev: place for place in (_temporary(), pool.path.parent.absolute())}
    for place in places.values():
        free = shutil.disk_usage(place).free
        wanted = needed * (3 - len(places))
        if free < wanted:
            return (
                f"{place} has {free / 1e6:,.0f} MB free, and {wanted / 1e6:,.0f} MB are needed to write the pool "
                "anew; later rounds use the space inside it, or make room and run gc again"
            )
    try:
        pool.shrink()
    except PoolError as error:
        return str(error)
    return None


def _temporary() -> Path:
    """Where SQLite writes what it needs for a while."""
    if (named := os.environ.get("SQLITE_TMPDIR")) and Path(named).is_dir():
        return Path(named)
    found = Path("/var/tmp")
    return found if found.is_dir() and "TMPDIR" not in os.environ else Path(tempfile.gettempdir())


def _size(pool_file: Path) -> int:
    return sum(place.stat().st_size for place in (pool_file, log_of(pool_file)) if place.exists())


def _leftovers(releases: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Folders that a death while packaging has left: those that are no release, and those that might be one."""
    found = sorted(releases.glob(_UNFINISHED)) if releases.is_dir() else []
    return tuple(f for f in found if not is_release(f)), tuple(f for f in found if is_release(f))

"""The `review` command whole: rows and rejected candidates into a file that people edit, and their decisions back.

One file that is taken back is one revision, and so one patch version. A person's decision stands over the rules;
what was there before stays in the pool, with every version that held it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from selfinstruct_hub.digests import sha256_of
from selfinstruct_hub.errors import ReviewError, UsageError
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import REVIEW, Round, Verdict, is_import
from selfinstruct_hub.review import files
from selfinstruct_hub.review.decisions import Decisions, decide
from selfinstruct_hub.review.lines import row
from selfinstruct_hub.review.places import left_out
from selfinstruct_hub.reviewed import Marks, marks, shares
from selfinstruct_hub.rounds import check_closed, next_revision
from selfinstruct_hub.run import package_complete_rounds
from selfinstruct_hub.workspace import Workspace

__all__ = ["ACCEPTED", "ALL", "REJECTED", "Exported", "Reviewed", "apply_file", "export_file", "shares"]

ACCEPTED, REJECTED, ALL = "accepted", "rejected", "all"


@dataclass(frozen=True)
class Exported:
    """What a file got: `lines` of `found` that were asked for; `long` have a text that a cell of Excel cuts."""

    lines: int
    found: int
    long: int


@dataclass(frozen=True)
class Reviewed:
    """What became of a file of `lines`. `rejected`, `corrected`, `won` and `answered` count rows (the last: those
    of which only a mark or an answer is new), `done` lines whose decisions stood already. `short` has the missing
    tasks of rounds that have fewer than wanted. `version` and `release` are None where nothing was to be done, or
    with `dry_run`; `release` also where no row is left."""

    lines: int
    rejected: int
    corrected: int
    won: int
    answered: int
    done: int
    dry_run: bool = False
    version: str | None = None
    release: Path | None = None
    short: Mapping[int, int] = field(default_factory=dict)
    packaged: tuple[Path, ...] = ()

    @property
    def changed(self) -> int:
        return self.rejected + self.corrected + self.won + self.answered

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            **asdict(self),
            "release": str(self.release) if self.release else None,
            "packaged": [str(folder) for folder in self.packaged],
        }


def export_file(
    workspace: Workspace,
    path: Path,
    *,
    rows: str = ACCEPTED,
    rounds: tuple[int, int] | None = None,
    sample: int | None = None,
    seed: int | None = None,
    reasons: Collection[str] = (),
    overwrite: bool = False,
) -> Exported:
    """Writes rows (ACCEPTED), candidates and instances that were dropped (REJECTED) or both (ALL) of complete
    rounds to `path`, JSON Lines or CSV by its ending.

    `rounds` are the first and the last round, `sample` that many lines by chance, which `seed` (the workspace's
    unless given) decides, `reasons` the only ones of what was dropped. Reads the pool only.

    Raises ReviewError for an ending, a round or a reason that there is none of, and for a text that a CSV cannot
    hold; FormatError where the file exists (unless `overwrite`); PoolError where there is no pool.
    """
    if rows not in (ACCEPTED, REJECTED, ALL):
        raise UsageError(f"rows: expected {ACCEPTED}, {REJECTED} or {ALL}, got {rows!r}")
    files.kind_of(path)
    settings = workspace.settings()
    with Pool.open(workspace.pool_file, read_only=True) as pool, pool.snapshot():
        chosen = _chosen_rounds(pool, rounds)
        said = marks(pool)
        # Reading them once more is needed only to choose among them, or to say which reasons there are.
        found = _found(pool, chosen, rows, set(reasons), said) if sample is not None or reasons else None
        lines = _lines(pool, chosen, rows, reasons, said)
        wanted = None
        if sample is not None and found is not None and sample < found:
            rng = random.Random(f"review/{settings.seed if seed is None else seed}")
            places = set(rng.sample(range(found), sample))
            some = [line for place, line in enumerate(lines) if place in places]
            wanted, lines = {near for _, near in some}, iter(some)
        texts = _texts(pool, wanted)

        def whole() -> Iterator[dict[str, Any]]:
            line = None
            for line, near in lines:
                yield {**line, "neighbour": texts.get(near, "")}
            if line is None:  # and no file appears
                raise ReviewError(f"{workspace.path}: there is nothing of that kind to review")

        count, long = files.write(path, whole(), overwrite=overwrite)
    return Exported(count, count if found is None else found, long)


def _found(pool: Pool, rounds: Sequence[Round], kind: str, reasons: set[str], said: Mapping[str, Marks]) -> int:
    """How many lines there are. Raises ReviewError for a reason that nothing was dropped for."""
    if not reasons:
        return sum(1 for _ in _lines(pool, rounds, kind, (), said))
    dropped = Counter(line["reason"] for line, _ in _lines(pool, rounds, kind, (), said))
    if missing := sorted(reasons - set(dropped)):
        there = ", ".join(sorted(filter(None, dropped))) or "none"
        raise ReviewError(f"nothing was dropped for {missing[0]!r} in these rounds; the reasons are: {there}")
    return sum(count for reason, count in dropped.items() if not reason or reason in reasons)


def apply_file(workspace: Workspace, path: Path, *, dry_run: bool = False) -> Reviewed:
    """Takes a file back that `export_file` wrote and people edited: one revision with all of its decisions, which
    is released, or none of them. Where nothing is decided that does not stand already, nothing is made.

    Raises ReviewError, one line with place and field, for the first thing in the file that cannot be followed;
    PoolError where a round or a revision is open.
    """
    lines = files.read(path)
    settings = workspace.settings()
    with workspace.locked(), workspace.open_pool(settings) as pool:
        earlier: list[Path] = []
        if not dry_run:
            packaged = package_complete_rounds(workspace, pool, settings)
            earlier = [one.release for one in packaged if one.release is not None]
        check_closed(pool)
        source = {"file": path.name.encode("utf-8", "replace").decode(), "sha256": sha256_of(path)}
        revision = next_revision(pool, REVIEW, (), {"source": {**source, "lines": len(lines)}}, settings)
        found = decide(pool, lines, revision.version)
        result = _result(len(lines), found, dry_run, tuple(earlier))
        if not found.changes:
            return result
        short = _short(pool, found)
        result = replace(result, short={number: missing for number, (missing, _) in short.items() if missing})
        if dry_run:
            return result
        said = {key: dict(counts) for key, counts in found.said.items()}
        for number, (missing, _) in short.items():
            said[str(number)]["short"] = missing
        revision = replace(revision, rounds=tuple(sorted(found.rounds)))
        pool.revise_at_once(revision, found.places, found.changes, said)
        package_complete_rounds(workspace, pool, settings)
        folder = workspace.releases / revision.version
        released = folder if workspace.is_released(revision.version) else None
        return replace(result, version=revision.version, release=released)


def _result(lines: int, found: Decisions, dry_run: bool, packaged: tuple[Path, ...]) -> Reviewed:
    totals = found.totals()
    return Reviewed(
        lines=lines,
        rejected=totals.get("lost", 0),
        corrected=totals.get("replaced", 0),
        won=totals.get("won", 0),
        answered=totals.get("answered", 0),
        done=found.done,
        dry_run=dry_run,
        packaged=packaged,
    )


def _short(pool: Pool, found: Decisions) -> dict[int, tuple[int, int]]:
    """The (missing, wanted) tasks of the changed rounds that a model wrote."""
    tasks: dict[int, dict[tuple[int, int], bool]] = {}
    for place, change in zip(found.places, found.changes, strict=True):
        if change.verdict is not None:
            stands = change.verdict.task is not None
            tasks.setdefault(place.round, {})[place.number, place.position] = stands
    result = {}
    for round_ in pool.rounds():
        if round_.number in tasks and not is_import(round_.settings):
            count = pool.accepted_count(round_.number)
            for (number, position), stands in tasks[round_.number].items():
                stood = pool.verdict_at(round_.number, number, position)
                assert stood is not None
                count += stands - (stood.task is not None)
            result[round_.number] = (max(0, round_.wanted - count), round_.wanted)
    return result


def _chosen_rounds(pool: Pool, bounds: tuple[int, int] | None) -> list[Round]:
    complete = [round_ for round_ in pool.rounds() if round_.complete]
    if not complete:
        raise ReviewError(f"{pool.path}: has no complete round yet; `selfinstruct-hub grow` makes one")
    if bounds is None:
        return complete
    first, last = bounds
    if not 1 <= first <= last <= complete[-1].number:
        raise ReviewError(f"rounds: expected some of 1-{complete[-1].number}, got {first}-{last}")
    return [round_ for round_ in complete if first <= round_.number <= last]


_Lines = Iterator[tuple[dict[str, Any], str]]


def _lines(
    pool: Pool, rounds: Sequence[Round], kind: str, reasons: Collection[str], said: Mapping[str, Marks]
) -> _Lines:
    """The lines that were asked for, each with the id of its nearest neighbour. A stream: a dataset may have
    millions."""
    for round_ in rounds:
        for verdict in pool.verdicts(round_.number, accepted=True if kind == ACCEPTED else None):
            if kind != REJECTED:
                yield from _accepted(verdict, said)
            if kind != ACCEPTED:
                yield from (one for one in _rejected(verdict, said) if not reasons or one[0]["reason"] in reasons)


def _accepted(verdict: Verdict, said: Mapping[str, Marks]) -> _Lines:
    near, score = _nearest(verdict)
    for key, instance in verdict.task.rows if verdict.task else []:
        assert verdict.task is not None
        texts = {"instruction": verdict.task.instruction, "input": instance.input, "output": instance.output}
        known = said[key].values if key in said else None
        yield row(key, verdict.round, texts, marks=known, score=score), near


def _rejected(verdict: Verdict, said: Mapping[str, Marks]) -> _Lines:
    near, score = _nearest(verdict)
    instruction = verdict.task.instruction if verdict.task else verdict.candidate.instruction or ""
    lost = {one.instance: one.drop for one in verdict.lost}
    for key, instance in left_out(verdict):
        drop = (lost.get(instance) if verdict.task else verdict.drop) or lost.get(instance)
        if drop is None:
            continue
        texts = {"instruction": instruction, "input": instance.input, "output": instance.output}
        known = said[key].values if key in said else None
        line = row(key, verdict.round, texts, marks=known, reason=drop.reason, detail=drop.detail, score=score)
        yield line, near


def _nearest(verdict: Verdict) -> tuple[str, float | None]:
    """The id of what decided or else of the nearest, and its score; none where nothing was measured."""
    if verdict.drop is not None and verdict.drop.near is not None:
        return verdict.drop.near.id, verdict.drop.near.score
    nearest = verdict.similarity.nearest if verdict.similarity else ()
    return (nearest[0].id, nearest[0].score) if nearest else ("", None)


def _texts(pool: Pool, wanted: set[str] | None) -> dict[str, str]:
    """The instructions of seeds and tasks by id, of those that are `wanted` (None: all)."""
    found = {task.id: task.instruction for task in pool.seeds() if wanted is None or task.id in wanted}
    for round_ in pool.rounds():
        for key, instruction, _ in pool.instructions(round_.number):
            if wanted is None or key in wanted:
                found[key] = instruction
    return found

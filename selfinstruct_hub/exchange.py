"""Other projects' files into the pool and out of it: the `import` and `export` commands whole.

An imported file becomes a round of its own. Its rows pass the gates that every candidate passes, and it is stored
whole or not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from selfinstruct_hub import formats, plan, release
from selfinstruct_hub.config import publishable
from selfinstruct_hub.errors import PoolError
from selfinstruct_hub.formats import Entry, Written
from selfinstruct_hub.formats.target import STDOUT, opened
from selfinstruct_hub.judging import Gates, Judge
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import IMPORT, Candidate, Instance, Round, Task, Verdict
from selfinstruct_hub.rounds import check_no_revision, editions, next_version
from selfinstruct_hub.run import package_complete_rounds
from selfinstruct_hub.workspace import Workspace

__all__ = ["STDOUT", "Imported", "export_file", "import_file"]

# The one format that is for instructions alone.
_INSTRUCTIONS = "machine_generated_instructions"


@dataclass(frozen=True)
class Imported:
    """What became of a file. `rows` and `candidates` are what it held (rows of one instruction are one
    candidate), `tasks` and `instances` what was accepted. `drops` counts candidates by reason,
    `lost_instances` instances that accepted tasks go on without. `release` is None where the workspace has no
    row to publish yet. `packaged` are releases of earlier rounds that a start which died had left to be made."""

    format: str
    rows: int
    bad: tuple[str, ...]
    candidates: int
    tasks: int
    instances: int
    without_instances: int
    drops: Mapping[str, int] = field(default_factory=dict)
    lost_instances: Mapping[str, int] = field(default_factory=dict)
    round: int | None = None
    release: Path | None = None
    packaged: tuple[Path, ...] = ()


def import_file(
    workspace: Workspace,
    path: Path,
    *,
    format: str = formats.AUTO,
    skip_bad: bool = False,
    observe: Callable[[int, int], None] = lambda done, total: None,
) -> Imported:
    """Judges the rows of `path` and adds what is accepted as a round, which is released at once.

    Where nothing is accepted, nothing is stored. Complete rounds that have no release yet get theirs first.
    Raises FormatError for the file, PoolError where a round is open. `observe` hears of (candidates judged,
    candidates in all).
    """
    settings = workspace.settings()
    with workspace.locked(), workspace.open_pool(settings) as pool:
        earlier = [finished.release for finished in package_complete_rounds(workspace, pool, settings)]
        check_no_revision(pool)
        number, done = _next_round(workspace, pool)
        file = formats.read(path, format, skip_bad=skip_bad)
        candidates = list(_candidates(file.format, file.entries))
        gates = Gates.opened(settings, workspace.path.absolute())
        source = {
            "file": path.name.encode("utf-8", "replace").decode(),
            "format": file.format,
            "rows": len(file.entries),
            "sha256": file.sha256,
        }
        round_ = Round(
            number=number,
            version="",
            wanted=len(candidates),
            complete=True,
            settings={"recipe": IMPORT, **plan.judging(settings), **gates.settings, "source": source},
            asked=publishable(settings).model_dump(),
        )
        judge = Judge.resumed(pool, round_, gates)
        verdicts: list[Verdict] = []
        for verdict in judge.verdicts(0, candidates):
            verdicts.append(verdict)
            observe(len(verdicts), len(candidates))
        accepted = [verdict.task for verdict in verdicts if verdict.task]
        result = Imported(
            format=file.format,
            rows=len(file.entries),
            bad=file.bad,
            candidates=len(candidates),
            tasks=len(accepted),
            instances=sum(len(task.instances) for task in accepted),
            without_instances=sum(not task.instances for task in accepted),
            packaged=tuple(folder for folder in earlier if folder),
            drops=dict(Counter(v.drop.reason for v in verdicts if v.drop).most_common()),
            lost_instances=dict(
                Counter(one.drop.reason for v in verdicts if v.task for one in v.lost).most_common()
            ),
        )
        if not accepted:
            return result
        version = next_version(done, round_.settings, pool.revisions())
        round_ = replace(round_, wanted=len(accepted), version=version)
        pool.add_import(round_, verdicts)
        frozen = release.freeze(workspace.releases, pool, editions(pool)[-1], settings.card, workspace.name)
        return replace(result, round=number, release=frozen)


def export_file(
    workspace: Workspace,
    path: Path,
    format: str,
    *,
    with_seeds: bool = False,
    overwrite: bool = False,
) -> Written:
    """Writes the tasks of all complete rounds to `path` ("-" for standard output) in a format of `formats`.

    A file is written beside its place and moved there whole; what is no file is written into. Raises FormatError
    where a file exists (unless `overwrite`) or cannot be written, PoolError where there is no pool.
    """
    settings = workspace.settings()
    with Pool.open(workspace.pool_file, read_only=True) as pool, opened(path, overwrite=overwrite) as out:
        return formats.write(_entries(pool, format, with_seeds), format, out, seed=settings.seed)


def _next_round(workspace: Workspace, pool: Pool) -> tuple[int, Sequence[Round]]:
    """The number of the round to make and those before it. An open round without any answer gives way."""
    rounds = pool.rounds()
    if rounds and not rounds[-1].complete:
        last = rounds.pop()
        if not pool.is_untouched(last.number):
            accepted = max(1, pool.accepted_count(last.number))
            raise PoolError(
                f"{workspace.path}: round {last.number} is open; finish it with `selfinstruct-hub grow "
                f"{workspace.path}`, or release what it has with `--tasks {accepted}`, then import"
            )
    return len(rounds) + 1, rounds


def _candidates(format: str, entries: Sequence[Entry]) -> Iterator[Candidate]:
    """One candidate for each instruction, in the order they first come: rows that repeat one bring it further
    instances. Texts are judged and published without the blanks around them. Each candidate remembers what its
    rows said, letter by letter, so that an export can say it again."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.instruction.strip(), []).append(entry)
    for instruction, group in groups.items():
        kinds = [entry.is_classification for entry in group if entry.is_classification is not None]
        yield Candidate(
            instruction=instruction,
            instances=tuple(_stripped(instance) for entry in group for instance in entry.instances),
            missing=None if instruction else "instruction",
            is_classification=kinds[0] if kinds else None,
            stage=IMPORT,
            calls=(),
            lost=tuple(lost for entry in group for lost in entry.lost),
            bare=all(entry.bare for entry in group),
            extra={
                "format": format,
                "rows": [
                    {
                        "instruction": entry.instruction,
                        "instances": [[instance.input, instance.output] for instance in entry.instances],
                        "is_classification": entry.is_classification,
                        "extra": dict(entry.extra),
                    }
                    for entry in group
                ],
            },
        )


def _stripped(instance: Instance) -> Instance:
    return Instance(input=instance.input.strip(), output=instance.output.strip())


def _entries(pool: Pool, format: str, with_seeds: bool) -> Iterator[Entry]:
    similar = format in (_INSTRUCTIONS, "machine_generated_instances", "regen")
    texts: dict[str, str] = {task.id: task.instruction for task in pool.seeds()} if similar else {}
    if with_seeds:
        for seed in pool.seeds():
            yield Entry(
                instruction=seed.instruction,
                instances=seed.instances,
                is_classification=seed.is_classification,
                extra={"id": seed.id, "name": seed.name},
            )
    rounds = [round_.number for round_ in pool.rounds() if round_.complete]
    filled = _filled(pool, rounds)
    for number in rounds:
        for verdict in pool.verdicts(number, accepted=True):
            task = verdict.task
            assert task is not None
            if similar:
                texts[task.id] = task.instruction
            if task.instruction in filled and bool(task.instances) == (format == _INSTRUCTIONS):
                continue
            if verdict.candidate.extra and not _is_reworded(task, verdict.candidate):
                yield from _imported_entries(task, verdict.candidate, format)
            else:
                yield _grown_entry(verdict, task, texts)


def _filled(pool: Pool, rounds: Sequence[int]) -> set[str]:
    """The instructions that came alone first, and later as a task with instances: two tasks that are one."""
    alone: set[str] = set()
    worked: set[str] = set()
    for number in rounds:
        for task in pool.tasks(number):
            (worked if task.instances else alone).add(task.instruction)
    return alone & worked


def _grown_entry(verdict: Verdict, task: Task, texts: Mapping[str, str]) -> Entry:
    extra: dict[str, Any] = {"id": task.id, "name": task.name}
    if texts and verdict.similarity:
        extra["most_similar"] = {texts[n.id]: n.score for n in verdict.similarity.nearest if n.id in texts}
        extra["avg_similarity_score"] = verdict.similarity.mean
    return Entry(
        instruction=task.instruction,
        instances=task.instances,
        is_classification=task.is_classification,
        extra=extra,
    )


def _imported_entries(task: Task, candidate: Candidate, format: str) -> Iterator[Entry]:
    """The rows that `task` came in, each with those of its instances that stayed: in their own format with the
    file's texts, in others with those that were judged."""
    own = candidate.extra["format"] == format
    entries = _rows_that_stayed(task, candidate, own)
    # Rows of one instruction differ in their instances.
    yield from islice(entries, 1) if format == _INSTRUCTIONS and not own else entries


def _is_reworded(task: Task, candidate: Candidate) -> bool:
    """Whether a review gave an imported task another instruction than its file has."""
    return any(row["instruction"].strip() != task.instruction for row in candidate.extra["rows"])


def _rows_that_stayed(task: Task, candidate: Candidate, own: bool) -> Iterator[Entry]:
    left: Counter[Instance] = Counter(task.instances)
    for row in candidate.extra["rows"]:
        given = [Instance(*texts) for texts in row["instances"]]
        judged = [_stripped(instance) for instance in given]
        kept = []
        for place, instance in enumerate(judged):
            if left[instance]:
                left[instance] -= 1
                kept.append(place)
        if kept or not given:
            yield Entry(
                instruction=row["instruction"] if own else task.instruction,
                instances=tuple(given if own else judged),
                is_classification=row["is_classification"],
                bare=candidate.bare,
                extra=row["extra"],
            ).keeping(kept)
    # What a review or a new answer made of an instance stands in no row of the file.
    if others := tuple((+left).elements()):
        yield Entry(
            instruction=task.instruction, instances=others, is_classification=task.is_classification, extra={}
        )

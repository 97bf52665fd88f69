"""What a workspace holds, as plain data: the contract behind `status --json`. Reads only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from selfinstruct_hub.config import Settings
from selfinstruct_hub.figures import counted
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import OPEN, TOP_UP, Revision, Round, is_import
from selfinstruct_hub.release import inventory
from selfinstruct_hub.rounds import Edition, Run, editions, grown, unfinished
from selfinstruct_hub.workspace import Workspace


def status(workspace: Workspace) -> dict[str, Any]:
    """Recipe, language, seeds, tasks, rows, versions, rounds, revisions, what is unfinished (text or None), and
    problems with the releases (a line each); see the README for the keys.

    Reads only: safe while another process grows the workspace. Raises PoolError where the pool is damaged, has
    lost something or is not there any more.
    """
    settings = workspace.settings()
    result: dict[str, Any] = {
        "recipe": settings.recipe,
        "language": settings.language,
        "seeds": 0,
        "tasks": 0,
        "rows": 0,
        "versions": [],
        "rounds": [],
        "revisions": [],
        "unfinished": None,
        "problems": [],
    }
    workspace.check_pool_not_lost()
    if not workspace.pool_file.exists():
        return result
    with Pool.open(workspace.pool_file, read_only=True) as pool:
        pool.glance()
        with pool.snapshot():
            _fill(result, workspace, settings, pool)
        # After it: a release may have come meanwhile, of a round that the pool has by now.
        result["problems"] = list(inventory.problems(workspace.releases, pool))
    return result


def _fill(result: dict[str, Any], workspace: Workspace, settings: Settings, pool: Pool) -> None:
    """Everything that is read out of the pool."""
    result["seeds"] = len(pool.seeds())
    for round_ in pool.rounds():
        counts = pool.counts(round_.number)
        result["rounds"].append(
            {
                "round": round_.number,
                "version": round_.version,
                "recipe": round_.settings["recipe"],
                **counts,
                "wanted": round_.wanted,
                "complete": round_.complete,
            }
        )
        result["tasks"] += counts["tasks"]
        result["rows"] += counts["rows"]
    for edition in editions(pool):
        if workspace.is_released(edition.version):
            result["versions"].append(edition.version)
    for revision in pool.revisions():
        result["revisions"].append(
            {
                "version": revision.version,
                "kind": revision.kind,
                "rounds": list(revision.rounds),
                "state": revision.state,
            }
        )
    result["unfinished"] = "; ".join(_unfinished(workspace, settings, pool, result["rounds"])) or None


def _unfinished(
    workspace: Workspace, settings: Settings, pool: Pool, counted_rounds: list[dict[str, Any]]
) -> Iterator[str]:
    """What is not at its end, and which command goes on with it."""
    revision = pool.open_revision()
    for edition in unreleased(workspace, pool):
        what = f"round {edition.round.number}" if edition.revision is None else edition.revision.kind
        yield (
            f"{edition.version} ({what}) is complete and has no release yet: "
            f"`selfinstruct-hub grow {workspace.path} --rounds 0` packages it, as whatever grows next does"
        )
    for round_, counts in zip(pool.rounds(), counted_rounds, strict=True):
        if not round_.complete:
            yield _open_round(workspace, settings, pool, round_, counts)
        elif revision is None and counts["tasks"] < round_.wanted and not is_import(round_.settings):
            yield (
                f"round {round_.number} has {counts['tasks']:,} of {counted(round_.wanted, 'task')} since it was "
                f"changed: `selfinstruct-hub grow {workspace.path} --top-up` adds those that are missing"
            )
    if revision is not None:
        yield _open_revision(workspace, pool, revision)
    if left := _rounds_left(pool):
        yield (
            f"{counted(left, 'round')} of the last run {'is' if left == 1 else 'are'} still to be made: "
            f"`{_grow(workspace, settings, pool, grown(pool)[-1])}` with the endpoint that it had goes on"
        )


def _rounds_left(pool: Pool) -> int:
    """Rounds of a run that stopped between two of them; one that stopped in a round is told with the round."""
    saved = pool.meta("run")
    rounds = pool.rounds()
    if not saved or not grown(pool) or not rounds[-1].complete:
        return 0
    run = json.loads(saved)
    return Run(run["first"], run["last"]).rounds_left(pool)


def unreleased(workspace: Workspace, pool: Pool) -> list[Edition]:
    """The versions that are complete and not packaged; those before what was pulled have their place where it
    came from, and one without a row gets none."""
    source = pool.pulled()
    found = []
    for edition in editions(pool):
        number = edition.round.number
        if source is not None and number in source.rounds and edition.state <= source.revisions:
            continue
        if not workspace.is_released(edition.version) and any(
            pool.counts(earlier)["rows"] for earlier in range(1, number + 1)
        ):
            found.append(edition)
    return found


def _open_round(
    workspace: Workspace, settings: Settings, pool: Pool, round_: Round, counts: dict[str, Any]
) -> str:
    waiting = counted(counts["unjudged"], "answer waits", "answers wait")
    command = _grow(workspace, settings, pool, round_)
    return (
        f"round {round_.number} is open with {counts['tasks']:,} of {counted(round_.wanted, 'task')}, and "
        f"{waiting} to be judged: `{command}` with the endpoint that it had goes on"
    )


def _open_revision(workspace: Workspace, pool: Pool, revision: Revision) -> str:
    said = unfinished(revision).replace(" DIR", f" {workspace.path}")
    places = pool.places(revision.number)
    if places:
        done = len(pool.places(revision.number, done=True))
        return f"{said} ({revision.kind}: {done:,} of {counted(len(places), 'place')} done)"
    if revision.kind == TOP_UP and revision.state == OPEN:
        rounds = [round_ for round_ in pool.rounds() if round_.number in revision.rounds]
        missing = sum(max(0, round_.wanted - pool.accepted_count(round_.number)) for round_ in rounds)
        return f"{said} ({revision.kind}: {counted(missing, 'task')} still missing)"
    return said


def _grow(workspace: Workspace, settings: Settings, pool: Pool, round_: Round | None = None) -> str:
    """The command that goes on with the run, as far as the pool knows it."""
    run = json.loads(pool.meta("run") or "{}")
    rounds = run["last"] - run["first"] + 1 if run else 1
    options = [f"--rounds {rounds}"] if rounds > 1 else []
    if round_ is not None and round_.wanted != settings.tasks:
        options.append(f"--tasks {round_.wanted}")
    return " ".join(["selfinstruct-hub grow", str(workspace.path), *options])

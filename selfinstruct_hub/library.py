"""What the command line can do, as functions: `from selfinstruct_hub import grow`. Each calls one function of the
rooms above and returns what that returned; no rules here, and nothing is printed.

A workspace is given as a path or as a `Workspace`. Settings given by keyword hold for one call and are laid over
those of the file: `tasks=50`, `novelty={"threshold": 0.6}`, `endpoint="http://gpu:8080"`. Whatever the caller can
mend is raised as a `SelfInstructError`, one line, as in `errors`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from selfinstruct_hub import config, difference, exchange, formats, review, run, top_up, upkeep
from selfinstruct_hub.difference import Difference
from selfinstruct_hub.errors import PoolError, UsageError
from selfinstruct_hub.exchange import Imported
from selfinstruct_hub.formats import Written
from selfinstruct_hub.hub import pull as pulling
from selfinstruct_hub.hub import push as pushing
from selfinstruct_hub.hub.pull import PulledVersion
from selfinstruct_hub.hub.steps import Pushed
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import TOP_UP, Revision
from selfinstruct_hub.regenerate import Regenerated
from selfinstruct_hub.regenerate import abandon as regeneration_back
from selfinstruct_hub.regenerate import regenerate as written_anew
from selfinstruct_hub.regenerate.choosing import Choice, Query
from selfinstruct_hub.release import verify as verifying
from selfinstruct_hub.release.page import report as page
from selfinstruct_hub.release.verify import Checked
from selfinstruct_hub.replay import Hooks as ReplayHooks
from selfinstruct_hub.replay import Replayed
from selfinstruct_hub.replay import replay as judged_again
from selfinstruct_hub.reproduce import Hooks as ReproduceHooks
from selfinstruct_hub.reproduce import Reproduced
from selfinstruct_hub.reproduce import reproduce as held_against_its_answers
from selfinstruct_hub.review import Exported, Reviewed
from selfinstruct_hub.status import status as status_of
from selfinstruct_hub.top_up import Filled
from selfinstruct_hub.upkeep import Collected
from selfinstruct_hub.working import Bounds, Finished, Hooks
from selfinstruct_hub.workspace import Workspace

T = TypeVar("T")

Place = Workspace | Path | str
Rounds = int | tuple[int, int] | range | None


def grow(
    workspace: Place,
    *,
    rounds: int = 1,
    max_requests: int | None = None,
    max_tokens: int | None = None,
    max_seconds: float | None = None,
    max_cost: float | None = None,
    hooks: Hooks | None = None,
    **settings: Any,
) -> list[Finished]:
    """Adds `rounds` rounds of exactly `tasks` accepted tasks, and freezes each as a release folder. 0 rounds
    package what is complete, and ask nothing.

    Returns the rounds that were worked on: `.release` is the folder, None where a round was stopped before it was
    complete; `.outcome` has the accepted tasks, and in `limit` and `detail` why it was stopped. An unfinished run
    for as many rounds is continued. The bounds are of the whole run: answers, tokens, seconds, and money at the
    settings' prices. `hooks` hear what goes on. Where an event loop runs already, as in a notebook, the run has a
    thread of its own.

    Raises ConfigError for a setting, EndpointError for an endpoint that cannot be used, PoolError for a workspace
    that is busy or damaged, ReleaseError where a release cannot be written. Ctrl-C is KeyboardInterrupt at the
    second time; what was answered is kept.
    """
    place = _workspace(workspace)
    asked = _settings(place, settings)
    return _apart(
        lambda: run.grow(
            place,
            asked,
            rounds=rounds,
            max_requests=max_requests,
            max_tokens=max_tokens,
            max_seconds=max_seconds,
            max_cost=max_cost,
            hooks=hooks,
        )
    )


def fill(
    workspace: Place,
    *,
    max_requests: int | None = None,
    max_tokens: int | None = None,
    max_seconds: float | None = None,
    max_cost: float | None = None,
    hooks: Hooks | None = None,
    **settings: Any,
) -> Filled:
    """Fills complete rounds that a revision has made shorter (`grow --top-up`), and releases what was won as a
    patch version; `.revision` is None where no round is short. Goes on with what was begun. Bounds, hooks and
    errors are those of `grow`."""
    place = _workspace(workspace)
    asked = _settings(place, settings)
    bounds = Bounds(max_requests, max_tokens, max_seconds, max_cost)
    return _apart(lambda: top_up.top_up(place, asked, bounds=bounds, hooks=hooks))


def regenerate(
    workspace: Place,
    *,
    rounds: Rounds = None,
    part: str | None = None,
    where: Sequence[str] = (),
    ids: Collection[str] | None = None,
    max_requests: int | None = None,
    max_tokens: int | None = None,
    max_seconds: float | None = None,
    max_cost: float | None = None,
    hooks: Hooks | None = None,
    **settings: Any,
) -> Regenerated:
    """Asks for rows anew that are released: their "output", or the whole "instance" (`part`). Chosen are rows of
    `rounds` that every query of `where` is true of ("model=org/old"), with one of `ids`; what is not given leaves
    none out. What changes is a patch version in `.release`; `.limit` says why it was stopped early. Called again
    it goes on.

    Bounds, hooks and errors are those of `grow`; UsageError for a query or a part that is none.
    """
    if part not in (None, "output", "instance"):
        raise UsageError(f"part: expected output or instance, got {part!r}")
    place, numbers = _workspace(workspace), _range(rounds)
    choice = Choice(
        part=part,
        rounds=(numbers[0], numbers[-1]) if numbers is not None else None,
        where=tuple(Query.of(text) for text in where) or None,
        ids=tuple(ids) if ids is not None else None,
        seed=settings.pop("seed", None),
    )
    asked = _settings(place, settings)
    bounds = Bounds(max_requests, max_tokens, max_seconds, max_cost)
    return _apart(lambda: written_anew(place, asked, choice, bounds=bounds, hooks=hooks))


def abandon(workspace: Place) -> Revision:
    """Puts everything back to how it was before the `regenerate` or `fill` that is not finished, and returns it.
    Raises PoolError where there is none."""
    place = _workspace(workspace)
    settings = place.settings()
    with Pool.open(place.pool_file, read_only=True) as pool:
        opened = pool.open_revision()
    if opened is None:
        raise PoolError(f"{place.path}: nothing was begun that is not finished, so there is nothing to put back")
    back = top_up.abandon if opened.kind == TOP_UP else regeneration_back
    return back(place, settings)


def status(workspace: Place) -> dict[str, Any]:
    """What the pool holds, as plain data: what `status --json` prints (its keys are in the README). Reads only."""
    return status_of(_workspace(workspace))


def import_file(
    workspace: Place,
    file: Path | str,
    format: str = formats.AUTO,
    *,
    skip_bad: bool = False,
    observe: Callable[[int, int], None] = lambda done, total: None,
) -> Imported:
    """Judges the rows of another project's file and adds what passes as a round, which is released at once.

    `observe` hears of (candidates judged, candidates in all). Raises FormatError for the file, PoolError where a
    round is open.
    """
    return exchange.import_file(
        _workspace(workspace), Path(file), format=format, skip_bad=skip_bad, observe=observe
    )


def export_file(
    workspace: Place, file: Path | str, format: str, *, with_seeds: bool = False, overwrite: bool = False
) -> Written:
    """Writes the accepted tasks of all complete rounds in a format of `formats`. Raises FormatError where the file
    exists (unless `overwrite`), cannot be written, or the format is none."""
    if format not in formats.NAMES:
        raise UsageError(f"format: expected {', '.join(formats.NAMES)}, got {format!r}")
    return exchange.export_file(
        _workspace(workspace), Path(file), format, with_seeds=with_seeds, overwrite=overwrite
    )


def verify(folder: Path | str, *, load: bool = True) -> Checked:
    """Checks a release folder: files, digests, counts, card, and with `load` that `datasets` loads every config.
    Raises ReleaseError for the first thing that is not as it was released."""
    return verifying.check(Path(folder), load=load)


def push(
    workspace: Place, repo: str, *, private: bool | None = None, dry_run: bool = False, create_pr: bool = False
) -> Pushed:
    """Publishes every release that is not published yet as dataset `repo` ("org/name"), one commit and one tag
    each; a dataset that is made is private unless `private` is False. The token is HF_TOKEN or the stored login.

    Raises HubAccessError, HubConflictError and HubError for the Hub, ReleaseError for a release that is damaged.
    """
    return pushing.push(_workspace(workspace).path, repo, private=private, dry_run=dry_run, create_pr=create_pr)


def pull(repo: str, directory: Path | str, *, revision: str | None = None) -> PulledVersion:
    """Makes a workspace in `directory`, which is new or empty, out of a published version (the newest unless
    `revision` names a tag). Raises UsageError, HubError, ReleaseError."""
    return pulling.pull(repo, Path(directory), revision=revision)


def diff(workspace: Place, first: str, second: str) -> Difference:
    """What changed from version `first` to version `second` of a workspace, round by round, as ids of rows.
    `diff(folder, ...)` of two release folders is `selfinstruct_hub.difference.difference`. Raises UsageError for a
    version that is not there."""
    path = _workspace(workspace).path
    return difference.difference(difference.release_of(path, first), difference.release_of(path, second))


def report(directory: Place, out: Path | str, *, version: str | None = None, overwrite: bool = False) -> Path:
    """Writes the card of a workspace's release (the newest unless `version` names one), or of the release folder
    that `directory` is, as one HTML page; returns its path. Raises ReleaseError, WorkspaceError."""
    folder = directory.path if isinstance(directory, Workspace) else Path(directory)
    page.write(page.release_of(folder, version), Path(out), overwrite=overwrite)
    return Path(out)


def replay(
    workspace: Place,
    *,
    rounds: Rounds = None,
    dry_run: bool = False,
    recompute: bool = False,
    observe: Callable[[int, int], None] = lambda done, total: None,
    notice: Callable[[str], None] = lambda text: None,
    **settings: Any,
) -> Replayed:
    """Judges the stored answers of `rounds` (a number, first and last, or all) again by today's parsers and these
    settings, without a call, and releases what changes as a patch version. What was compared before is not
    compared again where it must be the same, unless `recompute` is set. `observe` hears of (draws judged, draws
    in all), `notice` of rounds that are left as they are.

    Raises PoolError where a round is open or has no answers any more, UsageError for rounds that are not there.
    """
    place = _workspace(workspace)
    chosen = _range(rounds)
    hooks = ReplayHooks(observe=observe, notice=notice)
    return judged_again(
        place, _settings(place, settings), rounds=chosen, dry_run=dry_run, recompute=recompute, hooks=hooks
    )


def reproduce(folder: Path | str, *, observe: Callable[[int, int], None] = lambda done, total: None) -> Reproduced:
    """Holds a release of a workspace (`my-tasks/releases/v1.0.0`) against its stored answers: judged again and
    built again, is it the same to the byte? `.differs` says in one line what is not, None where all is. Writes
    nothing; `observe` hears of (verdicts given again, of about so many).

    Raises ReleaseError for a folder that is not as it was released, UsageError for one of no workspace.
    """
    return held_against_its_answers(Path(folder), ReproduceHooks(observe=observe))


def review_export(
    workspace: Place,
    file: Path | str,
    *,
    rows: str = review.ACCEPTED,
    rounds: Rounds = None,
    sample: int | None = None,
    seed: int | None = None,
    reasons: Collection[str] = (),
    overwrite: bool = False,
) -> Exported:
    """Writes rows that people edit to a .csv or .jsonl: "accepted" ones, "rejected" candidates (of some
    `reasons`), or "all"; `sample` of them by chance. Raises ReviewError, FormatError where the file exists."""
    chosen = _range(rounds)
    return review.export_file(
        _workspace(workspace),
        Path(file),
        rows=rows,
        rounds=(chosen[0], chosen[-1]) if chosen is not None else None,
        sample=sample,
        seed=seed,
        reasons=reasons,
        overwrite=overwrite,
    )


def review_apply(workspace: Place, file: Path | str, *, dry_run: bool = False) -> Reviewed:
    """Takes such a file back as one patch version, or nothing of it. Raises ReviewError, one line with place and
    field, for the first thing that cannot be followed."""
    return review.apply_file(_workspace(workspace), Path(file), dry_run=dry_run)


def gc(workspace: Place, *, rounds: Rounds = None, dry_run: bool = False) -> Collected:
    """Drops the texts of prompts and answers of frozen rounds, and gives their space (`.won`, bytes) back. Such a
    round cannot be replayed any more. Raises UsageError for a round that is not frozen."""
    return upkeep.collect(_workspace(workspace), rounds=_range(rounds), dry_run=dry_run)


def _workspace(place: Place) -> Workspace:
    return place if isinstance(place, Workspace) else Workspace.open(place)


def _settings(workspace: Workspace, values: dict[str, Any]) -> config.Settings:
    settings = workspace.settings()
    return config.with_values(settings, values) if values else settings


def _range(rounds: Rounds) -> range | None:
    """The numbers that are meant; None for all."""
    if rounds is None or isinstance(rounds, range):
        found = rounds
    elif isinstance(rounds, int):
        found = range(rounds, rounds + 1)
    else:
        first, last = rounds
        found = range(first, last + 1)
    if found is not None and (not found or found[0] < 1 or found.step != 1):
        raise UsageError(f"rounds: expected a number, (first, last) or a range, counted from 1, got {rounds!r}")
    return found


def _apart(work: Callable[[], T]) -> T:
    """The result of `work`, which has an event loop of its own, also where one runs already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(work).result()

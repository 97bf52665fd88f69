"""What is killed: each command with the workspace it starts from, and what must come out of it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct_hub.pool import Pool
from tests.support.hub import Hub
from tests.support.hub.commands import Commands
from tests.support.tgi import Server

ROUNDS, TASKS, IN_FLIGHT = 2, 12, 4
GROW = ("--rounds", str(ROUNDS), "--tasks", str(TASKS), "--concurrency", str(IN_FLIGHT))
REPO = "org/my-tasks"


@dataclass(frozen=True)
class Stand:
    """The servers, commands that are as real as typed ones, and a folder for what is made once."""

    cmd: Commands
    server: Server
    hub: Hub
    folder: Path

    def run(self, *arguments: str | Path) -> None:
        done = self.cmd(*arguments)
        assert done.code == 0, done.err


# (servers, workspace) -> what must be the same in the end, as plain data.
Outcome = Callable[[Stand, Path], Any]


@dataclass(frozen=True)
class Scenario:
    """`prepare` fills an empty folder with a workspace; `arguments` of the command go behind it."""

    name: str
    command: str
    arguments: Callable[[Stand], tuple[str, ...]]
    prepare: Callable[[Stand, Path], None]
    outcome: Outcome


def made(stand: Stand, space: Path) -> None:
    """A workspace without a round."""
    stand.run("init", space)
    settings = space / "selfinstruct.yaml"
    text = settings.read_text(encoding="utf-8")
    assert "pictures: auto" in text
    settings.write_text(text.replace("pictures: auto", "pictures: 'off'"), encoding="utf-8")


def grown(stand: Stand, space: Path) -> None:
    """A workspace with every round and release."""
    kept = stand.folder / "grown" / "w"
    if not kept.exists():
        made(stand, kept)
        stand.run("grow", kept, *GROW, "--endpoint", stand.server.url)
    shutil.copytree(kept, space)


def unpackaged(stand: Stand, space: Path) -> None:
    """Every round is complete, and nothing of it is packaged."""
    grown(stand, space)
    shutil.rmtree(space / "releases")
    with Pool.open(space / "pool.sqlite3") as pool:
        pool.set_meta("run", json.dumps({"first": 1, "last": ROUNDS}))


def stricter(stand: Stand, space: Path) -> None:
    """What was grown, with rules that drop more of it."""
    grown(stand, space)
    _set_threshold(space, "0.7", "0.45")


def short(stand: Stand, space: Path) -> None:
    """Rounds that have lost most tasks to rules that hold no more."""
    grown(stand, space)
    _set_threshold(space, "0.7", "0.45")
    stand.run("replay", space)
    _set_threshold(space, "0.45", "0.7")


def _set_threshold(space: Path, before: str, after: str) -> None:
    settings = space / "selfinstruct.yaml"
    text = settings.read_text(encoding="utf-8")
    head, line, tail = text.partition(f"  threshold: {before}")  # the first is that of novelty
    assert line
    settings.write_text(f"{head}  threshold: {after}{tail}", encoding="utf-8")


def releases(stand: Stand, space: Path) -> dict[str, str]:
    """The digest of every file of every release."""
    folder = space / "releases"
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def dropped(stand: Stand, space: Path) -> Any:
    """Releases, costs, and which texts are gone."""
    with Pool.open(space / "pool.sqlite3", read_only=True) as pool:
        rounds = range(1, ROUNDS + 1)
        left = [(pool.cost(number), pool.texts_of(number), pool.dropped_texts(number)) for number in rounds]
        return releases(stand, space), left, pool.may_shrink


def published(stand: Stand, space: Path) -> Any:
    """Commits follow from their content and their parents: the same history, the same tags."""
    repo = stand.hub.repos.get(REPO)
    return (repo.head, dict(repo.tags)) if repo else None


def _no_endpoint(stand: Stand) -> tuple[str, ...]:
    return ()


def _growing(stand: Stand) -> tuple[str, ...]:
    return (*GROW, "--endpoint", stand.server.url)


def _regenerating(stand: Stand) -> tuple[str, ...]:
    return ("--concurrency", str(IN_FLIGHT), "--endpoint", stand.server.url)


SCENARIOS = (
    Scenario("grow", "grow", _growing, made, releases),
    Scenario("packaging", "grow", _growing, unpackaged, releases),
    Scenario("push", "push", lambda stand: ("--repo", REPO), grown, published),
    Scenario("replay", "replay", _no_endpoint, stricter, releases),
    Scenario("regenerate", "regenerate", _regenerating, grown, releases),
    Scenario("top-up", "grow", lambda stand: ("--top-up", *_regenerating(stand)), short, releases),
    Scenario("gc", "gc", _no_endpoint, grown, dropped),
)


def available() -> tuple[Scenario, ...]:
    """Those whose command there is."""
    from selfinstruct_hub.cli import app

    names = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    return tuple(one for one in SCENARIOS if one.command in names)

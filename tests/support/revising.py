"""What tests of revisions share: a server that answers every kind of prompt, and rounds that are made shorter."""

from __future__ import annotations

import hashlib
import io
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from selfinstruct_hub import run
from selfinstruct_hub.cli import app
from selfinstruct_hub.errors import SelfInstructError
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import REVIEW, Change, Drop, Place
from selfinstruct_hub.rounds import next_revision
from selfinstruct_hub.workspace import Workspace
from tests.support.tgi import WORDS, write_anything


def write_all(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
    """Like `write_anything`; and outputs, of which one in ten is empty and one in ten is cut off."""
    if prompt.rsplit("\n", 1)[-1] not in ("Output:", "输出："):
        return write_anything(prompt, parameters)
    rng = random.Random(f"{prompt}/{parameters.get('seed')}")
    kind, words = rng.random(), rng.sample(WORDS, 3)
    if kind < 0.1:
        return " ", "eos_token"
    text = f" A new answer about the {words[0]} and the {words[1]}, number {rng.randrange(10**6)}."
    return (text[:20], "length") if kind < 0.2 else (f"{text}\n###\nTask:", "stop_sequence")


def shorten(space: Workspace, lost: dict[int, int]) -> str:
    """Takes the last so many tasks out of rounds, as a review would; returns the version that it made."""
    settings = space.settings()
    with space.locked(), space.open_pool(settings) as pool:
        revision = next_revision(pool, REVIEW, list(lost), {}, settings)
        places: list[Place] = []
        changes: list[Change] = []
        for number, count in lost.items():
            for verdict in list(pool.verdicts(number, accepted=True))[-count:]:
                assert verdict.task is not None
                item, rows = len(places), tuple(key for key, _ in verdict.task.rows)
                places.append(Place(item, number, verdict.number, verdict.position, None, rows))
                rejected = type(verdict)(
                    *(number, verdict.number, verdict.position, verdict.candidate),
                    drop=Drop("reviewed"),
                    similarity=verdict.similarity,
                )
                changes.append(Change(item, rejected, marks={"decision": "reject"}))
        said = {str(number): {"lost": count, "short": count} for number, count in lost.items()}
        pool.revise_at_once(revision, places, changes, said)
        run.package_complete_rounds(space, pool, settings)
    return revision.version


def files_of(release: Path) -> dict[str, str]:
    """Digest of every file of a release."""
    found = sorted(path for path in release.rglob("*") if path.is_file())
    return {str(path.relative_to(release)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def rows_of(pool: Pool, round_number: int) -> list[tuple[str, str, str]]:
    """(instruction, input, output) of a round's rows, in order."""
    return [(t.instruction, i.input, i.output) for t in pool.tasks(round_number) for i in t.instances]


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


class Tool:
    """A command in this process: imports take longer than all the rest."""

    def __init__(self, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._command = command
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, space: Workspace, *options: str, given: str = "") -> Done:
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(given))
        arguments = [self._command, str(space.path), *options]
        error = ""
        try:
            code = app(arguments, standalone_mode=False) or 0
        except SelfInstructError as mistake:
            code, error = mistake.exit_code, f"error: {mistake}\n"
        said = self._capsys.readouterr()
        return Done(code, said.out, said.err + error)

"""Kills a command, starts it again, and compares: with the run that nobody killed, and with what was paid for."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfinstruct_hub.pool import Pool
from tests.support.hub import Hub
from tests.support.hub import running as publishing
from tests.support.hub.commands import commands
from tests.support.tgi import Server, write_anything
from tests.support.tgi import running as serving
from tests.survival.scenarios import IN_FLIGHT, Scenario, Stand

Key = tuple[str, Any]  # prompt and seed of a request: no other one has both
_MOST_KILLS = 3  # of one run, before it is let go


@contextmanager
def stand(folder: Path) -> Iterator[Stand]:
    """The servers and the process that commands are forked from."""
    with (
        serving(Server(answer=write_anything, delay=lambda number: 0.01)) as server,
        publishing(Hub()) as hub,
        commands(hub.environment(folder / "home", HF_TOKEN="hf_writes")) as cmd,
    ):
        yield Stand(cmd, server, hub, folder)


@dataclass
class Whole:
    """The run that nobody kills: what it left, how long it took, how much it asked."""

    scenario: Scenario
    prepared: Path
    outcome: Any
    seconds: float
    requests: int


@dataclass
class Tally:
    """What became of a scenario's kills. `late` came after the command had ended; `flying` are requests that were
    in flight at a kill and were asked again."""

    name: str
    kills: int = 0
    late: int = 0
    resumed: int = 0
    runs: int = 0
    identical: int = 0
    paid_twice: int = 0
    flying: int = 0
    moments: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return not self.failures and self.identical == self.runs and self.paid_twice == 0


def uninterrupted(there: Stand, scenario: Scenario, folder: Path) -> Whole:
    prepared = folder / "prepared"
    scenario.prepare(there, prepared / "w")
    space = _copy(there, prepared, folder / "whole")
    before = scenario.outcome(there, space)
    began = time.monotonic()
    there.run(scenario.command, space, *scenario.arguments(there))
    seconds = time.monotonic() - began
    outcome = scenario.outcome(there, space)
    assert outcome != before, "a command that changes nothing survives everything"
    return Whole(scenario, prepared, outcome, seconds, len(there.server.requests))


def killed(there: Stand, whole: Whole, folder: Path, rng: random.Random, tally: Tally, most: int) -> None:
    """One run that is killed up to `most` times, and then comes to its end."""
    scenario = whole.scenario
    space = _copy(there, whole.prepared, folder)
    asked = there.server.requests
    paid: set[Key] = set()  # what was in the pool at the last kill
    seen = 0  # requests before the last start
    tally.runs += 1
    for _ in range(rng.randint(1, min(most, _MOST_KILLS))):
        moment = _Moment.drawn(rng, whole)
        pid = there.cmd.start(scenario.command, space, *scenario.arguments(there))
        moment.wait(pid, there.server)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        done = there.cmd.wait()
        if done.code != -signal.SIGKILL:
            tally.late += 1
            if done.code:
                tally.failures.append(f"{scenario.name} {moment}: exit code {done.code}: {done.err.strip()}")
        tally.kills += 1
        tally.moments.append(str(moment))
        time.sleep(0.05)  # what the dead one had sent arrives
        _count(tally, asked, seen, paid)
        paid, seen = _stored(space), len(asked)
        if _is_over(there, whole, space):
            tally.late += done.code == -signal.SIGKILL
            tally.resumed += 1
            tally.identical += 1
            shutil.rmtree(folder)
            return
    done = there.cmd(scenario.command, space, *scenario.arguments(there))
    _count(tally, asked, seen, paid)
    if done.code:
        tally.failures.append(f"{scenario.name} {tally.moments[-1]}: exit code {done.code}: {done.err.strip()}")
        return
    tally.resumed += 1
    outcome = scenario.outcome(there, space)
    same = outcome == whole.outcome
    tally.identical += same
    if not same:
        tally.failures.append(f"{scenario.name} {tally.moments[-1]}: {_difference(outcome, whole.outcome)}")
        return
    shutil.rmtree(folder)


def _is_over(there: Stand, whole: Whole, space: Path) -> bool:
    """Whether everything was done when the kill came: the same command once more would do it once more."""
    file = space / "pool.sqlite3"
    if not file.exists() or whole.scenario.outcome(there, space) != whole.outcome:
        return False
    with Pool.open(file, read_only=True) as pool:
        return pool.meta("run") is None


def _difference(outcome: Any, expected: Any) -> str:
    if not isinstance(outcome, dict):
        return f"{outcome}, expected {expected}"
    differ = [name for name in {**expected, **outcome} if outcome.get(name) != expected.get(name)]
    return f"differs in {', '.join(differ[:9])}"


def _count(tally: Tally, asked: list[dict[str, Any]], seen: int, paid: set[Key]) -> None:
    """What the last start has asked that is in the pool already, or that was in flight before."""
    before, now = {_key(body) for body in asked[:seen]}, {_key(body) for body in asked[seen:]}
    tally.paid_twice += len(now & paid)
    again = len((now & before) - paid)
    tally.flying += again
    if again > IN_FLIGHT:
        tally.failures.append(f"{tally.name} {tally.moments[-1]}: {again} were asked again, {IN_FLIGHT} in flight")


@dataclass(frozen=True)
class _Moment:
    """When to kill: after so many seconds, or when so many more requests have come."""

    seconds: float
    requests: int | None = None

    @classmethod
    def drawn(cls, rng: random.Random, whole: Whole) -> _Moment:
        if whole.requests and rng.random() < 0.4:
            return cls(whole.seconds * 3, rng.randint(1, whole.requests))
        # The beginning is the start of a process; everything that matters comes later, the end included.
        return cls(whole.seconds * rng.uniform(0.05, 1.02))

    def wait(self, pid: int, server: Server) -> None:
        began, before = time.monotonic(), len(server.requests)
        while time.monotonic() - began < self.seconds and _lives(pid):
            if self.requests is not None and len(server.requests) - before >= self.requests:
                return
            time.sleep(0.002)

    def __str__(self) -> str:
        return f"after {self.seconds:.2f} s" if self.requests is None else f"at request {self.requests}"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _copy(there: Stand, prepared: Path, folder: Path) -> Path:
    """A workspace to work in, and servers that know of nothing."""
    shutil.copytree(prepared, folder)
    there.server.requests.clear()
    there.hub.forget()
    return folder / "w"


def _key(body: dict[str, Any]) -> Key:
    return body["inputs"], body["parameters"].get("seed")


def _stored(space: Path) -> set[Key]:
    """The requests whose answers the pool has. Looks as `status` does, beside what the dead process has left."""
    file = space / "pool.sqlite3"
    if not file.exists():
        return set()
    with Pool.open(file, read_only=True) as pool:
        pool.check()
        columns = "SELECT prompt, json_extract(decoding, '$.seed') FROM"
        return {
            (p, s)
            for table in ("completions", "revision_completions")
            for p, s in pool._rows(f"{columns} {table}")
        }

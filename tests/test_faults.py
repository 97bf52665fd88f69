"""Growth against a server that spoils every fifth try in every way known: nothing is lost, nothing is paid twice.

What the server answered in full must be in the pool, once; rows are those of a server without faults.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from selfinstruct_hub import config, run, sampling
from selfinstruct_hub.endpoint import failures
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.workspace import Workspace
from tests.support.gpu import FAULTS, GPU, faulty, recipes
from tests.support.tgi import running

IN_FLIGHT = 16
SEED = 42
# A hang costs this much, and a whole answer must never take as long, or it would be asked for twice: a server
# and a client in one process, and other tests beside them.
TIMEOUT = 4.0


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(failures, "LONGEST_PAUSE", 0.02)


@pytest.fixture(autouse=True)
def nothing_is_swallowed(caplog: pytest.LogCaptureFixture) -> Any:
    """No exception ends in an event loop's handler, the client's or the server's."""
    with caplog.at_level(logging.WARNING):
        yield
    assert [record.getMessage() for record in caplog.get_records("call")] == []


def grown(path: Path, gpu: GPU, **values: Any) -> Workspace:
    """A workspace with one round that was grown against `gpu`."""
    space = Workspace.create(
        path, config.Settings(recipe=values.pop("recipe", "alpaca"), card=config.CardSettings(pictures="off"))
    )
    overrides = {
        "seed": SEED,
        "endpoint.concurrency": IN_FLIGHT,
        "endpoint.attempts": 30,
        "endpoint.timeout": TIMEOUT,
        # The client waits longer for more tokens; what this server sends does not depend on it.
        "decoding.max_new_tokens": 1,
        "self_instruct.instance_max_new_tokens": 1,
        "tasks_per_request": 1,
        **values,
    }
    with running(gpu):
        settings = config.with_overrides(space.settings(), {**overrides, "endpoint.url": gpu.url})
        (finished,) = run.grow(space, settings)
    assert finished.release is not None
    return space


def kept(space: Workspace) -> list[str]:
    """The ids of the accepted tasks, in order."""
    with Pool.open(space.pool_file, read_only=True) as pool:
        return [task.id for task in pool.tasks(1)]


def assert_nothing_was_paid_twice(space: Workspace, gpu: GPU, calls: int = 1) -> None:
    """Every answer that the server has sent whole is in the pool, and was sent once. Only what was on its way when
    the round was complete may be missing: answers to draws that nobody judged any more."""
    answered = Counter(seed for seed, _, _ in gpu.record.answered)
    assert answered.most_common(1)[0][1] == 1
    with Pool.open(space.pool_file, read_only=True) as pool:
        judged = pool.judged_draws(1)
        named = {
            sampling.request_seed(SEED, 1, number, call): (number, call)
            for number in range(judged + 10 * IN_FLIGHT)
            for call in range(calls)
        }
        places = [named[seed] for seed in answered]
        missing = [place for place in places if pool.completion(1, *place) is None]
        unasked = [place for place in named.values() if place not in set(places) and pool.completion(1, *place)]
    assert unasked == []
    assert len(missing) <= IN_FLIGHT
    assert all(number >= judged for number, _ in missing)


def test_a_thousand_answers_with_every_fifth_try_spoilt(tmp_path: Path) -> None:
    gpu = GPU(script=faulty(0.2), retry_after="0.02")
    space = grown(tmp_path / "spoilt", gpu, tasks=1000)
    assert set(gpu.record.faults) == set(FAULTS)
    assert len(gpu.record.answered) >= 1000
    assert gpu.record.tries > 1.15 * len(gpu.record.answered)
    assert gpu.record.disconnected >= gpu.record.faults["hang"] - IN_FLIGHT
    found = kept(space)
    assert len(found) == len(set(found)) == 1000
    assert_nothing_was_paid_twice(space, gpu)
    with Pool.open(space.pool_file, read_only=True) as pool:
        assert pool.counts(1)["failed"] == {}
    # No request was given up, so the rows are those of a server that never fails. A shorter round begins with the
    # same ones.
    assert found[:300] == kept(grown(tmp_path / "well", GPU(), tasks=300))


def test_requests_that_are_given_up_cost_their_own_draws_only(tmp_path: Path) -> None:
    gpu = GPU(script=faulty(0.4), retry_after="0.02")
    space = grown(tmp_path / "w", gpu, tasks=150, **{"endpoint.attempts": 2})
    found = kept(space)
    assert len(found) == len(set(found)) == 150
    assert_nothing_was_paid_twice(space, gpu)
    with Pool.open(space.pool_file, read_only=True) as pool:
        counts = pool.counts(1)
        assert sum(counts["failed"].values()) > 3
        assert counts["requests"] == counts["completions"] + sum(counts["failed"].values())
        # A draw of this recipe is one request: it was answered or given up.
        assert counts["requests"] == pool.judged_draws(1)


def test_faults_in_every_step_of_self_instruct_change_no_row(tmp_path: Path) -> None:
    values = {"recipe": "self-instruct", "tasks": 60, "tasks_per_request": 4}
    gpu = GPU(answer=recipes(4), script=faulty(0.2, seed=1), retry_after="0.02")
    space = grown(tmp_path / "spoilt", gpu, **values)
    assert len(kept(space)) == 60
    assert_nothing_was_paid_twice(space, gpu, calls=12)
    assert kept(space) == kept(grown(tmp_path / "well", GPU(answer=recipes(4)), **values))

"""When growth stops because it resembles itself: the rule, and a run that meets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfinstruct_hub import config, run, saturation
from selfinstruct_hub.grow import SATURATION
from selfinstruct_hub.status import status
from selfinstruct_hub.workspace import Workspace
from tests.support.tgi import Server, running


def counts(mean: float | None, p90: float | None, acceptance: float | None) -> dict[str, Any]:
    return {"similarity": {"mean": mean, "p90": p90}, "acceptance": acceptance}


NEAR, FAR = counts(0.6, 0.8, 0.2), counts(0.3, 0.5, 0.7)


@pytest.mark.parametrize(
    ("rounds", "limits", "said"),
    [
        (
            [NEAR, NEAR],
            {"mean_similarity": 0.6},
            "the last 2 rounds' mean similarity with the nearest neighbour was",
        ),
        ([NEAR, NEAR], {"p90_similarity": 0.79}, "90th percentile of the similarity"),
        ([NEAR, NEAR], {"acceptance": 0.2}, "acceptance was 0.200, 0.200 (0.2 or less stops)"),
        ([FAR, NEAR], {"acceptance": 0.2, "rounds": 1}, "the last round's acceptance was 0.200"),
        ([FAR, NEAR, NEAR], {"mean_similarity": 0.6}, "0.600, 0.600 (0.6 or more stops)"),
        ([NEAR, FAR], {"mean_similarity": 0.6}, None),
        ([FAR, NEAR], {"mean_similarity": 0.6}, None),
        ([NEAR], {"mean_similarity": 0.6}, None),
        ([NEAR, NEAR], {"mean_similarity": 0.61}, None),
        ([NEAR, NEAR], {}, None),
        ([counts(None, None, None)] * 2, {"mean_similarity": 0.0, "acceptance": 1.0}, None),
        # Crossing one limit in one round and another in the next is no saturation.
        ([counts(0.9, 0.9, 0.9), counts(0.1, 0.1, 0.1)], {"mean_similarity": 0.6, "acceptance": 0.2}, None),
    ],
)
def test_the_rule(rounds: list[dict[str, Any]], limits: dict[str, Any], said: str | None) -> None:
    found = saturation.reason(rounds, config.Saturation(**limits))
    assert found is None if said is None else found is not None and said in found


def test_a_run_stops_between_rounds_and_goes_on_with_another_limit(tmp_path: Path) -> None:
    with running(Server()) as server:
        space = Workspace.create(tmp_path / "w", config.Settings(card=config.CardSettings(pictures="off")))
        settings = config.with_overrides(space.settings(), {"tasks": 6, "endpoint.url": server.url})
        strict = config.with_overrides(settings, {"saturation.acceptance": 1.0, "saturation.rounds": 2})
        results = run.grow(space, strict, rounds=5)
        assert [r.outcome.limit for r in results] == [None, None, SATURATION]
        assert "the last 2 rounds' acceptance" in results[-1].outcome.detail
        assert status(space)["versions"] == ["v1.0.0", "v1.1.0"]
        asked = len(server.requests)
        # The same command says so again, without a request.
        (again,) = run.grow(space, strict, rounds=5)
        assert again.outcome.detail == results[-1].outcome.detail
        assert len(server.requests) == asked
        # The run was for five rounds, and goes on to those.
        rest = run.grow(space, settings, rounds=5)
        assert [r.outcome.limit for r in rest] == [None, None, None]
        assert [r.outcome.detail for r in rest] == ["", "", ""]
        assert len(status(space)["versions"]) == 5


def test_the_last_round_of_a_run_says_that_the_next_would_stop(tmp_path: Path) -> None:
    with running(Server()) as server:
        space = Workspace.create(tmp_path / "w", config.Settings(card=config.CardSettings(pictures="off")))
        values = {"tasks": 6, "endpoint.url": server.url, "saturation.acceptance": 1.0, "saturation.rounds": 2}
        first, last = run.grow(space, config.with_overrides(space.settings(), values), rounds=2)
    assert (first.outcome.detail, last.outcome.limit) == ("", None)
    assert "the last 2 rounds' acceptance" in last.outcome.detail


def test_a_round_reports_how_near_its_candidates_were(tmp_path: Path) -> None:
    from selfinstruct_hub.pool import Pool

    with running(Server()) as server:
        space = Workspace.create(tmp_path / "w", config.Settings(card=config.CardSettings(pictures="off")))
        run.grow(space, config.with_overrides(space.settings(), {"tasks": 30, "endpoint.url": server.url}))
    (told,) = status(space)["rounds"]
    with Pool.open(space.pool_file, read_only=True) as pool:
        scores = sorted(v.similarity.score for v in pool.verdicts(1) if v.similarity)
        judged = list(pool.verdicts(1))
    assert 0 < len(scores) < len(judged)  # a rule had spoken before, of some
    assert told["similarity"]["mean"] == pytest.approx(sum(scores) / len(scores), abs=1e-4)
    assert told["similarity"]["p90"] == pytest.approx(scores[-(-9 * len(scores) // 10) - 1], abs=1e-4)
    assert told["acceptance"] == pytest.approx(30 / len(judged), abs=1e-4)

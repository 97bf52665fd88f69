"""A round judged in fast mode keeps what one in full mode keeps, and says nothing that it has not measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import pytest

from selfinstruct_hub import config, judging, novelty, plan, run
from selfinstruct_hub.config import Settings
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import Verdict
from selfinstruct_hub.status import status
from selfinstruct_hub.workspace import Workspace
from tests.support.tgi import Server, running


def grown(path: Path, mode: str, *, rounds: int = 2) -> tuple[Workspace, list[Verdict]]:
    # What the server writes is alike, and the threshold such that some of it is too near.
    values = {"tasks": 6, "endpoint.concurrency": 1, "novelty.mode": mode, "novelty.threshold": 0.55}
    with running(Server()) as server:
        space = Workspace.create(path, Settings())
        settings = config.with_overrides(space.settings(), {**values, "endpoint.url": server.url})
        run.grow(space, settings, rounds=rounds)
    with Pool.open(space.pool_file, read_only=True) as pool:
        return space, [verdict for number in range(1, rounds + 1) for verdict in pool.verdicts(number)]


def rows(space: Workspace, config_name: str) -> list[dict[str, Any]]:
    files = sorted((space.releases / "v1.1.0" / "data" / config_name).glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def test_fast_and_full_keep_the_same_and_fast_claims_no_more_than_it_knows(tmp_path: Path) -> None:
    full, all_verdicts = grown(tmp_path / "full", "full")
    fast, verdicts = grown(tmp_path / "fast", "fast")
    assert [v.drop for v in verdicts] == [v.drop for v in all_verdicts]
    assert [v.task for v in verdicts] == [v.task for v in all_verdicts]
    assert any(v.drop and v.drop.reason == "too_similar" for v in verdicts), "nothing was too near: no test"
    assert rows(fast, "default") == rows(full, "default")
    for row in rows(fast, "provenance"):
        assert (row["nearest"], row["mean_similarity"]) == ([], None)
    assert all(row["mean_similarity"] is not None for row in rows(full, "provenance"))
    for verdict, other in zip(verdicts, all_verdicts, strict=True):
        if verdict.similarity is None:  # a rule spoke first
            assert other.similarity is None
        else:
            assert other.similarity is not None
            assert verdict.similarity.mean is None
            above = tuple(n for n in other.similarity.nearest if n.score > 0.55)
            assert verdict.similarity.nearest == above
    assert [r["similarity"] for r in status(fast)["rounds"]] == [{"mean": None, "p90": None}] * 2
    assert all(r["similarity"]["mean"] > 0 for r in status(full)["rounds"])


@pytest.mark.parametrize(
    ("mode", "saturation", "planned"),
    [
        ("auto", {}, "auto"),
        ("auto", {"p90_similarity": 0.9}, "full"),
        ("auto", {"acceptance": 0.1}, "auto"),
        ("fast", {}, "fast"),
    ],
)
def test_a_limit_of_similarity_asks_for_full_mode(mode: str, saturation: dict[str, Any], planned: str) -> None:
    settings = Settings.model_validate({"novelty": {"mode": mode}, "saturation": saturation})
    assert plan.judging(settings)["novelty"]["mode"] == planned


def test_auto_looks_at_the_pool_as_it_was_when_the_round_began(tmp_path: Path) -> None:
    """So that a resumed round is judged in the mode that it began with."""
    space, _ = grown(tmp_path / "w", "auto")
    with Pool.open(space.pool_file, read_only=True) as pool:
        seeds = len(pool.seeds())
        for largest, number, mode in ((seeds + 6, 2, "full"), (seeds + 5, 2, "fast"), (seeds + 5, 1, "full")):
            with mock.patch.object(novelty.gate, "FULL_UP_TO", largest):
                judge = judging.Judge.resumed(pool, pool.rounds()[number - 1])
                assert judge._gate.mode == mode

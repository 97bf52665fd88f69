"""Growth over real HTTP: exact numbers, the same rows whatever the concurrency, nothing lost when it stops."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from selfinstruct_hub import config, events, run, sampling
from selfinstruct_hub.endpoint import budget, failures
from selfinstruct_hub.endpoint.dispatch import Dispatcher
from selfinstruct_hub.errors import (
    SeedError,
    UsageError,
    WorkspaceBusyError,
    WorkspaceError,
)
from selfinstruct_hub.grow import Progress, order
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import estimated_tokens
from selfinstruct_hub.release import read_manifest
from selfinstruct_hub.status import status
from selfinstruct_hub.workspace import Workspace
from tests.support.interrupt import grown_in_pieces
from tests.support.tgi import Server, running, write_tasks


def workspace(path: Path, server: Server, **values: Any) -> tuple[Workspace, config.Settings]:
    # Drawing takes longer than all the rest of a small round.
    made = Workspace.create(path, config.Settings(card=config.CardSettings(pictures="off")))
    return made, config.with_overrides(made.settings(), {"tasks": 12, "endpoint.url": server.url, **values})


def shards(release: Path) -> dict[str, str]:
    """Digest of every Parquet file of a release."""
    found = sorted(release.rglob("*.parquet"))
    return {str(path.relative_to(release)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def rows(path: Path, round_number: int = 1) -> list[str]:
    with Pool.open(path / "pool.sqlite3") as pool:
        return [v.task.id for v in pool.verdicts(round_number, accepted=True) if v.task]


def test_rounds_end_at_exactly_the_wanted_number(tmp_path: Path) -> None:
    with running(Server()) as server:
        space, settings = workspace(tmp_path / "w", server, tasks=13)
        results = run.grow(space, settings, rounds=2)
    assert [r.outcome.accepted for r in results] == [13, 13]
    assert [r.release.name for r in results if r.release] == ["v1.0.0", "v1.1.0"]
    found = status(space)
    assert (found["tasks"], found["rows"], found["versions"]) == (26, 26, ["v1.0.0", "v1.1.0"])
    for round_ in found["rounds"]:
        assert round_["complete"]
        assert round_["candidates"] == round_["tasks"] + sum(round_["drops"].values())
    assert set(rows(space.path, 1)).isdisjoint(rows(space.path, 2))
    reasons = {reason for round_ in found["rounds"] for reason in round_["drops"]}
    assert {"too_short", "blocked_word", "output_repeats_input"} <= reasons


def test_concurrency_and_latency_change_no_byte(tmp_path: Path) -> None:
    """The same seed and the same answers: at 1 and at 16 in flight, with answers that overtake each other."""
    built = {}
    for in_flight in (1, 16):
        jitter = random.Random(in_flight)
        with running(Server(delay=lambda n, jitter=jitter: jitter.random() * 0.03)) as server:  # type: ignore[misc]
            server.held = lambda n, at=in_flight: server.most_in_flight < min(4, at)  # type: ignore[misc]
            values = {"tasks": 40, "endpoint.concurrency": in_flight}
            space, settings = workspace(tmp_path / f"at-{in_flight}", server, **values)
            (first, second) = run.grow(space, settings, rounds=2)
        assert server.most_in_flight <= in_flight
        assert (server.most_in_flight > 3) == (in_flight > 1)
        assert first.release is not None
        assert second.release is not None
        built[in_flight] = shards(second.release)
        # A round's shards do not change when the next round is released.
        assert shards(first.release).items() <= built[in_flight].items()
    assert built[1] == built[16]


def test_another_seed_gives_other_rows(tmp_path: Path) -> None:
    with running(Server()) as server:
        for seed in (1, 2):
            space, settings = workspace(tmp_path / str(seed), server, seed=seed)
            run.grow(space, settings)
    assert set(rows(tmp_path / "1")).isdisjoint(rows(tmp_path / "2"))


def test_no_two_accepted_instructions_are_near(tmp_path: Path) -> None:
    """A model that repeats itself: every repetition is dropped with its neighbour, and rounds see each other."""
    from rouge_score import rouge_scorer

    def repeat(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
        return write_tasks(prompt, {"seed": parameters["seed"] % 7})

    def same(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
        return repeat("4. Instruction:", parameters)

    with running(Server(answer=same)) as server:
        space, settings = workspace(tmp_path / "w", server, tasks=8)
        run.grow(space, settings, rounds=2)
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    with Pool.open(space.pool_file) as pool:
        texts = {task.id: task.instruction for task in pool.seeds()}
        verdicts = [v for n in (1, 2) for v in pool.verdicts(n)]
        for verdict in verdicts:
            if verdict.task:
                texts[verdict.task.id] = verdict.task.instruction
        repeated = [v for v in verdicts if v.drop and v.drop.reason == "too_similar"]
        assert len(repeated) > 3
        for verdict in repeated:
            assert verdict.similarity is not None
            nearest = verdict.similarity.nearest[0]
            assert verdict.candidate.instruction is not None
            score = scorer.score(texts[nearest.id], verdict.candidate.instruction)["rougeL"].fmeasure
            assert nearest.score == score > 0.7
    made = [text for key, text in texts.items() if not key.startswith("seed")]
    assert len(made) == 16
    for i, one in enumerate(made):
        assert all(scorer.score(one, other)["rougeL"].fmeasure <= 0.7 for other in made[:i])


def test_a_cap_stops_early_keeps_everything_and_counts_once(tmp_path: Path) -> None:
    with running(Server()) as server:
        space, settings = workspace(tmp_path / "w", server, tasks=60)
        (stopped,) = run.grow(space, settings, max_requests=5)
        assert stopped.release is None
        assert stopped.outcome.limit == "--max-requests"
        assert len(server.requests) == 5
        kept = rows(space.path)
        assert 0 < len(kept) == stopped.outcome.accepted < 60
        # The same command again: the cap was for the whole run, so nothing more is asked.
        (again,) = run.grow(space, settings, max_requests=5)
        assert again.outcome.limit == "--max-requests"
        assert len(server.requests) == 5
        assert rows(space.path) == kept
        # A higher cap goes on from there.
        (more,) = run.grow(space, settings, max_requests=8)
        assert len(server.requests) == 8
        assert rows(space.path)[: len(kept)] == kept
        # And the round can be released with what it has.
        enough = config.with_overrides(settings, {"tasks": more.outcome.accepted})
        (done,) = run.grow(space, enough)
        assert done.release is not None
        assert len(server.requests) == 8


def test_a_token_cap_is_never_overshot(tmp_path: Path) -> None:
    with running(Server()) as server:
        space, settings = workspace(tmp_path / "w", server, tasks=60)
        (stopped,) = run.grow(space, settings, max_tokens=9_000)
    assert stopped.outcome.limit == "--max-tokens"
    with Pool.open(space.pool_file) as pool:
        requests, *tokens = pool.cost(1)
    assert requests >= 2
    assert sum(tokens) <= 9_000


def test_fewer_tasks_than_a_round_has_are_refused(tmp_path: Path) -> None:
    with running(Server()) as server:
        space, settings = workspace(tmp_path / "w", server, tasks=60)
        (stopped,) = run.grow(space, settings, max_requests=5)
        fewer = config.with_overrides(settings, {"tasks": stopped.outcome.accepted - 1})
        with pytest.raises(UsageError, match=f"has {stopped.outcome.accepted} accepted tasks already"):
            run.grow(space, fewer)


def test_an_endpoint_that_dies_leaves_a_pool_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resumed run asks for nothing twice, and its release equals the uninterrupted one."""
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.001)
    values = {"tasks": 40, "endpoint.concurrency": 4, "endpoint.attempts": 2}
    with running(Server()) as server:
        space, settings = workspace(tmp_path / "whole", server, **values)
        (whole,) = run.grow(space, settings)
    with running(Server(fault=lambda n: web.Response(status=503) if n >= 6 else None)) as server:
        # One at a time: else the last answer may come after the first failure, which is then the draw's own.
        space, settings = workspace(tmp_path / "died", server, **{**values, "endpoint.concurrency": 1})
        (stopped,) = run.grow(space, settings)
        assert (stopped.outcome.limit, stopped.release) == ("failing", None)
        assert "failed for good" in stopped.outcome.detail
        assert "HTTP 503" in stopped.outcome.detail
        with Pool.open(space.pool_file) as pool:
            stored = pool.cost(1)[0]
        assert stored == 6
    with running(Server()) as server:
        settings = config.with_overrides(settings, {"endpoint.url": server.url, "endpoint.concurrency": 4})
        (resumed,) = run.grow(space, settings)
        asked = len(server.requests)
    assert whole.release is not None
    assert resumed.release is not None
    assert shards(whole.release) == shards(resumed.release)
    with Pool.open(space.pool_file) as pool:
        assert asked >= pool.cost(1)[0] - stored  # those in flight at the end were asked and not needed
        assert asked <= pool.cost(1)[0] - stored + 4


def test_interrupted_anywhere_the_same_command_gives_the_same_release(tmp_path: Path) -> None:
    """Cancelled after each of the first observed steps, then started again until it is done."""
    values = {"tasks": 10, "endpoint.concurrency": 3}
    with running(Server()) as server:
        space, settings = workspace(tmp_path / "whole", server, **values)
        whole = run.grow(space, settings, rounds=2)[-1]
        space, settings = workspace(tmp_path / "cut", server, **values)
        cut = grown_in_pieces(space, settings, 2)
    assert status(space)["versions"] == ["v1.0.0", "v1.1.0"]
    assert whole.release is not None
    assert cut[-1].release is not None
    assert shards(whole.release) == shards(cut[-1].release)


def test_a_round_that_was_complete_is_packaged_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(Server()) as server:
        space, settings = workspace(tmp_path / "w", server)

        def die(*_: Any, **__: Any) -> None:
            raise asyncio.CancelledError

        with monkeypatch.context() as patch:
            patch.setattr("selfinstruct_hub.release.freeze", die)
            with pytest.raises(asyncio.CancelledError):
                run.grow(space, settings)
        assert status(space)["versions"] == []
        asked = len(server.requests)
        (packaged,) = run.grow(space, settings)  # the same command: its one round is there, only packaging is left
        assert packaged.release is not None
        assert packaged.outcome.accepted == 12
        assert status(space)["versions"] == ["v1.0.0"]
        assert len(server.requests) == asked
        run.grow(space, settings)  # a new command adds a round
        assert status(space)["versions"] == ["v1.0.0", "v1.1.0"]


def test_changed_settings_wait_for_the_next_round(tmp_path: Path) -> None:
    said: list[str] = []
    with running(Server()) as server:
        space, settings = workspace(tmp_path / "w", server, tasks=30)
        run.grow(space, settings, max_requests=3)
        hotter = config.with_overrides(settings, {"decoding.temperature": 0.3})
        run.grow(space, hotter, rounds=2, hooks=run.Hooks(notice=said.append))
        temperatures = [request["parameters"]["temperature"] for request in server.requests]
    assert len(said) == 1
    assert "round 1 was begun with other settings" in said[0]
    assert "decoding.temperature" in said[0]
    with Pool.open(space.pool_file) as pool:
        used = [r.settings["decoding"]["temperature"] for r in pool.rounds()]
    assert used == [1.0, 0.3]
    assert sorted(set(temperatures)) == [0.3, 1.0]


def test_two_processes_do_not_grow_one_workspace(tmp_path: Path) -> None:
    with running(Server()) as server:
        space, settings = workspace(tmp_path / "w", server)
        with space.locked(), pytest.raises(WorkspaceBusyError, match="another process"):
            run.grow(space, settings)
        run.grow(space, settings)  # and the lock goes with its holder


def test_changed_seeds_and_too_few_seeds(tmp_path: Path) -> None:
    from selfinstruct_hub import assets

    ours = (assets.folder("seeds") / "en.jsonl").read_text().splitlines()
    file = tmp_path / "seeds.jsonl"
    file.write_text("\n".join(ours[:2]))
    with running(Server()) as server:
        space = Workspace.create(tmp_path / "w", config.Settings(seeds="../seeds.jsonl"))
        settings = config.with_overrides(space.settings(), {"endpoint.url": server.url, "tasks": 3})
        with pytest.raises(SeedError, match="shows 3 seed tasks, and there are 2"):
            run.grow(space, settings)
        file.write_text("\n".join(ours[:30]))  # before the first round the seeds may still change
        run.grow(space, settings)
        file.write_text("\n".join(ours[:31]))
        with pytest.raises(WorkspaceError, match="seed tasks have changed"):
            run.grow(space, settings)


def test_a_small_context_asks_for_less_and_shows_shorter_seeds(tmp_path: Path) -> None:
    server = Server()
    server.info = {**server.info, "max_total_tokens": 2048, "max_input_tokens": 2047, "max_concurrent_requests": 4}
    with running(server):
        space, settings = workspace(tmp_path / "w", server, tasks=20)
        (result,) = run.grow(space, settings)
    resolved = result.outcome.round.settings
    assert resolved["tasks_per_request"] == 6
    assert resolved["decoding"]["max_new_tokens"] == 900
    assert server.most_in_flight <= 4
    for request in server.requests:
        assert len(request["inputs"]) / 3 + request["parameters"]["max_new_tokens"] <= 2048


def test_the_manifest_counts_what_the_pool_holds(tmp_path: Path) -> None:
    with running(Server()) as server:
        space, settings = workspace(tmp_path / "w", server)
        (result,) = run.grow(space, settings)
    assert result.release is not None
    manifest = read_manifest(result.release)
    (told,) = status(space)["rounds"]
    for key in ("tasks", "rows", "candidates", "drops", "tokens", "parsed"):
        assert manifest["rounds"][0][key] == told[key]


def test_settings_of_a_round_without_an_answer_can_be_mended(tmp_path: Path) -> None:
    """A refused first request must not freeze the settings that made the endpoint refuse it."""
    from selfinstruct_hub.errors import EndpointRefusedError

    server = Server()

    def refuse(number: int) -> web.Response | None:
        grammar = "grammar" in server.requests[number]["parameters"]
        return (
            web.json_response({"error": "no grammar", "error_type": "validation"}, status=422) if grammar else None
        )

    server.fault = refuse
    with running(server):
        space, settings = workspace(tmp_path / "w", server, grammar="on")
        with pytest.raises(EndpointRefusedError, match="no grammar"):
            run.grow(space, settings)
        said: list[str] = []
        mended = config.with_overrides(settings, {"grammar": "off"})
        run.grow(space, mended, hooks=run.Hooks(notice=said.append))
    assert said == []
    assert status(space)["versions"] == ["v1.0.0"]


def test_a_refusal_is_said_at_once_and_finished_answers_are_stored(tmp_path: Path) -> None:
    """The first draw is slow, another refused: what the first brings is waited for, and stored."""
    from selfinstruct_hub.errors import EndpointRefusedError

    first = sampling.request_seed(42, 1, 0, 0)
    refused = threading.Event()

    def is_first(number: int) -> bool:
        return bool(server.requests[number]["parameters"]["seed"] == first)

    def refuse(number: int) -> web.StreamResponse | None:
        if is_first(number):
            return None
        refused.set()
        return web.Response(status=400)

    server = Server(held=lambda n: is_first(n) and not refused.is_set(), fault=refuse)
    with running(server):
        space, settings = workspace(tmp_path / "w", server, tasks=100)
        with pytest.raises(EndpointRefusedError):
            run.grow(space, settings)
    with Pool.open(space.pool_file) as pool:
        assert pool.completion(1, 0, 0) is not None


def test_a_model_that_brings_nothing_ends_the_run(tmp_path: Path) -> None:
    with running(Server(answer=lambda prompt, parameters: ("", "eos_token"))) as server:
        space, settings = workspace(tmp_path / "w", server, max_barren_requests=12)
        (stopped,) = run.grow(space, settings)
        assert stopped.outcome.limit == "barren"
        assert stopped.release is None
        asked = len(server.requests)
        assert 12 <= asked <= 12 + 4 * 32
        assert max(Counter(map(str, server.requests)).values()) == 1
    (round_,) = status(space)["rounds"]
    assert round_["requests"] == round_["completions"] == 12
    assert round_["drops"] == {"missing_field": 12}


def test_a_round_is_released_as_it_is_without_an_endpoint(tmp_path: Path) -> None:
    with running(Server()) as server:
        space, settings = workspace(tmp_path / "w", server, tasks=60)
        (stopped,) = run.grow(space, settings, max_requests=5)
    enough = config.with_overrides(settings, {"tasks": stopped.outcome.accepted})
    (done,) = run.grow(space, enough)  # the server is gone
    assert done.release is not None
    assert done.outcome.accepted == stopped.outcome.accepted


def test_a_death_while_the_pool_is_made_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    with running(Server()) as server:
        space, settings = workspace(tmp_path / "w", server)
        (space.path / "pool.sqlite3.new").write_bytes(b"half")
        (space.path / "pool.sqlite3.new-wal").write_bytes(b"half")
        run.grow(space, settings)
    pool = {"pool.sqlite3", "pool.sqlite3-commits"}
    assert {p.name for p in space.path.iterdir()} == {".lock", *pool, "releases", "selfinstruct.yaml"}


def test_a_request_that_fails_for_good_is_recorded_and_the_round_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tenth draw is never answered: the round has its tasks, and says what is missing and why."""
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.001)
    server = Server()
    unlucky: set[int] = set()

    def fault(number: int) -> web.Response | None:
        seed = server.requests[number]["parameters"]["seed"]
        if seed % 10 == 3:
            unlucky.add(seed)
            return web.Response(status=502, text="<html>bad gateway</html>", content_type="text/html")
        return None

    server.fault = fault
    told: list[events.Event] = []
    with running(server):
        space, settings = workspace(
            tmp_path / "w", server, tasks=120, **{"endpoint.attempts": 2, "endpoint.concurrency": 1}
        )
        (done,) = run.grow(space, settings, hooks=run.Hooks(report=told.append))
    assert done.outcome.accepted == 120
    (round_,) = status(space)["rounds"]
    assert round_["failed"] == {"server_error": len(unlucky)} == round_["stages"]["tasks"]["failed"]
    assert round_["requests"] == round_["completions"] + len(unlucky)
    assert len(unlucky) > 1
    assert sum(isinstance(event, events.GivenUp) for event in told) == len(unlucky)
    with Pool.open(space.pool_file, read_only=True) as pool:
        stored = pool._rows("SELECT stage, reason, detail, tries FROM failures")
    assert set(stored) == {("tasks", "server_error", "HTTP 502", 2)}
    assert done.release is not None
    assert read_manifest(done.release)["rounds"][0]["failed"] == round_["failed"]
    assert "never answered" in (done.release / "README.md").read_text()


def test_a_stop_because_too_much_fails_records_only_what_was_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share counts over recent requests: what failed at the end is asked for again."""
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.001)
    values = {"tasks": 400, "endpoint.attempts": 1, "endpoint.concurrency": 4, "endpoint.max_failed_share": 0.3}
    with running(Server(fault=lambda n: web.Response(status=500) if n >= 30 else None)) as server:
        space, settings = workspace(tmp_path / "w", server, **values)
        (stopped,) = run.grow(space, settings)
    assert stopped.outcome.limit == "failing"
    assert "of the last" in stopped.outcome.detail
    (round_,) = status(space)["rounds"]
    assert round_["completions"] + round_["unjudged"] == 30
    with running(Server()) as server:
        (done,) = run.grow(space, config.with_overrides(settings, {"endpoint.url": server.url}))
    assert done.outcome.accepted == 400


def test_a_round_whose_requests_all_failed_goes_on_and_gives_way_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.001)
    with running(Server(fault=lambda n: web.Response(status=500))) as server:
        space, settings = workspace(tmp_path / "w", server, **{"endpoint.attempts": 1})
        (stopped,) = run.grow(space, settings)
        assert stopped.outcome.limit == "failing"
        server.fault = lambda n: None
        (done,) = run.grow(space, settings)
    assert done.outcome.accepted == 12
    assert status(space)["versions"] == ["v1.0.0"]


def test_time_counts_across_starts_and_stops_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The only clock that the budget sees: a second for each request.
    server = Server()
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: float(len(server.requests))))
    with running(server):
        space, settings = workspace(tmp_path / "w", server, tasks=10_000, **{"endpoint.concurrency": 2})
        (first,) = run.grow(space, settings, max_seconds=10)
        assert first.outcome.limit == "--max-time"
        asked = len(server.requests)
        assert 10 <= asked <= 11
        (second,) = run.grow(space, settings, max_seconds=10)  # it is used up
        assert second.outcome.limit == "--max-time"
        assert len(server.requests) == asked
        run.grow(space, settings, max_seconds=15)
        assert 15 <= len(server.requests) <= 16


def test_money_stops_a_run_and_is_counted_once(tmp_path: Path) -> None:
    prices = {"prices.prompt": 1.0, "prices.generated": 10.0, "decoding.max_new_tokens": 200}
    with running(Server()) as server:
        space, settings = workspace(tmp_path / "w", server, tasks=5000, **prices)
        (stopped,) = run.grow(space, settings, max_cost=0.05)
        assert stopped.outcome.limit == "--max-cost"
        asked = len(server.requests)
        (again,) = run.grow(space, settings, max_cost=0.05)
        assert again.outcome.limit == "--max-cost"
        assert len(server.requests) == asked
    with Pool.open(space.pool_file, read_only=True) as pool:
        _, prompt, generated = pool.cost(1)
    assert 0.04 < (prompt * 1.0 + generated * 10.0) / 1e6 <= 0.05
    with pytest.raises(UsageError, match=r"prices\.generated"):
        run.grow(space, config.with_overrides(space.settings(), {"prices.prompt": 1.0}), max_cost=0.5)


def test_a_slow_answer_holds_nothing_up_but_its_verdict(tmp_path: Path) -> None:
    """Judging waits for the first draw; asking does not."""
    with running(Server(held=lambda n: n == 0 and len(server.requests) < 20)) as server:
        space, settings = workspace(tmp_path / "w", server, tasks=240, **{"endpoint.concurrency": 2})
        observed: list[Progress] = []
        run.grow(space, settings, hooks=run.Hooks(observe=lambda p: observed.append(replace(p))))
    waiting = [progress for progress in observed if progress.judged == 0]
    assert waiting[-1].requests > 15


def test_a_round_keeps_the_form_of_its_prompts(tmp_path: Path) -> None:
    with running(Server()) as server:
        space, settings = workspace(tmp_path / "w", server, tasks=200)
        (stopped,) = run.grow(space, settings, max_requests=4)
        server.template = ("<user>", "<assistant>")
        with pytest.raises(
            UsageError, match="round 1 was begun without a chat template, and the endpoint now works"
        ):
            run.grow(space, settings)
        run.grow(space, config.with_overrides(settings, {"endpoint.chat": "off"}), max_requests=6)
        enough = config.with_overrides(settings, {"tasks": status(space)["tasks"]})
        (released,) = run.grow(space, enough)
        assert released.release is not None
        (second,) = run.grow(space, config.with_overrides(settings, {"tasks": 5}))  # a round of its own form
    assert second.outcome.round.settings["chat"]
    assert server.requests[-1]["inputs"].startswith("<user>")
    assert stopped.outcome.limit == "--max-requests"


def test_a_round_is_of_one_model(tmp_path: Path) -> None:
    with running(Server()) as server:
        space, settings = workspace(tmp_path / "w", server, tasks=200)
        (stopped,) = run.grow(space, settings, max_requests=4)
        server.info = {**server.info, "model_id": "other/model"}
        with pytest.raises(UsageError, match="has answers of test/scripted, and the endpoint serves other/model"):
            run.grow(space, settings)
        run.grow(space, config.with_overrides(settings, {"tasks": stopped.outcome.accepted}))
        (second,) = run.grow(
            space, config.with_overrides(settings, {"tasks": 5})
        )  # another round may be of another
    assert second.release is not None


def test_what_a_budget_allowed_is_told(tmp_path: Path) -> None:
    with running(Server()) as server:
        space, settings = workspace(tmp_path / "w", server, tasks=100)
        (first,) = run.grow(space, settings, max_tokens=100)
        assert re.fullmatch(r"0 of 100 tokens spent, and the next request may cost [34],\d+", first.outcome.detail)
        (second,) = run.grow(space, settings, max_requests=4)
        assert second.outcome.detail == "4 of 4 requests answered"


def test_what_pauses_when_the_time_is_up_is_not_asked_again(tmp_path: Path) -> None:
    busy = {"error": "later", "error_type": "overloaded"}
    server = Server(fault=lambda n: web.json_response(busy, status=429, headers={"Retry-After": "300"}))
    with running(server):
        space, settings = workspace(tmp_path / "w", server)
        began = time.monotonic()
        (stopped,) = run.grow(space, settings, max_seconds=0.5)
    assert stopped.outcome.limit == "--max-time"
    assert time.monotonic() - began < 200  # not the pause


def test_a_smaller_target_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    with running(Server()) as server:
        space, settings = workspace(tmp_path / "w", server, tasks=200)
        run.grow(space, settings, max_requests=4)
        fewer = config.with_overrides(settings, {"tasks": 50})
        run.grow(space, fewer, hooks=run.Hooks(notice=said.append))
    assert said == ["round 1 was begun for 200 tasks and now ends at 50, as asked"]


def overloaded(**headers: str) -> web.Response:
    return web.json_response({"error": "later", "error_type": "overloaded"}, status=429, headers=headers)


@pytest.mark.parametrize("concurrency", ["auto", 1, 4])
def test_a_retry_is_not_kept_waiting_by_those_who_wait_for_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, concurrency: Any
) -> None:
    """What is tried again holds room in the budget, and those who wait for room must not hold its place."""
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.01)
    with running(Server(fault=lambda n: overloaded() if n < 3 else None, delay=lambda n: 0.02)) as server:
        space, settings = workspace(tmp_path / "w", server, tasks=60, **{"endpoint.concurrency": concurrency})
        (stopped,) = run.grow(space, settings, max_tokens=12_000, max_seconds=300)
    assert stopped.outcome.limit == "--max-tokens"
    assert stopped.outcome.accepted > 0


def test_retry_after_0_is_no_licence_to_hammer(tmp_path: Path) -> None:
    with running(Server(fault=lambda n: overloaded(**{"Retry-After": "0"}))) as server:
        space, settings = workspace(tmp_path / "w", server, **{"endpoint.concurrency": 2})
        run.grow(space, settings, max_seconds=0.7)
    assert len(server.requests) < 20


def test_nothing_but_429_ends_a_run_after_the_stall_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.02)
    with running(Server(fault=lambda n: overloaded())) as server:
        space, settings = workspace(tmp_path / "w", server, tasks=1, **{"endpoint.stall": 0.3})
        (stopped,) = run.grow(space, settings, max_seconds=300)
    assert stopped.outcome.limit == "failing"
    assert re.match(r"nothing was answered for \d+ s \(failed tries: overloaded \d+\)", stopped.outcome.detail)


def test_a_run_that_stops_for_failures_takes_what_is_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as long as `endpoint.finish_seconds` says, which is more than a refusal waits."""
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(order, "GRACE_SECONDS", 0.01)
    stopped_at: list[float] = []
    stop = Dispatcher.stop

    def noted(self: Dispatcher, limit: str) -> None:
        stop(self, limit)
        stopped_at.append(time.monotonic())

    monkeypatch.setattr(Dispatcher, "stop", noted)
    slow = range(4)
    server = Server(
        held=lambda n: n in slow and not (stopped_at and time.monotonic() > stopped_at[0] + 0.2),
        fault=lambda n: None if n in slow else web.Response(status=503),
    )
    with running(server):
        space, settings = workspace(tmp_path / "w", server, tasks=100, **{"endpoint.attempts": 1})
        (stopped,) = run.grow(space, settings)
    assert stopped.outcome.limit == "failing"
    with Pool.open(space.pool_file, read_only=True) as pool:
        assert pool.cost(1)[0] == len(slow)


def test_a_budget_in_requests_leaves_no_place_empty(tmp_path: Path) -> None:
    with running(Server(held=lambda n: len(server.requests) < 24)) as server:
        space, settings = workspace(tmp_path / "w", server, tasks=5000, **{"endpoint.concurrency": 24})
        (stopped,) = run.grow(space, settings, max_requests=24)
    assert stopped.outcome.limit == "--max-requests"
    assert len(server.requests) == 24
    assert server.most_in_flight == 24


def test_answers_without_token_counts_are_not_free(tmp_path: Path) -> None:
    """OpenAI's protocol need not tell them; the same estimate is booked now and counted by the next start. What
    is in flight when a request is refused is in what the run says it has spent."""

    def answer(number: int) -> web.Response:
        text = write_tasks(server.chats[number]["messages"][0]["content"], {"seed": number})[0]
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "model": "m"})

    server = Server(fault=answer, delay=lambda number: number % 4 * 0.02)
    with running(server):
        space, settings = workspace(tmp_path / "w", server, tasks=500, **{"endpoint.api": "openai"})
        (stopped,) = run.grow(space, settings, max_tokens=20_000)
    assert stopped.outcome.limit == "--max-tokens"
    with Pool.open(space.pool_file, read_only=True) as pool:
        _, prompt, generated = pool.cost(1)
        texts = [completion.text for _, completion in pool.completions(1)]
    assert generated >= sum(map(estimated_tokens, texts)) > 0
    assert prompt + generated <= 20_000
    told = re.match(r"([\d,]+) of 20,000 tokens", stopped.outcome.detail)
    assert told
    assert int(told[1].replace(",", "")) == prompt + generated

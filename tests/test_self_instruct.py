"""Self-Instruct's steps over real HTTP: stages counted, rows kept, one failure costing one task."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from aiohttp import web

from selfinstruct_hub import config, run, sampling
from selfinstruct_hub.errors import SeedError
from selfinstruct_hub.grow import REFUSED, Progress, _brought_before, _draws_needed
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.status import status
from selfinstruct_hub.workspace import Workspace
from tests.support.interrupt import grown_in_pieces
from tests.support.tgi import Server, running, write_steps
from tests.test_grow import shards

STAGES = ["instructions", "classification", "instances"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)


def workspace(path: Path, server: Server, **values: Any) -> tuple[Workspace, config.Settings]:
    made = Workspace.create(
        path, config.Settings(recipe="self-instruct", card=config.CardSettings(pictures="off"))
    )
    return made, config.with_overrides(made.settings(), {"tasks": 20, "endpoint.url": server.url, **values})


def test_stages_are_counted_and_every_candidate_is_accounted_for(tmp_path: Path) -> None:
    with running(Server(answer=write_steps)) as server:
        space, settings = workspace(tmp_path / "w", server)
        run.grow(space, settings, rounds=2)
        sent = len(server.requests)
    told = status(space)
    for round_ in told["rounds"]:
        stages = round_["stages"]
        assert list(stages) == STAGES
        reached = [stages[name]["candidates"] for name in STAGES]
        lost = [sum(stages[name]["drops"].values()) for name in STAGES]
        # What reached a stage and was not dropped there reached the next one; the last one's are the tasks.
        assert [r - d for r, d in zip(reached, lost, strict=True)] == [*reached[1:], round_["tasks"]]
        assert round_["candidates"] == reached[0] == round_["tasks"] + sum(round_["drops"].values())
        assert stages["classification"]["requests"] == reached[1]
        assert stages["instances"]["requests"] == reached[2]
        assert stages["instances"]["parsed"] < stages["instances"]["requests"]
        assert round_["requests"] == sum(stage["requests"] for stage in stages.values())
        for kind in ("prompt", "generated"):
            assert round_["tokens"][kind] == sum(stage["tokens"][kind] for stage in stages.values()) > 0
        assert {"too_short"} <= set(stages["instructions"]["drops"])
        assert {"cut_off", "output_repeats_input"} <= set(stages["instances"]["drops"])
        assert round_["lost_instances"]["cut_off"] > 0
        assert sent >= round_["requests"]
    assert told["rows"] > told["tasks"] == 40


def test_rows_keep_their_kind_and_name_every_request_that_made_them(tmp_path: Path) -> None:
    with running(Server(answer=write_steps)) as server:
        space, settings = workspace(tmp_path / "w", server)
        (result,) = run.grow(space, settings)
    origins = datasets.load_dataset(str(result.release), "provenance", split="train")
    rows = datasets.load_dataset(str(result.release), split="train")
    kinds = set()
    with Pool.open(space.pool_file, read_only=True) as pool:
        for origin, row in zip(origins, rows, strict=True):
            kinds.add(origin["is_classification"])
            assert origin["is_classification"] == row["instruction"].startswith("Decide")
            stages = origin["stages"]
            assert [stage["stage"] for stage in stages] == STAGES
            for stage in stages:
                stored = pool.completion(origin["round"], origin["request"], stage["call"])
                assert stored is not None
                assert stored[0].stage == stage["stage"]
                assert json.loads(stage["decoding"]) == stored[0].decoding.as_dict()
                assert stage["shown"] == list(stored[0].demonstrations)
            written = pool.completion(origin["round"], origin["request"], stages[-1]["call"])
            assert written is not None
            assert row["output"] in written[1].text
            assert json.loads(origin["decoding"])["temperature"] == 0.7
            assert "temperature" not in json.loads(stages[1]["decoding"])
    assert kinds == {True, False}
    labels = {row["output"] for row, o in zip(rows, origins, strict=True) if o["is_classification"]}
    assert labels == {"Positive", "Negative"}  # both, because the label came first
    rejected = datasets.load_dataset(str(result.release), "rejected", split="train")
    assert set(rejected["stage"]) <= set(STAGES)
    tasks = set(origins["task_id"])
    parts = [row for row in rejected if row["task_id"] is not None]
    assert parts
    assert all(row["task_id"] in tasks and len(row["instances"]) == 1 for row in parts)


def test_neither_concurrency_nor_latency_nor_interruptions_change_a_byte(tmp_path: Path) -> None:
    built = {}
    for in_flight in (1, 16):
        jitter = random.Random(in_flight)
        server = Server(answer=write_steps, delay=lambda n, jitter=jitter: jitter.random() * 0.02)  # type: ignore[misc]
        with running(server):
            values = {"endpoint.concurrency": in_flight}
            space, settings = workspace(tmp_path / f"at-{in_flight}", server, **values)
            results = run.grow(space, settings, rounds=2)
        assert server.most_in_flight <= in_flight
        assert results[-1].release is not None
        built[str(in_flight)] = shards(results[-1].release)
    with running(Server(answer=write_steps)) as server:
        space, settings = workspace(tmp_path / "cut", server, **{"endpoint.concurrency": 5})
        results = grown_in_pieces(space, settings, 2)
    assert results[-1].release is not None
    assert built["1"] == built["16"] == shards(results[-1].release)


def test_later_rounds_show_tasks_of_earlier_ones(tmp_path: Path) -> None:
    with running(Server(answer=write_steps)) as server:
        space, settings = workspace(tmp_path / "w", server)
        run.grow(space, settings, rounds=2)
    with Pool.open(space.pool_file, read_only=True) as pool:
        made = {task.id for task in pool.tasks(1)}
        seeds = {task.id for task in pool.seeds()}
        for round_number, machines in ((1, 0), (2, 2)):
            places = set()
            for request, _ in pool.completions(round_number):
                shown = request.demonstrations
                if request.stage == "instructions":
                    assert len(shown) == 8
                    assert len(made & set(shown)) == machines
                    assert len(seeds & set(shown)) == 8 - machines
                    places |= {place for place, key in enumerate(shown) if key in made}
                else:
                    assert set(shown) <= seeds
            assert len(places) > 4 or not machines  # shuffled among the seeds


def test_what_is_no_new_instruction_costs_no_further_request(tmp_path: Path) -> None:
    def repeat(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
        if re.search(r"\n\d+\.$", prompt):
            return (
                " Put together a packing checklist for a one-day winter hike in the hills, grouped under three "
                "headings: clothing, safety and food.\n10. Name the planet that is nearest to the sun.",
                "eos_token",
            )
        return write_steps(prompt, parameters)

    with running(Server(answer=repeat)) as server:
        space, settings = workspace(tmp_path / "w", server, tasks=1)
        run.grow(space, settings)
    stages = status(space)["rounds"][0]["stages"]
    assert stages["instructions"]["drops"]["too_similar"] == stages["instructions"]["requests"]
    assert stages["classification"]["requests"] == stages["classification"]["candidates"]


def test_a_refused_request_costs_its_own_task(tmp_path: Path) -> None:
    server = Server(answer=write_steps)

    def refuse(number: int) -> web.Response | None:
        prompt = server.requests[number]["inputs"]
        if prompt.endswith("Input:") and "violin" in prompt.rsplit("Task:", 1)[-1]:
            return web.json_response({"error": "content policy", "error_type": "validation"}, status=422)
        return None

    server.fault = refuse
    with running(server):
        space, settings = workspace(tmp_path / "w", server, tasks=40)
        (result,) = run.grow(space, settings)
    told = status(space)["rounds"][0]
    refused = told["stages"]["instances"]["drops"]["request_refused"]
    assert refused > 0
    assert told["tasks"] == 40
    assert told["stages"]["instances"]["requests"] == told["stages"]["instances"]["candidates"] - refused
    rejected = datasets.load_dataset(str(result.release), "rejected", split="train")
    (detail,) = {row["detail"] for row in rejected if row["reason"] == "request_refused"}
    assert "content policy" in detail
    assert server.url not in detail


def test_refusals_leave_the_rows_the_same_whatever_the_concurrency(tmp_path: Path) -> None:
    """Every later request about one subject is refused, in whole draws too, speculative ones included."""
    built = []
    for in_flight in (1, 7, 32):
        server = Server(answer=write_steps)

        def refuse(number: int, server: Server = server) -> web.Response | None:
            prompt = server.requests[number]["inputs"]
            asked = prompt.rsplit("Task:", 1)[-1] if prompt.endswith("Classification:") else ""
            refused = any(word in asked for word in ("violin", "canoe", "poem", "enzyme", "airport"))
            return web.json_response({"error": "content policy"}, status=422) if refused else None

        server.fault = refuse
        with running(server):
            values = {"tasks": 15, "tasks_per_request": 4, "endpoint.concurrency": in_flight}
            space, settings = workspace(tmp_path / str(in_flight), server, **values)
            (result,) = run.grow(space, settings)
        assert result.release is not None
        built.append(shards(result.release))
    assert status(space)["rounds"][0]["stages"]["classification"]["drops"]["request_refused"] > 3
    assert built[0] == built[1] == built[2]


def test_an_endpoint_that_refuses_a_whole_step_stops_the_run(tmp_path: Path) -> None:
    server = Server(answer=write_steps)

    def refuse(number: int) -> web.Response | None:
        later = server.requests[number]["inputs"].endswith("Classification:")
        return web.json_response({"error": "no grammar here"}, status=422) if later else None

    server.fault = refuse
    with running(server):
        space, settings = workspace(tmp_path / "w", server)
        (stopped,) = run.grow(space, settings)
        assert (stopped.outcome.limit, stopped.release) == (REFUSED, None)
        assert "refused 20 requests of the step `classification` in a row (422: no grammar here)" in (
            stopped.outcome.detail
        )
        assert len(server.requests) < 200  # those in flight by then included
        # When the server is mended, the same command goes on.
        server.fault = lambda number: None
        (done,) = run.grow(space, settings)
    assert done.release is not None


def test_a_budget_is_for_what_the_server_served_and_buys_whole_tasks(tmp_path: Path) -> None:
    """Stopped in the middle of draws, with answers on their way: each is stored, none is asked for twice."""
    jitter = random.Random(1)
    with running(Server(answer=write_steps, delay=lambda n: 0.01 + jitter.random() * 0.05)) as server:
        space, settings = workspace(tmp_path / "w", server, tasks=100)
        accepted = []
        for cap in (30, 60, 90):
            (stopped,) = run.grow(space, settings, max_requests=cap)
            assert stopped.outcome.limit == "--max-requests"
            accepted.append(stopped.outcome.accepted)
            with Pool.open(space.pool_file, read_only=True) as pool:
                requests, *tokens = pool.cost(1)
                spent = sum(tokens)
                assert requests == len(server.requests) == cap
        # The earliest draw comes first, so that a small budget brings tasks, not beginnings.
        assert 0 < accepted[0] < accepted[1] < accepted[2]
        (more,) = run.grow(space, settings, max_tokens=spent + 20_000)
        assert more.outcome.limit == "--max-tokens"
        with Pool.open(space.pool_file, read_only=True) as pool:
            requests, *tokens = pool.cost(1)
            assert requests == len(server.requests)
            assert spent < sum(tokens) <= spent + 20_000


def test_a_later_round_reckons_with_what_the_one_before_it_brought(tmp_path: Path) -> None:
    """So that it starts no more draws than it will need: each is paid for."""
    with running(Server(answer=write_steps)) as server:
        space, settings = workspace(tmp_path / "w", server, tasks=12)
        run.grow(space, settings, rounds=2)
    with Pool.open(space.pool_file, read_only=True) as pool:
        first, second = pool.rounds()
        assert _brought_before(pool, first) == 4  # half of the eight that a prompt asks for
        assert _brought_before(pool, second) == 12 / pool.judged_draws(1)
        other = replace(second, settings={**second.settings, "recipe": "alpaca"})
        assert _brought_before(pool, other) == 4
    progress = Progress(round=1, version="", wanted=100)
    assert _draws_needed(progress, 0, 4, 32) == 32  # 1.25 times the 25 that bring four each
    assert _draws_needed(progress, 0, 2, 32) == 63


def test_only_classification_tasks(tmp_path: Path) -> None:
    values = {"tasks": 10, "self_instruct.only_classification": True}
    with running(Server(answer=write_steps)) as server:
        space, settings = workspace(tmp_path / "w", server, **values)
        run.grow(space, settings)
        prompts = [request["inputs"] for request in server.requests]
    assert any("All are classification tasks" in prompt for prompt in prompts)
    with Pool.open(space.pool_file, read_only=True) as pool:
        assert all(task.is_classification for task in pool.tasks(1))
        kinds = {task.id: task.is_classification for task in pool.seeds()}
        for request, _ in pool.completions(1):
            if request.stage == "instructions":
                assert all(kinds[key] for key in request.demonstrations)
    stages = status(space)["rounds"][0]["stages"]
    assert stages["classification"]["drops"]["not_classification"] > 0
    assert not any(prompt.endswith("Example 1\nInput:") for prompt in prompts)
    assert any(prompt.endswith("Class label:") for prompt in prompts)


@pytest.mark.parametrize("recipe", ["alpaca", "self-instruct"])
def test_chinese_tasks_grow_and_are_told_apart(tmp_path: Path, recipe: str) -> None:
    def answer(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
        if not prompt.endswith("指令："):
            return write_steps(prompt, parameters)
        text, reason = write_steps("任务\n\n4.", parameters)
        items = [re.sub(r"^\d+\. ", "", line).strip() for line in text.split("\n")]
        return "".join(
            f"{f'{4 + i}. 指令：' if i else ''} {item}\n{4 + i}. 输入：<无输入>\n{4 + i}. 输出：好的，{i}。\n###\n"
            for i, item in enumerate(items)
        ), reason

    with running(Server(answer=answer)) as server:
        space = Workspace.create(tmp_path / "w", config.Settings(recipe=recipe, language="zh"))
        overrides = {"tasks": 12, "endpoint.url": server.url, "domain": "历史"}
        (result,) = run.grow(space, config.with_overrides(space.settings(), overrides))
        prompts = [request["inputs"] for request in server.requests]
    told = status(space)
    assert (told["language"], told["tasks"]) == ("zh", 12)
    assert sum("属于这个领域：历史" in prompt for prompt in prompts) > 0
    assert result.release is not None
    card = (result.release / "README.md").read_text(encoding="utf-8")
    assert "language:\n- zh" in card
    with Pool.open(space.pool_file, read_only=True) as pool:
        scores = [v.similarity.score for v in pool.verdicts(1) if v.similarity]
    assert max(scores) > 0.1  # characters are compared


def test_seeds_of_one_kind_are_refused(tmp_path: Path) -> None:
    lines = [
        json.dumps(
            {
                "id": str(i),
                "name": "",
                "instruction": f"Name {i} things that are {i} old.",
                "instances": [{"input": "", "output": "x"}],
                "is_classification": False,
            }
        )
        for i in range(12)
    ]
    (tmp_path / "seeds.jsonl").write_text("\n".join(lines))
    with running(Server(answer=write_steps)) as server:
        made = Workspace.create(tmp_path / "w", config.Settings(recipe="self-instruct", seeds="../seeds.jsonl"))
        settings = config.with_overrides(made.settings(), {"endpoint.url": server.url})
        with pytest.raises(SeedError, match="none of the 12 seeds are classification tasks"):
            run.grow(made, settings)
        assert server.requests == []
        few = config.with_overrides(settings, {"demonstrations.human": 13})
        with pytest.raises(SeedError, match="shows 13 seed tasks, and there are 12"):
            run.grow(made, few)


def test_a_small_context_takes_fewer_demonstrations(tmp_path: Path) -> None:
    server = Server(answer=write_steps)
    server.info = {**server.info, "max_total_tokens": 2048, "max_input_tokens": 2047}
    with running(server):
        space, settings = workspace(tmp_path / "w", server)
        run.grow(space, settings)
    for request in server.requests:
        assert len(request["inputs"]) / 3 + request["parameters"]["max_new_tokens"] <= 2048


def test_a_request_that_fails_for_good_costs_its_own_task(tmp_path: Path) -> None:
    """One request of a draw is never answered: its sisters' answers are stored, and the round goes on."""
    server = Server(answer=write_steps)
    failed: list[int] = []
    # Of the first draw, which is judged however few the round takes.
    seeds = {sampling.request_seed(42, 1, 0, call) for call in range(12)}

    def fail_one(number: int) -> web.Response | None:
        asked = server.requests[number]
        if asked["inputs"].endswith("Classification:") and asked["parameters"]["seed"] in seeds and not failed:
            failed.append(number)
            return web.Response(status=503)
        return None

    server.fault = fail_one
    with running(server):
        space, settings = workspace(tmp_path / "w", server, **{"endpoint.attempts": 1, "endpoint.concurrency": 8})
        (done,) = run.grow(space, settings)
    assert done.release is not None
    (round_,) = status(space)["rounds"]
    assert round_["drops"]["request_failed"] == 1
    assert round_["failed"] == {"server_error": 1} == round_["stages"]["classification"]["failed"]
    assert round_["stages"]["classification"]["drops"] == {"request_failed": 1}
    with Pool.open(space.pool_file, read_only=True) as pool:
        drops = [verdict.drop for verdict in pool.verdicts(1) if verdict.drop]
        assert [drop.detail for drop in drops if drop.reason == "request_failed"] == ["HTTP 503"]
        assert pool.cost(1)[0] == round_["completions"] + round_["unjudged"]

"""The server that stands in for a saturated GPU: what the benchmarks and the fault test rest on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from tests.support.gpu import FAULTS, GPU, WHOLE, Record, faulty, items, process, tokens
from tests.support.tgi import running

PROMPT = "4. Instruction:"


async def ask(session: aiohttp.ClientSession, url: str, seed: int, new_tokens: int = 100) -> dict[str, Any]:
    """Status, headers and content type of one try, and its text where it is TGI's."""
    body = {"inputs": PROMPT, "parameters": {"seed": seed, "max_new_tokens": new_tokens}}
    async with session.post(f"{url}/generate", json=body) as answer:
        content = await answer.read()
        said = {"status": answer.status, "type": answer.content_type, "content": content}
        return {**{key.lower(): value for key, value in answer.headers.items()}, **said}


async def ask_all(url: str, seeds: range, **options: Any) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession() as session:
        return await asyncio.gather(*(ask(session, url, seed, **options) for seed in seeds))


def test_slots_are_given_first_in_first_out_and_the_headers_say_so() -> None:
    gpu = GPU(slots=2, tokens_per_second=1000)
    with running(gpu):
        answers = asyncio.run(ask_all(gpu.url, range(6)))
    assert [answer["x-generated-tokens"] for answer in answers] == ["100"] * 6
    assert [answer["x-inference-time"] for answer in answers] == ["100"] * 6
    came = sorted(came for _, came, _ in gpu.record.answered)
    free, queued = [0.0, 0.0], []
    for moment in came:
        start = max(moment, min(free))
        free[free.index(min(free))] = start + 0.1
        queued.append(start - moment)
        # A slot is handed on at the very moment it is free, whatever this process is doing then.
        assert any(begin == pytest.approx(start) for begin, _ in gpu.record.generated)
    assert [end - begin for begin, end in gpu.record.generated] == pytest.approx([0.1] * 6)
    said = sorted(int(answer["x-queue-time"]) for answer in answers)
    assert said == pytest.approx(sorted(1000 * seconds for seconds in queued), abs=1)
    for answer in answers:
        assert abs(int(answer["x-total-time"]) - int(answer["x-queue-time"]) - 100) <= 1


def test_the_busy_share_is_exact() -> None:
    record = Record(slots=2, generated=[(0.0, 1.0), (0.5, 1.5), (1.5, 2.0)])
    assert record.first_full() == 0.5
    assert record.busy_share(0.5, 1.0) == 1.0
    assert record.busy_share(0.0, 2.0) == pytest.approx(2.5 / 4)
    assert record.busy_share(3.0, 4.0) == 0.0
    # A slot that is handed on is not busy twice.
    assert Record(slots=2, generated=[(0.0, 1.0), (1.0, 2.0)]).first_full() is None


def test_places_are_refused_at_once_as_tgi_does_it() -> None:
    gpu = GPU(slots=1, tokens_per_second=100, max_concurrent_requests=3)
    with running(gpu):
        answers = asyncio.run(ask_all(gpu.url, range(5)))
    refused = [answer for answer in answers if answer["status"] == 429]
    assert len(refused) == 2
    assert b'"error_type": "overloaded"' in refused[0]["content"]
    assert "retry-after" not in refused[0]
    record = gpu.record
    assert (record.tries, record.overloaded, len(record.answered), record.most_in_flight) == (5, 2, 3, 3)


def test_a_client_that_goes_frees_its_place_and_its_slot() -> None:
    async def until(holds: Callable[[], bool]) -> None:
        for _ in range(1000):
            if holds():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it never came to that")

    async def go_away() -> dict[str, Any]:
        async with aiohttp.ClientSession() as session:
            long = [asyncio.create_task(ask(session, gpu.url, seed, 50_000)) for seed in (1, 2)]
            await until(lambda: len(gpu._places) == 2)
            for task in long:
                task.cancel()
            await asyncio.gather(*long, return_exceptions=True)
            await until(lambda: gpu.record.disconnected == 2)
            return await ask(session, gpu.url, 3)

    gpu = GPU(slots=1, tokens_per_second=1000, max_concurrent_requests=2, shortest=50_000)
    with running(gpu):
        assert asyncio.run(go_away())["status"] == 200
    assert not gpu._places


def test_lengths_are_the_seeds_own_and_few_are_long() -> None:
    drawn = [tokens("p", {"seed": seed, "max_new_tokens": 3000}, shortest=100, tail=1.1) for seed in range(2000)]
    assert drawn[7] == tokens("p", {"seed": 7, "max_new_tokens": 3000}, shortest=100, tail=1.1)
    assert (min(drawn) >= 100, max(drawn) <= 3000) == (True, True)
    ordered = sorted(drawn)
    assert sum(drawn) / len(drawn) > 1.5 * ordered[1000]
    assert ordered[-20] > 2000
    assert tokens("p", {"seed": 7, "max_new_tokens": 3}, shortest=100, tail=1.1) == 3


def test_instructions_do_not_repeat_each_other() -> None:
    from selfinstruct_hub.novelty import NoveltyGate
    from selfinstruct_hub.parsing import labelled_tasks

    gate = NoveltyGate()
    near = 0
    for seed in range(500):
        text, _ = items(4)(PROMPT, {"seed": seed})
        found = labelled_tasks(text, prefilled=PROMPT)
        assert len(found) == 4
        for candidate in found:
            assert candidate.well_formed
            assert candidate.instruction is not None
            near += gate.compare(candidate.instruction).score > 0.7
            gate.add(candidate.instruction, candidate.instruction)
    assert near < 20


async def test_every_fault_looks_as_it_does_in_the_wild() -> None:
    gpu = GPU(script=lambda number: FAULTS[number] if number < len(FAULTS) else None, retry_after="7")
    seen: dict[str, Any] = {}
    with running(gpu):
        for seed, fault in enumerate(FAULTS):
            timeout = aiohttp.ClientTimeout(total=0.3 if fault == "hang" else 10)
            async with aiohttp.ClientSession(timeout=timeout) as session:
                try:
                    answer = await ask(session, gpu.url, seed)
                    seen[fault] = (answer["status"], answer["type"], answer.get("retry-after"))
                except (aiohttp.ClientError, asyncio.TimeoutError) as error:
                    seen[fault] = type(error)
    assert seen == {
        "429": (429, "application/json", None),
        "429 with Retry-After": (429, "application/json", "7"),
        "424": (424, "application/json", None),
        "500": (500, "application/json", None),
        "503 page": (503, "text/html", None),
        "cut": aiohttp.ServerDisconnectedError,
        "cut in the middle": aiohttp.ClientPayloadError,
        "hang": asyncio.TimeoutError,
        "truncated": (200, "application/json", None),
        "page": (200, "text/html", None),
        WHOLE: (200, "text/html", None),
        "empty": (200, "application/json", None),
    }
    assert dict(gpu.record.faults) == dict.fromkeys(FAULTS, 1)
    assert [seed for seed, _, _ in gpu.record.answered] == [FAULTS.index(WHOLE)]


def test_the_script_spoils_the_share_that_was_asked_for() -> None:
    drawn = [faulty(0.2)(number) for number in range(3000)]
    assert drawn == [faulty(0.2)(number) for number in range(3000)]
    assert 0.17 < sum(fault is not None for fault in drawn) / 3000 < 0.23
    assert set(drawn) == {None, *FAULTS}


def test_as_a_process_it_tells_its_record() -> None:
    async def use(url: str) -> Record:
        await ask_all(url, range(3))
        async with aiohttp.ClientSession() as session, session.get(f"{url}/statistics") as answer:
            return Record.read(await answer.json())

    with process("--slots", "2", "--tokens-per-second", "10000") as url:
        record = asyncio.run(use(url))
    assert (record.slots, record.tries, len(record.generated)) == (2, 3, 3)
    assert sorted(seed for seed, _, _ in record.answered) == [0, 1, 2]
    assert record.first_full() is not None

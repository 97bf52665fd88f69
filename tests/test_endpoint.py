"""The TGI client over real HTTP: what it sends, what it retries, what it raises."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from selfinstruct_hub.config import EndpointSettings
from selfinstruct_hub.endpoint import tgi
from selfinstruct_hub.endpoint.budget import Budget, BudgetReached
from selfinstruct_hub.endpoint.connect import api_key, opened
from selfinstruct_hub.endpoint.tgi import TGIEndpoint, cut_at_stop, request_body, shown
from selfinstruct_hub.errors import (
    EndpointAuthError,
    EndpointError,
    EndpointProtocolError,
    EndpointRefusedError,
    EndpointUnreachableError,
)
from selfinstruct_hub.records import Completion, Decoding
from tests.support.tgi import Server, running


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tgi, "_FIRST_PAUSE", 0.001)


async def ask(server: Server, decoding: Decoding | None = None, **options: Any) -> Completion:
    endpoint = await TGIEndpoint.connect(server.url, **options)
    try:
        return await endpoint.complete("Say it.", decoding or Decoding(50))
    finally:
        await endpoint.close()


def test_greedy_sends_no_sampling_parameter_at_all() -> None:
    assert request_body("x", Decoding(50, stop=("a",)))["parameters"] == {
        "do_sample": False,
        "max_new_tokens": 50,
        "return_full_text": False,
        "stop": ["a"],
        "watermark": False,
        "details": True,
        "decoder_input_details": False,
    }


def test_sampling_sends_what_is_set_and_leaves_out_the_rest() -> None:
    sent = request_body("x", Decoding(50, temperature=0.7, seed=3, grammar=("json", '{"type": "object"}')))
    assert sent["inputs"] == "x"
    parameters = sent["parameters"]
    assert parameters["do_sample"] is True
    assert parameters["temperature"] == 0.7
    assert parameters["seed"] == 3
    assert parameters["grammar"] == {"type": "json", "value": {"type": "object"}}
    assert not {"top_p", "top_k", "typical_p", "repetition_penalty", "best_of"} & set(parameters)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one STOP two", ("STOP",), ("one ", True)),
        ("one B two A", ("A", "B"), ("one ", True)),
        ("one STOPper", ("STOP",), ("one ", True)),
        ("one", ("STOP",), ("one", False)),
        ("one", (), ("one", False)),
    ],
)
def test_the_stop_is_cut_again_at_the_earliest(text: str, stop: tuple[str, ...], expected: Any) -> None:
    assert cut_at_stop(text, stop) == expected


@pytest.mark.parametrize(
    ("text", "reason", "expected"),
    [
        ("done", "eos_token", ("done", "eos")),
        ("cut sho", "length", ("cut sho", "length")),
        ("done\nEND", "stop_sequence", ("done", "stop")),
        ("done\nEND", "length", ("done", "stop")),  # the stop came with the last token that was allowed
    ],
)
async def test_an_answer_becomes_a_completion(text: str, reason: str, expected: tuple[str, str]) -> None:
    with running(Server(answer=lambda prompt, parameters: (text, reason))) as server:
        found = await ask(server, Decoding(50, stop=("\nEND",)))
    assert (found.text, found.finish_reason) == expected
    assert (found.prompt_tokens, found.generated_tokens) == (2, len(text.split()))
    assert (found.model, found.endpoint_kind) == ("test/scripted", "tgi")
    assert (found.queue_time, found.inference_time) == (0.001, 0.02)


def broken(kind: str) -> web.StreamResponse:
    """One faulty answer of each kind that is seen in the wild."""
    error = {"error": "Model is overloaded", "error_type": "overloaded"}
    made = {
        "429": lambda: web.json_response(error, status=429),
        "429 later": lambda: web.json_response(error, status=429, headers={"Retry-After": "0"}),
        "424": lambda: web.json_response({"error": "CUDA", "error_type": "generation"}, status=424),
        "500": lambda: web.json_response({"error": "x", "error_type": "incomplete_generation"}, status=500),
        "503 page": lambda: web.Response(text="<html>busy</html>", status=503, content_type="text/html"),
        "504 empty": lambda: web.Response(status=504),
        "torn": lambda: web.Response(text='{"generated_text": "ab', content_type="application/json"),
        "empty": lambda: web.Response(text="", content_type="application/json"),
        "wrong type": lambda: web.Response(text="<html>hello</html>", content_type="text/html"),
    }
    return made[kind]()


@pytest.mark.parametrize(
    "kind", ["429", "429 later", "424", "500", "503 page", "504 empty", "torn", "empty", "wrong type"]
)
async def test_what_is_transient_is_tried_again(kind: str) -> None:
    server = Server(
        answer=lambda prompt, parameters: ("fine", "eos_token"), fault=lambda n: broken(kind) if n < 2 else None
    )
    with running(server):
        assert (await ask(server)).text == "fine"
    assert len(server.requests) == 3
    assert server.requests[0] == server.requests[2]


async def test_patience_ends_with_the_reason_and_what_to_do() -> None:
    with (
        running(Server(fault=lambda n: broken("503 page"))) as server,
        pytest.raises(EndpointUnreachableError, match="failed 3 times in a row, last with HTTP 503; what was"),
    ):
        await ask(server, attempts=3)
    assert len(server.requests) == 3


async def test_a_hanging_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tgi, "_SECONDS_PER_TOKEN", 0.0)
    with (
        running(Server(delay=lambda n: 1.0)) as server,
        pytest.raises(EndpointUnreachableError, match="no answer within"),
    ):
        await ask(server, attempts=2, timeout=0.05)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("response", "kind", "said"),
    [
        (
            lambda: web.json_response(
                {"error": "Input validation error: `inputs` must be shorter", "error_type": "validation"},
                status=422,
            ),
            EndpointRefusedError,
            r"\(422: Input validation error: `inputs` must be shorter\)",
        ),
        (lambda: web.Response(text="Failed to parse", status=400), EndpointRefusedError, "400: Failed to parse"),
        (lambda: web.Response(status=401), EndpointAuthError, r"\(401\); set SELFINSTRUCT_API_KEY"),
        (lambda: web.Response(status=404), EndpointRefusedError, "404"),
        (lambda: web.json_response({"answer": "x"}), EndpointProtocolError, "not text-generation-inference's"),
        (lambda: web.json_response({"generated_text": "x"}), EndpointProtocolError, "with details"),
    ],
)
async def test_what_no_second_try_can_mend_raises_at_once(
    response: Any, kind: type[EndpointError], said: str
) -> None:
    with running(Server(fault=lambda n: response())) as server, pytest.raises(kind, match=said):
        await ask(server)
    assert len(server.requests) == 1


async def test_the_key_goes_with_the_request_and_a_wrong_one_is_said_at_once() -> None:
    with running(Server(answer=lambda p, q: ("fine", "eos_token"), api_key="right")) as server:
        assert (await ask(server, api_key="right")).text == "fine"
        with pytest.raises(EndpointAuthError) as error:
            await ask(server, api_key="wrong-secret")
    assert "wrong-secret" not in str(error.value)


async def test_addresses_where_no_tgi_is() -> None:
    with pytest.raises(EndpointUnreachableError, match="cannot be reached"):
        await TGIEndpoint.connect("http://127.0.0.1:9")
    server = Server(info={"hello": "world"})
    with running(server):
        with pytest.raises(
            EndpointProtocolError, match="is not text-generation-inference: GET /info answered 200"
        ):
            await TGIEndpoint.connect(server.url)
        with pytest.raises(EndpointProtocolError, match="answered 404"):
            await TGIEndpoint.connect(server.url + "/v1")
    with running(Server()) as server, pytest.raises(EndpointRefusedError, match="serves test/scripted, not other"):
        await TGIEndpoint.connect(server.url, model="other")


async def test_a_server_that_is_still_loading_is_waited_for() -> None:
    states = iter([503, 503, 200])
    server = Server()
    ready = server.info

    async def info(request: web.Request) -> web.Response:
        status = next(states)
        return web.json_response(ready if status == 200 else {"error": "x"}, status=status)

    server._info = info  # type: ignore[method-assign]
    with running(server):
        endpoint = await TGIEndpoint.connect(server.url)
        await endpoint.close()
        states = iter([503] * 9)
        with pytest.raises(EndpointUnreachableError, match=r"is not ready \(HTTP 503"):
            await TGIEndpoint.connect(server.url, attempts=2)


async def test_the_session_is_closed_with_the_endpoint() -> None:
    with running(Server()) as server:
        async with opened(EndpointSettings(url=server.url)) as endpoint:
            assert endpoint.model == "test/scripted"
            assert not endpoint.embedded
            assert endpoint.limits.max_total_tokens == 8192


def test_secrets_in_an_address_are_not_shown() -> None:
    assert shown("https://me:hunter2@gpu.example:8443/x?token=t#f") == "https://gpu.example:8443/x"
    assert shown("http://[::1]:80/") == "http://[::1]:80/"


def test_a_hub_token_goes_to_the_hub_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SELFINSTRUCT_API_KEY", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert api_key("https://abc.us-east-1.aws.endpoints.huggingface.cloud") == "hf_secret"
    assert api_key("https://huggingface.co.example.com") is None
    assert api_key("http://127.0.0.1:8080") is None
    monkeypatch.setenv("SELFINSTRUCT_API_KEY", "mine")
    assert api_key("http://127.0.0.1:8080") == "mine"


async def test_a_budget_counts_what_is_in_flight() -> None:
    budget = Budget(max_requests=3)
    async with budget.request(10), budget.request(10):
        assert budget.requests == 2
    async with budget.request(10):
        pass
    with pytest.raises(BudgetReached, match="--max-requests"):
        async with budget.request(10):
            pass


async def test_a_token_budget_waits_for_answers_that_may_leave_room() -> None:
    budget = Budget(max_tokens=100)
    order = []

    async def use(name: str, most: int, real: int) -> None:
        async with budget.request(most):
            order.append(name)
            await asyncio.sleep(0.01)
            budget.spend(real)

    await asyncio.gather(use("a", 80, 10), use("b", 80, 10))  # b fits once a has cost less than it might have
    assert order == ["a", "b"]
    assert budget.tokens == 20
    with pytest.raises(BudgetReached, match="--max-tokens"):
        await use("c", 81, 1)
    await use("d", 80, 80)


async def test_a_failed_request_costs_nothing() -> None:
    budget = Budget(max_requests=1)
    with pytest.raises(EndpointUnreachableError):
        async with budget.request(5):
            raise EndpointUnreachableError("gone")
    async with budget.request(5):
        pass
    assert budget.requests == 1


def test_request_bodies_are_json() -> None:
    assert (
        json.loads(json.dumps(request_body("x", Decoding(5, temperature=1.0))))["parameters"]["temperature"] == 1.0
    )

"""The TGI client over real HTTP: what it sends, what it retries, what it raises."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web

from selfinstruct_hub.config import EndpointSettings
from selfinstruct_hub.endpoint import failures, tgi
from selfinstruct_hub.endpoint.connect import api_key, opened
from selfinstruct_hub.endpoint.failures import shown
from selfinstruct_hub.endpoint.tgi import cut_at_stop, request_body
from selfinstruct_hub.errors import (
    EndpointAuthError,
    EndpointError,
    EndpointRefusedError,
    RequestFailedError,
)
from selfinstruct_hub.records import Completion, Decoding
from tests.support.tgi import Server, running


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.001)


async def ask(server: Server, decoding: Decoding | None = None, **settings: Any) -> Completion:
    async with (
        opened(EndpointSettings(url=server.url, api="tgi", chat="off", **settings)) as endpoint,
        endpoint.turn() as turn,
    ):
        return await turn.complete("Say it.", decoding or Decoding(50))


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
        "other form": lambda: web.json_response({"status": "starting"}),
        "no details": lambda: web.json_response({"generated_text": "x"}),
    }
    return made[kind]()


@pytest.mark.parametrize(
    "kind",
    [
        "429",
        "429 later",
        "424",
        "500",
        "503 page",
        "504 empty",
        "torn",
        "empty",
        "wrong type",
        "other form",
        "no details",
    ],
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
        pytest.raises(RequestFailedError, match=r"failed 3 times in \d+ s, last with HTTP 503; what was"),
    ):
        await ask(server, attempts=3)
    assert len(server.requests) == 3


async def test_a_hanging_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tgi, "SECONDS_PER_TOKEN", 0.0)
    with (
        running(Server(held=lambda n: True)) as server,
        pytest.raises(RequestFailedError, match=r"failed 2 times in .*no answer within"),
    ):
        await ask(server, attempts=2, timeout=0.1)


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
    ],
)
async def test_what_no_second_try_can_mend_raises_at_once(
    response: Any, kind: type[EndpointError], said: str
) -> None:
    with running(Server(fault=lambda n: response())) as server, pytest.raises(kind, match=said):
        await ask(server)
    assert len(server.requests) == 1


async def test_the_key_goes_with_the_request_and_a_wrong_one_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(Server(answer=lambda p, q: ("fine", "eos_token"), api_key="right")) as server:
        monkeypatch.setenv("SELFINSTRUCT_API_KEY", "right")
        assert (await ask(server)).text == "fine"
        monkeypatch.setenv("SELFINSTRUCT_API_KEY", "wrong-secret")
        with pytest.raises(EndpointAuthError) as error:
            await ask(server)
    assert "wrong-secret" not in str(error.value)


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


def test_request_bodies_are_json() -> None:
    assert (
        json.loads(json.dumps(request_body("x", Decoding(5, temperature=1.0))))["parameters"]["temperature"] == 1.0
    )


@pytest.mark.parametrize(
    ("header", "expected"),
    [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("99999", 300.0), ("soon", None), (None, None), ("nan", None)],
)
def test_the_seconds_that_a_server_asks_for(header: str | None, expected: float | None) -> None:
    assert failures.retry_after(header) == expected


def test_a_date_to_come_back_at() -> None:
    when = datetime.now(timezone.utc) + timedelta(seconds=60)
    assert failures.retry_after(format_datetime(when, usegmt=True)) == pytest.approx(60, abs=2)
    assert failures.retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": "overloaded", "error_type": "x"}, "overloaded"),
        ({"error": {"message": "no such model", "type": "x"}}, "no such model"),
        ({"object": "error", "message": "too long"}, "too long"),
        ({"detail": [{"loc": ["body"], "msg": "field required"}]}, '[{"loc": ["body"], "msg": "field required"}]'),
        ({"state": 3}, ""),
        ("plain\n words", "plain words"),
        ("<html>busy</html>", ""),
        ("", ""),
    ],
)
def test_the_servers_own_words(body: Any, expected: str) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    assert failures.words(content.encode()) == expected


def test_pauses_grow_with_jitter_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.5)
    for attempt, middle in ((1, 0.5), (2, 1.0), (5, 8.0), (50, 30.0)):
        pauses = [failures.backoff(attempt) for _ in range(50)]
        assert 0.5 * middle <= min(pauses) < max(pauses) <= 1.5 * middle


async def test_a_connection_that_fails_is_told_without_its_address() -> None:
    import aiohttp

    for url in ("http://127.0.0.1:9/x", "http://localhost:9/x"):
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError) as error:
                await session.get(url)
        said = failures.no_connection(error.value).said
        assert said
        assert "127" not in said
        assert "localhost" not in said
        assert ":9" not in said

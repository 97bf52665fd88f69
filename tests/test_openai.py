"""The OpenAI-compatible client over real HTTP: what it sends, whose key goes where, what it makes of answers."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import huggingface_hub
import pytest
from aiohttp import web

from selfinstruct_hub.config import EndpointSettings
from selfinstruct_hub.endpoint import Limits, TransientError, failures, openai
from selfinstruct_hub.endpoint.connect import opened
from selfinstruct_hub.endpoint.openai import OpenAIServer
from selfinstruct_hub.errors import EndpointAuthError, EndpointError, EndpointRefusedError
from selfinstruct_hub.records import (
    BAD_ANSWER,
    CONNECTION,
    OVERLOADED,
    SERVER_ERROR,
    TIMEOUT,
    Completion,
    Decoding,
)
from tests.support.tgi import CHAT, Server, running

HUB_TOKEN = "hf_planted_token"
REGEX, SCHEMA = ("regex", "a+"), ("json", '{"type": "object"}')


@pytest.fixture(autouse=True)
def _a_hub_token_is_saved_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", HUB_TOKEN)
    monkeypatch.delenv("SELFINSTRUCT_API_KEY", raising=False)
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.001)


@asynccontextmanager
async def client(
    url: str, timeout: float = 20.0, key: str | None = None, **options: Any
) -> AsyncIterator[OpenAIServer]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    server = OpenAIServer(
        aiohttp.ClientSession(headers=headers), f"{url}/v1", model="test/scripted", timeout=timeout, **options
    )
    try:
        yield server
    finally:
        await server.close()


async def ask(
    server: Server, decoding: Decoding | None = None, prompt: str = "Say it.", **options: Any
) -> Completion:
    async with client(server.url, **options) as sender:
        return await sender.send(prompt, decoding or Decoding(50))


def says(text: str, reason: str = "eos_token") -> Callable[[str, dict[str, Any]], tuple[str, str]]:
    return lambda prompt, parameters: (text, reason)


# What is sent.


async def test_the_prompt_is_the_users_message() -> None:
    with running(Server(answer=says("fine"))) as server:
        await ask(server, Decoding(50, temperature=0.7, top_p=0.5, frequency_penalty=0.2, stop=("\nEND",), seed=7))
    assert server.chats == [
        {
            "model": "test/scripted",
            "messages": [{"role": "user", "content": "Say it."}],
            "stream": False,
            "max_tokens": 50,
            "temperature": 0.7,
            "top_p": 0.5,
            "frequency_penalty": 0.2,
            "seed": 7,
            "stop": ["\nEND"],
        }
    ]


async def test_greedy_is_temperature_0_and_nothing_unset_is_sent() -> None:
    with running(Server(answer=says("fine"))) as server:
        await ask(server, Decoding(50))
        await ask(server, Decoding(50, temperature=1.0, top_p=1.0))
        await ask(server, Decoding(50, top_p=0.9))
    common = {"model", "messages", "stream", "max_tokens"}
    assert [set(body) - common for body in server.chats] == [{"temperature"}, {"temperature"}, {"top_p"}]
    assert [body.get("temperature") for body in server.chats] == [0.0, 1.0, None]


@pytest.mark.parametrize(
    ("dialect", "decoding", "expected"),
    [
        ("tgi", Decoding(5, grammar=REGEX), {"response_format": {"type": "regex", "value": "a+"}}),
        ("tgi", Decoding(5, grammar=SCHEMA), {"response_format": {"type": "json", "value": {"type": "object"}}}),
        ("vllm", Decoding(5, grammar=REGEX), {"structured_outputs": {"regex": "a+"}}),
        ("vllm", Decoding(5, grammar=SCHEMA), {"structured_outputs": {"json": {"type": "object"}}}),
        ("sglang", Decoding(5, grammar=REGEX), {"regex": "a+"}),
        ("vllm", Decoding(5, top_k=9, repetition_penalty=1.1), {"top_k": 9, "repetition_penalty": 1.1}),
        ("llama.cpp", Decoding(5, top_k=9, repetition_penalty=1.1), {"top_k": 9, "repeat_penalty": 1.1}),
        ("", Decoding(5, top_k=9), {"top_k": 9}),
    ],
)
async def test_what_openais_protocol_has_no_words_for(
    dialect: str, decoding: Decoding, expected: dict[str, Any]
) -> None:
    with running(Server(answer=says("aaa"))) as server:
        assert (await ask(server, decoding, dialect=dialect)).text == "aaa"
    (sent,) = server.chats
    for name in ("model", "messages", "stream", "max_tokens", "temperature"):
        sent.pop(name, None)
    assert sent == expected


@pytest.mark.parametrize(
    ("dialect", "decoding", "said"),
    [
        ("", Decoding(5, grammar=REGEX), "cannot be held to a regex grammar; set `grammar: off`"),
        ("llama.cpp", Decoding(5, grammar=REGEX), "cannot be held to a regex grammar"),
        ("sglang", Decoding(5, grammar=SCHEMA), "cannot be held to a json grammar"),
        ("tgi", Decoding(5, top_k=9, repetition_penalty=1.1), "takes no top_k and no repetition_penalty in chat"),
    ],
)
async def test_what_a_server_cannot_be_told_is_refused_before_it_is_asked(
    dialect: str, decoding: Decoding, said: str
) -> None:
    with running(Server()) as server, pytest.raises(EndpointRefusedError, match=said) as error:
        await ask(server, decoding, dialect=dialect)
    assert not server.received
    assert server.url not in error.value.said


async def test_more_stops_than_the_server_takes_are_cut_at_here() -> None:
    decoding = Decoding(5, stop=("1", "2", "3", "4", "5"))
    with running(Server(answer=says("one 5 two"))) as server:
        found = await ask(server, decoding)
        await ask(server, decoding, limits=Limits(max_stop_sequences=2))
    assert (found.text, found.finish_reason) == ("one ", "stop")
    assert [body["stop"] for body in server.chats] == [["1", "2", "3", "4"], ["1", "2"]]


# Whose key goes where.


@pytest.mark.parametrize("saved", ["variable", "file"])
async def test_the_hubs_token_saved_here_goes_to_nobody_else(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if saved == "file":
        monkeypatch.delenv("HF_TOKEN")
        (tmp_path / "token").write_text(HUB_TOKEN)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    assert huggingface_hub.get_token() == HUB_TOKEN
    with running(Server(answer=says("fine"))) as server:
        async with opened(EndpointSettings(url=f"{server.url}/v1")) as endpoint, endpoint.turn() as turn:
            assert (await turn.complete("Say it.", Decoding(5))).text == "fine"
    assert CHAT in [path for path, _ in server.received]
    assert HUB_TOKEN not in json.dumps(server.received)
    names = {name.lower() for _, headers in server.received for name in headers}
    assert "authorization" not in names


async def test_a_key_of_ones_own_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFINSTRUCT_API_KEY", "mine")
    with running(Server(answer=says("fine"), api_key="mine")) as server:
        async with opened(EndpointSettings(url=f"{server.url}/v1")) as endpoint, endpoint.turn() as turn:
            assert (await turn.complete("Say it.", Decoding(5))).text == "fine"
    assert {headers["Authorization"] for _, headers in server.received} == {"Bearer mine"}


async def test_a_key_that_the_server_repeats_is_not_shown() -> None:
    def repeats(number: int) -> web.Response:
        return web.json_response({"error": {"message": "Incorrect API key provided: sk-mine."}}, status=401)

    with running(Server(fault=repeats)) as server, pytest.raises(EndpointAuthError) as error:
        await ask(server, key="sk-mine", secrets=failures.Secrets(["sk-mine"]))
    assert "Incorrect API key provided: ***." in str(error.value)


# What comes back.


@pytest.mark.parametrize(
    ("text", "reason", "expected"),
    [
        ("done", "eos_token", ("done", "eos")),
        ("cut sho", "length", ("cut sho", "length")),
        ("done\nEND of it", "eos_token", ("done", "eos")),  # the server leaves the stop out, and says only "stop"
        ("", "eos_token", ("", "eos")),
    ],
)
async def test_an_answer_becomes_a_completion(text: str, reason: str, expected: tuple[str, str]) -> None:
    with running(Server(answer=says(text, reason))) as server:
        found = await ask(server, Decoding(50, stop=("\nEND",)))
    assert (found.text, found.finish_reason) == expected
    assert (found.prompt_tokens, found.generated_tokens) == (2, len(expected[0].split()))
    assert (found.model, found.endpoint_kind) == ("test/scripted", "openai")
    assert found.total_time is not None
    assert found.queue_time is None


def choice(**fields: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "a STOP b"}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop", **fields}]}


@pytest.mark.parametrize(
    ("answer", "stop", "expected"),
    [
        (choice(), (), ("a STOP b", "eos")),
        (choice(), ("STOP",), ("a ", "stop")),  # a server that keeps it
        (choice(finish_reason="length"), ("STOP",), ("a ", "stop")),
        (choice(finish_reason="length"), (), ("a STOP b", "length")),
        (choice(finish_reason="stop_sequence"), (), ("a STOP b", "stop")),
        (choice(finish_reason="eos_token"), (), ("a STOP b", "eos")),
        (choice(stop_reason="\n9."), ("\n9.",), ("a STOP b", "stop")),  # vLLM
        (choice(stop_reason=None), (), ("a STOP b", "eos")),
        (choice(finish_reason="content_filter"), (), ("a STOP b", "length")),
        (choice(finish_reason=None), (), ("a STOP b", "eos")),
        (choice(finish_reason={"no": "word"}), (), ("a STOP b", "eos")),
    ],
)
async def test_how_servers_say_that_it_ended(
    answer: dict[str, Any], stop: tuple[str, ...], expected: tuple[str, str]
) -> None:
    with running(Server(fault=lambda number: web.json_response(answer))) as server:
        found = await ask(server, Decoding(5, stop=stop))
    assert (found.text, found.finish_reason) == expected
    assert (found.prompt_tokens, found.generated_tokens) == (None, None)  # there was no usage


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}, (3, 4)),
        ({"prompt_tokens": 3}, (3, None)),
        ({"prompt_tokens": "3", "completion_tokens": None}, (None, None)),
        ("none", (None, None)),
        (None, (None, None)),
        ([], (None, None)),
    ],
)
async def test_tokens_are_those_that_the_server_counts(
    usage: Any, expected: tuple[int | None, int | None]
) -> None:
    with running(Server(fault=lambda number: web.json_response({**choice(), "usage": usage}))) as server:
        found = await ask(server)
    assert (found.prompt_tokens, found.generated_tokens) == expected


async def test_times_that_the_server_tells() -> None:
    headers = {"x-queue-time": "250", "x-inference-time": "1500"}
    with running(Server(fault=lambda number: web.json_response(choice(), headers=headers))) as server:
        found = await ask(server)
    assert (found.queue_time, found.inference_time) == (0.25, 1.5)


BAD: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "an empty answer"),
    "white space": (" \n", "an empty answer"),
    "torn": ('{"choices": [{"message": {"content": "ab', "cut off or not JSON"),
    "a page": ("<html>hello</html>", "cut off or not JSON"),
    "not UTF-8": (b"\xff\xfe{}", "cut off or not JSON"),
    "a list": ("[]", "no chat completion"),
    "a number": ("1", "no chat completion"),
    "null": ("null", "no chat completion"),
    "another object": ('{"generated_text": "x"}', "without choices"),
    "no choices": ('{"choices": []}', "without choices"),
    "choices null": ('{"choices": null}', "without choices"),
    "choices an object": ('{"choices": {"message": {"content": "x"}}}', "without choices"),
    "choices of nothing": ('{"choices": [null]}', "no chat completion"),
    "choices of text": ('{"choices": ["x"]}', "no chat completion"),
    "no message": ('{"choices": [{"text": "x"}]}', r"without content\)$"),
    "a message of text": ('{"choices": [{"message": "x"}]}', "without content"),
    "content null": (
        '{"choices": [{"message": {"content": null, "reasoning": "hm"}, "finish_reason": "length"}]}',
        r"without content \(finish_reason length\)",
    ),
    "content a list": ('{"choices": [{"message": {"content": [{"text": "x"}]}}]}', "without content"),
}


@pytest.mark.parametrize("name", BAD)
async def test_answers_that_are_none(name: str) -> None:
    body, said = BAD[name]
    content = body if isinstance(body, bytes) else body.encode()
    response = lambda number: web.Response(body=content, content_type="application/json")  # noqa: E731
    with running(Server(fault=response)) as server, pytest.raises(TransientError, match=said) as error:
        await ask(server)
    assert error.value.reason == BAD_ANSWER


@pytest.mark.parametrize(
    ("response", "reason", "said"),
    [
        (lambda: web.Response(status=429), OVERLOADED, "HTTP 429"),
        (lambda: web.json_response({"error": {"message": "busy"}}, status=503), SERVER_ERROR, "HTTP 503: busy"),
        (
            lambda: web.Response(text="<html>x</html>", status=502, content_type="text/html"),
            SERVER_ERROR,
            "HTTP 502",
        ),
        (
            lambda: web.json_response({"error": "CUDA", "error_type": "generation"}, status=424),
            SERVER_ERROR,
            "CUDA",
        ),
        (lambda: web.Response(status=504), TIMEOUT, "HTTP 504"),
    ],
)
async def test_what_another_try_may_mend(response: Any, reason: str, said: str) -> None:
    with running(Server(fault=lambda number: response())) as server, pytest.raises(TransientError) as error:
        await ask(server)
    assert error.value.reason == reason
    assert said in error.value.said


async def test_a_server_says_when_to_come_back() -> None:
    def busy(number: int) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "7"})

    with running(Server(fault=busy)) as server, pytest.raises(TransientError) as error:
        await ask(server)
    assert error.value.retry_after == 7.0


@pytest.mark.parametrize(
    ("response", "kind", "said"),
    [
        (
            lambda: web.json_response({"error": {"message": "max_tokens is too large"}}, status=400),
            EndpointRefusedError,
            r"\(400: max_tokens is too large\)",
        ),
        (lambda: web.Response(text="Failed to parse", status=400), EndpointRefusedError, "400: Failed to parse"),
        (lambda: web.json_response({"detail": "Not Found"}, status=404), EndpointRefusedError, "404: Not Found"),
        (
            lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:9/v1/chat/completions"}),
            EndpointRefusedError,
            "redirects to http://127.0.0.1:9/v1/chat/completions; give that address",
        ),
        (lambda: web.Response(status=401), EndpointAuthError, "SELFINSTRUCT_API_KEY"),
        (lambda: web.Response(status=403), EndpointAuthError, "SELFINSTRUCT_API_KEY"),
    ],
)
async def test_what_no_other_try_can_mend(response: Any, kind: type[EndpointError], said: str) -> None:
    with running(Server(fault=lambda n: response())) as server, pytest.raises(kind, match=said):
        await ask(server)


async def test_an_answer_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "SECONDS_PER_TOKEN", 0.0)
    with running(Server(held=lambda number: True)) as server, pytest.raises(TransientError) as error:
        await ask(server, timeout=0.05)
    assert error.value.reason == TIMEOUT


async def test_a_connection_that_fails() -> None:
    with pytest.raises(TransientError) as error:
        async with client("http://127.0.0.1:9") as sender:
            await sender.send("x", Decoding(5))
    assert error.value.reason == CONNECTION


async def test_a_connection_that_is_cut() -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "500"})
        await response.prepare(request)
        await response.write(b'{"choices": [')
        assert request.transport is not None
        request.transport.abort()
        return response

    server = Server()
    server._chat = cut  # type: ignore[method-assign]
    with running(server), pytest.raises(TransientError) as error:
        await ask(server)
    assert error.value.reason == CONNECTION


# Many at once.


async def test_connections_are_used_again() -> None:
    seen = set()
    server = Server(answer=says("fine"), delay=lambda number: 0.01)
    chat = server._chat

    async def remember(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        seen.add(request.transport.get_extra_info("peername"))
        return await chat(request)

    server._chat = remember  # type: ignore[method-assign]
    with running(server):
        async with client(server.url) as sender:
            for _ in range(3):
                await asyncio.gather(*(sender.send("x", Decoding(5)) for _ in range(8)))
    assert len(server.chats) == 24
    assert len(seen) <= 8


async def test_requests_that_are_cancelled_leave_nothing_open() -> None:
    """An unclosed session or connection is a warning, and so an error here."""
    all_there = threading.Event()

    def delay(number: int) -> float:
        if number == 7:
            all_there.set()
        return 60.0 if number < 8 else 0.0

    with running(Server(answer=says("fine"), delay=delay)) as server:
        async with client(server.url) as sender:
            sending = [asyncio.create_task(sender.send("x", Decoding(5))) for _ in range(8)]
            await asyncio.to_thread(all_there.wait, 60)
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
            assert (await sender.send("x", Decoding(5))).text == "fine"


async def test_half_a_character_does_not_end_a_run() -> None:
    body = '{"choices": [{"message": {"role": "assistant", "content": "a\\ud83d b"}, "finish_reason": "stop"}]}'
    with running(Server(fault=lambda n: web.Response(text=body, content_type="application/json"))) as server:
        found = await ask(server)
    assert found.text == "a? b"
    assert (found.prompt_tokens, found.generated_tokens) == (None, None)


@pytest.mark.parametrize("status", [200, 503])
async def test_a_nesting_without_end_is_a_bad_answer(status: int) -> None:
    deep = "[" * 200_000
    with (
        running(Server(fault=lambda n: web.Response(text=deep, status=status))) as server,
        pytest.raises(TransientError),
    ):
        await ask(server)

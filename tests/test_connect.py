"""What stands at an address is found by asking, over real HTTP: kinds, models, limits, and what goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from selfinstruct_hub import events
from selfinstruct_hub.config import EndpointSettings
from selfinstruct_hub.endpoint import failures
from selfinstruct_hub.endpoint.connect import opened
from selfinstruct_hub.endpoint.detect import Address
from selfinstruct_hub.errors import (
    ConfigError,
    EndpointAuthError,
    EndpointProtocolError,
    EndpointRefusedError,
    EndpointUnreachableError,
    SelfInstructError,
)
from selfinstruct_hub.records import Completion, Decoding
from tests.support.tgi import CHAT, CHAT_TOKENIZE, GENERATE, INFO, MODELS, TOKENIZE, Server, fine, running

NOWHERE = "http://127.0.0.1:9"
TGI_ROUTES = {INFO, GENERATE, CHAT_TOKENIZE, TOKENIZE}


@pytest.fixture(autouse=True)
def _no_waiting_and_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.001)
    for name in ("HF_TOKEN", "SELFINSTRUCT_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def scripted(**fields: Any) -> Server:
    return Server(answer=fine, **fields)


def entry(name: str = "test/scripted", **fields: Any) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1, "owned_by": "somebody", **fields}


def vllm(**fields: Any) -> Server:
    models = [entry(owned_by="vllm", max_model_len=4096, root="test/scripted", parent=None)]
    return scripted(
        **{"off": TGI_ROUTES, "models": models, "other_routes": {"/version": {"version": "0.12.0"}}, **fields}
    )


def llama_cpp(**meta: Any) -> Server:
    models = [entry("model.gguf", owned_by="llamacpp", meta={"n_ctx_train": 131072, **meta})]
    props = {"default_generation_settings": {"n_ctx": 8192}, "total_slots": 4, "build_info": "b7000-abc"}
    return scripted(off=TGI_ROUTES, models=models, other_routes={"/props": props})


async def connected(url: str | list[str], **settings: Any) -> tuple[events.Connected, Completion]:
    """What an address is taken for, and an answer of it."""
    told: list[events.Event] = []
    async with opened(EndpointSettings(url=url, **settings), told.append) as endpoint, endpoint.turn() as turn:
        completion = await turn.complete("Say it.", Decoding(5))
    first = told[0]
    assert isinstance(first, events.Connected)
    assert (first.kind, first.model, first.chat) == (endpoint.kind, endpoint.model, endpoint.chat)
    return first, completion


async def refused(kind: type[SelfInstructError], url: str | list[str], **settings: Any) -> str:
    """The one line that connecting ends with."""
    with pytest.raises(kind) as error:
        await connected(url, **settings)
    assert type(error.value) is kind
    assert "\n" not in str(error.value)
    return str(error.value)


# What is found.

FOUND: dict[str, tuple[Callable[[], Server], str, dict[str, Any]]] = {
    "text-generation-inference": (
        scripted,
        "",
        {
            "kind": "tgi",
            "version": "3.3.6-dev0",
            "max_total_tokens": 8192,
            "max_concurrent_requests": 128,
            "found": "GET /info names text-generation-inference 3.3.6-dev0",
        },
    ),
    "its Messages API": (
        scripted,
        "/v1",
        {
            "kind": "openai",
            "version": "3.3.6-dev0",
            "max_total_tokens": 8192,
            "max_concurrent_requests": 128,
            "found": "GET /v1/models names text-generation-inference 3.3.6-dev0",
        },
    ),
    "its Messages API, /info hidden": (
        lambda: scripted(off={INFO}),
        "/v1",
        {"kind": "openai", "found": "GET /v1/models names text-generation-inference"},
    ),
    "vLLM": (
        vllm,
        "",
        {
            "kind": "openai",
            "version": "0.12.0",
            "max_total_tokens": 4096,
            "found": "GET /v1/models names vLLM 0.12.0",
        },
    ),
    "vLLM, /v1": (vllm, "/v1", {"kind": "openai", "version": "0.12.0", "max_total_tokens": 4096}),
    "vLLM, the whole route": (vllm, "/v1/chat/completions", {"kind": "openai", "max_total_tokens": 4096}),
    "SGLang": (
        lambda: vllm(models=[entry(owned_by="sglang", max_model_len=2048)], other_routes={}),
        "",
        {"kind": "openai", "max_total_tokens": 2048, "found": "GET /v1/models names SGLang"},
    ),
    "llama.cpp": (
        llama_cpp,
        "",
        {
            "kind": "openai",
            "model": "model.gguf",
            "version": "b7000-abc",
            "max_total_tokens": 8192,  # not what the model was trained with
            "found": "GET /v1/models names llama.cpp b7000-abc",
        },
    ),
    "llama.cpp that tells its slots": (
        lambda: llama_cpp(n_ctx=2048),
        "/v1",
        {"max_total_tokens": 2048, "model": "model.gguf"},
    ),
    "somebody": (
        lambda: scripted(off=TGI_ROUTES, models=[entry(max_model_len="long", meta=None)]),
        "",
        {"kind": "openai", "max_total_tokens": None, "found": "GET /v1/models lists its models"},
    ),
    "chat alone": (
        lambda: scripted(off={*TGI_ROUTES, MODELS}),
        "",
        {"kind": "openai", "found": "POST /v1/chat/completions answers"},
    ),
    "chat alone, /v1": (
        lambda: scripted(off={*TGI_ROUTES, MODELS}),
        "/v1",
        {"kind": "openai", "found": "POST /v1/chat/completions answers"},
    ),
    "/generate alone": (
        lambda: scripted(off={INFO, MODELS, CHAT, CHAT_TOKENIZE, TOKENIZE}),
        "",
        {"kind": "tgi", "model": "unknown", "found": "POST /generate answers", "max_total_tokens": None},
    ),
}


@pytest.mark.parametrize("name", FOUND)
async def test_what_stands_there_is_found(name: str) -> None:
    made, path, expected = FOUND[name]
    with running(made()) as server:
        told, completion = await connected(server.url + path)
    expected = {"endpoint": server.url + path, "model": "test/scripted", "chat": told.kind == "openai", **expected}
    assert {key: getattr(told, key) for key in expected} == expected
    assert completion.text == " fine"
    assert (completion.endpoint_kind, completion.model) == (told.kind, told.model)


async def test_each_kind_is_asked_where_it_was_set() -> None:
    with running(scripted()) as server:
        assert (await connected(server.url, api="openai"))[0].kind == "openai"
        assert INFO not in [path for path, _ in server.received][:1]
        assert (await connected(f"{server.url}/v1", api="tgi"))[0].kind == "tgi"
    with running(scripted(off={INFO, CHAT_TOKENIZE})) as server:
        told, _ = await connected(server.url, api="tgi", model="mine")
        assert (told.kind, told.model, told.max_concurrent_requests) == ("tgi", "mine", None)
        assert {path for path, _ in server.received} == {INFO, GENERATE, CHAT_TOKENIZE}
    with running(scripted(off={MODELS})) as server:
        told, _ = await connected(server.url, api="openai", model="mine")
        assert (told.kind, told.model) == ("openai", "mine")
        assert {path for path, _ in server.received} == {MODELS, CHAT}
        assert {body["model"] for body in server.chats} == {"mine"}


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/chat/completions", "/v1/chat/completions/"])
def test_addresses_with_and_without_v1(path: str) -> None:
    address = Address.of(f"https://gpu.example:8443/a{path}")
    assert (address.root, address.base) == ("https://gpu.example:8443/a", "https://gpu.example:8443/a/v1")
    assert address.versioned is ("v1" in path)


def test_a_route_of_its_own_form_is_taken_as_it_is() -> None:
    address = Address.of("https://host.example/v1beta/openai/chat/completions")
    assert (address.base, address.versioned) == ("https://host.example/v1beta/openai", True)


# Models.


async def test_the_model_is_sent_as_the_server_knows_it() -> None:
    with running(scripted()) as server:
        await connected(f"{server.url}/v1")  # text-generation-inference reads other names as adapters
        assert {body["model"] for body in server.chats} == {"tgi"}
    with running(
        vllm(models=[entry("a", owned_by="vllm"), entry("b", owned_by="vllm", max_model_len=7)])
    ) as server:
        told, _ = await connected(server.url, model="b")
        assert (told.model, told.max_total_tokens) == ("b", 7)
        assert {body["model"] for body in server.chats} == {"b"}


@pytest.mark.parametrize("name", ["llama3", "llama3:latest"])
async def test_names_that_are_written_otherwise(name: str) -> None:
    with running(vllm(models=[entry("llama3:latest"), entry(name, owned_by="x"), entry("org/model")])) as server:
        assert (await connected(server.url, model=name))[0].kind == "openai"
    with running(vllm(models=[entry("org/model:fast"), entry("org/model")])) as server:
        assert (await connected(server.url, model="org/model:fast"))[0].model == "org/model:fast"


async def test_a_provider_behind_the_name_is_sent() -> None:
    server = vllm(models=[entry("org/model"), entry("org/other")])
    with running(server):
        assert "does not exist" in await refused(EndpointRefusedError, server.url, model="org/model:fast")
    assert server.chats[0]["model"] == "org/model:fast"


async def test_a_model_that_is_not_served() -> None:
    with running(scripted()) as server:
        said = await refused(EndpointRefusedError, server.url, model="other")
        assert said == f"{server.url} serves test/scripted, not other; change --model or the endpoint"
        said = await refused(EndpointRefusedError, f"{server.url}/v1", model="other")
        assert said == f"{server.url}/v1 serves test/scripted, not other; change --model or the endpoint"
    many = [entry(f"m{number}") for number in range(10)]
    with running(vllm(models=many)) as server:
        said = await refused(EndpointRefusedError, server.url, model="other")
        assert "serves m0, m1, m2, m3, m4, m5, m6, m7 and 2 more, not other; name one of them with --model" in said
        said = await refused(ConfigError, server.url)
        assert said.endswith(
            "serves several models: m0, m1, m2, m3, m4, m5, m6, m7 and 2 more; choose one with --model"
        )
    with running(vllm(models=[entry("m0")], off={*TGI_ROUTES, MODELS})) as server:
        said = await refused(EndpointRefusedError, server.url)
        assert "a request that names no model (404: The model `tgi` does not exist.)" in said
        assert "refuses the model other" in await refused(EndpointRefusedError, server.url, model="other")
        assert (await connected(server.url, model="m0"))[0].model == "m0"


# What is no endpoint, or none yet.


async def test_nobody_answers() -> None:
    for api in ("auto", "tgi", "openai"):
        said = await refused(EndpointUnreachableError, NOWHERE, api=api)
        assert said.startswith(f"{NOWHERE} cannot be reached (")
        assert said.endswith("start the server, or leave --endpoint out to use the embedded engine")
    assert "cannot be reached" in await refused(EndpointUnreachableError, "http://no.such.host.invalid/v1")


async def test_something_else_answers() -> None:
    everything = {INFO, MODELS, CHAT, GENERATE}
    with running(scripted(off=everything)) as server:
        said = await refused(EndpointProtocolError, server.url)
        assert said == (
            f"{server.url} is neither text-generation-inference nor OpenAI-compatible: GET /info answered 404, "
            "GET /v1/models answered 404, POST /v1/chat/completions answered 404, POST /generate answered 404; "
            "check the address"
        )
        said = await refused(EndpointProtocolError, server.url, api="openai")
        assert "is not OpenAI-compatible: GET /v1/models answered 404, POST /v1/chat/completions" in said
        assert GENERATE not in said
    with running(scripted(info={"hello": "world"}, off=everything - {INFO})) as server:
        said = await refused(EndpointProtocolError, server.url, api="tgi")
        assert "is not text-generation-inference: GET /info answered 200 without a model_id, POST" in said


async def test_a_page_is_no_answer() -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>hello</html>", content_type="text/html")

    server = scripted()
    for name in ("_info", "_models", "_chat", "_generate"):
        setattr(server, name, page)
    with running(server):
        assert "POST /generate answered 200" in await refused(EndpointProtocolError, server.url)


@pytest.mark.parametrize("route", [INFO, MODELS, CHAT])
async def test_a_server_that_is_still_loading_is_waited_for(route: str) -> None:
    states = iter([503, 429, 200, *[200] * 9])
    server = scripted(off={INFO, MODELS} - {route})
    name = {INFO: "_info", MODELS: "_models", CHAT: "_chat"}[route]
    ready = getattr(server, name)

    async def loading(request: web.Request) -> web.StreamResponse:
        status = next(states)
        if status == 200:
            answer: web.StreamResponse = await ready(request)
            return answer
        return web.json_response({"error": {"message": "Loading model"}}, status=status)

    setattr(server, name, loading)
    with running(server):
        await connected(server.url)
        states = iter([503] * 9)
        said = await refused(EndpointUnreachableError, server.url, attempts=2)
    assert "is not ready (HTTP 503: Loading model); wait until it has loaded its model" in said


async def test_a_proxy_that_fails_on_a_hidden_route_is_no_hindrance() -> None:
    async def broken(request: web.Request) -> web.Response:
        return web.json_response({"error": "no such thing"}, status=500)

    server = vllm()
    server._info = broken  # type: ignore[method-assign]
    server.off = TGI_ROUTES - {INFO}
    with running(server):
        assert (await connected(server.url))[0].kind == "openai"


async def test_what_can_be_done_without_is_done_without() -> None:
    """Even where a proxy hangs or fails for good on it."""

    async def broken(request: web.Request) -> web.Response:
        return web.Response(status=502)

    server = vllm(off=TGI_ROUTES - {INFO}, models=None, other_routes={})
    server._info = broken  # type: ignore[method-assign]
    with running(server):
        told, _ = await connected(f"{server.url}/v1")
    assert (told.found, told.max_total_tokens) == ("GET /v1/models names text-generation-inference", None)
    assert [path for path, _ in server.received].count(INFO) == 1


# Keys.


@pytest.mark.parametrize(
    ("made", "path"),
    [
        (lambda: scripted(api_key="right", guarded={INFO, MODELS, CHAT, GENERATE}), ""),  # a gateway
        (lambda: scripted(api_key="right"), ""),  # /chat_tokenize is the first that wants it
        (lambda: scripted(api_key="right", guarded={MODELS, CHAT}), "/v1"),
        (lambda: vllm(api_key="right", guarded={MODELS, CHAT}), ""),
        (lambda: vllm(api_key="right", guarded={MODELS, CHAT}), "/v1"),
    ],
)
async def test_a_key_that_is_missing_or_wrong(
    made: Callable[[], Server], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(made()) as server:
        said = await refused(EndpointAuthError, server.url + path)
        assert "wants a key (401); set SELFINSTRUCT_API_KEY in the environment" in said
        monkeypatch.setenv("SELFINSTRUCT_API_KEY", "wrong-secret")
        said = await refused(EndpointAuthError, server.url + path)
        assert "refuses the key (401); set SELFINSTRUCT_API_KEY to one that it takes" in said
        assert "wrong-secret" not in said
        monkeypatch.setenv("SELFINSTRUCT_API_KEY", "right")
        assert (await connected(server.url + path))[1].text == " fine"


async def test_a_key_in_a_servers_words_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    async def repeats(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": f"bad key {request.headers['Authorization']}"}}, status=401)

    server = vllm()
    server._models = repeats  # type: ignore[method-assign]
    monkeypatch.setenv("SELFINSTRUCT_API_KEY", "my-secret")
    with running(server):
        said = await refused(EndpointAuthError, f"{server.url}/v1")
    assert "bad key Bearer ***" in said


# Several.


async def test_several_of_one_model_make_one_endpoint() -> None:
    with running(scripted()) as first, running(scripted()) as second:
        told: list[events.Event] = []
        settings = EndpointSettings(url=[first.url, second.url], concurrency=2)
        async with opened(settings, told.append) as endpoint:
            assert endpoint.model == "test/scripted"
            assert endpoint.limits.max_concurrent_requests == 256
        assert [event.endpoint for event in told if isinstance(event, events.Connected)] == [first.url, second.url]


async def test_several_that_do_not_go_together() -> None:
    with running(scripted()) as first, running(scripted()) as second:
        second.info["model_id"] = "another"
        said = await refused(ConfigError, [first.url, second.url])
        assert said == (
            f"the endpoints serve different models: {first.url} test/scripted, {second.url} another; a run is "
            "made with one"
        )
        second.info["model_id"] = "test/scripted"
        said = await refused(ConfigError, [first.url, f"{second.url}/v1"])
        assert f"{second.url}/v1 puts prompts into a chat template and {first.url} does not" in said
        await refused(EndpointUnreachableError, [first.url, NOWHERE])


@pytest.mark.parametrize(("setting", "value"), [("chat", "off"), ("tokenizer", "some/folder")])
async def test_what_an_openai_compatible_server_cannot_do(setting: str, value: str) -> None:
    with running(vllm()) as server:
        said = await refused(ConfigError, server.url, **{setting: value})
    assert said.startswith(f"{server.url} is OpenAI-compatible, which puts prompts into its own chat template; ")
    assert f"endpoint.{setting}" in said

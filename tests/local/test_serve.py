"""The server over real HTTP, with TGI's own clients: rules, words, shapes, streams, and what goes wrong."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests
import text_generation
from huggingface_hub import InferenceClient
from text_generation.errors import ValidationError
from text_generation.types import Response, StreamResponse

from selfinstruct_hub.errors import LocalEngineError, ModelNotFoundError
from selfinstruct_hub.local.child import LocalServer
from selfinstruct_hub.local.serve import serve
from tests.local.conftest import API_KEY

pytestmark = [
    pytest.mark.engine,
    pytest.mark.xdist_group("engine"),
    # text-generation calls what pydantic 2 has renamed.
    pytest.mark.filterwarnings("ignore:The `dict` method is deprecated"),
]

PROMPT = "Once upon a time"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Ada", "Grace"]}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def post(url: str, route: str, body: Any, **more: Any) -> requests.Response:
    return requests.post(url + route, json=body, timeout=60, **more)


def generate(url: str, prompt: str = PROMPT, **parameters: Any) -> dict[str, Any]:
    body = {"inputs": prompt, "parameters": {"max_new_tokens": 12, "details": True, **parameters}}
    answer = post(url, "/generate", body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def hold(session: aiohttp.ClientSession, route: str, body: Any) -> None:
    """Asks, and reads to the end or to its own cancellation."""
    async with session.post(route, json=body) as answer:
        await answer.read()


async def until(url: str, name: str, wanted: Callable[[float], bool], otherwise: str) -> None:
    for _ in range(400):
        if wanted(await asyncio.to_thread(metric, url, name)):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(otherwise)


def metric(url: str, name: str) -> float:
    page = requests.get(url + "/metrics", timeout=60).text
    found = re.search(rf"^{name} (\S+)$", page, re.MULTILINE)
    return float(found[1]) if found else 0.0


# Parameters, and the exact words after "Input validation error: ".
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 0}, "`temperature` must be strictly positive"),
    ({"temperature": -0.5}, "`temperature` must be strictly positive"),
    ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 0.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 1.0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"top_k": -1}, "`top_k` must be strictly positive"),
    ({"repetition_penalty": 0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"frequency_penalty": -2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"stop": list("abcde")}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    (
        {"max_new_tokens": 8190},
        "`inputs` tokens + `max_new_tokens` must be <= 8192. Given: 4 `inputs` tokens and 8190 `max_new_tokens`",
    ),
    ({"best_of": 2}, "`best_of` != 1 is not allowed for this endpoint"),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"truncate": 0}, "`truncate` must be strictly positive and less than 8191. Given: 0"),
    ({"truncate": 8192}, "`truncate` must be strictly positive and less than 8191. Given: 8192"),
    ({"typical_p": 0.5}, "`typical_p` is not supported by the embedded engine"),
    ({"watermark": True}, "`watermark` is not supported by the embedded engine"),
    ({"top_n_tokens": 1}, "`top_n_tokens` is not supported by the embedded engine"),
    ({"adapter_id": "x"}, "`adapter_id` is not supported by the embedded engine"),
    ({"grammar": {"type": "json", "value": [1]}}, "grammar is not supported"),
    (
        {"grammar": {"type": "json", "value": {"type": "object"}}},
        "grammar is not valid: Grammar must have a 'properties' field",
    ),
    (
        {"grammar": {"type": "regex", "value": ""}},
        "grammar is not valid: `value` cannot be empty for `regex` grammar",
    ),
    (
        {"grammar": {"type": "regex", "value": ".{1,200}"}},
        "grammar is not valid: the bounded repetition {1,200} (more than 64) takes the embedded engine too long "
        "to compile: use + or *, and bound the length with max_new_tokens",
    ),
]


@pytest.mark.parametrize(("parameters", "words"), REFUSED, ids=[json.dumps(p) for p, _ in REFUSED])
def test_what_gets_a_422(local_server: str, parameters: dict[str, Any], words: str) -> None:
    answer = post(local_server, "/generate", {"inputs": PROMPT, "parameters": parameters})
    assert answer.status_code == 422
    expected = {"error": f"Input validation error: {words}", "error_type": "validation"}
    assert answer.json() == expected
    if "best_of" not in parameters:  # which has words of its own when streaming
        streamed = post(local_server, "/generate_stream", {"inputs": PROMPT, "parameters": parameters})
        assert (streamed.status_code, streamed.text) == (200, f"data:{compact(expected)}\n\n")


def compact(document: object) -> str:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def test_other_422s(local_server: str) -> None:
    answer = post(local_server, "/generate", {"inputs": ""})
    assert answer.json()["error"] == "Input validation error: `inputs` cannot be empty"
    answer = post(local_server, "/generate", {"inputs": "a b " * 5000, "parameters": {"max_new_tokens": 1}})
    assert answer.json()["error"].startswith("Input validation error: `inputs` tokens + `max_new_tokens` must be")
    answer = post(local_server, "/generate_stream", {"inputs": PROMPT, "parameters": {"best_of": 2}})
    assert "`best_of` != 1 is not supported when streaming tokens" in answer.text
    parameters = {"decoder_input_details": True}
    answer = post(local_server, "/generate_stream", {"inputs": PROMPT, "parameters": parameters})
    assert "`decoder_input_details` == true is not supported when streaming tokens" in answer.text


@pytest.mark.parametrize(
    ("raw", "content_type", "status", "words"),
    [
        (b"{", "application/json", 400, "Failed to parse the request body as JSON"),
        (b'{"inputs": NaN}', "application/json", 400, "Failed to parse the request body as JSON"),
        (b'{"inputs": "\\ud800"}', "application/json", 400, "Failed to parse the request body as JSON"),
        (b"[" * 100000, "application/json", 400, "Failed to parse the request body as JSON"),
        (b"\xff", "application/json", 400, "Failed to parse the request body as JSON"),
        (b"{}", "application/json", 422, "missing field `inputs`"),
        (b'{"inputs": 3}', "application/json", 422, "into the target type: inputs"),
        (b'{"inputs": "x", "parameters": {"seed": -1}}', "application/json", 422, "parameters.seed"),
        (b'{"inputs": "x", "parameters": {"max_new_tokens": -1}}', "application/json", 422, "max_new_tokens"),
        (b'{"inputs": "x", "parameters": {"grammar": {"type": "x"}}}', "application/json", 422, "grammar.type"),
        (b"{}", "text/plain", 415, "Expected request with `Content-Type: application/json`"),
    ],
)
def test_a_body_that_is_no_request_is_answered_in_plain_text(
    local_server: str, raw: bytes, content_type: str, status: int, words: str
) -> None:
    answer = requests.post(
        local_server + "/generate", data=raw, headers={"Content-Type": content_type}, timeout=60
    )
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/plain")
    assert words in answer.text


def test_the_shapes_are_those_of_tgi(local_server: str) -> None:
    body: dict[str, Any] = {"inputs": PROMPT, "parameters": {"max_new_tokens": 4, "details": True}}
    answer = post(local_server, "/generate", body)
    parsed = Response(**answer.json())
    assert parsed.details.finish_reason == "length"
    assert parsed.details.generated_tokens == len(parsed.details.tokens) == 4
    assert parsed.details.prefill == []
    assert parsed.details.seed is None, "nothing was drawn"
    assert answer.headers["x-prompt-tokens"] == "4"
    assert answer.headers["x-generated-tokens"] == "4"
    for name in ("x-queue-time", "x-inference-time", "x-total-time", "x-time-per-token"):
        assert int(answer.headers[name]) >= 0
    assert int(answer.headers["x-total-time"]) < 60_000
    assert answer.headers["x-compute-type"]

    del body["parameters"]["details"]
    assert set(post(local_server, "/generate", body).json()) == {"generated_text"}
    listed = post(local_server, "/", body).json()
    assert listed == [{"generated_text": PROMPT + parsed.generated_text}]


def test_without_parameters_tgi_samples_and_with_none_of_them_it_does_not(local_server: str) -> None:
    body: dict[str, Any] = {"inputs": "Pick a word:", "parameters": {"max_new_tokens": 6, "details": True}}
    first = post(local_server, "/generate", body).json()
    assert first == post(local_server, "/generate", body).json()
    for turns_on in ({"top_k": 5}, {"top_p": 0.9}, {"temperature": 1.3}, {"do_sample": True}):
        body["parameters"] = {"max_new_tokens": 6, "details": True, "do_sample": False, **turns_on}
        assert post(local_server, "/generate", body).json()["details"]["seed"] is not None, turns_on
    body["parameters"] = {"max_new_tokens": 6, "details": True, "temperature": 1.0}
    assert post(local_server, "/generate", body).json()["details"]["seed"] is None


def test_unset_max_new_tokens_means_what_is_left(local_server: str) -> None:
    """And truncate keeps the end of the input."""
    words = "one two three four five six seven eight nine ten"
    grammar = {"type": "regex", "value": "[0-9]{2}"}
    body = {"inputs": words, "parameters": {"truncate": 3, "grammar": grammar}}
    before = metric(local_server, "tgi_request_max_new_tokens_sum")
    answer = post(local_server, "/generate", body)
    assert answer.headers["x-prompt-tokens"] == "3"
    assert metric(local_server, "tgi_request_max_new_tokens_sum") - before == 8192 - 3


def test_a_stop_sequence_stays_in_the_output(local_server: str) -> None:
    whole = generate(local_server)["generated_text"]
    word = whole.split()[2]
    answer = generate(local_server, stop=[word])
    assert answer["details"]["finish_reason"] == "stop_sequence"
    assert answer["generated_text"] == whole[: whole.index(word) + len(word)]


def test_a_stream_says_what_the_whole_answer_says(local_server: str) -> None:
    client = text_generation.Client(local_server, timeout=60)
    given: dict[str, Any] = {"max_new_tokens": 20, "do_sample": True, "temperature": 0.7, "top_p": 0.9, "seed": 11}
    client.generate(PROMPT, **given)  # so that the prompt is cached for both
    whole = client.generate(PROMPT, **given)
    events: list[StreamResponse] = list(client.generate_stream(PROMPT, **given))
    assert [event.token.id for event in events] == [token.id for token in whole.details.tokens]
    assert [event.generated_text for event in events[:-1]] == [None] * (len(events) - 1)
    last = events[-1]
    assert last.generated_text == whole.generated_text
    assert last.details is not None
    assert last.details.finish_reason == whole.details.finish_reason
    assert last.details.generated_tokens == whole.details.generated_tokens == 20
    assert last.details.seed == whole.details.seed == 11


async def test_the_async_client_and_its_errors(local_server: str) -> None:
    client = text_generation.AsyncClient(local_server, timeout=60)
    greedy = await asyncio.gather(*(client.generate(PROMPT, max_new_tokens=8) for _ in range(4)))
    assert len({answer.generated_text for answer in greedy}) == 1
    with pytest.raises(ValidationError, match="must be <= 8192"):
        await client.generate(PROMPT, max_new_tokens=9000)


def test_grammars_are_kept_to(local_server: str) -> None:
    for seed in range(3):
        answer = generate(
            local_server,
            "A person as JSON:",
            max_new_tokens=200,
            do_sample=True,
            seed=seed,
            grammar={"type": "json", "value": SCHEMA},
        )
        if answer["details"]["finish_reason"] == "eos_token":
            person = json.loads(answer["generated_text"])
            assert person["name"] in ("Ada", "Grace")
            assert isinstance(person["age"], int)
    pattern = "[a-z]+@[a-z]+\\.(com|org)"
    for seed in range(3):
        regex = {"type": "regex", "value": pattern}
        answer = generate(local_server, "Mail: ", max_new_tokens=60, do_sample=True, seed=seed, grammar=regex)
        if answer["details"]["finish_reason"] == "eos_token":
            assert re.fullmatch(pattern, answer["generated_text"])
    digits = {"type": "regex", "value": "[0-9]{3}-[0-9]{4}"}
    assert re.fullmatch("[0-9]{3}-[0-9]{4}", generate(local_server, grammar=digits)["generated_text"])


async def test_refused_grammars_come_back_while_others_are_decoded(local_server: str) -> None:
    failures = metric(local_server, 'tgi_request_failure{err="generation"}')
    grammars = [
        ({"type": "regex", "value": "[a-"}, "Unclosed"),
        ({"type": "regex", "value": "(?=a)b"}, "Lookahead is not supported yet"),
        ({"type": "regex", "value": "*"}, "Expect element"),
        ({"type": "json", "value": {"properties": {}, "type": "nope"}}, "Unsupported type"),
        ({"type": "json", "value": "{"}, "grammar is not valid"),
        ({"type": "json", "value": {"properties": {"a": {"$ref": "#/$defs/none"}}}}, "Cannot find field"),
        ({"type": "regex", "value": "([^x]{1,500}y){1,500}"}, "use + or *"),
    ]
    async with aiohttp.ClientSession(local_server) as session:

        async def ask(**parameters: Any) -> tuple[int, dict[str, Any]]:
            async with session.post("/generate", json={"inputs": PROMPT, "parameters": parameters}) as answer:
                return answer.status, await answer.json()

        others = [asyncio.create_task(ask(max_new_tokens=150)) for _ in range(2)]
        for grammar, words in grammars:
            started = time.monotonic()
            status, body = await ask(max_new_tokens=5, grammar=grammar)
            assert (status, body["error_type"]) == (422, "validation")
            assert words in body["error"]
            assert time.monotonic() - started < 60
        for status, body in await asyncio.gather(*others):
            assert status == 200, body
            assert len(body["generated_text"]) > 100
    assert metric(local_server, 'tgi_request_failure{err="generation"}') == failures


async def test_concurrent_requests_share_the_engines_steps(local_server: str) -> None:
    before = metric(local_server, "tgi_batch_next_size_count")
    client = text_generation.AsyncClient(local_server, timeout=60)
    seen = 0.0
    asked = [
        asyncio.create_task(client.generate(f"Tale {i}:", max_new_tokens=32, do_sample=True, seed=i))
        for i in range(12)
    ]
    while not all(task.done() for task in asked):
        seen = max(seen, await asyncio.to_thread(metric, local_server, "tgi_batch_current_size"))
        await asyncio.sleep(0.05)
    made = sum(task.result().details.generated_tokens for task in asked)
    steps = metric(local_server, "tgi_batch_next_size_count") - before
    assert steps < made / 3, f"{made} tokens took {steps} steps"
    assert seen > 1
    assert metric(local_server, "tgi_queue_size") == 0


async def test_a_client_that_hangs_up_frees_the_engine(local_server: str) -> None:
    for route in ("/generate", "/generate_stream"):
        async with aiohttp.ClientSession(local_server) as session:
            body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 8000, "repetition_penalty": 1.3}}
            asked = asyncio.create_task(hold(session, route, body))
            await until(local_server, "tgi_batch_current_size", lambda size: size == 1, "never started")
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        idle = f"{route}: still decoding for nobody"
        await until(local_server, "tgi_batch_current_size", lambda size: size == 0, idle)


def test_chat_with_the_hubs_client(local_server: str) -> None:
    client: Any = InferenceClient(base_url=local_server, timeout=60)
    messages = [{"role": "user", "content": "Name a colour."}]
    given: dict[str, Any] = {"max_tokens": 12, "temperature": 0.5, "seed": 4}
    client.chat_completion(messages, **given)  # so that the prompt is cached for both
    whole = client.chat_completion(messages, **given)
    assert whole.choices[0].finish_reason in ("length", "stop")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert whole.usage.prompt_tokens > 20, "the model's own template is around the message"
    usage = {"include_usage": True}
    parts = list(client.chat_completion(messages, stream=True, stream_options=usage, **given))
    told = [part.choices[0] for part in parts if part.choices]
    assert "".join(choice.delta.content for choice in told) == whole.choices[0].message.content
    reasons = [choice.finish_reason for choice in told]
    assert reasons == [None] * (len(told) - 1) + [whole.choices[0].finish_reason]
    assert dict(parts[-1].usage) == dict(whole.usage)

    structured = client.chat_completion(
        [{"role": "user", "content": "Ada or Grace, and her age, as JSON."}],
        max_tokens=100,
        temperature=0,
        response_format={"type": "json", "value": SCHEMA},
    )
    assert json.loads(structured.choices[0].message.content)["name"] in ("Ada", "Grace")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": []}, "`messages` cannot be empty"),
        ({"n": 2}, "`n` != 1 is not supported"),
        ({"tools": [{"type": "function"}]}, "`tools` is not supported"),
        ({"logit_bias": [1.0]}, "`logit_bias` is not supported"),
        ({"logprobs": True, "top_logprobs": 2}, "`top_logprobs` is not supported"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"model": "someone/adapter"}, "model or adapter 'someone/adapter'"),
        ({"response_format": {"type": "yaml"}}, "grammar is not supported"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "message content other than text",
        ),
    ],
)
def test_what_the_chat_route_refuses(local_server: str, body: dict[str, Any], words: str) -> None:
    asked = {"model": "tgi", "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}], **body}
    answer = post(local_server, "/v1/chat/completions", asked)
    assert answer.status_code == 422
    assert answer.json()["error_type"] == "validation"
    assert words in answer.json()["error"]


def test_the_assistants_last_words_are_continued(local_server: str) -> None:
    messages = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "one, two,"}]
    answer = post(local_server, "/chat_tokenize", {"messages": messages}).json()
    assert answer["templated_text"].endswith("<|im_start|>assistant\none, two,")
    assert answer["tokenize_response"][-1]["text"] == ","


def test_tokenize(local_server: str) -> None:
    text = "Héllo 🙂 wörld"
    pieces = post(local_server, "/tokenize", {"inputs": text}).json()
    assert "".join(piece["text"] for piece in pieces) == text
    assert all(text[piece["start"] : piece["stop"]] == piece["text"] for piece in pieces)
    assert (
        str(len(pieces))
        == post(local_server, "/generate", {"inputs": text, "parameters": {"max_new_tokens": 1}}).headers[
            "x-prompt-tokens"
        ]
    )


def test_what_the_server_says_of_itself(local_server: str) -> None:
    info = requests.get(local_server + "/info", timeout=60).json()
    assert info["docker_label"] == "selfinstruct-hub"
    assert info["router"] == "text-generation-router"
    assert info["model_id"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (info["max_input_tokens"], info["max_total_tokens"]) == (8191, 8192)
    assert (info["max_concurrent_requests"], info["max_best_of"], info["max_stop_sequences"]) == (128, 1, 4)
    for route in ("/health", "/ping"):
        answer = requests.get(local_server + route, timeout=60)
        assert (answer.status_code, answer.content) == (200, b"")
    assert requests.get(local_server + "/v1/models", timeout=60).json()["data"][0]["id"] == info["model_id"]


GUARDED = {
    "/generate": {"inputs": "a", "parameters": {"max_new_tokens": 1}},
    "/generate_stream": {"inputs": "a", "parameters": {"max_new_tokens": 1}},
    "/": {"inputs": "a", "parameters": {"max_new_tokens": 1}},
    "/tokenize": {"inputs": "a"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1},
}


@pytest.mark.parametrize("route", GUARDED)
def test_a_key_is_asked_for_where_tgi_asks(guarded_server: str, route: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": API_KEY}):
        answer = post(guarded_server, route, GUARDED[route], headers=headers)
        assert (answer.status_code, answer.content) == (401, b"")
    right = {"Authorization": f"Bearer {API_KEY}"}
    assert post(guarded_server, route, GUARDED[route], headers=right).status_code == 200


def test_what_is_open_without_a_key(guarded_server: str) -> None:
    for route in ("/info", "/health", "/metrics", "/v1/models"):
        assert requests.get(guarded_server + route, timeout=60).status_code == 200


async def test_one_request_too_many_is_429_at_once(guarded_server: str) -> None:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    async with aiohttp.ClientSession(guarded_server, headers=headers) as session:
        body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 8000, "repetition_penalty": 1.3}}
        slow = [asyncio.create_task(hold(session, "/generate", body)) for _ in range(2)]
        await until(guarded_server, "tgi_batch_current_size", lambda size: size == 2, "never started")
        expected = {"error": "Model is overloaded", "error_type": "overloaded"}
        async with session.post("/generate", json={"inputs": ""}) as answer:  # before it is even read
            assert (answer.status, await answer.json()) == (429, expected)
        async with session.post("/generate_stream", json=body) as answer:
            assert (answer.status, await answer.text()) == (200, f"data:{compact(expected)}\n\n")
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


# --- starting and stopping


def test_starting_a_server_imports_nothing_heavy() -> None:
    code = (
        "import sys; import selfinstruct_hub.local.child; "
        "print([m for m in ('openvino', 'openvino_genai', 'aiohttp', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_a_child_that_cannot_start_gives_its_own_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no model")
    with pytest.raises(ModelNotFoundError, match="does not start with GGUF"):
        async with LocalServer(str(broken)):
            pass
    (tmp_path / "openvino_model.xml").write_text("<net/>")
    with pytest.raises(LocalEngineError, match="cannot load"):
        LocalServer(str(tmp_path)).start()
    slow = LocalServer(start_seconds=0.05)
    with pytest.raises(LocalEngineError, match=r"did not start within 0\.05 seconds"):
        slow.start()
    assert slow.pid is None


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(LocalEngineError, match=r"is taken: choose another with --port"):
            serve(None, "127.0.0.1", taken.getsockname()[1])
    with pytest.raises(LocalEngineError, match="cannot listen on nowhere"):
        serve(None, "nowhere.invalid", 0)


@pytest.mark.skipif(sys.platform == "win32", reason="stops by signal")
def test_serve_for_people() -> None:
    code = "from selfinstruct_hub.local.serve import serve; serve(None, '0.0.0.0', 0)"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        told = [server.stderr.readline() for _ in range(3)]
        url = told[1].split()[4].replace("0.0.0.0", "127.0.0.1")
        body: dict[str, Any] = {
            "inputs": PROMPT,
            "parameters": {"max_new_tokens": 8000, "repetition_penalty": 1.3},
        }
        with requests.post(url + "/generate_stream", json=body, stream=True, timeout=60) as answer:
            assert next(answer.iter_lines()).startswith(b"data:")
            server.send_signal(signal.SIGINT)  # in the middle of an answer
        rest = server.stderr.read()
        assert server.wait(30) == 0
    assert "warning: 0.0.0.0 can be reached from other machines, and no API key is set" in told[0]
    assert "SmolLM2-135M-Instruct is ready at http://0.0.0.0:" in told[1]
    assert "selfinstruct-hub grow DIR --endpoint http://" in told[2]
    assert rest == ""

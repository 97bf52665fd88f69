"""`doctor`: one finding for each check, with what to change; one that fails hides no other."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from selfinstruct_hub.doctor import Finding, examine
from tests.support import tool
from tests.support.tgi import CHAT, GENERATE, INFO, MODELS, Server, running

NUMBERS = " four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen"
Found = dict[str, Finding]


def honest(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
    """A server that does what it is told: holds to a grammar and stops at a stop sequence."""
    if parameters.get("grammar"):
        return "yes", "eos_token"
    text, reason = NUMBERS, "eos_token"
    for stop in parameters.get("stop") or ():
        if stop in text:
            text, reason = text[: text.index(stop) + len(stop)], "stop_sequence"
    return text, reason


def careless(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
    return NUMBERS, "eos_token"


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SELFINSTRUCT_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))


def look(*urls: str, directory: Path | None = None, **options: Any) -> Found:
    told: list[Finding] = []
    examine(directory, told.append, endpoints=urls, **options)
    names = [finding.name for finding in told]
    assert len(set(names)) == len(names), names
    assert all("\n" not in finding.text for finding in told)
    return {finding.name: finding for finding in told}


def failed(found: Found) -> set[str]:
    return {name for name, finding in found.items() if finding.ok is False}


def workspace(path: Path, **values: Any) -> Path:
    """A workspace with these settings."""
    from selfinstruct_hub import config
    from selfinstruct_hub.workspace import Workspace

    settings = config.with_overrides(config.Settings(), {name.replace("__", "."): v for name, v in values.items()})
    return Workspace.create(path, settings).path


def test_a_good_endpoint() -> None:
    with running(Server(answer=honest)) as server:
        found = look(server.url)
        assert found["endpoint"].text == f"{server.url} answers"
        assert len(server.requests) == 3
    assert failed(found) == set()
    checks = ["endpoint", "kind", "model", "limits", "chat", "key", "generation", "grammar", "stop"]
    assert [name for name in found if name in checks] == checks
    assert found["kind"].text == "api tgi (GET /info names text-generation-inference 3.3.6-dev0)"
    assert found["model"].text == "test/scripted"
    assert found["limits"].text == ("context 8,192 tokens, 128 requests at a time; enough for the recipe alpaca")
    assert found["key"].text == "none sent, and none asked for"
    assert re.fullmatch(
        r"67 characters, 10 tokens in \d\.\d s, \d+ tokens/s: four, five, .*twelve, th\.\.\.",
        found["generation"].text,
    )
    assert found["grammar"].text.endswith("`grammar: on` can be used")
    assert found["stop"].text == "answers end at a stop sequence"


def test_an_openai_compatible_endpoint() -> None:
    server = Server(answer=careless, off={INFO, GENERATE})
    server.models = [{"id": "org/model", "owned_by": "vllm", "max_model_len": 4096}]
    with running(server):
        found = look(server.url)
    assert found["kind"].text == "api openai (GET /v1/models names vLLM)"
    assert found["chat"].text == "prompts are put into the model's chat template"
    assert found["limits"].text.startswith("context 4,096 tokens, does not say how many requests")
    assert found["stop"].ok is True
    assert failed(found) == set()


def test_grammar_and_stops_that_are_ignored(tmp_path: Path) -> None:
    with running(Server(answer=careless)) as server:
        found = look(server.url)
        assert found["grammar"] == Finding(
            "grammar", None, "taken and ignored; leave `grammar` as it is, and answers are parsed as they come"
        )
        assert found["stop"].ok is None
        assert found["stop"].text.startswith("ignored: answers are cut here")
        wanted = look(server.url, directory=workspace(tmp_path / "w", grammar="on"))
    assert wanted["grammar"] == Finding("grammar", False, "taken and ignored; set `grammar: off`")


def test_a_grammar_that_is_refused() -> None:
    server = Server(answer=careless)

    def fault(number: int) -> web.Response | None:
        refused = {"error": "Grammar support is disabled", "error_type": "validation"}
        return (
            web.json_response(refused, status=422)
            if server.requests[number]["parameters"].get("grammar")
            else None
        )

    server.fault = fault
    with running(server):
        found = look(server.url)
    assert found["grammar"].ok is None
    assert found["grammar"].text.startswith("refused (422: Grammar support is disabled); leave `grammar` as it is")
    assert found["generation"].ok is True


def test_nothing_there(tmp_path: Path) -> None:
    found = look("http://127.0.0.1:9", directory=workspace(tmp_path / "w"))
    assert failed(found) == {"endpoint"}
    assert found["endpoint"].text.startswith("http://127.0.0.1:9 cannot be reached")
    assert found["seeds"].text.startswith("175 seed tasks")
    assert "hub" in found


def test_neither_protocol() -> None:
    with running(Server(info={"a": 1}, off={GENERATE, CHAT, MODELS})) as server:
        found = look(server.url)
    assert failed(found) == {"kind"}
    assert found["endpoint"].ok is True
    assert "is neither text-generation-inference nor OpenAI-compatible" in found["kind"].text


def test_another_protocol_or_model_than_was_asked_for_hides_nothing_else() -> None:
    with running(Server(answer=honest, off={CHAT, MODELS})) as server:
        found = look(server.url, api="openai")
        assert failed(found) == {"kind"}
        assert "is not OpenAI-compatible" in found["kind"].text
        assert found["generation"].ok is True
        found = look(server.url, model="org/other")
        assert failed(found) == {"model"}
        assert "serves test/scripted, not org/other" in found["model"].text
        assert found["generation"].ok is True
        found = look(server.url, api="openai", model="org/other")
        assert failed(found) == {"kind"}
        assert found["generation"].ok is True


def test_a_tokenizer_that_cannot_be_read_hides_nothing_else(tmp_path: Path) -> None:
    space = workspace(tmp_path / "w", endpoint__tokenizer=str(tmp_path / "nowhere"))
    with running(Server(answer=honest)) as server:
        found = look(server.url, directory=space)
    assert failed(found) == {"chat"}
    assert "nowhere" in found["chat"].text
    assert found["generation"].ok is True


@pytest.mark.parametrize("guarded", [{GENERATE}, {INFO, MODELS, CHAT, GENERATE}])
def test_a_key_that_is_missing_or_wrong(guarded: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with running(Server(answer=honest, api_key="right-secret", guarded=guarded)) as server:
        found = look(server.url)
        assert failed(found) == {"key"}
        assert "set SELFINSTRUCT_API_KEY" in found["key"].text
        monkeypatch.setenv("HF_TOKEN", "hf_mine")
        found = look(server.url)
        assert "the Hub token goes to Hugging Face's own hosts only" in found["key"].text
        monkeypatch.setenv("SELFINSTRUCT_API_KEY", "wrong-secret")
        found = look(server.url)
        assert failed(found) == {"key"}
        monkeypatch.setenv("SELFINSTRUCT_API_KEY", "right-secret")
        good = look(server.url)
        assert failed(good) == set()
        assert good["key"].text == "from SELFINSTRUCT_API_KEY, sent and accepted"
    texts = " ".join(finding.text for finding in [*found.values(), *good.values()])
    assert "secret" not in texts
    assert "hf_mine" not in texts


def test_what_a_server_says_steers_no_terminal_and_tells_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFINSTRUCT_API_KEY", "my-secret")

    def answer(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
        return "\x1b[31mred\x1b[0m my-secret \x07\nmore words here", "eos_token"

    with running(Server(answer=answer)) as server:
        text = look(server.url)["generation"].text
    assert text.isprintable()
    assert "my-secret" not in text
    assert "red" in text


def info(**changed: Any) -> dict[str, Any]:
    return {**Server().info, **changed}


@pytest.mark.parametrize(
    ("settings", "context", "expected"),
    [
        ({}, 200, "lower `decoding.max_new_tokens` or `tasks_per_request`"),
        ({}, 600, "short enough for the endpoint's context; add seeds, or lower `demonstrations.human`"),
        ({"decoding__max_new_tokens": 4096}, 4096, "lower `decoding.max_new_tokens` or `tasks_per_request`"),
        (
            {"recipe": "self-instruct", "self_instruct__instance_max_new_tokens": 2000},
            2048,
            "lower `self_instruct.instance_max_new_tokens`",
        ),
    ],
)
def test_a_context_that_is_too_small(
    tmp_path: Path, settings: dict[str, Any], context: int, expected: str
) -> None:
    server = Server(answer=honest, info=info(max_total_tokens=context, max_input_tokens=context - 1))
    with running(server):
        found = look(server.url, directory=workspace(tmp_path / "w", **settings))
    assert found["limits"].ok is False
    assert found["limits"].text.startswith(f"context {context:,} tokens, 128 requests at a time; ")
    assert expected in found["limits"].text
    assert found["generation"].ok is True


def test_limits_that_are_not_told() -> None:
    with running(Server(answer=honest, info={"model_id": "m"})) as server:
        found = look(server.url)
    assert found["limits"].ok is None
    assert "does not say how many requests it takes at a time; does not say its context" in found["limits"].text


@pytest.mark.parametrize(
    ("model", "tuned"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", True),
        ("google/gemma-2-9b-it", True),
        ("org/Llama-2-7b-chat-hf", True),
        ("org/qwen2.5-instruct-awq", True),
        ("instruct-lab/Llama-3.1-8B", False),
        ("org/chatty-white-7b", False),
    ],
)
def test_a_tuned_model_without_a_template_is_noted(model: str, tuned: bool) -> None:
    with running(Server(answer=honest, info=info(model_id=model))) as server:
        chat = look(server.url)["chat"]
    assert chat.ok is (None if tuned else True)
    assert ("set `endpoint.tokenizer` to the model's Hub id" in chat.text) == tuned


def test_a_template_is_used_and_can_be_off(tmp_path: Path) -> None:
    server = Server(answer=honest, info=info(model_id="org/m-Instruct"), template=("<user>", "<bot>"))
    with running(server):
        assert look(server.url)["chat"] == Finding("chat", True, "prompts are put into the model's chat template")
        assert server.requests[0]["inputs"].startswith("<user>")
        off = look(server.url, directory=workspace(tmp_path / "w", endpoint__chat="off"))["chat"]
    assert off.ok is None
    assert "`endpoint.chat` is off" in off.text
    assert off.text.endswith("set it to auto")


def test_an_endpoint_that_generates_nothing() -> None:
    with running(Server(answer=lambda prompt, parameters: ("", "eos_token"))) as server:
        found = look(server.url)
    assert found["generation"].ok is False
    assert found["generation"].text.startswith("an empty text after")
    assert found["stop"].ok is None

    server = Server(answer=honest, fault=lambda n: web.json_response({"error": "CUDA error"}, status=500))
    with running(server):
        found = look(server.url)
    assert failed(found) == {"generation"}
    assert found["generation"].text == "server error: HTTP 500: CUDA error; look at the server's own log"
    assert "grammar" not in found


def test_several_endpoints_one_by_one_and_together() -> None:
    def names(found: Found, url: str) -> set[str]:
        return {name.removesuffix(f" of {url}") for name in found if name.endswith(url)}

    with running(Server(answer=honest)) as one, running(Server(answer=honest)) as two:
        told: list[Finding] = []
        examine(None, told.append, endpoints=[one.url, two.url])
        found = {finding.name: finding for finding in told}
        for url in (one.url, two.url):
            assert {"kind", "model", "limits", "chat", "key", "generation"} <= names(found, url)
            assert Finding("endpoint", True, f"{url} answers") in told
        assert found["together"] == Finding("together", True, "all of them serve test/scripted, in one form")
        two.info = info(model_id="org/other")
        told.clear()
        examine(None, told.append, endpoints=[one.url, two.url])
        (together,) = (finding for finding in told if finding.name == "together")
        assert together.ok is False
        assert "serve different models" in together.text
        told.clear()
        examine(None, told.append, endpoints=[one.url, "http://127.0.0.1:9"])
        assert [finding.ok for finding in told if finding.name == "endpoint"] == [True, False]
        assert not any(finding.name == "together" for finding in told)


# As it is typed.


def command(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "SELFINSTRUCT_API_KEY")}
    done = tool.run("doctor", *arguments, environment={**clean, **environment})
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_the_command(tmp_path: Path) -> None:
    space = workspace(tmp_path / "w")
    with running(Server(answer=honest)) as server:
        good = command(space, "--endpoint", server.url)
        assert good.returncode == 0, good.stdout
        assert re.search(r"^ok    model: test/scripted$", good.stdout, re.MULTILINE)
        assert "175 seed tasks" in good.stdout
        other = command("--endpoint", server.url, "--model", "org/other", "--api", "tgi")
        assert other.returncode == 1
        assert re.search(r"^FAIL  model: .* serves test/scripted, not org/other", other.stdout, re.MULTILINE)
        assert re.search(r"^ok    generation: ", other.stdout, re.MULTILINE)
    (space / "selfinstruct.yaml").write_text("tasks: x\n", encoding="utf-8")
    bad = command(space, "--endpoint", "http://127.0.0.1:9")
    assert bad.returncode == 1
    assert re.search(r"^FAIL  workspace: .*`tasks`", bad.stdout, re.MULTILINE)
    assert re.search(r"^FAIL  endpoint: http://127.0.0.1:9 cannot be reached", bad.stdout, re.MULTILINE)
    assert re.search(
        r"^FAIL  endpoint: .*expected a URL such as", command("--endpoint", "gpu").stdout, re.MULTILINE
    )


@pytest.mark.engine
@pytest.mark.xdist_group("engine")
def test_the_embedded_engine() -> None:
    found = look()
    assert failed(found) == set()
    assert found["endpoint"].text == "the embedded engine answers"
    assert found["grammar"].ok is True
    assert found["stop"].ok is True
    assert found["chat"].ok is True

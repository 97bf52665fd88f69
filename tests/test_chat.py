"""Chat templates around prompts for /generate, and the recipes with chat models, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tokenizers import Tokenizer, models, pre_tokenizers, processors  # type: ignore[import-untyped]
from transformers import PreTrainedTokenizerFast

from selfinstruct_hub import config, events, recipes, run, sampling
from selfinstruct_hub.config import EndpointSettings, Settings
from selfinstruct_hub.endpoint import failures
from selfinstruct_hub.endpoint.connect import opened
from selfinstruct_hub.endpoint.template import USUAL_BEGINNINGS, ChatTemplate, of_tokenizer
from selfinstruct_hub.errors import ConfigError, EndpointRefusedError
from selfinstruct_hub.plan import demonstration_seeds, plan_of, resolve
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import Candidate, Completion, Decoding, Instance, Task
from selfinstruct_hub.workspace import Workspace
from tests.support.passing import all_pass
from tests.support.tgi import CHAT_TOKENIZE, INFO, TOKENIZE, Server, fine, running, write_anything, write_tasks

CHATML = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
LLAMA = (
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
)
PROMPT = "A list.\n\n3. Instruction: Name a bird.\n\nGo on.\n\n4. Instruction:"


@pytest.fixture(autouse=True)
def _no_waiting_and_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.001)
    for name in ("HF_TOKEN", "SELFINSTRUCT_API_KEY"):
        monkeypatch.delenv(name, raising=False)


async def asked(server: Server, prompt: str = PROMPT, **settings: Any) -> events.Connected:
    """Connects and sends one prompt."""
    told: list[events.Event] = []
    settings = {"url": server.url, **settings}
    async with opened(EndpointSettings(**settings), told.append) as endpoint, endpoint.turn() as turn:
        assert (await turn.complete(prompt, Decoding(5))).text == " fine"
    first = told[0]
    assert isinstance(first, events.Connected)
    return first


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Above.\n\n4. Instruction:", "[Above.]4. Instruction:"),
        ("Task: x\nExample 1\nInput:", "[Task: x\nExample 1]Input:"),
        ("Above.\n\n9.", "[Above.]9."),
        ("上文。\n是否为分类任务：", "[上文。]是否为分类任务："),
        ("Say it.", "[Say it.]"),
        ("Say it.\n", "[Say it.]"),
        ("\nSay it.", "[Say it.]"),
        ("", "[]"),
    ],
)
def test_the_last_line_is_the_assistants_first_words(prompt: str, expected: str) -> None:
    assert ChatTemplate("[", "]").wrap(prompt) == expected


# From the server.


async def test_the_template_is_asked_for_once() -> None:
    with running(Server(answer=fine, template=CHATML)) as server:
        told = await asked(server)
        assert told.chat
        assert told.found.endswith("; chat template from POST /chat_tokenize")
        async with opened(EndpointSettings(url=server.url)) as endpoint:
            assert endpoint.chat
            for number in range(3):
                async with endpoint.turn() as turn:
                    await turn.complete(f"{number}\nx", Decoding(5))
        assert [path for path, _ in server.received].count(CHAT_TOKENIZE) == 2
    assert server.requests[0]["inputs"] == (
        "<|im_start|>user\nA list.\n\n3. Instruction: Name a bird.\n\nGo on.<|im_end|>\n<|im_start|>assistant\n"
        "4. Instruction:"
    )


@pytest.mark.parametrize("off", [set(), {TOKENIZE}])
async def test_the_beginning_that_the_server_adds_is_not_sent_twice(off: set[str]) -> None:
    with running(Server(answer=fine, template=LLAMA, beginning="<|begin_of_text|>", off=off)) as server:
        await asked(server)
    (sent,) = server.requests
    assert sent["inputs"].startswith("<|start_header_id|>user<|end_header_id|>\n\nA list.")
    assert sent["inputs"].endswith("<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n4. Instruction:")


async def test_a_beginning_that_the_server_does_not_add_is_sent() -> None:
    with running(Server(answer=fine, template=("<s>[INST] ", " [/INST]"))) as server:
        await asked(server)
    assert server.requests[0]["inputs"].startswith("<s>[INST] A list.")


async def test_any_beginning_is_known_by_its_id() -> None:
    with running(Server(answer=fine, template=("@@go@@<user>", "<bot>"), beginning="@@go@@")) as server:
        await asked(server)
    assert server.requests[0]["inputs"].startswith("<user>A list.")


@pytest.mark.parametrize("beginning", USUAL_BEGINNINGS)
async def test_usual_beginnings_are_known_by_their_text(beginning: str) -> None:
    with running(Server(answer=fine, template=(f"{beginning}<user>", "<bot>"), off={TOKENIZE})) as server:
        await asked(server)
    assert server.requests[0]["inputs"].startswith("<user>A list.")


@pytest.mark.parametrize("off", [set(), {CHAT_TOKENIZE}])
async def test_a_base_model_gets_the_bare_prompt(off: set[str]) -> None:
    with running(Server(answer=fine, off=off)) as server:
        assert not (await asked(server)).chat
        assert server.requests[0]["inputs"] == PROMPT
        with pytest.raises(EndpointRefusedError) as error:
            await asked(server, chat="on")
    status = "404" if off else "422 (Template error: template not found)"
    assert str(error.value) == (
        f"{server.url} has no chat template: POST /chat_tokenize answered {status}; name a tokenizer that has one "
        "in `endpoint.tokenizer`, or set `endpoint.chat: auto`"
    )


@pytest.mark.parametrize(
    "answer",
    [
        {"templated_text": "nothing of it"},
        {"templated_text": None},
        {"tokenize_response": []},
        ["selfinstructmessage"],
        None,
    ],
)
async def test_an_answer_that_holds_no_template(answer: Any) -> None:
    async def other(request: web.Request) -> web.Response:
        return web.json_response(answer)

    server = Server(answer=fine)
    server._chat_tokenize = other  # type: ignore[method-assign]
    with running(server):
        assert not (await asked(server)).chat


async def test_the_bare_prompt_is_sent_where_it_was_set() -> None:
    with running(Server(answer=fine, template=CHATML)) as server:
        assert not (await asked(server, chat="off")).chat
        assert CHAT_TOKENIZE not in [path for path, _ in server.received]
    assert server.requests[0]["inputs"] == PROMPT


async def test_the_embedded_engine_gets_it_only_where_it_was_set() -> None:
    """Its defaults were measured with bare prompts."""
    server = Server(answer=fine, template=CHATML)
    server.info["docker_label"] = "selfinstruct-hub"
    with running(server):
        assert not (await asked(server)).chat
        assert (await asked(server, chat="on")).chat
    assert server.requests[0]["inputs"] == PROMPT


async def test_a_hidden_info_does_not_hide_the_template() -> None:
    with running(Server(answer=fine, template=CHATML, off={INFO})) as server:
        assert (await asked(server, api="tgi")).chat


# From a tokenizer.


def tokenizer(folder: Path, template: str | None, *, beginning: bool) -> str:
    """A small tokenizer in `folder`, whose sequences begin with <s> if `beginning`."""
    made = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "<user>": 2, "hello": 3}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if beginning:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made_by: Any = PreTrainedTokenizerFast  # whose types are not strict
    fast = made_by(tokenizer_object=made, bos_token="<s>", unk_token="<unk>")
    fast.chat_template = template
    fast.save_pretrained(folder)
    return str(folder)


TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] | trim }}\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


async def test_a_tokenizers_template(tmp_path: Path) -> None:
    name = tokenizer(tmp_path / "t", TEMPLATE, beginning=True)
    with running(Server(answer=fine, template=CHATML)) as server:
        told = await asked(server, tokenizer=name)
        assert CHAT_TOKENIZE not in [path for path, _ in server.received]
    assert told.chat
    assert told.found.endswith(f"; chat template from the tokenizer {name}")
    assert server.requests[0]["inputs"] == (
        "<user>A list.\n\n3. Instruction: Name a bird.\n\nGo on.\n<assistant>4. Instruction:"
    )


async def test_a_tokenizer_that_adds_nothing_keeps_its_templates_beginning(tmp_path: Path) -> None:
    found = await of_tokenizer(tokenizer(tmp_path / "t", TEMPLATE, beginning=False))
    assert found.wrap("a\nb") == "<s><user>a\n<assistant>b"


async def test_a_tokenizer_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = {
        str(tmp_path / "none"): "there is no folder",
        "./none": "there is no folder",
        "~/no/such": "there is no folder",
        str(empty): "cannot be read (",
        "test/not-in-the-cache": "cannot be read (",
        tokenizer(tmp_path / "base", None, beginning=True): "has no chat template; name the tokenizer of an",
        tokenizer(tmp_path / "fails", "{{ raise_exception('No\nsystem') }}", beginning=True): "fails (No system)",
        tokenizer(tmp_path / "void", "{{ bos_token }}", beginning=True): "does not hold the user's message",
    }
    for name, said in cases.items():
        with pytest.raises(ConfigError) as error:
            await of_tokenizer(name)
        assert said in str(error.value), name
        assert name in str(error.value)
        assert "\n" not in str(error.value)


# The recipes.


ANSWERS = {
    "4. Instruction:": " Name a tree.\n4. Input: <noinput>\n4. Output: Oak:\n```\noak\n```\n###\n"
    "5. Instruction: Add them.\n5. Input: 1, 2\n5. Output: 3\n###\n",
    "9.": " Name a tree.\n10. Pick a or b: which is it?",
    "Input:": " <noinput>\nOutput: Oak.",
    "Class label:": " a\nInput: An apple.\nClass label: b\nInput: A pear.",
}


def plain(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
    """The answer of a model that goes on."""
    last = prompt.rpartition("\n")[2]
    if last == "Classification:":
        return (" Yes" if "Task: Pick" in prompt else " No"), "eos_token"
    return ANSWERS[last], "eos_token"


# What chat models make of the same answer: `last` is how the prompt ends, `text` what goes on there.
MANNERS: dict[str, Callable[[str, str], str]] = {
    "goes on": lambda last, text: text,
    "says the beginning again": lambda last, text: f"{last}{text}",
    "in bold": lambda last, text: f"**{last}**{text}",
    "announces": lambda last, text: f"Sure! Here you are:\n\n{last}{text}",
    "greets and goes on": lambda last, text: f"Certainly, with pleasure!\n\n{text.lstrip()}",
    "in a code block": lambda last, text: f"```\n{last}{text}\n```",
    "in a code block, with talk": lambda last, text: (
        f"Here is how it goes on:\n\n```text\n{last}{text}\n```\n\nLet me know if you need more!"
    ),
    "thinks aloud": lambda last, text: f"<think>\nA list.\n{last} Hm.\n</think>\n\n{last}{text}",
    "ends its thoughts": lambda last, text: f"A list.\n</think>\n\n{text}",
}


def whole_request(server: Server) -> list[str]:
    """The messages of users, however they were sent."""
    return [body["messages"][-1]["content"] for body in server.chats] + [
        body["inputs"] for body in server.requests
    ]


SEEDS = [
    Task(f"s{n}", f"Seed {n} asks for text.", (Instance(f"in {n}", f"out {n}"),), is_classification=n % 3 == 0)
    for n in range(40)
]


async def grown(server: Server, path: str = "", **overrides: Any) -> tuple[list[Candidate], dict[str, Any]]:
    """The candidates of one draw, through the real client, and the round's settings."""
    settings = config.with_overrides(Settings(), {"endpoint.url": server.url + path, **overrides})
    async with opened(settings.endpoint) as endpoint:
        resolved = json.loads(json.dumps(resolve(settings, endpoint)))
        plan = plan_of(resolved)

        async def complete(
            stage: str, prompt: str, decoding: Decoding, *, shown: Any, item: int = 0
        ) -> Completion:
            async with endpoint.turn(item) as turn:
                return await turn.complete(prompt, decoding)

        deck = sampling.Deck(
            demonstration_seeds(SEEDS, resolved), (), lambda purpose: sampling.rng_of(1, 1, 0, purpose)
        )
        found = await recipes.named(settings.recipe).run(deck, complete, all_pass, plan)
    return found, resolved


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("recipe", ["alpaca", "self-instruct"])
async def test_chat_models_answers_are_read_like_others(recipe: str, manner: str) -> None:
    def speaks(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
        text, reason = plain(prompt, parameters)
        return MANNERS[manner](prompt.rpartition("\n")[2], text), reason

    base, chat, wrapped = Server(answer=plain), Server(answer=speaks), Server(answer=plain, template=CHATML)
    with running(base), running(chat), running(wrapped):
        expected, settings = await grown(base, recipe=recipe)
        assert settings["chat"] is False
        for server, path in ((chat, "/v1"), (wrapped, "")):
            found, settings = await grown(server, path, recipe=recipe)
            assert settings["chat"] is True
            assert found == expected
    assert [len(candidate.instances) for candidate in expected] == [1, 1 if recipe == "alpaca" else 2]
    assert all(candidate.well_formed for candidate in expected)
    if recipe == "self-instruct":
        assert [candidate.is_classification for candidate in expected] == [False, True]


async def test_prompts_for_chat_ask_to_go_on_and_break_off_alike() -> None:
    bare, chat, wrapped = (
        Server(answer=write_tasks),
        Server(answer=write_tasks),
        Server(answer=write_tasks, template=CHATML),
    )
    with running(bare), running(chat), running(wrapped):
        await grown(bare)
        await grown(chat, "/v1")
        await grown(wrapped)
    (prompt,), (message,), (inputs,) = whole_request(bare), whole_request(chat), whole_request(wrapped)
    frame, _, last = prompt.rpartition("###\n")
    assert last == "4. Instruction:"
    asking = "Go on with this list up to number 23, in exactly the same form."
    assert message.startswith(frame)
    assert message.endswith(f"write nothing but the list.\n\n{last}")
    assert asking in message
    assert asking not in prompt
    before, behind = CHATML
    assert inputs == f"{before}{message.removesuffix(last).rstrip()}{behind}{last}"


async def test_a_template_takes_room_in_a_small_context() -> None:
    rooms = []
    for template in (None, CHATML):
        server = Server(answer=write_tasks, template=template)
        server.info |= {"max_total_tokens": 4096, "max_input_tokens": 4095}
        with running(server):
            _, settings = await grown(server)
        rooms.append(settings["demonstrations"]["max_tokens"])
    assert rooms[1] + 100 // 3 < rooms[0]


@pytest.mark.parametrize("recipe", ["alpaca", "self-instruct"])
def test_a_chat_models_round_goes_on_where_it_was_stopped(recipe: str, tmp_path: Path) -> None:
    def tasks(space: Workspace) -> list[str]:
        with Pool.open(space.pool_file, read_only=True) as pool:
            assert {completion.endpoint_kind for _, completion in pool.completions(1)} == {"openai"}
            return [task.id for task in pool.tasks(1)]

    server = Server(answer=write_anything)
    with running(server):
        overrides = {"recipe": recipe, "tasks": 12, "endpoint.url": f"{server.url}/v1"}
        settings = config.with_overrides(Settings(), overrides)
        whole = Workspace.create(tmp_path / "whole", settings)
        (done,) = run.grow(whole, settings)
        assert done.release is not None
        asked = len(server.chats)
        parts = Workspace.create(tmp_path / "parts", settings)
        (stopped,) = run.grow(parts, settings, max_requests=2)
        assert stopped.release is None
        assert len(server.chats) == asked + 2
        (done,) = run.grow(parts, settings)
        assert done.release is not None
    assert tasks(parts) == tasks(whole)
    assert not server.requests
    assert "went to a chat model as messages" in (done.release / "README.md").read_text(encoding="utf-8")

"""The endpoint's kinds against the project's own `serve` with the real model: nothing here is scripted."""

from __future__ import annotations

import re
from typing import Any

import pytest

from selfinstruct_hub import config, events, languages, recipes, sampling
from selfinstruct_hub.config import EndpointSettings, Settings
from selfinstruct_hub.endpoint.connect import opened
from selfinstruct_hub.errors import EndpointAuthError, EndpointRefusedError
from selfinstruct_hub.plan import plan_of, resolve
from selfinstruct_hub.recipes import self_instruct, wording
from selfinstruct_hub.records import Candidate, Completion, Decoding, Instance, Task
from tests.local.conftest import API_KEY
from tests.support.passing import all_pass

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("engine")]

PROMPT = "Here is a list of fruits.\n\n1. Apple\n2. Pear\n3."


async def asked(url: str, decoding: Decoding, **settings: Any) -> tuple[events.Connected, Completion]:
    told: list[events.Event] = []
    async with opened(EndpointSettings(url=url, **settings), told.append) as endpoint, endpoint.turn() as turn:
        completion = await turn.complete(PROMPT, decoding)
    (first,) = (event for event in told if isinstance(event, events.Connected))
    return first, completion


async def test_auto_takes_the_engines_own_protocol(local_server: str) -> None:
    told, completion = await asked(local_server, Decoding(8))
    assert (told.kind, told.chat) == ("tgi", False)
    assert told.found.startswith("GET /info names text-generation-inference 3")
    assert completion.text


async def test_the_messages_api_is_held_to_a_grammar(local_server: str) -> None:
    decoding = Decoding(12, temperature=0.8, seed=3, grammar=("regex", r" (Plum|Quince)\."))
    told, completion = await asked(f"{local_server}/v1", decoding)
    assert (told.kind, told.chat) == ("openai", True)
    assert told.found.startswith("GET /v1/models names text-generation-inference 3")
    assert told.max_total_tokens
    assert re.fullmatch(r" (Plum|Quince)\.", completion.text)
    assert completion.prompt_tokens
    assert completion.generated_tokens
    assert completion.queue_time is not None
    _, again = await asked(f"{local_server}/v1", decoding)
    assert again.text == completion.text


async def test_greedy_is_greedy_in_both_protocols(local_server: str) -> None:
    """The template is the model's own either way; only the beginning of the answer is the assistant's in one."""
    wrapped = [await asked(local_server, Decoding(8), chat="on") for _ in range(2)]
    spoken = [await asked(f"{local_server}/v1", Decoding(8)) for _ in range(2)]
    assert wrapped[0][1].text == wrapped[1][1].text
    assert spoken[0][1].text == spoken[1][1].text
    told, _ = wrapped[0]
    assert told.chat
    assert told.found.endswith("; chat template from POST /chat_tokenize")
    # A system message of the template's own, and its markers.
    assert (wrapped[0][1].prompt_tokens or 0) > (await asked(local_server, Decoding(8)))[1].prompt_tokens  # type: ignore[operator]


async def test_stops_and_limits_end_an_answer(local_server: str) -> None:
    _, stopped = await asked(f"{local_server}/v1", Decoding(60, stop=("e",)))
    assert "e" not in stopped.text
    _, cut = await asked(f"{local_server}/v1", Decoding(3))
    assert (cut.finish_reason, cut.generated_tokens) == ("length", 3)


async def test_what_the_route_refuses_is_said(local_server: str) -> None:
    with pytest.raises(EndpointRefusedError, match=r"\(422: .*must be <= 8192"):
        await asked(f"{local_server}/v1", Decoding(9000))


async def test_keys(guarded_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SELFINSTRUCT_API_KEY", raising=False)
    with pytest.raises(EndpointAuthError, match="401"):
        await asked(f"{guarded_server}/v1", Decoding(3))
    monkeypatch.setenv("SELFINSTRUCT_API_KEY", API_KEY)
    for path in ("", "/v1"):
        assert (await asked(guarded_server + path, Decoding(3)))[1].generated_tokens == 3


SEEDS = [
    Task("a", "Name two trees.", (Instance("", "Oak and elm."),), is_classification=False),
    Task("b", "Add the numbers.", (Instance("1, 2", "3"),), is_classification=False),
    Task("c", "Is the mail spam or ham?", (Instance("Win cash now!", "spam"),), is_classification=True),
    Task("d", "Is it a question: yes or no?", (Instance("Where is it", "yes"),), is_classification=True),
] * 4


@pytest.mark.parametrize("path", ["", "/v1"])
@pytest.mark.parametrize("recipe", ["alpaca", "self-instruct"])
async def test_a_recipe_as_a_chat(local_server: str, recipe: str, path: str) -> None:
    """With the grammar, so that even this model's answers have the form."""
    overrides = {"recipe": recipe, "tasks_per_request": 2, "endpoint.chat": "on"}
    settings = config.with_overrides(Settings(), {**overrides, "endpoint.url": local_server + path})
    sent: list[tuple[str, Decoding]] = []
    async with opened(settings.endpoint) as endpoint:
        resolved = resolve(settings, endpoint)
        assert resolved["chat"] is True
        assert resolved["grammar"] is True  # it is known by either protocol

        async def complete(
            stage: str, prompt: str, decoding: Decoding, *, shown: Any, item: int = 0
        ) -> Completion:
            sent.append((prompt, decoding))
            async with endpoint.turn(item) as turn:
                return await turn.complete(prompt, decoding)

        deck = sampling.Deck(SEEDS, (), lambda purpose: sampling.rng_of(1, 1, 0, purpose))
        found: list[Candidate] = await recipes.named(recipe).run(deck, complete, all_pass, plan_of(resolved))
    assert 1 <= len(found) <= 2
    assert all(candidate.instruction for candidate in found)
    assert all(decoding.grammar for _, decoding in sent)
    words = wording.of(languages.of("en"))
    assert all("\n\nGo on with this list up to number" in prompt for prompt, _ in sent[:1])
    if recipe == "self-instruct":
        # The model may run on to its token limit within the first task: a cut-off one is not asked about further.
        whole = [candidate for candidate in found if not candidate.cut_off]
        assert len(sent) == 1 + 2 * len(whole)
        beginnings = {self_instruct.beginning(words, label_first) for label_first in (False, True)}
        assert sum(prompt.endswith(tuple(beginnings)) for prompt, _ in sent) == len(whole)
        assert all(candidate.instances or candidate.lost for candidate in whole)

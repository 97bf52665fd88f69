"""The recipes, one small file each: prompt, decoding, parser, stages. What they say is in `wording/`.

A recipe is an async function of (deck, complete, passes, plan). It shows tasks of the deck, asks `complete` for
one completion or several and returns what its parser found; it knows neither endpoints nor the pool. `register`
adds one that is not ours.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from selfinstruct_hub import config
from selfinstruct_hub.errors import ConfigError
from selfinstruct_hub.languages import Language
from selfinstruct_hub.records import Candidate, Completion, Decoding, Task
from selfinstruct_hub.sampling import Deck, tokens


class Complete(Protocol):
    """Asks for one completion; the caller adds the sampling seed, stores and resumes. `item` numbers the
    requests of a stage within one draw, whatever the order they are sent in; `shown` are the demonstrations."""

    async def __call__(
        self, stage: str, prompt: str, decoding: Decoding, *, shown: Sequence[Task], item: int = 0
    ) -> Completion: ...


# Which instructions are worth further requests. What does not pass is returned as it is; it is judged again.
Passes = Callable[[Sequence[Candidate]], Awaitable[Sequence[bool]]]


@dataclass(frozen=True)
class Plan:
    """What a round has decided for its requests, with every `auto` resolved. `decoding` is for the stage that
    writes new tasks; `options` are the recipe's own settings.

    `chat` says that prompts go to a chat model: they ask it to go on, and its answer may begin with talk. Either
    way a prompt's last line is where the answer begins; an endpoint may make it the assistant's first words."""

    language: Language
    domain: str | None
    tasks_per_request: int
    use_grammar: bool
    humans: int
    machines: int
    decoding: Decoding
    options: Mapping[str, Any] = field(default_factory=dict)
    chat: bool = False


Run = Callable[[Deck, Complete, Passes, Plan], Awaitable[list[Candidate]]]


@dataclass(frozen=True)
class Recipe:
    """A recipe and the defaults that belong to it. `stages` are in the order a task passes them. `frame` is the
    first stage's prompt without demonstrations (of a language, a domain, and whether it is for a chat model),
    `cost` the estimated tokens that one of them adds.
    `differences` says for the reader of a card where a round with these settings is not what the paper did;
    `paper` is the address of what it comes from, `citation` its BibTeX entry. `later_steps` says that it has the
    settings' section `self_instruct`."""

    name: str
    run: Run
    stages: tuple[str, ...] = ("tasks",)
    paper: str = ""
    citation: str = ""
    blocked_words: tuple[str, ...] = ()
    humans: int = 3
    machines: int = 0
    tasks_per_request: int = 1
    tokens_per_task: int = 300
    max_new_tokens: int = 1024
    temperature: float = 1.0
    top_p: float | None = None
    frame: Callable[[Language, str | None, bool], str] = lambda language, domain, chat: ""
    cost: Callable[[Task], int] = tokens
    frequency_penalty: float | None = None
    differences: Callable[[Mapping[str, Any]], str] = lambda settings: ""
    later_steps: bool = False

    def call(self, stage: str, item: int) -> int:
        """The number of a completion within its draw."""
        return item * len(self.stages) + self.stages.index(stage)


def asked_in_chat(settings: Mapping[str, Any]) -> str:
    """What the reader of a card should know where a round was made by a chat model; empty otherwise."""
    if not settings.get("chat"):
        return ""
    return (
        "The papers' models continue a text; here prompts went to a chat model as messages, with a sentence that "
        "asks it to go on where they break off."
    )


# Those that are not ours, by name.
_REGISTERED: dict[str, Recipe] = {}


def register(recipe: Recipe) -> Recipe:
    """Makes a recipe of your own known by its name, for the settings and for `grow`, in this process. Registered
    again, a name means the newer one. A candidate without a stage is of the recipe's first.

    Raises ConfigError for a name that is one of ours or no name, and for a recipe without stages.
    """
    if not recipe.stages or len(set(recipe.stages)) < len(recipe.stages):
        raise ConfigError(f"recipe {recipe.name}: expected one stage or more, each with a name of its own")
    config.allow_recipe(recipe.name)

    async def run(deck: Deck, complete: Complete, passes: Passes, plan: Plan) -> list[Candidate]:
        found = await recipe.run(deck, complete, passes, plan)
        first = recipe.stages[0]
        return [candidate if candidate.stage else replace(candidate, stage=first) for candidate in found]

    _REGISTERED[recipe.name] = replace(recipe, run=run)
    return recipe


def named(name: str) -> Recipe:
    """The recipe called `name`. Raises ConfigError for one that is not ours and was not registered."""
    from selfinstruct_hub.recipes import alpaca, self_instruct

    known = {recipe.name: recipe for recipe in (alpaca.RECIPE, self_instruct.RECIPE)} | _REGISTERED
    if name not in known:
        raise ConfigError(f"the recipe `{name}` is not known here; {config.REGISTER}")
    return known[name]

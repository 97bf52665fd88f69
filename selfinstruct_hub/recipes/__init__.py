"""The recipes, one small file each: prompt, decoding, parser, stages.

A recipe is an async function of (demonstrations, complete, plan). It asks `complete` for one completion or
several and returns what its parser found; it knows neither endpoints nor the pool.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from selfinstruct_hub.records import Candidate, Completion, Decoding, Task

# (stage, prompt, decoding) -> the completion; the caller adds the sampling seed, stores and resumes.
Complete = Callable[[str, str, Decoding], Awaitable[Completion]]


@dataclass(frozen=True)
class Plan:
    """What a round has decided for its requests, with every `auto` resolved."""

    tasks_per_request: int
    use_grammar: bool
    decoding: Decoding


Run = Callable[[Sequence[Task], Complete, Plan], Awaitable[list[Candidate]]]


@dataclass(frozen=True)
class Recipe:
    """A recipe and the defaults that belong to it."""

    name: str
    paper: str
    run: Run
    blocked_words: tuple[str, ...]
    tasks_per_request: int
    tokens_per_task: int
    max_new_tokens: int
    temperature: float
    top_p: float | None


def named(name: str) -> Recipe:
    """The recipe called `name`; settings have checked that there is one."""
    from selfinstruct_hub.recipes import alpaca

    return {recipe.name: recipe for recipe in (alpaca.RECIPE,)}[name]

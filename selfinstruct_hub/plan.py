"""What a round decides before its first request: every `auto` of the settings, resolved at an endpoint.

Pure: settings and what the endpoint says of itself in, plain data out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfinstruct_hub import recipes, sampling
from selfinstruct_hub.config import Settings
from selfinstruct_hub.endpoint import Endpoint
from selfinstruct_hub.errors import SeedError
from selfinstruct_hub.records import CHARACTERS_PER_TOKEN, Task

_PROMPT_FRAME_CHARACTERS = 1600
_MOST_IN_FLIGHT = 32
# Its batch of 16, and a few waiting, so that a place is taken the moment it is free.
_EMBEDDED_IN_FLIGHT = 20
# A model of a few hundred million parameters loses the thread of a long list.
_EMBEDDED_TASKS_PER_REQUEST = 4
# At temperature 1.0 it writes no sentences, and without a penalty every sixth answer runs in circles until its
# tokens are used up (tests/benchmarks/acceptance.py shows the difference).
_EMBEDDED_SAMPLING = {"temperature": 0.8, "top_p": 0.9, "frequency_penalty": 0.2}


def resolve(settings: Settings, endpoint: Endpoint) -> dict[str, Any]:
    """Everything that decides a round's rows, with every `auto` replaced by what it means at this endpoint."""
    recipe = recipes.named(settings.recipe)
    context = endpoint.limits.max_total_tokens
    set_tasks = settings.tasks_per_request
    most = _EMBEDDED_TASKS_PER_REQUEST if endpoint.embedded else recipe.tasks_per_request
    fits = context // 2 // recipe.tokens_per_task if context else most
    per_request = max(1, min(most, fits)) if isinstance(set_tasks, str) else set_tasks
    set_tokens = settings.decoding.max_new_tokens
    natural = min(recipe.max_new_tokens, recipe.tokens_per_task * per_request)
    max_new_tokens = natural if isinstance(set_tokens, str) else set_tokens
    set_characters = settings.demonstrations.max_characters
    max_characters = None if isinstance(set_characters, str) else set_characters
    if max_characters is None and context:
        prompt_tokens = min(context - max_new_tokens, endpoint.limits.max_input_tokens or context)
        room = prompt_tokens * CHARACTERS_PER_TOKEN - _PROMPT_FRAME_CHARACTERS
        max_characters = max(0, room // settings.demonstrations.human)
    blocked = settings.filters.blocked_words
    return {
        "recipe": settings.recipe,
        "language": settings.language,
        "seed": settings.seed,
        "tasks_per_request": per_request,
        "grammar": endpoint.embedded if settings.grammar == "auto" else settings.grammar == "on",
        "demonstrations": {
            "human": settings.demonstrations.human,
            "max_characters": max_characters,
        },
        "decoding": {
            **settings.decoding.model_dump(),
            **_sampling(settings, recipe, embedded=endpoint.embedded),
            "max_new_tokens": max_new_tokens,
        },
        "filters": {
            **settings.filters.model_dump(),
            "blocked_words": list(recipe.blocked_words) if blocked is None else blocked,
        },
        "novelty": settings.novelty.model_dump(),
    }


def _sampling(settings: Settings, recipe: recipes.Recipe, *, embedded: bool) -> dict[str, Any]:
    papers = {"temperature": recipe.temperature, "top_p": recipe.top_p, "frequency_penalty": None}
    natural = _EMBEDDED_SAMPLING if embedded else papers
    chosen = {name: getattr(settings.decoding, name) for name in natural}
    return {name: natural[name] if value == "auto" else value for name, value in chosen.items()}


def concurrency(settings: Settings, endpoint: Endpoint) -> int:
    """Requests in flight: as set, or what the endpoint allows with a tenth of its places left to others."""
    allowed = endpoint.limits.max_concurrent_requests
    wanted = settings.endpoint.concurrency
    if wanted == "auto":
        wanted = _EMBEDDED_IN_FLIGHT if endpoint.embedded else _MOST_IN_FLIGHT
        return max(1, min(wanted, allowed * 9 // 10)) if allowed else wanted
    return min(wanted, allowed) if allowed else wanted


def demonstration_seeds(seeds: Sequence[Task], settings: Any) -> list[Task]:
    """The seeds short enough to be shown. Raises SeedError where they are fewer than a prompt shows."""
    human, longest = settings["demonstrations"]["human"], settings["demonstrations"]["max_characters"]
    short = [task for task in seeds if longest is None or sampling.length(task) <= longest]
    if len(short) < human:
        why = f" of at most {longest} characters" if longest is not None else ""
        raise SeedError(
            f"a prompt shows {human} seed tasks, and there are {len(short)}{why}; add seeds, or lower "
            "`demonstrations.human`, `tasks_per_request` or `decoding.max_new_tokens`"
        )
    return short

"""What a round decides before its first request: every `auto` of the settings, resolved at an endpoint.

Pure: settings and what the endpoint says of itself in, plain data out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from selfinstruct_hub import languages, recipes, sampling, versions
from selfinstruct_hub.config import Settings
from selfinstruct_hub.endpoint import Endpoint, Limits
from selfinstruct_hub.errors import SeedError
from selfinstruct_hub.recipes import outputs
from selfinstruct_hub.records import Decoding, Task, estimated_tokens

# A model of a few hundred million parameters loses the thread of a long list.
_EMBEDDED_TASKS_PER_REQUEST = 4
# At temperature 1.0 it writes no sentences, and without a penalty every sixth answer runs in circles until its
# tokens are used up (tests/benchmarks/acceptance.py shows the difference).
_EMBEDDED_SAMPLING = {"temperature": 0.8, "top_p": 0.9, "frequency_penalty": 0.2}
# Self-Instruct's later steps: how many seeds the paper shows and how many tokens it gives to instances. Reading
# long prompts is most of the work on a processor, so the embedded engine gets fewer.
_LATER_STEPS: dict[str, Any] = {
    "classification_demonstrations": 31,
    "label_first_demonstrations": 16,
    "input_first_demonstrations": 11,
    "instance_max_new_tokens": 350,
    "instance_temperature": None,
}
_EMBEDDED_LATER_STEPS: dict[str, Any] = {
    "classification_demonstrations": 8,
    "label_first_demonstrations": 4,
    "input_first_demonstrations": 4,
    "instance_max_new_tokens": 250,
    # Greedy, it writes one and the same input three times, and conflicting outputs to it.
    "instance_temperature": 0.7,
}
# What a chat template adds: markers, and often a system message of the model's own.
_TEMPLATE_TOKENS = 100
_LATER_FRAME_TOKENS = 700  # a later prompt's own words, and the longest instruction it may be about

# What `regenerate` writes anew: the outputs of rows, or their inputs and outputs.
OUTPUT, INSTANCE = "output", "instance"
# An output alone: of any length, and not greedy, since another one is wanted.
_OUTPUTS: dict[str, Any] = {"temperature": 0.7, "top_p": 0.9, "frequency_penalty": None}
_EMBEDDED_OUTPUTS = {**_OUTPUTS, "frequency_penalty": 0.2}
_OUTPUT_TOKENS, _EMBEDDED_OUTPUT_TOKENS = 1024, 250
_OUTPUT_DEMONSTRATIONS, _EMBEDDED_OUTPUT_DEMONSTRATIONS = 8, 4


class Told(Protocol):
    """What an endpoint tells of itself that decides how it is asked."""

    embedded: bool
    chat: bool
    limits: Limits


def resolve(settings: Settings, endpoint: Endpoint) -> dict[str, Any]:
    """Everything that decides a round's rows, with every `auto` replaced by what it means at this endpoint.

    Raises ConfigError for a language that nobody knows the name of.
    """
    recipe = recipes.named(settings.recipe)
    language = languages.of(settings.language, settings.language_name)
    context = endpoint.limits.max_total_tokens
    most = _EMBEDDED_TASKS_PER_REQUEST if endpoint.embedded else recipe.tasks_per_request
    # Other scripts take more tokens for the same text.
    per_task = recipe.tokens_per_task * (1 if "LATIN" in language.scripts else 2)
    fits = context // 2 // per_task if context else most
    per_request = _chosen(settings.tasks_per_request, max(1, min(most, fits)))
    natural = min(recipe.max_new_tokens, per_task * per_request)
    max_new_tokens = _chosen(settings.decoding.max_new_tokens, natural)
    humans = _chosen(settings.demonstrations.human, recipe.humans)
    machines = _chosen(settings.demonstrations.machine, recipe.machines)
    set_characters = settings.demonstrations.max_characters
    frame = recipe.frame(language, settings.domain, endpoint.chat)
    room = _room(endpoint, max_new_tokens, estimated_tokens(frame))
    sampling_ = _sampling(settings, recipe, embedded=endpoint.embedded)
    resolved = {
        **judging(settings),
        "recipe": settings.recipe,
        "domain": settings.domain,
        "seed": settings.seed,
        "chat": endpoint.chat,
        "tasks_per_request": per_request,
        "grammar": endpoint.embedded if settings.grammar == "auto" else settings.grammar == "on",
        "demonstrations": {
            "human": humans,
            "machine": machines,
            "max_characters": None if isinstance(set_characters, str) else set_characters,
            "max_tokens": None if room is None else room // (humans + machines),
        },
        "decoding": {**settings.decoding.model_dump(), **sampling_, "max_new_tokens": max_new_tokens},
    }
    if recipe.later_steps:
        resolved["options"] = _later_steps(settings, endpoint, sampling_["frequency_penalty"])
    return resolved


def judging(settings: Settings) -> dict[str, Any]:
    """What decides a candidate's verdict, whoever wrote it, and the columns that it is published in.

    Raises ConfigError for a language that nobody knows the name of.
    """
    language = languages.of(settings.language, settings.language_name)
    blocked = settings.filters.blocked_words
    if blocked is None:
        blocked = [*recipes.named(settings.recipe).blocked_words, *language.blocked_words]
    return {
        "language": settings.language,
        "language_name": language.name,
        "filters": {
            **settings.filters.model_dump(),
            "min_words": _chosen(settings.filters.min_words, language.min_words),
            "max_words": _chosen(settings.filters.max_words, language.max_words),
            "blocked_words": blocked,
        },
        "novelty": {**settings.novelty.model_dump(), "mode": _novelty_mode(settings)},
        "columns": versions.COLUMNS,
    }


def _novelty_mode(settings: Settings) -> str:
    """What is known before the pool is; `auto` is decided by its size, when a round's judge is made."""
    mode = settings.novelty.mode
    return "full" if mode == "auto" and settings.saturation.needs_similarity else mode


def _chosen(value: Any, auto: Any) -> Any:
    return auto if value == "auto" else value


def _room(endpoint: Told, max_new_tokens: int, frame: int) -> int | None:
    """Tokens that a prompt has for demonstrations; None where the endpoint tells no bound."""
    context = endpoint.limits.max_total_tokens
    if not context:
        return None
    frame += _TEMPLATE_TOKENS if endpoint.chat else 0
    return max(0, min(context - max_new_tokens, endpoint.limits.max_input_tokens or context) - frame)


def _later_steps(settings: Settings, endpoint: Told, frequency_penalty: float | None) -> dict[str, Any]:
    natural = _EMBEDDED_LATER_STEPS if endpoint.embedded else _LATER_STEPS
    own = settings.self_instruct
    new_tokens = _chosen(own.instance_max_new_tokens, natural["instance_max_new_tokens"])
    return {
        "only_classification": own.only_classification,
        "classification_demonstrations": _chosen(
            own.classification_demonstrations, natural["classification_demonstrations"]
        ),
        "label_first_demonstrations": _chosen(own.instance_demonstrations, natural["label_first_demonstrations"]),
        "input_first_demonstrations": _chosen(own.instance_demonstrations, natural["input_first_demonstrations"]),
        "classification_room": _room(endpoint, 0, _LATER_FRAME_TOKENS),
        "instance_room": _room(endpoint, new_tokens, _LATER_FRAME_TOKENS),
        "instance_max_new_tokens": new_tokens,
        "instance_temperature": _chosen(own.instance_temperature, natural["instance_temperature"]),
        "instance_frequency_penalty": frequency_penalty,
    }


def regeneration(settings: Settings, endpoint: Told, part: str) -> dict[str, Any]:
    """What decides the rows that a revision writes anew, with every `auto` resolved: `decoding`, how many seeds
    are `shown`, and the tokens that they have (`room`, None: no bound). New instances are asked for as in
    Self-Instruct's third step; `decoding` of the settings is for outputs.

    Raises ConfigError for a language that nobody knows the name of.
    """
    own, embedded, limits = settings.decoding, endpoint.embedded, endpoint.limits
    longest = settings.demonstrations.max_characters
    common = {
        **{key: value for key, value in judging(settings).items() if key not in ("novelty", "columns")},
        "part": part,
        "seed": settings.seed,
        "chat": endpoint.chat,
        "grammar": embedded if settings.grammar == "auto" else settings.grammar == "on",
        "max_characters": None if isinstance(longest, str) else longest,
    }
    if part == INSTANCE:
        penalty = _sampling(settings, recipes.named("self-instruct"), embedded=embedded)["frequency_penalty"]
        steps = _later_steps(settings, endpoint, penalty)
        decoding = {
            "max_new_tokens": steps["instance_max_new_tokens"],
            "temperature": steps["instance_temperature"],
            "frequency_penalty": penalty,
        }
        shown = {kind: steps[f"{kind}_demonstrations"] for kind in ("label_first", "input_first")}
        return {**common, "decoding": decoding, "shown": shown, "room": steps["instance_room"]}
    natural = _EMBEDDED_OUTPUTS if embedded else _OUTPUTS
    most = _EMBEDDED_OUTPUT_TOKENS if embedded else _OUTPUT_TOKENS
    most = min(most, limits.max_total_tokens // 2) if limits.max_total_tokens else most
    max_new_tokens = _chosen(own.max_new_tokens, most)
    shown_now = _EMBEDDED_OUTPUT_DEMONSTRATIONS if embedded else _OUTPUT_DEMONSTRATIONS
    language = languages.of(settings.language, settings.language_name)
    return {
        **common,
        "decoding": {
            **own.model_dump(),
            **{name: _chosen(getattr(own, name), value) for name, value in natural.items()},
            "max_new_tokens": max_new_tokens,
        },
        "shown": {"output": _chosen(settings.demonstrations.human, shown_now)},
        "room": _room(endpoint, max_new_tokens, outputs.frame(language, endpoint.chat)),
    }


def _sampling(settings: Settings, recipe: recipes.Recipe, *, embedded: bool) -> dict[str, Any]:
    papers = {
        "temperature": recipe.temperature,
        "top_p": recipe.top_p,
        "frequency_penalty": recipe.frequency_penalty,
    }
    natural = _EMBEDDED_SAMPLING if embedded else papers
    return {name: _chosen(getattr(settings.decoding, name), natural[name]) for name in natural}


def plan_of(settings: Any) -> recipes.Plan:
    """The plan that a recipe gets, out of a round's resolved settings."""
    return recipes.Plan(
        language=languages.of(settings["language"], settings.get("language_name")),
        domain=settings.get("domain"),
        tasks_per_request=settings["tasks_per_request"],
        use_grammar=settings["grammar"],
        humans=settings["demonstrations"]["human"],
        machines=settings["demonstrations"]["machine"],
        decoding=Decoding.from_dict(settings["decoding"]),
        options=settings.get("options", {}),
        chat=settings.get("chat", False),
    )


def fits(task: Task, settings: Any) -> bool:
    """Whether `task` is short enough to be shown in a prompt that asks for new ones."""
    shown = settings["demonstrations"]
    longest, room = shown["max_characters"], shown.get("max_tokens")
    short = longest is None or sampling.length(task) <= longest
    return short and (room is None or recipes.named(settings["recipe"]).cost(task) <= room)


def demonstration_seeds(seeds: Sequence[Task], settings: Any) -> list[Task]:
    """The seeds that prompts may show. Raises SeedError where they are fewer than a prompt shows, or not of the
    kinds that the recipe's steps need."""
    options, wanted = settings.get("options", {}), settings["demonstrations"]["human"]
    only = bool(options.get("only_classification"))
    fit = [task for task in seeds if fits(task, settings)]
    usable = sum(bool(task.is_classification) or not only for task in fit)
    if usable < wanted:
        why = " that are classification tasks" if only else ""
        mend = "`demonstrations.human`"
        if len(fit) < len(seeds):
            longest = settings["demonstrations"]["max_characters"]
            why += f" of at most {longest} characters" if longest is not None else ""
            why += "" if longest is not None else " short enough for the endpoint's context"
            mend += ", `tasks_per_request` or `decoding.max_new_tokens`"
        there = f"there is {usable}" if usable == 1 else f"there are {usable}"
        raise SeedError(f"a prompt shows {wanted} seed tasks, and {there}{why}; add seeds, or lower {mend}")
    if options:
        _check_kinds(fit, options)
    return fit


def _check_kinds(seeds: Sequence[Task], options: Any) -> None:
    """Self-Instruct's later steps show classification tasks and others."""
    yes = sum(bool(task.is_classification) for task in seeds)
    no = len(seeds) - yes
    for kind, count in (("classification tasks", yes), ("other tasks", no)):
        if not count:
            raise SeedError(
                f"the recipe self-instruct shows classification tasks and others, and none of the {len(seeds)} "
                f"seeds are {kind}; add some (is_classification says which they are; for a dataset, set "
                "`seed_dataset.is_classification`), or use the recipe alpaca"
            )

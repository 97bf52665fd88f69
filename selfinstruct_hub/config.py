"""`selfinstruct.yaml` as pydantic models: every setting, its default and what it means.

The written file, its comments and its checks all come from the models below, so they cannot drift apart.
Keys and tokens never live here: they come from the environment (HF_TOKEN, SELFINSTRUCT_API_KEY).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from selfinstruct_hub.errors import ConfigError

FILE_NAME = "selfinstruct.yaml"

Auto = Literal["auto"]
_Share = Annotated[float, Field(ge=0.0, le=1.0)]
_Word = Annotated[str, Field(min_length=1, pattern=r"\S")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False, validate_default=True, allow_inf_nan=False)


class SeedDataset(_Section):
    """How a dataset of seeds is read, where `seeds` names one. The last five name its columns."""

    config: str | None = Field(None, description="its configuration; null: the only or default one")
    split: str = Field("train", description="its split")
    revision: str | None = Field(None, description="branch, tag or commit on the Hub; null: the newest")
    limit: int | None = Field(1000, ge=1, description="rows taken, from the top; null: all")
    instruction: _Word = Field("instruction", description="column with the instruction")
    input: _Word | None = Field("input", description="column with the input; null: none")
    output: _Word = Field("output", description="column with the answer")
    is_classification: _Word | None = Field(None, description="column that says whether it is classification")
    id: _Word | None = Field(None, description="column with ids of your own; null: numbered")


class Demonstrations(_Section):
    """The tasks shown in the prompt that asks for new ones."""

    human: Auto | Annotated[int, Field(ge=1)] = Field(
        "auto", description="seed tasks in each prompt; auto: the recipe's, alpaca 3, self-instruct 6"
    )
    machine: Auto | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="tasks of earlier rounds (seeds while there are none); auto: alpaca 0, self-instruct 2",
    )
    max_characters: Auto | Annotated[int, Field(ge=200)] = Field(
        "auto",
        description="longer seed tasks are not shown; auto: what fits the endpoint's context",
    )


class DecodingSettings(_Section):
    """How the completions that write new tasks are sampled. null leaves a parameter out of the request."""

    temperature: Auto | Annotated[float, Field(gt=0)] | None = Field(
        "auto",
        description="auto: the recipe's, 0.8 for the embedded engine; null with top_p and top_k null: greedy",
    )
    top_p: Auto | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        "auto", description="auto: the recipe's, 0.9 for the embedded engine; null means 1.0"
    )
    top_k: int | None = Field(None, gt=0, description="null means the whole vocabulary")
    repetition_penalty: float | None = Field(None, gt=0, description="1.0 is neutral")
    frequency_penalty: Auto | Annotated[float, Field(gt=0, le=2)] | None = Field(
        "auto",
        description="above 0, up to 2; auto: null for alpaca, 0.2 for self-instruct and the embedded engine",
    )
    max_new_tokens: Auto | Annotated[int, Field(gt=0)] = Field(
        "auto",
        description="tokens it may have; auto: alpaca 150 a task, at most 3072; self-instruct 60 a task, 1024",
    )


class SelfInstructSettings(_Section):
    """What only the recipe self-instruct has: the steps after the one that writes instructions."""

    only_classification: bool = Field(False, description="ask for classification tasks, and keep no others")
    classification_demonstrations: Auto | Annotated[int, Field(ge=2)] = Field(
        "auto", description="seeds shown when asking whether it is classification; auto: 31, 8 (embedded engine)"
    )
    instance_demonstrations: Auto | Annotated[int, Field(ge=1)] = Field(
        "auto", description="seeds shown when asking for instances; auto: 16 label-first, 11 others, 4 (embedded)"
    )
    instance_temperature: Auto | Annotated[float, Field(gt=0)] | None = Field(
        "auto", description="null: greedy; auto: greedy as in the paper, 0.7 for the embedded engine"
    )
    instance_max_new_tokens: Auto | Annotated[int, Field(gt=0)] = Field(
        "auto", description="tokens that a task's instances may have; auto: 350, 250 (embedded engine)"
    )


class Filters(_Section):
    """The rules a candidate must pass before its novelty is measured."""

    min_words: Auto | Annotated[int, Field(ge=1)] = Field(
        "auto", description="words (Chinese: characters) an instruction must have; auto: 4, as in both papers"
    )
    max_words: Auto | Annotated[int, Field(ge=1)] = Field(
        "auto", description="words (Chinese: characters) it may have; auto: 150, 300 for Chinese"
    )
    blocked_words: list[_Word] | None = Field(
        None, description="words a text model cannot act on; null: the recipe's and the language's lists"
    )
    max_instances: int = Field(5, ge=1, description="instances a task may keep")
    max_repeated_share: _Share | None = Field(
        0.5,
        description="share of an output's words that may repeat an earlier run of 5 (a looping model); null: off",
    )


class Novelty(_Section):
    """The gate against near-duplicates: ROUGE-L F1 with seeds and everything accepted."""

    threshold: float = Field(
        0.7, ge=0, lt=1, description="a candidate whose highest score is above this is dropped"
    )
    most_similar: int = Field(10, ge=1, le=100, description="neighbours kept with their scores")


class Saturation(_Section):
    """When growth stops because new tasks resemble the pool (exit 3). null: never for that reason."""

    mean_similarity: _Share | None = Field(
        None, description="mean ROUGE-L of a round's candidates with their nearest neighbour, this or above"
    )
    p90_similarity: _Share | None = Field(None, description="the 90th percentile of the same, this or above")
    acceptance: _Share | None = Field(None, description="accepted share of a round's candidates, this or below")
    rounds: int = Field(2, ge=1, description="so many last rounds must all cross one of these")


class EndpointSettings(_Section):
    """Where completions come from. The API key comes from HF_TOKEN or SELFINSTRUCT_API_KEY, never from here."""

    url: str | None = Field(None, description="null: the embedded engine is started for the run")
    api: Literal["auto", "tgi"] = Field("auto", description="protocol: auto asks the endpoint")
    model: str | None = Field(
        None, description="with an endpoint: the model it must serve; without: weights (a path or an id)"
    )
    concurrency: Auto | Annotated[int, Field(ge=1)] = Field(
        "auto", description="requests in flight; auto: what /info allows, at most 32"
    )
    attempts: int = Field(6, ge=1, description="tries a request gets when the failure is transient")
    timeout: float = Field(
        120.0, gt=0, description="seconds a request may take, plus 0.2 for every token it may generate"
    )

    @field_validator("url")
    @classmethod
    def _an_http_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError for a port that is none
        if parts.query or parts.fragment:
            raise ValueError("expected a plain address, without ? and #")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected a URL such as http://127.0.0.1:8080")
        if parts.username or parts.password:
            raise ValueError(
                "the URL carries credentials; take them out and set SELFINSTRUCT_API_KEY in the environment"
            )
        return url.rstrip("/")


class CardSettings(_Section):
    """What the dataset card says beyond what is computed."""

    pretty_name: str | None = Field(None, description="title of the dataset; null: the workspace's folder name")
    description: str = Field("", description="a paragraph at the top of the card")
    license: str | None = Field(None, description="licence identifier, as the Hub writes it; null: none stated")
    tags: list[str] = Field([], description="tags beside `synthetic` and `instruction-tuning`")


class Settings(_Section):
    """Everything a workspace decides."""

    recipe: Literal["alpaca", "self-instruct"] = Field(
        "alpaca", description="how tasks are asked for: alpaca (one step) or self-instruct (four)"
    )
    language: Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]+)*$")] = Field(
        "en", description="ISO 639 code of the tasks' language; en and zh have seeds and prompts of ours"
    )
    language_name: _Word | None = Field(
        None, description="its name in English, as the prompt says it; null: known for the common ones"
    )
    domain: _Word | None = Field(
        None, description='what all tasks must be about, as the prompt says it ("medicine"); null: anything'
    )
    seeds: str | None = Field(
        None, description="a JSONL or dataset folder, relative to this file, or a Hub dataset's id; null: ours"
    )
    seed: int = Field(42, ge=0, lt=2**63, description="every draw and every sample follows from it")
    tasks: int = Field(100, ge=1, le=10**9, description="accepted tasks that complete a round")
    max_barren_requests: int | None = Field(
        100, ge=1, description="requests in a row without an accepted task that stop a run (exit 3); null: never"
    )
    tasks_per_request: Auto | Annotated[int, Field(ge=1, le=50)] = Field(
        "auto",
        description="tasks asked for in one prompt; auto: alpaca 20, self-instruct 8, embedded 4, or what fits",
    )
    grammar: Literal["auto", "on", "off"] = Field(
        "auto", description="hold answers to the recipe's form; auto: on for the embedded engine only"
    )
    seed_dataset: SeedDataset = Field(default_factory=SeedDataset)
    demonstrations: Demonstrations = Field(default_factory=Demonstrations)
    decoding: DecodingSettings = Field(default_factory=DecodingSettings)
    self_instruct: SelfInstructSettings = Field(default_factory=SelfInstructSettings)
    filters: Filters = Field(default_factory=Filters)
    novelty: Novelty = Field(default_factory=Novelty)
    saturation: Saturation = Field(default_factory=Saturation)
    endpoint: EndpointSettings = Field(default_factory=EndpointSettings)
    card: CardSettings = Field(default_factory=CardSettings)

    @field_validator("filters")
    @classmethod
    def _bounds_in_order(cls, filters: Filters) -> Filters:
        low, high = filters.min_words, filters.max_words
        if isinstance(low, int) and isinstance(high, int) and low > high:
            raise ValueError("min_words is above max_words: no instruction could pass")
        return filters


# The name of a dataset on the Hub, which is public, not a path.
_DATASET_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?<!\.jsonl)(?<!\.json)")
_SWITCHES = frozenset({"self_instruct.only_classification"})


class _Loader(yaml.SafeLoader):
    """YAML in which only true and false are truth values: `grammar: off` means what it says."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def load(path: Path) -> Settings:
    """Reads `path`. Raises ConfigError, one line naming file and setting, for whatever is wrong in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        values = yaml.load(text, _Loader)
    except (ValueError, RecursionError) as error:  # a date or a number that is none; nesting without end
        reason = " ".join(str(error).split())[:100]
        raise ConfigError(f"{path}: a value in it cannot be read ({reason}); put it in quotes") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be read"
        raise ConfigError(f"{path}{place}: not valid YAML ({problem})") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected settings as `key: value` lines, found a {type(values).__name__}")
    return validate(values, source=str(path))


def validate(values: Mapping[str, Any], *, source: str) -> Settings:
    """`values` as Settings. Raises ConfigError naming `source` and the first setting that is wrong."""
    for name, value in flatten(values):
        if isinstance(value, bool) and name not in _SWITCHES:  # pydantic would read it as 1 or 0
            raise ConfigError(f"{source}: `{name}`: expected a value, got {str(value).lower()}")
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        # A setting of several types is one mistake, however many branches of the union complain.
        mistakes: dict[tuple[str, ...], list[Any]] = {}
        for detail in error.errors(include_url=False):
            keys = [str(part) for part in detail["loc"]]
            while detail["type"] != "extra_forbidden" and keys and not _is_setting(keys):
                keys.pop()
            mistakes.setdefault(tuple(keys), []).append(detail)
        (place, details), *others = mistakes.items()
        more = f" (and {len(others)} more)" if others else ""
        name = ".".join(place)
        if details[0]["type"] == "extra_forbidden":
            raise ConfigError(f"{source}: unknown setting `{name}`{_hint(list(place))}{more}") from None
        given = details[0].get("input")
        # An address is not repeated: it may carry credentials.
        printable = isinstance(given, (str, int, float, list, type(None))) and "://" not in str(given)
        printable = printable and place[-1:] != ("url",)
        shown = f", got {given!r}" if printable else ""
        raise ConfigError(f"{source}: `{name}`: {_readable(details)}{shown}{more}") from None


def with_overrides(settings: Settings, overrides: Mapping[str, Any]) -> Settings:
    """`settings` with options of the command line laid over them; `overrides` has dotted names, and None
    means not given. Raises ConfigError naming the option."""
    values = settings.model_dump()
    for name, value in overrides.items():
        if value is None:
            continue
        *path, last = name.split(".")
        section = values
        for part in path:
            section = section[part]
        section[last] = value
    return validate(values, source="command line")


def render(settings: Settings) -> str:
    """`settings` as commented YAML, one line a setting; `load` of it gives the same settings."""
    lines = ["# Settings of a selfinstruct-hub workspace. Every setting is here, with its default unless changed."]
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, _Section):
            lines += ["", f"# {_one_line(type(value).__doc__)}", f"{name}:"]
            for inner, inner_field in type(value).model_fields.items():
                lines.append(_line(f"  {inner}", getattr(value, inner), inner_field.description))
        else:
            lines.append(_line(name, value, field.description))
    return "\n".join(lines) + "\n"


def publishable(settings: Settings) -> Settings:
    """`settings` without what belongs to one machine: addresses, and paths to weights and seeds."""
    seeds = settings.seeds
    if seeds and not _DATASET_ID.fullmatch(seeds):
        seeds = Path(seeds).name
    endpoint = settings.endpoint.model_copy(update={"url": None, "model": None})
    return settings.model_copy(update={"endpoint": endpoint, "seeds": seeds})


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as (dotted name, value) pairs."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _line(name: str, value: Any, comment: str | None) -> str:
    if isinstance(value, str) and "\n" in value:
        text = json.dumps(value, ensure_ascii=False)  # which is YAML, and stays on one line
    else:
        text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
        text = re.sub(r"\n\.\.\.\n$", "", text).strip()
    setting = f"{name}: {text}"
    return f"{setting:<30}  # {_one_line(comment)}"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _section_at(keys: list[str]) -> type[_Section] | None:
    section: type[_Section] = Settings
    for key in keys:
        field = section.model_fields.get(key)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, _Section)):
            return None
        section = field.annotation
    return section


def _is_setting(keys: list[str]) -> bool:
    section = _section_at(keys[:-1])
    return section is not None and keys[-1] in section.model_fields


def _hint(keys: list[str]) -> str:
    section = _section_at(keys[:-1])
    known = list(section.model_fields) if section else []
    close = difflib.get_close_matches(keys[-1], known, n=1)
    if close:
        return f"; did you mean `{'.'.join([*keys[:-1], close[0]])}`?"
    for name, field in Settings.model_fields.items():  # a setting written one level too high or too low
        inner = _section_at([name])
        if inner and keys[-1] in inner.model_fields:
            return f"; did you mean `{name}.{keys[-1]}`?"
        if name == keys[-1] and field:
            return f"; `{name}` belongs at the top level"
    return f"; known here: {', '.join(known)}"


def _readable(details: list[Any]) -> str:
    """What was expected. Where a number was given to a setting that also takes auto, its bound is what counts."""
    bounds = [detail for detail in details if detail["type"].startswith(("greater_than", "less_than"))]
    if details[0]["type"] == "literal_error" and not bounds and len(details) > 1:
        whole = any(detail["type"].startswith("int") for detail in details)
        return f"expected auto or a {'whole ' if whole else ''}number"
    message: str = (bounds or details)[0]["msg"]
    return message.removeprefix("Value error, ").replace("Input should be", "expected")

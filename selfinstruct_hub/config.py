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


class Demonstrations(_Section):
    """The tasks shown in a prompt."""

    human: int = Field(3, ge=1, description="seed tasks shown in each prompt")
    max_characters: Auto | Annotated[int, Field(ge=200)] = Field(
        "auto",
        description="longer seed tasks are not shown; auto: what fits the endpoint's context",
    )


class DecodingSettings(_Section):
    """How completions are sampled. null leaves a parameter out of the request."""

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
        "auto", description="above 0, up to 2; auto: null, 0.2 for the embedded engine"
    )
    max_new_tokens: Auto | Annotated[int, Field(gt=0)] = Field(
        "auto", description="tokens a completion may have; auto: 150 a task asked for, at most 3072"
    )


class Filters(_Section):
    """The rules a candidate must pass before its novelty is measured."""

    min_words: int = Field(4, ge=1, description="words an instruction must have (both papers drop 3 or fewer)")
    max_words: int = Field(150, ge=1, description="words an instruction may have")
    blocked_words: list[_Word] | None = Field(
        None, description="words a text model cannot act on; null: the recipe's own list"
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

    recipe: Literal["alpaca"] = Field("alpaca", description="how tasks are asked for")
    language: Literal["en"] = Field("en", description="ISO 639 code of the tasks' language; en only so far")
    seeds: str | None = Field(None, description="a JSONL of seed tasks, relative to this file; null: ours")
    seed: int = Field(42, ge=0, lt=2**63, description="every draw and every sample follows from it")
    tasks: int = Field(100, ge=1, le=10**9, description="accepted tasks that complete a round")
    max_barren_requests: int | None = Field(
        100, ge=1, description="requests in a row without an accepted task that stop a run (exit 3); null: never"
    )
    tasks_per_request: Auto | Annotated[int, Field(ge=1, le=50)] = Field(
        "auto",
        description="tasks asked for in one prompt; auto: 20, fewer in a small context, 4 (embedded engine)",
    )
    grammar: Literal["auto", "on", "off"] = Field(
        "auto", description="hold answers to the recipe's form; auto: on for the embedded engine only"
    )
    demonstrations: Demonstrations = Field(default_factory=Demonstrations)
    decoding: DecodingSettings = Field(default_factory=DecodingSettings)
    filters: Filters = Field(default_factory=Filters)
    novelty: Novelty = Field(default_factory=Novelty)
    endpoint: EndpointSettings = Field(default_factory=EndpointSettings)
    card: CardSettings = Field(default_factory=CardSettings)

    @field_validator("filters")
    @classmethod
    def _bounds_in_order(cls, filters: Filters) -> Filters:
        if filters.min_words > filters.max_words:
            raise ValueError("min_words is above max_words: no instruction could pass")
        return filters


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
        if isinstance(value, bool):  # pydantic would read it as 1 or 0
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
    seeds = Path(settings.seeds).name if settings.seeds else None
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

"""`selfinstruct.yaml` as pydantic models: every setting, its default and what it means.

The written file, its comments and its checks all come from `models.py`, so they cannot drift apart.
Keys and tokens never live here: they come from the environment (HF_TOKEN, SELFINSTRUCT_API_KEY).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from selfinstruct_hub.config.models import (
    RECIPES,
    REGISTER,
    CardSettings,
    DecodingSettings,
    Decontamination,
    Demonstrations,
    EndpointSettings,
    Filters,
    Novelty,
    Paraphrases,
    Prices,
    Saturation,
    Section,
    SeedDataset,
    SelfInstructSettings,
    Settings,
    allow_recipe,
)
from selfinstruct_hub.errors import ConfigError

__all__ = [
    "FILE_NAME",
    "RECIPES",
    "REGISTER",
    "CardSettings",
    "DecodingSettings",
    "Decontamination",
    "Demonstrations",
    "EndpointSettings",
    "Filters",
    "Novelty",
    "Paraphrases",
    "Prices",
    "Saturation",
    "SeedDataset",
    "SelfInstructSettings",
    "Settings",
    "allow_recipe",
    "flatten",
    "load",
    "publishable",
    "render",
    "validate",
    "with_overrides",
    "with_values",
]

FILE_NAME = "selfinstruct.yaml"

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


def with_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """`settings` with nested `values` laid over them, None included; a section's values are laid over the section,
    and a text for `endpoint` is its address. Raises ConfigError naming the setting."""
    return validate(_laid_over(settings.model_dump(), values), source="settings")


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(below)
    for name, value in above.items():
        held = found.get(name)
        if name == "endpoint" and isinstance(value, (str, list, tuple)):
            value = {"url": value if isinstance(value, str) else list(value)}
        found[name] = _laid_over(held, value) if isinstance(held, dict) and isinstance(value, Mapping) else value
    return found


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
        if isinstance(value, Section):
            lines += ["", f"# {_one_line(type(value).__doc__)}", f"{name}:"]
            for inner, inner_field in type(value).model_fields.items():
                lines.append(_line(f"  {inner}", getattr(value, inner), inner_field.description))
        else:
            lines.append(_line(name, value, field.description))
    return "\n".join(lines) + "\n"


def publishable(settings: Settings) -> Settings:
    """`settings` without what belongs to one machine: addresses, and paths to weights, seeds, a model and
    evaluation sets, of which the last part stays."""
    seeds = settings.seeds
    if seeds and not _DATASET_ID.fullmatch(seeds):
        seeds = Path(seeds).name
    endpoint = settings.endpoint.model_copy(update={"url": None, "model": None})
    model = settings.paraphrases.model
    names = [Path(file).name or file for file in settings.decontamination.against]
    return settings.model_copy(
        update={
            "endpoint": endpoint,
            "seeds": seeds,
            "paraphrases": settings.paraphrases.model_copy(
                update={"model": model and (Path(model).name or model)}
            ),
            # Files of one name in two folders are one name here.
            "decontamination": settings.decontamination.model_copy(update={"against": list(dict.fromkeys(names))}),
        }
    )


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


def _section_at(keys: list[str]) -> type[Section] | None:
    section: type[Section] = Settings
    for key in keys:
        field = section.model_fields.get(key)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, Section)):
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

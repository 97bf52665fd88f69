"""Renders the dataset card: YAML that every `datasets` reads, then the template of `cards/` over the manifest.

Every figure comes from the manifest. Texts that a model wrote never enter the page unescaped.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import yaml

from selfinstruct_hub import __version__, assets, recipes
from selfinstruct_hub.config import CardSettings
from selfinstruct_hub.records import is_import
from selfinstruct_hub.release import shards

TEMPLATE = "dataset_card.md.j2"
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


def render(manifest: dict[str, Any], settings: CardSettings, title: str) -> str:
    """The card's whole text. Raises jinja2.UndefinedError where the template names what is not there."""
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["cell"] = cell
    template = environment.from_string(assets.text("cards", TEMPLATE))
    drops: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for round_ in manifest["rounds"]:
        drops.update(round_["drops"])
        lost.update(round_["lost_instances"])
        failed.update(round_["failed"])
    grown = [round_ for round_ in manifest["rounds"] if not is_import(round_["settings"])]
    newest = {round_["settings"]["recipe"]: round_["settings"] for round_ in grown}
    used = [(recipe := recipes.named(name), recipe.differences(newest[name])) for name in newest]
    deciding = [{k: v for k, v in r["settings"].items() if k != "seed"} for r in grown]
    body = template.render(
        title=cell(title),
        description=settings.description.strip(),
        manifest=manifest,
        drops=drops.most_common(),
        lost=lost.most_common(),
        failed=failed.most_common(),
        grown=grown,
        settings_differ=any(settings != deciding[-1] for settings in deciding),
        counted=counted,
        imported=[round_ for round_ in manifest["rounds"] if is_import(round_["settings"])],
        models=sorted({model for round_ in manifest["rounds"] for model in round_["models"]}),
        columns={name: list(shards.COLUMNS[name]) for name in published_configs(manifest)},
        recipes=used,
        tool_version=__version__,
    )
    header = yaml.safe_dump(_metadata(manifest, settings, title), sort_keys=False, allow_unicode=True, width=10**6)
    return f"---\n{header}---\n\n{body}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: "1 row", "2,000 rows". `many` where an s is not enough."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def cell(text: object) -> str:
    """`text` as harmless inline Markdown: on one line, with everything escaped that could open markup."""
    flat = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|#!~$])", r"\\\1", flat)


def published_configs(manifest: dict[str, Any]) -> list[str]:
    """The configs that have rows. `datasets` refuses to load one without, and nothing rejected is no fault."""
    rows: Counter[str] = Counter()
    for file in manifest["files"]:
        rows[file.get("config", "")] += file.get("rows", 0)
    return [name for name in shards.COLUMNS if rows[name]]


def size_category(rows: int) -> str:
    """The Hub's size category for a number of rows."""
    return next((name for limit, name in _SIZES if rows < limit), "n>10M")


def _metadata(manifest: dict[str, Any], settings: CardSettings, title: str) -> dict[str, Any]:
    configs, infos = [], []
    for name in published_configs(manifest):
        columns = shards.COLUMNS[name]
        files = [file for file in manifest["files"] if file.get("config") == name]
        config: dict[str, Any] = {"config_name": name}
        if name == "default":
            config["default"] = True
        config["version"] = manifest["version"].removeprefix("v")
        config["data_files"] = [{"split": shards.SPLIT, "path": f"data/{name}/{shards.SPLIT}-*.parquet"}]
        configs.append(config)
        memory = sum(file["memory_bytes"] for file in files)
        rows = sum(file["rows"] for file in files)
        infos.append(
            {
                "config_name": name,
                "features": [_feature(column, kind) for column, kind in columns.items()],
                "splits": [{"name": shards.SPLIT, "num_bytes": memory, "num_examples": rows}],
                "download_size": sum(file["bytes"] for file in files),
                "dataset_size": memory,
            }
        )
    # An imported row is as its file had it: nobody here knows whether a model wrote it.
    grown = not all(is_import(round_["settings"]) for round_ in manifest["rounds"])
    made = ["synthetic", "self-instruct"] if grown else []
    return {
        "pretty_name": title,
        **({"license": settings.license} if settings.license else {}),
        "language": [manifest["language"]],
        "size_categories": [size_category(manifest["rows"])],
        "task_categories": ["text-generation"],
        "tags": list(dict.fromkeys([*made, "instruction-tuning", *settings.tags])),
        "configs": configs,
        "dataset_info": infos,
    }


def _feature(name: str, kind: Any) -> dict[str, Any]:
    if isinstance(kind, list):
        inner = kind[0]
        if isinstance(inner, dict):
            return {"name": name, "list": [_feature(key, value) for key, value in inner.items()]}
        return {"name": name, "list": inner}
    return {"name": name, "dtype": kind}

"""Renders the dataset card: YAML that every `datasets` reads, then the templates of `cards/` over the manifest.

Every figure comes from the manifest. Texts that a model wrote never enter the page unescaped.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

import yaml

from selfinstruct_hub import assets, recipes
from selfinstruct_hub.config import RECIPES, CardSettings
from selfinstruct_hub.figures import counted
from selfinstruct_hub.records import REGENERATE, REPLAY, REVIEW, TOP_UP, canonical_json, is_import
from selfinstruct_hub.release import shards
from selfinstruct_hub.release.page import samples
from selfinstruct_hub.release.page.escaping import cell, code, fenced
from selfinstruct_hub.release.page.pictures import LEAST_TASKS
from selfinstruct_hub.release.page.reasons import explained
from selfinstruct_hub.release.page.standing import standing

if TYPE_CHECKING:
    import jinja2

TEMPLATE = "dataset_card.md.j2"
NO_PICTURES = (
    f"it has fewer than {LEAST_TASKS} tasks, matplotlib (the extra `report`) was not there when it was made, or "
    "`card.pictures` is off"
)
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
)
# How a reader of the card hears of a revision.
_HOW = {
    REPLAY: "stored answers judged again",
    REGENERATE: "{part}s written anew",
    REVIEW: "reviewed by people",
    TOP_UP: "filled up with further tasks",
}
# What people were asked of a row, in the words of the card.
_QUESTIONS = {
    "valid_task": "Does the instruction describe a valid task?",
    "appropriate_input": "Is the input appropriate for the instruction?",
    "acceptable_output": "Is the output a correct and acceptable answer?",
}
# What the Hub takes for the id of a model on it.
_MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def render(
    manifest: Mapping[str, Any],
    settings: CardSettings,
    title: str,
    *,
    shown: Sequence[samples.Sample] = (),
    pictures: Mapping[str, str] | None = None,
) -> str:
    """The card's whole text: of the release that `manifest` describes (its `statistics` included), with the rows
    `shown` as samples and `pictures` (alternative text by path in the release).

    Raises jinja2.UndefinedError where a template names what is not there.
    """
    header = yaml.safe_dump(_metadata(manifest, settings, title), sort_keys=False, allow_unicode=True, width=10**6)
    return f"---\n{header}---\n\n{body(manifest, settings, title, shown=shown, pictures=pictures or {})}"


def body(
    manifest: Mapping[str, Any],
    settings: CardSettings,
    title: str,
    *,
    shown: Sequence[samples.Sample],
    pictures: Mapping[str, str],
) -> str:
    """The card without its YAML."""
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
    stand = standing(manifest)
    text = (
        _environment()
        .get_template(TEMPLATE)
        .render(
            manifest=manifest,
            statistics=manifest["statistics"],
            verbs=manifest["statistics"].get("verbs"),
            files=[file["path"] for file in manifest["files"]],
            title=cell(title),
            description=settings.description.strip(),
            limitations=[limitation.strip() for limitation in settings.limitations],
            license=settings.license,
            license_name=settings.license_name,
            license_link=settings.license_link,
            model_terms=settings.model_terms.strip(),
            citation=settings.citation.strip() or _bibtex(manifest, title),
            papers=[entry for recipe, _ in used if (entry := _paper(recipe))],
            drops=drops.most_common(),
            lost=lost.most_common(),
            failed=failed.most_common(),
            grown=grown,
            imported=[round_ for round_ in manifest["rounds"] if is_import(round_["settings"])],
            settings_differ=any(settings != deciding[-1] for settings in deciding),
            models=_models(manifest),
            thresholds=list(dict.fromkeys(threshold for one in stand for threshold in one["thresholds"])),
            kept_away=_spans(stand, "decontamination"),
            paraphrases=_spans(stand, "paraphrases"),
            all_gated=all(one["paraphrases"] for one in stand),
            revisions=_revisions(manifest),
            review=manifest.get("review"),
            questions=_QUESTIONS,
            configs=_configs(manifest),
            newest_round=manifest["rounds"][-1]["round"],
            newest_files=_newest_files(manifest),
            recipes=used,
            samples=shown,
            rule=samples.rule(manifest),
            pictures={path: cell(alt) for path, alt in pictures.items()},
            no_pictures=NO_PICTURES,
            tool_version=manifest["made_with"]["selfinstruct-hub"],
            counted=counted,
            explained=explained,
            number=number,
            percent=percent,
            money=money,
        )
    )
    # What a section leaves out must not leave a gap; a sample's own empty lines stand inside a fence, indented.
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    """The templates. Compiling them takes longer than all else of a small release."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(assets.folder("cards")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(cell=cell, code=code, fenced=fenced)
    return environment


def _spans(stand: Sequence[Mapping[str, Any]], gate: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The settings of a gate in the rounds whose rows have all passed it, with the rounds in a row that share
    them:
    ("round 1", {...}), ("rounds 2 to 5", {...})."""
    found = []
    for _, some in groupby(stand, key=lambda one: canonical_json(one[gate])):
        rounds = list(some)
        settings = rounds[0][gate]
        first, last = rounds[0]["round"], rounds[-1]["round"]
        if settings:
            found.append((f"round {first}" if first == last else f"rounds {first} to {last}", settings))
    return found


def number(value: int) -> str:
    """A whole number as a table shows it."""
    return f"{value:,}"


def percent(share: float | None) -> str:
    """A share of one; a dash where there is none."""
    return "-" if share is None else f"{share:.1%}"


def money(cost: Mapping[str, Any] | None) -> str:
    """An amount with at least two digits that count; a dash where it is not known."""
    if cost is None:
        return "-"
    digits = 2
    while 0 < cost["amount"] < 10 ** (1 - digits) and digits < 6:
        digits += 1
    return f"{cost['amount']:,.{digits}f} {cell(cost['currency'])}"


def published_configs(manifest: Mapping[str, Any]) -> list[str]:
    """The configs that have rows. `datasets` refuses to load one without, and nothing rejected is no fault."""
    rows: Counter[str] = Counter()
    for file in manifest["files"]:
        rows[file.get("config", "")] += file.get("rows", 0)
    return [name for name in shards.COLUMNS if rows[name]]


def size_category(rows: int) -> str:
    """The Hub's size category for a number of rows."""
    return next((name for limit, name in _SIZES if rows < limit), "1B<n<10B")


def _metadata(manifest: Mapping[str, Any], settings: CardSettings, title: str) -> dict[str, Any]:
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
    written = all(not is_import(round_["settings"]) for round_ in manifest["rounds"])
    made = ["synthetic", "self-instruct"] if grown else []
    # The Hub has no key for the model that wrote a dataset, so a tag says it.
    models = [f"generated-by:{model}" for model in _models(manifest) if _MODEL_ID.fullmatch(model)]
    other = settings.license == "other"
    # The Hub knows languages by ISO 639 alone, and has another key for what is said beyond it ("pt-BR").
    language = manifest["language"].partition("-")[0].lower()
    found = {
        "pretty_name": title,
        "license": settings.license,
        "license_name": settings.license_name if other else None,
        "license_link": settings.license_link if other else None,
        "language": [language],
        "language_bcp47": [manifest["language"]] if manifest["language"] != language else None,
        "language_creators": ["machine-generated"] if written else None,
        "annotations_creators": ["machine-generated"] if written else None,
        "size_categories": [size_category(manifest["rows"])],
        "task_categories": ["text-generation"],
        "tags": list(dict.fromkeys([*made, "instruction-tuning", *models, *settings.tags])),
        "configs": configs,
        "dataset_info": infos,
    }
    return {key: value for key, value in found.items() if value is not None}


def _models(manifest: Mapping[str, Any]) -> list[str]:
    asked = [*manifest["rounds"], *manifest.get("revisions", ())]
    return sorted({model for one in asked for model in one["models"]})


def _revisions(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each revision with what became of the rows of its rounds, by round."""
    found = []
    for one in manifest.get("revisions", ()):
        rounds = sorted(one["changes"].items(), key=lambda item: int(item[0]))
        counts = [
            (
                int(number_),
                {
                    **{name: said.get(name, 0) for name in ("won", "lost", "replaced")},
                    "kept": Counter(said.get("kept", {})).most_common(),
                },
            )
            for number_, said in rounds
        ]
        found.append({**one, "how": _HOW[one["kind"]].format(**one["settings"]), "rounds": counts})
    return found


def _configs(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What there is to load: {name: {rows, columns}}."""
    return {
        name: {
            "rows": sum(file["rows"] for file in manifest["files"] if file.get("config") == name),
            "columns": list(shards.COLUMNS[name]),
        }
        for name in published_configs(manifest)
    }


def _newest_files(manifest: Mapping[str, Any]) -> str:
    """The newest round's shards of the default config, as Python; empty where it has none or they are all."""
    files = [file for file in manifest["files"] if file.get("config") == "default"]
    newest = [file["path"] for file in files if file["round"] == manifest["rounds"][-1]["round"]]
    if not newest or len(newest) == len(files):
        return ""
    return json.dumps(newest[0] if len(newest) == 1 else newest)


def _paper(recipe: recipes.Recipe) -> str:
    """The BibTeX entry of what a recipe comes from; ours have theirs among the assets."""
    if recipe.citation or recipe.name not in RECIPES:
        return recipe.citation.strip()
    return assets.text("cards", f"{recipe.name}.bib").strip()


def _bibtex(manifest: Mapping[str, Any], title: str) -> str:
    """An entry of what is known of the dataset: its title and version. Who made it is the publisher's to say."""
    plain = re.sub(r"[\\{}]", "", " ".join(title.split()))
    key = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-") or "dataset"
    tool = f"selfinstruct-hub {manifest['made_with']['selfinstruct-hub']}"
    written = re.sub(r"([%&#$_])", r"\\\1", plain)  # as TeX would have them
    fields = {"title": f"{{{written}}}", "version": manifest["version"], "note": f"Dataset, made with {tool}"}
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@misc{{{key},\n{lines}\n}}"


def _feature(name: str, kind: Any) -> dict[str, Any]:
    if isinstance(kind, list):
        inner = kind[0]
        if isinstance(inner, dict):
            return {"name": name, "list": [_feature(key, value) for key, value in inner.items()]}
        return {"name": name, "list": inner}
    return {"name": name, "dtype": kind}

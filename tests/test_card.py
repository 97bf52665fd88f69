"""The dataset card: every figure computed, every snippet true, and no row that can break the page."""

from __future__ import annotations

import re
import shutil
import string
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from selfinstruct_hub import config, filters, run
from selfinstruct_hub.release import columns, page, read_manifest
from selfinstruct_hub.release.page import card, samples, statistics
from selfinstruct_hub.release.page.escaping import WIDTH, cell, code, cut, fenced, visible, wrapped
from selfinstruct_hub.release.page.reasons import EXPLAINED, explained
from selfinstruct_hub.workspace import Workspace
from tests.support.tgi import Server, running

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "card.md"

ROUNDS: list[dict[str, Any]] = [
    {
        "round": n,
        "version": f"v1.{n - 1}.0",
        "requests": 300 * n + 7,
        "completions": 300 * n,
        "failed": {"timeout": 5, "bad_answer": 2},
        "parsed": 290 * n,
        "candidates": 1000 * n,
        "tasks": 2,
        "rows": 3,
        "tokens": {"prompt": 5000, "generated": 123456},
        "drops": {"too_similar": 300 * n, "cut_off": 100 * n, "paraphrase": 3, "of_tomorrow": 1},
        "acceptance": 0.6 / n,
        "lost_instances": {"cut_off": 4} if n == 2 else {},
        "similarity": {"mean": 0.25 * n, "p90": 0.4} if n == 2 else {"mean": None, "p90": None},
        "stages": {
            "instructions": {
                "requests": 100,
                "parsed": 99,
                "candidates": 1000,
                "drops": {"too_similar": 600},
                "tokens": {"prompt": 1, "generated": 1234},
            },
            "instances": {
                "requests": 400,
                "parsed": 380,
                "candidates": 400,
                "drops": {},
                "tokens": {"prompt": 1, "generated": 12345},
            },
        }
        if n == 2
        else {"tasks": {}},
        "models": ["org/a_model*|<script>", "org/plain-1B"],
        "cost": {"amount": 0.0123, "currency": "USD"} if n == 2 else None,
        "settings": {
            "recipe": ("alpaca", "self-instruct")[n - 1],
            "novelty": {"threshold": 0.7},
            **(
                {
                    "domain": "law | order",
                    "options": {
                        "classification_demonstrations": 31,
                        "label_first_demonstrations": 16,
                        "input_first_demonstrations": 11,
                        "instance_max_new_tokens": 350,
                        "instance_temperature": None,
                    },
                }
                if n == 2
                else {}
            ),
            "decoding": {"temperature": 1.0, "top_p": None, "max_new_tokens": 3000},
            "decontamination": {
                "threshold": 0.7,
                "columns": [],
                "against": [{"file": "bench_1.jsonl", "sha256": "ab" * 32, "texts": 1234}],
            },
            "paraphrases": {
                "model": "small-model",
                "sha256": "cd" * 32,
                "threshold": 0.8,
                "package": "model2vec 0.9.0",
            },
            "tasks_per_request": 20,
            "grammar": False,
            "demonstrations": {"human": 3} if n == 1 else {"human": 6, "machine": 2},
        },
    }
    for n in (1, 2)
] + [
    {
        "round": 3,
        "version": "v1.2.0",
        **dict.fromkeys(("requests", "completions", "parsed"), 0),
        "candidates": 10,
        "tasks": 1,
        "rows": 1,
        "acceptance": 1.0,
        "drops": {},
        "lost_instances": {},
        "failed": {},
        "tokens": {"prompt": 0, "generated": 0},
        "similarity": {"mean": 0.1, "p90": 0.2},
        "stages": {"import": {}},
        "models": [],
        "cost": None,
        "settings": {
            "recipe": "import",
            "novelty": {"threshold": 0.6},
            "source": {"file": "my_*.json", "format": "alpaca_data", "rows": 13, "sha256": "0"},
        },
    }
]
# (round, instance, instruction, input, output, classification, endpoint, score; None: not measured)
ROWS: list[tuple[Any, ...]] = [
    (1, 0, "Name three trees that grow by the sea.", "", "Pine, palm and tamarisk.", None, "tgi", None),
    (1, 0, "Name a bird.", "", "Heron", False, "tgi", None),
    (2, 0, "Write a note about ```fences``` and </pre><script>.", "# Heading", "---", True, "openai", 0.5),
    (2, 1, "Write a note about ```fences``` and </pre><script>.", "| a | b |", "![x](y.png)", True, "tgi", 0.5),
    (2, 0, "把下面的句子翻译成英文。", "今天天气很好。" * 9, "Is\n\nfine \u202etoday\u200b.", False, "tgi", 0.25),
    (3, 0, "Sum up the text. " + "It is long. " * 120, "", "Long", None, None, 0.0),
]  # fmt: skip
VERBS = {
    "pipeline": "en_core_web_sm 3.8.0, spaCy 3.8.0",
    "digest": "0",
    "instructions": 5,
    "with_verb": 4,
    "with_object": 3,
    "different": 3,
    "verbs": [
        {
            "verb": "name",
            "instructions": 2,
            "objects": [{"object": "tree", "instructions": 1}, {"object": "bird", "instructions": 1}],
        },
        {"verb": "write", "instructions": 1, "objects": [{"object": "note", "instructions": 1}]},
    ],
}

# What revisions and reviews have done.
REVISED: dict[str, Any] = {
    "revisions": [
        {
            "version": "v1.1.1",
            "kind": "replay",
            "rounds": [1, 2],
            "settings": {
                "judged": [1, 2],
                **{key: ROUNDS[0]["settings"][key] for key in ("novelty", "decontamination", "paraphrases")},
            },
            "requests": 0,
            "tokens": {"prompt": 0, "generated": 0},
            "models": [],
            "changes": {"2": {"won": 3, "lost": 1, "same": 396}, "1": {"short": 2, "lost": 2}},
        },
        {
            "version": "v1.1.2",
            "kind": "regenerate",
            "rounds": [1],
            "settings": {"part": "output"},
            "requests": 12,
            "tokens": {"prompt": 3456, "generated": 789},
            "models": ["org/other"],
            "changes": {"1": {"replaced": 10, "kept": {"empty_output": 1, "cut_off": 1}}},
        },
    ],
    "review": {
        "reviewed": 4,
        "answered": 3,
        "questions": {
            "valid_task": {"answered": 3, "yes": 3, "share": 1.0},
            "appropriate_input": {"answered": 0, "yes": 0, "share": None},
            "acceptable_output": {"answered": 3, "yes": 1, "share": 0.3333},
        },
        "all_yes": {"answered": 0, "yes": 0, "share": None},
        "rejected": 1,
        "corrected": 2,
        "won": 0,
    },
}


def shard(folder: Path, name: str, round_: int | None, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Writes a shard with what `rows` say, and null elsewhere. Returns its manifest entry."""
    place = "train" if round_ is None else f"train-round-{round_:04d}"
    path = folder / "data" / name / f"{place}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    full = [{column: row.get(column) for column in columns.COLUMNS[name]} for row in rows]
    pq.write_table(pa.Table.from_pylist(full, schema=columns.schema(name)), path)
    entry = {"path": path.relative_to(folder).as_posix(), "config": name, "round": round_, "rows": len(rows)}
    return {**entry, "bytes": 1000, "memory_bytes": 5000}


def shards_of(folder: Path, rows: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Shards of every config for `rows`, as ROWS has them."""
    files = []
    for round_ in dict.fromkeys(row[0] for row in rows):
        default, messages, provenance = [], [], []
        for place, (_, instance, instruction, text, output, kind, endpoint, score) in enumerate(rows):
            if rows[place][0] != round_:
                continue
            key = f"{place:016x}"
            default.append(
                {"id": key, "instruction": instruction, "input": text, "output": output, "round": round_}
            )
            messages.append({"id": key, "messages": [{"role": "user", "content": instruction}]})
            origin = {"id": key, "instance": instance, "is_classification": kind, "endpoint_kind": endpoint}
            nearest = [{"id": "a", "score": score}, {"id": "b", "score": 0.0}] if score else []
            provenance.append({**origin, "nearest": nearest, "mean_similarity": None if score is None else 0.1})
        dropped = [
            {"round": round_, "reason": "too_similar", "score": 0.9},
            {"round": round_, "reason": "paraphrase", "score": 0.95},
            {"round": round_, "reason": "too_short", "score": None},
        ]
        for name, found in (
            ("default", default),
            ("messages", messages),
            ("provenance", provenance),
            ("rejected", dropped),
        ):
            files.append(shard(folder, name, round_, found))
    return [*files, shard(folder, "seeds", None, [{"id": "seed", "instruction": "Say hello."}])]


def manifest_of(folder: Path, *, verbs: dict[str, Any] | None = VERBS) -> dict[str, Any]:
    files = shards_of(folder, ROWS)
    return {
        "version": "v1.2.0",
        "recipe": "alpaca",
        "language": "en",
        "seeds": 175,
        "tasks": 5,
        "rows": 6,
        "rounds": ROUNDS,
        "made_with": {"selfinstruct-hub": "9.9.9"},
        "files": files,
        "statistics": {**statistics.measured(folder, files, ROUNDS), "verbs": verbs},
    }


def test_the_card_is_golden(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path) | REVISED
    settings = config.CardSettings(
        license="other",
        license_name="my-licence",
        license_link="LICENSE",
        tags=["x"],
        description="Mine.",
        limitations=["Trees only."],
        model_terms="Free for all uses.",
    )
    shown = samples.chosen(tmp_path, manifest["files"], manifest["version"], 6)
    pictures = {
        f"assets/{name}.png": f"What {name} shows [1]." for name in ("growth", "lengths", "novelty", "verbs")
    }
    text = card.render(manifest, settings, "My *tasks*", shown=shown, pictures=pictures)
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_without_pictures_and_verbs_the_card_says_so(tmp_path: Path) -> None:
    text = card.render(manifest_of(tmp_path, verbs=None), config.CardSettings(license="mit"), "x")
    assert "This card has no pictures: it has fewer than 20 tasks, matplotlib (the extra `report`)" in text
    assert "Verbs and their objects were not counted." in text
    assert "## Samples" not in text
    assert "![" not in text
    assert "\nmit.\n" in text
    table = card.render(manifest_of(tmp_path), config.CardSettings(), "x")
    assert "| name | 2 | tree 1, bird 1 |" in table
    assert "The publisher has stated no licence." in table


def test_the_header_is_yaml_and_a_name_cannot_open_markup(tmp_path: Path) -> None:
    title = "A: title # with | marks\n---\nlicense: mit"
    text = card.render(manifest_of(tmp_path), config.CardSettings(license_name="left out"), title)
    header, body = text.removeprefix("---\n").split("\n---\n", 1)
    metadata = yaml.safe_load(header)
    assert "license" not in metadata
    assert "license_name" not in metadata
    assert metadata["pretty_name"] == title
    assert metadata["size_categories"] == ["n<1K"]
    assert metadata["configs"][0]["default"] is True
    # One name is a model's on the Hub, the other is none.
    assert metadata["tags"] == ["synthetic", "self-instruct", "instruction-tuning", "generated-by:org/plain-1B"]
    assert "language_creators" not in metadata  # a round was imported
    assert r"org/a\_model\*\|&lt;script&gt;" in body
    assert "<script>" not in body


@pytest.mark.parametrize(
    ("language", "known", "more"),
    [("en", "en", None), ("EN", "en", ["EN"]), ("pt-BR", "pt", ["pt-BR"]), ("no", "no", None)],
)
def test_the_hub_is_told_a_language_that_it_knows(
    tmp_path: Path, language: str, known: str, more: list[str] | None
) -> None:
    text = card.render({**manifest_of(tmp_path), "language": language}, config.CardSettings(), "x")
    metadata = yaml.safe_load(text.removeprefix("---\n").split("\n---\n", 1)[0])
    assert metadata["language"] == [known]
    assert metadata.get("language_bcp47") == more
    assert f"- Language: `{language}`.\n" in text


def test_a_title_is_tex_in_the_citation(tmp_path: Path) -> None:
    text = card.render(manifest_of(tmp_path), config.CardSettings(), r"100% \LaTeX_{} & #1 for $5")
    assert r"title = {{100\% LaTeX\_ \& \#1 for \$5}}," in text
    assert "@misc{100-latex-1-for-5," in text


def card_of(folder: Path, *rounds: int, **changes: Any) -> str:
    """The card of the rounds of those numbers, the rows and rounds of ROWS and ROUNDS; `changes` go into the
    manifest."""
    files = shards_of(folder, [row for row in ROWS if row[0] in rounds])
    told = [ROUNDS[number - 1] for number in rounds]
    found = {"statistics": statistics.measured(folder, files, told), "rounds": told, "files": files, **changes}
    return card.render({**manifest_of(folder), **found}, config.CardSettings(), "x")


def test_what_is_said_of_grown_rows_is_not_said_of_imported_ones(tmp_path: Path) -> None:
    grown, imported, mixed = (card_of(tmp_path / str(n), *n) for n in ((1, 2), (3,), (2, 3)))
    assert "`provenance` tells of every row which requests made it" in grown
    assert "`provenance` tells of every row what its nearest neighbours were." in imported
    assert "`provenance` tells of every row that was not imported which requests made it" in mixed
    assert "the inputs and the outputs. **Nobody has checked" in grown
    assert "**Nobody has checked" not in imported
    assert "the inputs and the outputs of all rows that were not imported. **Nobody has checked" in mixed
    assert "\nThe rows were written by " in grown
    assert "were written by" not in imported
    assert "\nThe rows that were not imported were written by " in mixed
    for text in (grown, imported, mixed):
        assert "175 seed tasks" in text
        assert "human-written" not in text  # a seed file can be anybody's, and a model's


def test_classification_alone_is_told(tmp_path: Path) -> None:
    def told(only: bool) -> str:
        settings = ROUNDS[1]["settings"]
        options = {**settings["options"], "only_classification": only}
        text = card_of(tmp_path, 2, rounds=[{**ROUNDS[1], "settings": {**settings, "options": options}}])
        return next(line for line in text.split("\n") if line.startswith("- Later steps: "))

    assert "(only classification tasks were asked for, and no others were kept)" in told(True)
    assert told(True).endswith("label first with up to 16 seeds shown.")
    assert "only classification" not in told(False)
    assert told(False).endswith("for classification tasks, input first with up to 11 for the others.")


def test_tokens_that_nobody_told_are_no_zero(tmp_path: Path) -> None:
    files = shards_of(tmp_path, ROWS)
    rounds = [{**ROUNDS[0], "tokens": {"prompt": 0, "generated": 7}}, ROUNDS[2]]
    text = card_of(tmp_path, 1, 3, rounds=rounds, statistics=statistics.measured(tmp_path, files, rounds))
    assert "| 60.0% | - | 7 |\n" in text
    assert "| 100.0% | 0 | 0 |\n" in text  # an import asks for nothing


def test_what_a_paraphrase_gate_did_not_see_is_a_limitation(tmp_path: Path) -> None:
    said = "- Novelty means few words in common"
    assert said not in card_of(tmp_path / "a", 1, 2)  # both had one
    assert f"{said} where no second gate stood: two" in card_of(tmp_path / "b", 1, 3)
    assert f"{said}: two" in card_of(tmp_path / "c", 3)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (6, "\n1 task was imported as an instruction alone and has no row.\n"),
        (7, "\n2 tasks were imported as instructions alone and have no row.\n"),
        (5, ""),
    ],
)
def test_tasks_without_a_row_are_told(tmp_path: Path, tasks: int, said: str) -> None:
    text = card.render({**manifest_of(tmp_path), "tasks": tasks}, config.CardSettings(), "x")
    assert (said or "tokenizers differ).\n50.0% of the rows") in text
    assert ("alone" in text) == bool(said)


def test_a_character_is_no_word_unless_it_is_said(tmp_path: Path) -> None:
    said = "a character counts as a word if its script has no spaces"
    assert said not in card_of(tmp_path / "en", 1)
    rows = [(1, 0, text, "", "好", None, "tgi", 0.1) for text in ("请写一首诗。", "翻译这句话。")]
    files = shards_of(tmp_path / "zh", rows)
    found = statistics.measured(tmp_path / "zh", files, ROUNDS[:1])
    assert f"begin an instruction, where {said}." in card_of(tmp_path / "zh", 1, files=files, statistics=found)


@pytest.mark.parametrize(
    ("rows", "category"),
    [
        (0, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (99_999, "10K<n<100K"),
        (5_000_000, "1M<n<10M"),
        (10**8, "100M<n<1B"),
    ],
)
def test_size_categories(rows: int, category: str) -> None:
    assert card.size_category(rows) == category


@pytest.mark.parametrize(
    ("cost", "shown"),
    [
        (None, "-"),
        ({"amount": 0.0, "currency": "USD"}, "0.00 USD"),
        ({"amount": 0.00123, "currency": "USD"}, "0.0012 USD"),
        ({"amount": 1234.5, "currency": "E|R"}, r"1,234.50 E\|R"),
    ],
)
def test_money(cost: dict[str, Any] | None, shown: str) -> None:
    assert card.money(cost) == shown


def test_every_reason_is_explained() -> None:
    rules = {rule.__name__ for rule in (*filters.CANDIDATE_RULES, *filters.INSTANCE_RULES)}
    said = set()
    for path in (HERE.parent / "selfinstruct_hub").rglob("*.py"):
        said |= set(re.findall(r'\bDrop\(\s*"([a-z_]+)"', path.read_text(encoding="utf-8")))
    assert len(said) > 15
    assert rules | said <= set(EXPLAINED)
    assert {"too_similar", "contaminated", "paraphrase", "request_failed"} <= set(EXPLAINED)
    assert not any("|" in text for text in EXPLAINED.values())
    assert explained("of_tomorrow") == ""


# A whole release.


@pytest.fixture(autouse=True, scope="module")
def _pictures_of_few_tasks() -> Iterator[None]:
    with mock.patch("selfinstruct_hub.release.page.pictures.LEAST_TASKS", 0):
        yield


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    path = tmp_path_factory.mktemp("card") / "my-tasks"
    with running(Server()) as server:
        space = Workspace.create(path, config.Settings(prices=config.Prices(prompt=1.0, generated=2.0)))
        settings = config.with_overrides(space.settings(), {"tasks": 8, "endpoint.url": server.url})
        run.grow(space, settings, rounds=2)
    return space


def test_the_snippets_of_the_card_do_what_they_say(
    grown: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    release = grown.releases / "v1.1.0"
    text = (release / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    for snippet in snippets:
        exec(snippet.replace("<this repository>", str(release)), names)  # the card's own words, on its own folder
    (chosen,) = re.findall(r"`(rows\.filter\(.*?\))`", text)
    assert len(names["rows"]) == len(names["chat"]) == 16
    assert names["chat"][0]["messages"][0]["role"] == "user"
    assert names["added"]["id"] == eval(chosen, names)["id"] == names["rows"]["id"][8:]
    assert names["added"].column_names == names["rows"].column_names


def test_a_release_has_its_figures_pictures_and_costs(grown: Workspace) -> None:
    release = grown.releases / "v1.1.0"
    manifest = read_manifest(release)
    measured = manifest["statistics"]
    assert measured["rows"] == manifest["rows"] == 16
    assert measured["tasks"] == manifest["tasks"]
    assert [found["drops"] for found in measured["rounds"]] == [r["drops"] for r in manifest["rounds"]]
    for found in manifest["rounds"]:
        # The server tells tokens; what was asked and not needed is paid for too.
        least = (found["tokens"]["prompt"] + 2 * found["tokens"]["generated"]) / 1e6
        assert found["cost"]["currency"] == "USD"
        assert found["cost"]["amount"] >= round(least, 6) > 0
    text = (release / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[([^\]]+)\]\((assets/[a-z]+\.png)\)", text)
    assert {path for _, path in pictures} == {f"assets/{n}.png" for n in ("growth", "lengths", "novelty")}
    assert {file["path"] for file in manifest["files"]} >= {path for _, path in pictures}
    assert text.count("\n```text\n") == 6


def test_a_fast_gate_has_measured_nothing_and_the_card_says_so(tmp_path: Path) -> None:
    with running(Server()) as server:
        space = Workspace.create(tmp_path / "w", config.Settings())
        values = {"tasks": 4, "endpoint.url": server.url, "novelty.mode": "fast", "card.samples": 0}
        run.grow(space, config.with_overrides(space.settings(), values))
    release = space.releases / "v1.0.0"
    novelty = read_manifest(release)["statistics"]["novelty"]
    assert (novelty["accepted"], novelty["rejected"]) == (None, None)
    assert novelty["unmeasured"]["accepted"] == 4
    text = (release / "README.md").read_text(encoding="utf-8")
    said = (
        "How near candidates came to their nearest neighbours was not measured for 4 accepted tasks: the gate was"
    )
    assert said in text
    assert "novelty.png" not in text
    assert "## Samples" not in text
    assert "What round" not in text  # the first round is all there is
    assert read_manifest(release)["rounds"][0]["cost"] is None  # no prices


def test_samples_follow_from_version_and_ids_alone(tmp_path: Path) -> None:
    rows = [(1, 0, f"Say {n}.", "", str(n), None, "tgi", 0.1) for n in range(30)]
    (tmp_path / "a").mkdir()
    files = shards_of(tmp_path / "a", rows)
    shown = samples.chosen(tmp_path / "a", files, "v1.0.0", 5)
    assert len({sample.id for sample in shown}) == 5
    backwards = [*reversed(files)]
    assert samples.chosen(tmp_path / "a", backwards, "v1.0.0", 5) == shown
    assert samples.chosen(tmp_path / "a", files, "v1.0.0", 3) == shown[:3]
    assert samples.chosen(tmp_path / "a", files, "v1.1.0", 5) != shown
    assert samples.chosen(tmp_path / "a", files, "v1.0.0", 0) == []
    assert len(samples.chosen(tmp_path / "a", files, "v1.0.0", 50)) == 30


# Escaping.

NASTY = st.text(
    st.one_of(
        st.sampled_from([*"`~|<>[]()!#*_-=&\\\n\r\t$:/@.\u202e\u200b\u2028\x00\u200d中é"]),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=80,
) | st.lists(
    st.sampled_from(
        [
            *("```", "````text\n", "~~~", "---\n", "license: mit\n", "<script>", "</pre>", "<img src=x>", "&lt;"),
            *("![a](http://b)", "[a](http://b)", "<http://b>", "http://a.b", "www.a.b", "a@b.cc"),
            *("| a | b |\n| - | - |\n", "output:\n"),
            *("\u202e", "\u2066", "\u200b", "\ufeff", "\u2029", "\x85", "\n\n", "    ", "# ", "> ", "- "),
        ]
    )
).map("".join)  # fmt: skip
PARSER = MarkdownIt("commonmark", {"html": True, "linkify": False}).enable(["table", "strikethrough"])
HARMLESS = {"paragraph_open", "paragraph_close", "inline", "text", "text_special", "softbreak"}


def tokens(text: str) -> list[Any]:
    return [child for token in PARSER.parse(text) for child in (token, *(token.children or ()))]


@given(NASTY, NASTY, NASTY)
@example("``````", "~~~\n```\n", "\n```")
@example("a\u202eb", "\u200b", "---\nlicense: mit\n---\n")
def test_no_row_breaks_out_of_its_sample(instruction: str, given_: str, output: str) -> None:
    block = samples.Sample("0", 1, instruction, given_, output).block
    page = f"# Before\n\n{block}\n\nAfter\n"
    found = PARSER.parse(page)
    assert [token.type for token in found] == [
        *("heading_open", "inline", "heading_close"),
        *("fence", "paragraph_open", "inline", "paragraph_close"),
    ]
    content = found[3].content
    names = re.findall(r"^(\w+):$", content, re.MULTILINE)
    assert names == ["instruction", *(["input"] if given_ else []), "output"]
    assert all(line.startswith("  ") or line[:-1] in names for line in content.rstrip("\n").split("\n"))
    hidden = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert not [c for c in content if c not in "\n\u200c\u200d" and unicodedata.category(c) in hidden]


@given(NASTY)
@example("<script>alert(1)</script>")
@example("[a](javascript:b) ![c](d) `e` **f** <http://g> &amp; | h |")
@example("1. a\n2. b")
def test_a_cell_is_text_and_nothing_else(text: str) -> None:
    kinds = {token.type for token in tokens(f"x {cell(text)} x")}
    assert kinds <= HARMLESS
    assert [token.type for token in tokens(f"| a |\n| - |\n| {cell(text)} |\n")].count("td_open") == 1
    assert "\n" not in cell(text)


@given(NASTY)
@example("``|``")
def test_a_code_span_ends_where_it_should(text: str) -> None:
    for place in (f"x {code(text)} x", f"| a |\n| - |\n| {code(text)} |\n"):
        (inline,) = (token for token in PARSER.parse(place) if token.type == "inline" and token.content not in "a")
        assert [child.type for child in inline.children or ()].count("code_inline") == 1
        assert {child.type for child in inline.children or ()} <= {"code_inline", "text"}


@given(NASTY)
def test_what_is_seen_is_what_is_there(text: str) -> None:
    """Escaped, a text reads as it did, but for white space and for what cannot be seen."""
    (inline,) = (token for token in PARSER.parse(f"x {cell(text)} x") if token.type == "inline")
    read = "".join(child.content for child in inline.children or ())
    assert read == f"x {' '.join(visible(text).split())} x"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext", "plain   text"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("\u202eabc\u202c", "<U+202E>abc<U+202C>"),
        ("a\u200bb\ufeff", "a<U+200B>b<U+FEFF>"),
        ("\x1b[31m", "<U+001B>[31m"),
        ("\U000e0041", "<U+E0041>"),
        ("a\u2028b", "a<U+2028>b"),
        ("a\u200db", "a<U+200D>b"),
        ("\u200d", "<U+200D>"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("👩\u200d🚀 e\u0301 中文，好。 hindi हिन्दी", "👩\u200d🚀 e\u0301 中文，好。 hindi हिन्दी"),
    ],
)
def test_what_cannot_be_seen_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.sampled_from("ab 中é"), max_size=400))
def test_broken_lines_lose_nothing_but_the_space_where_they_break(line: str) -> None:
    parts = wrapped(line).split("\n")
    rest = line
    for part in parts:
        assert rest.startswith(part)
        rest = rest[len(part) :].removeprefix(" ") if part is not parts[-1] else rest[len(part) :]
        assert len(part) + part.count("中") <= WIDTH
    assert rest == ""


def test_a_long_text_is_cut_and_says_so() -> None:
    assert cut("abc", 3) == "abc"
    assert cut("x" * 2003, 3) == "xxx [... 2,000 more characters]"
    block = samples.Sample("0", 1, "Do.", "", string.ascii_letters * 100).block
    assert "[... 4,000 more characters]" in block
    assert "input" not in block


def test_a_fence_is_longer_than_any_in_it() -> None:
    assert fenced("a ```` b").startswith("`````text\n")
    assert fenced("", "bibtex") == "```bibtex\n\n```"


def test_the_citation_can_be_ones_own(tmp_path: Path) -> None:
    settings = config.CardSettings(citation="@misc{me,\n  title = {Mine}\n}")
    text = card.render(manifest_of(tmp_path), settings, "{odd} \\title")
    assert "```bibtex\n@misc{me,\n  title = {Mine}\n}\n```" in text
    text = card.render(manifest_of(tmp_path), config.CardSettings(), "{odd} \\title")
    assert "@misc{odd-title,\n  title = {{odd title}},\n  version = {v1.2.0}," in text


@pytest.mark.parametrize(("least", "drawn"), [(16, True), (17, False)])
def test_a_small_release_has_no_pictures(
    grown: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: int, drawn: bool
) -> None:
    monkeypatch.setattr("selfinstruct_hub.release.page.pictures.LEAST_TASKS", least)
    release = grown.releases / "v1.1.0"
    shutil.copytree(release / "data", tmp_path / "data")
    manifest = read_manifest(release)
    assert manifest["tasks"] == 16
    manifest["files"] = [file for file in manifest["files"] if "config" in file]
    page.write(tmp_path, manifest, config.CardSettings(), "x")
    assert (tmp_path / "assets" / "lengths.png").exists() == drawn


def test_without_matplotlib_the_release_is_made_all_the_same(
    grown: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfinstruct_hub.release.page.pictures.available", lambda: False)
    release = grown.releases / "v1.1.0"
    shutil.copytree(release / "data", tmp_path / "data")
    manifest = read_manifest(release)
    manifest["files"] = [file for file in manifest["files"] if "config" in file]
    page.write(tmp_path, manifest, config.CardSettings(), "x")
    assert "This card has no pictures" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert not (tmp_path / "assets").exists()
    assert [file["path"] for file in manifest["files"] if "config" not in file] == ["README.md"]

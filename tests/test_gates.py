"""Evaluation sets and paraphrases: what a task is kept away from beside the pool, and what a round keeps of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from selfinstruct_hub import config, doctor, plan, run
from selfinstruct_hub.config import Settings
from selfinstruct_hub.errors import ConfigError, DataFileError, SelfInstructError, UsageError
from selfinstruct_hub.exchange import import_file
from selfinstruct_hub.judging import EvaluationSets, Gates, Judge
from selfinstruct_hub.novelty import NoveltyGate
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import Candidate, Instance, Round, Verdict
from selfinstruct_hub.status import status
from selfinstruct_hub.workspace import Workspace
from tests.support import static_model
from tests.support.tgi import WORDS, Server, running, write_anything

EVAL = [
    "Name the longest river of all the continent of South America.",
    "20 degrees Celsius into degrees Fahrenheit",
]


def lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def settings_with(values: dict[str, Any]) -> Settings:
    return config.with_overrides(Settings(), values)


def candidate(instruction: str, *inputs: str) -> Candidate:
    return Candidate(instruction, tuple(Instance(text, "An answer.") for text in inputs))


@pytest.mark.parametrize(
    ("found", "place"),
    [
        (candidate("Name the longest river of the continent of South America.", ""), "line 1"),
        (candidate("Convert the temperature.", "20 degrees Celsius into degrees Fahrenheit?"), "line 2"),
        (candidate("20 degrees Celsius", "into degrees Fahrenheit"), "line 2"),  # only both together
        (candidate("Convert it.", "Nothing alike.", "20 degrees Celsius into Fahrenheit degrees"), "line 2"),
        (candidate("Name the shortest road of North Africa.", "", "   "), None),
        (candidate("...", "?!"), None),
    ],
)
def test_instruction_inputs_and_both_together_are_compared(
    tmp_path: Path, found: Candidate, place: str | None
) -> None:
    lines(tmp_path / "eval.jsonl", [{"question": text} for text in EVAL])
    gates = Gates.opened(settings_with({"decontamination.against": ["eval.jsonl"]}), tmp_path)
    (drop,) = gates.contaminated([found])
    if place is None:
        assert drop is None
    else:
        assert drop is not None
        assert drop.near is not None
        assert (drop.reason, drop.near.id) == ("contaminated", f"eval.jsonl, {place}")
        assert drop.detail == f"ROUGE-L {drop.near.score:.3f} with eval.jsonl, {place}"


@given(
    st.lists(st.text("ab c", max_size=12), max_size=6),
    st.lists(st.text("ab c", max_size=12), max_size=4),
    st.sampled_from([0.0, 0.4, 0.5, 0.7]),
)
def test_near_is_what_a_plain_scan_finds(
    tmp_path_factory: pytest.TempPathFactory, held: list[str], asked: list[str], threshold: float
) -> None:
    folder = tmp_path_factory.mktemp("sets")
    half = len(held) // 2
    files = [
        lines(folder / f"{n}.jsonl", [{"text": t} for t in part])
        for n, part in enumerate((held[:half], held[half:]))
    ]
    files = [file for file in files if file.stat().st_size]
    sets = EvaluationSets(files, threshold)
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    texts = [text for text in held if text.strip()]
    assert len(sets) == len(texts) == sum(sets.counts.values())
    for text, found in zip(asked, sets.near(asked), strict=True):
        scores = [scorer.score(text, other)["rougeL"].fmeasure for other in texts]
        best = max(scores, default=0.0)
        if best <= threshold:
            assert found is None
        else:
            assert found is not None
            assert found.score == pytest.approx(best, abs=1e-12)
            assert found.text == texts[scores.index(best)]


def test_columns_are_named_or_usual_ones_and_files_may_differ(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", [{"turns": "One two three four", "question": "Five six seven eight"}])
    (tmp_path / "b.csv").write_text("prompt,other\nnine ten eleven twelve,no\n", encoding="utf-8")
    both = {"decontamination.against": ["a.jsonl", "b.csv"]}
    usual = Gates.opened(settings_with(both), tmp_path)
    named = Gates.opened(settings_with({**both, "decontamination.columns": ["turns"]}), tmp_path)
    texts = [candidate(t) for t in ("one two three four", "five six seven eight", "nine ten eleven twelve")]
    assert [bool(drop) for drop in usual.contaminated(texts)] == [False, True, True]
    # The second file has no such column: the first usual one is read.
    assert [bool(drop) for drop in named.contaminated(texts)] == [True, False, True]


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        (
            {"decontamination.against": ["none.jsonl"]},
            ConfigError,
            "there is no such file or folder; check `decontam",
        ),
        ({"decontamination.against": ["bad.jsonl"]}, DataFileError, "bad.jsonl, line 1: "),
        ({"decontamination.against": ["odd.jsonl"]}, DataFileError, "it has: answer"),
        (
            {"decontamination.against": ["blank.jsonl"]},
            ConfigError,
            "blank.jsonl: has no texts in it; check `decont",
        ),
        (
            {"decontamination.against": ["odd.jsonl"]},
            DataFileError,
            "name the one with the texts with `decontamination.columns`; it has",
        ),
        (
            {"decontamination.against": ["good.jsonl"], "decontamination.columns": ["questoin"]},
            ConfigError,
            "none of the files has a column `questoin`; there, question would be read",
        ),
        ({"decontamination.against": ["good.jsonl", "./good.jsonl"]}, ConfigError, "is given twice; name it once"),
        ({"paraphrases.model": "none"}, ConfigError, "there is no such file or folder; check `paraphrases.model`"),
        ({"paraphrases.model": "bad.jsonl"}, ConfigError, "paraphrases.model takes a model2vec folder"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(
    tmp_path: Path, values: dict[str, Any], error: type[SelfInstructError], said: str
) -> None:
    (tmp_path / "bad.jsonl").write_text("{", encoding="utf-8")
    lines(tmp_path / "odd.jsonl", [{"answer": "Yes."}])
    lines(tmp_path / "good.jsonl", [{"question": "Is it?"}])
    lines(tmp_path / "blank.jsonl", [{"question": " "}, {"question": None}])
    with pytest.raises(error) as raised:
        Gates.opened(settings_with(values), tmp_path)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_link_keeps_the_name_that_says_what_it_is(tmp_path: Path) -> None:
    """As in a cache of the Hub, where files are links to what is called by its digest."""
    (tmp_path / "w").mkdir()
    (tmp_path / "0a1b2c").write_text(f"question\n{EVAL[0]}\n", encoding="utf-8")
    (tmp_path / "eval.csv").symlink_to(tmp_path / "0a1b2c")
    gates = Gates.opened(settings_with({"decontamination.against": ["../eval.csv"]}), tmp_path / "w")
    (drop,) = gates.contaminated([candidate(EVAL[0])])
    assert drop is not None
    assert drop.detail == "ROUGE-L 1.000 with eval.csv, line 2"
    (file,) = gates.settings["decontamination"]["against"]
    assert file["file"] == "eval.csv"


@pytest.mark.parametrize("turns", [EVAL, [{"content": text} for text in EVAL]])
def test_every_turn_of_a_benchmark_counts(tmp_path: Path, turns: list[Any]) -> None:
    lines(tmp_path / "mt_bench.jsonl", [{"question_id": 81, "category": "writing", "turns": turns}])
    gates = Gates.opened(settings_with({"decontamination.against": ["mt_bench.jsonl"]}), tmp_path)
    assert gates.sets is not None
    assert len(gates.sets) == 2
    assert all(gates.contaminated([candidate(text) for text in EVAL]))


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4), min_size=1, max_size=4),
    st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4), max_size=4),
)
def test_what_does_not_pass_is_dropped_later(
    tmp_path_factory: pytest.TempPathFactory, held: list[list[str]], asked: list[list[str]], seen: list[list[str]]
) -> None:
    """`passing` saves requests; a task that it stops would never have been accepted."""
    folder = tmp_path_factory.mktemp("sets")
    words = {"a": "river", "b": "poem", "c": "budget", "d": "canoe"}

    def text(letters: list[str]) -> str:
        return "Tell of " + " ".join(words[one] for one in letters)

    lines(folder / "eval.jsonl", [{"text": text(one)} for one in held])
    static_model.make(folder / "model", {"river": "wet", "canoe": "wet", "poem": "art", "budget": "sum"})
    asked_for = settings_with(
        {
            "decontamination.against": ["eval.jsonl"],
            "decontamination.threshold": 0.9,
            "paraphrases.model": "model",
            "paraphrases.threshold": 0.95,
        }
    )
    gates = Gates.opened(asked_for, folder)
    assert gates.paraphrases is not None
    novelty, paraphrases = NoveltyGate(), gates.paraphrases()
    for number, one in enumerate(seen):
        novelty.add(str(number), text(one))
        paraphrases.extend([(str(number), text(one))])
    round_ = Round(1, "v1.0.0", 100, False, {**plan.judging(asked_for), **gates.settings}, {})
    judge = Judge(round_, novelty, gates, frozen=len(seen), accepted=0, bare={}, paraphrases=paraphrases)
    candidates = [candidate(text(one)) for one in asked]
    passed = judge.passing(candidates)
    with_instances = [candidate(text(one), "") for one in asked]
    for ok, verdict in zip(passed, judge.verdicts(0, with_instances), strict=True):
        assert ok or verdict.task is None


def test_a_file_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`decontamination\.against`: a file is given twice"):
        settings_with({"decontamination.against": ["a", "a"]})


def verdicts(space: Workspace) -> list[Verdict]:
    with Pool.open(space.pool_file, read_only=True) as pool:
        return [verdict for round_ in pool.rounds() for verdict in pool.verdicts(round_.number)]


def rejected(space: Workspace, version: str = "v1.0.0") -> list[dict[str, Any]]:
    files = (space.releases / version / "data" / "rejected").glob("*.parquet")
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def rows_of(instructions: Sequence[str]) -> list[dict[str, str]]:
    return [{"instruction": text, "input": "", "output": f"Answer {n}."} for n, text in enumerate(instructions)]


GROUPS = {"happy": "joy", "glad": "joy", "cheerful": "joy", "write": "make", "compose": "make", "story": "tale"}
GROUPS |= {
    "tale": "tale",
    "dog": "dog",
    "hound": "dog",
    "short": "size",
    "brief": "size",
    "tax": "tax",
    "law": "law",
}
PLAIN = "Write a short happy story about the dog of mine"
OTHER_WORDS = "Compose one brief glad tale about some hound they have"
UNLIKE = "Explain what the tax law says of gifts between friends"


def test_an_import_leaves_out_what_is_contaminated_and_what_says_the_same(tmp_path: Path) -> None:
    space = Workspace.create(tmp_path / "w", Settings())
    static_model.make(tmp_path / "meanings", GROUPS)
    lines(tmp_path / "eval.jsonl", [{"question": EVAL[0]}])
    values = {"decontamination.against": ["../eval.jsonl"], "paraphrases.model": "../meanings"}
    (space.path / config.FILE_NAME).write_text(config.render(settings_with(values)), encoding="utf-8")
    near = "Name the longest river of the whole continent of South America."
    file = tmp_path / "alpaca.json"
    file.write_text(json.dumps(rows_of([PLAIN, near, OTHER_WORDS, UNLIKE])), encoding="utf-8")
    result = import_file(space, file, format="alpaca_data")
    assert (result.tasks, result.drops) == (2, {"contaminated": 1, "paraphrase": 1})
    kept, contaminated, same, unlike = verdicts(space)
    assert kept.task is not None
    assert unlike.task is not None
    assert same.drop is not None
    assert same.drop.near is not None
    assert same.drop.near.id == kept.task.id
    assert same.drop.near.score > 0.8
    assert same.drop.detail == f"cosine {same.drop.near.score:.3f} with {kept.task.id}"
    # Not compared with the pool: it was out before.
    assert contaminated.similarity is None
    assert same.similarity is not None
    assert same.similarity.score < 0.7, "ROUGE-L sees it as well: no test of paraphrases"
    # Published with what decided, and without the evaluation set's text.
    out = {row["reason"]: row for row in rejected(space)}
    assert (out["contaminated"]["neighbour_id"], out["contaminated"]["neighbour"]) == ("eval.jsonl, line 1", None)
    assert out["contaminated"]["score"] > 0.7
    assert (out["paraphrase"]["neighbour_id"], out["paraphrase"]["neighbour"]) == (kept.task.id, PLAIN)
    assert out["paraphrase"]["score"] == same.drop.near.score
    # The release names no folder of this machine.
    release = space.releases / "v1.0.0"
    told = (release / "manifest.json").read_text() + (release / config.FILE_NAME).read_text()
    assert str(tmp_path) not in told
    assert "../" not in told
    (round_,) = json.loads((release / "manifest.json").read_text())["rounds"]
    model = round_["settings"]["paraphrases"]
    assert (model["model"], model["threshold"]) == ("meanings", 0.8)
    assert model["package"].startswith("model2vec ")
    assert len(model["sha256"]) == 64
    (against,) = round_["settings"]["decontamination"]["against"]
    assert (against["file"], against["texts"], len(against["sha256"])) == ("eval.jsonl", 1, 64)
    # A second import is compared with the first one's tasks.
    file.write_text(json.dumps(rows_of([OTHER_WORDS.replace("tale", "story")])), encoding="utf-8")
    assert import_file(space, file, format="alpaca_data").drops == {"paraphrase": 1}


def test_an_imported_instruction_without_instances_is_filled_and_is_no_paraphrase_of_itself(
    tmp_path: Path,
) -> None:
    space = Workspace.create(tmp_path / "w", Settings())
    static_model.make(tmp_path / "meanings", GROUPS)
    values = {"paraphrases.model": "../meanings"}
    (space.path / config.FILE_NAME).write_text(config.render(settings_with(values)), encoding="utf-8")
    bare = lines(
        tmp_path / "bare.jsonl", [{"instruction": PLAIN, "most_similar": {}, "avg_similarity_score": 0.0}]
    )
    assert import_file(space, bare, format="machine_generated_instructions").tasks == 1
    whole = tmp_path / "alpaca.json"
    whole.write_text(json.dumps(rows_of([PLAIN])), encoding="utf-8")
    result = import_file(space, whole, format="alpaca_data")
    assert (result.tasks, result.drops) == (1, {})


@pytest.mark.parametrize("recipe", ["alpaca", "self-instruct"])
def test_growth_keeps_away_from_evaluation_sets_and_goes_on_only_with_the_same(
    tmp_path: Path, recipe: str
) -> None:
    """The first run shows what the server writes; one of its tasks then becomes an evaluation set."""

    def grown(path: Path, values: dict[str, Any], **bounds: Any) -> Workspace:
        space = Workspace(path) if path.exists() else Workspace.create(path, Settings())
        values = {"recipe": recipe, "tasks": 4, "endpoint.concurrency": 1, "endpoint.url": server.url, **values}
        run.grow(space, config.with_overrides(space.settings(), values), **bounds)
        return space

    with running(Server(answer=write_anything)) as server:
        free = verdicts(grown(tmp_path / "free", {}))
        first = next(verdict.task for verdict in free if verdict.task)
        file = lines(
            tmp_path / "eval.jsonl", [{"prompt": "Something else entirely."}, {"prompt": first.instruction}]
        )
        against = {"decontamination.against": [str(file)]}
        asked = len(server.requests)
        space = grown(tmp_path / "kept", against, max_requests=1)
        assert len(server.requests) > asked
        with pytest.raises(UsageError, match=r"was begun with eval\.jsonl .* now it is none; put evaluation sets"):
            grown(tmp_path / "kept", {})
        lines(file, [{"prompt": first.instruction}])
        with pytest.raises(UsageError, match=r"round 1 was begun with eval\.jsonl \(\w{8}\), threshold 0\.7"):
            grown(tmp_path / "kept", against)
        lines(file, [{"prompt": "Something else entirely."}, {"prompt": first.instruction}])
        grown(tmp_path / "kept", against)
    judged = verdicts(space)
    dropped = [v for v in judged if v.drop and v.drop.reason == "contaminated"]
    assert [v.candidate.instruction for v in dropped][:1] == [first.instruction]
    assert dropped[0].drop is not None
    assert dropped[0].drop.detail == "ROUGE-L 1.000 with eval.jsonl, line 2"
    if recipe == "self-instruct":  # nothing more was asked for it
        assert dropped[0].candidate.instances == ()
        assert dropped[0].candidate.calls == (0,)
    (round_,) = status(space)["rounds"]
    assert round_["drops"]["contaminated"] == len(dropped)
    assert round_["tasks"] == 4


def test_growth_drops_paraphrases_the_same_after_a_resume(tmp_path: Path) -> None:
    """All words of the server's mean one of a few things, so that some tasks say the same."""
    static_model.make(
        tmp_path / "meanings", {word: f"meaning {n % 6}" for n, word in enumerate(WORDS)}, spread=0.02
    )
    values = {
        "tasks": 6,
        "endpoint.concurrency": 2,
        "paraphrases.model": "../meanings",
        "paraphrases.threshold": 0.9,
    }
    found = {}
    for name, limits in (("whole", [None]), ("parts", [1, None])):
        space = Workspace.create(tmp_path / name, Settings())
        with running(Server()) as server:
            for limit in limits:
                settings = config.with_overrides(space.settings(), {**values, "endpoint.url": server.url})
                (finished,) = run.grow(space, settings, max_requests=limit)
                assert (finished.release is None) == (limit is not None)
        found[name] = [(v.candidate, v.task, v.drop) for v in verdicts(space)]
    assert found["whole"] == found["parts"]
    assert any(drop and drop.reason == "paraphrase" for *_, drop in found["whole"]), "none says the same: no test"


def test_doctor_tells_of_gates(tmp_path: Path) -> None:
    space = Workspace.create(tmp_path / "w", Settings())
    lines(tmp_path / "eval.jsonl", [{"question": text} for text in EVAL])
    static_model.make(tmp_path / "meanings", GROUPS)
    for values, ok, said in (
        ({"decontamination.against": ["../eval.jsonl"]}, True, "no task near to 2 texts of eval.jsonl"),
        ({"paraphrases.model": "../meanings"}, True, "paraphrases by meanings (model2vec "),
        ({"decontamination.against": ["eval.jsonl"]}, False, "there is no such file or folder"),
        ({}, None, None),
    ):
        (space.path / config.FILE_NAME).write_text(
            config.render(settings_with({**values, "endpoint.url": "http://127.0.0.1:1"})), encoding="utf-8"
        )
        findings: list[doctor.Finding] = []
        doctor.examine(space.path, findings.append)
        gates = [finding for finding in findings if finding.name == "gates"]
        assert [finding.ok for finding in gates] == ([] if ok is None else [ok])
        assert said is None or said in gates[0].text

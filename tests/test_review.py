"""People's decisions on rows: out into a file, edited, and back as one version, whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from selfinstruct_hub import config, exchange, review, run
from selfinstruct_hub.errors import FormatError, ReviewError
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import REJECTED_BY_REVIEWER, Verdict
from selfinstruct_hub.release import read_manifest
from selfinstruct_hub.release.verify import check
from selfinstruct_hub.replay import replay
from selfinstruct_hub.review import files
from selfinstruct_hub.review.lines import COLUMNS, NEEDED, TEXTS
from selfinstruct_hub.reviewed import QUESTIONS
from selfinstruct_hub.workspace import Workspace
from tests.support import tool
from tests.support.tgi import Server, running

Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A round of 12 tasks, and an import of one task with three rows and one with a single row."""
    path = tmp_path_factory.mktemp("review") / "w"
    with running(Server()) as server:
        space = Workspace.create(path, config.Settings())
        run.grow(space, config.with_overrides(space.settings(), {"tasks": 12, "endpoint.url": server.url}))
    file = path.parent / "rows.jsonl"
    several = [
        {"instruction": "Give the plural of the noun.", "input": word, "output": plural, "source": n}
        for n, (word, plural) in enumerate([("mouse", "mice"), ("ox", "oxen"), ("sheep", "sheep.")])
    ]
    single = {
        "instruction": "Name the writer of Middlemarch.",
        "input": "",
        "output": "George Eliot.",
        "source": 9,
    }
    file.write_text("".join(json.dumps(row) + "\n" for row in [*several, single]), encoding="utf-8")
    exchange.import_file(space, file, format="all_generated_instances")
    return path


@pytest.fixture
def space(grown: Path, tmp_path: Path) -> Workspace:
    return Workspace(Path(shutil.copytree(grown, tmp_path / "w")))


def load(path: Path) -> Rows:
    text = path.read_bytes().decode("utf-8-sig")
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    return [json.loads(line) for line in text.split("\n") if line]


def save(path: Path, rows: Rows) -> Path:
    if path.suffix == ".csv":
        out = io.StringIO(newline="")
        table = csv.DictWriter(out, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)
        path.write_bytes(out.getvalue().encode("utf-8-sig"))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def exported(space: Workspace, name: str = "r.jsonl", **options: Any) -> tuple[Path, Rows]:
    path = space.path.parent / name
    review.export_file(space, path, overwrite=True, **options)
    return path, load(path)


def verdicts(space: Workspace, number: int = 1) -> list[Verdict]:
    with Pool.open(space.pool_file, read_only=True) as pool:
        return list(pool.verdicts(number))


def published(release: Path | None, name: str) -> Rows:
    import pyarrow.parquet as pq

    assert release is not None
    return [row for file in sorted((release / "data" / name).iterdir()) for row in pq.read_table(file).to_pylist()]


@pytest.mark.parametrize("name", ["r.jsonl", "r.csv"])
def test_decisions_become_one_patch_version(space: Workspace, name: str) -> None:
    path, rows = exported(space, name, rows="all")
    assert list(rows[0]) == list(COLUMNS)
    accepted = [row for row in rows if not row["reason"]]
    assert len(accepted) == 16
    gone, corrected, answered, kept = accepted[:4]
    won = next(row for row in rows if row["reason"] == "too_short")
    gone |= {"verdict": "reject", "note": "=nonsense\nin two lines"}
    corrected |= {"output": "A better answer.", "note": "wrong before", "acceptable_output": "yes"}
    answered |= {"valid_task": "Yes", "appropriate_input": "yes", "acceptable_output": "NO "}
    kept["verdict"] = " Keep"
    won |= {"verdict": "accept", "output": "Won.", "note": "fine"}
    save(path, rows)

    tried = review.apply_file(space, path, dry_run=True)
    assert (tried.rejected, tried.corrected, tried.won, tried.answered) == (1, 1, 1, 2)
    assert tried.version is None
    assert not space.is_released("v1.1.1")
    done = review.apply_file(space, path)
    assert (done.rejected, done.corrected, done.won, done.answered) == (1, 1, 1, 2)
    assert done.version == "v1.1.1"
    assert done.release is not None
    check(done.release)

    default = {row["id"]: row for row in published(done.release, "default")}
    assert len(default) == 16
    assert gone["id"] not in default
    assert corrected["id"] not in default
    assert {row["output"] for row in default.values()} >= {"A better answer.", "Won."}
    dropped = [row for row in published(done.release, "rejected") if row["reason"] == REJECTED_BY_REVIEWER]
    assert [(row["instruction"], row["detail"]) for row in dropped] == [(gone["instruction"], gone["note"])]
    lineage = {default[row["id"]]["output"]: row["revisions"] for row in published(done.release, "provenance")}
    (step,) = lineage["A better answer."]
    assert (step["version"], step["kind"]) == ("v1.1.1", "review")
    assert (step["replaces"], step["note"]) == (corrected["id"], "wrong before")
    assert [(one["replaces"], one["note"]) for one in lineage["Won."]] == [(won["id"], "fine")]
    assert sum(bool(steps) for steps in lineage.values()) == 2
    (revision,) = read_manifest(done.release)["revisions"]
    assert revision["changes"] == {"1": {"lost": 1, "replaced": 1, "won": 1, "answered": 2, "short": 0}}
    # Nothing else has changed, and the versions before can be built again.
    before = {row["id"] for row in accepted} - {gone["id"], corrected["id"]}
    assert before <= set(default)
    digest = read_manifest(space.releases / "v1.1.0")["release"]
    shutil.move(space.releases / "v1.1.0", space.path.parent / "elsewhere")
    with space.locked(), space.open_pool(space.settings()) as pool:
        from selfinstruct_hub import release
        from selfinstruct_hub.rounds import editions

        edition = next(one for one in editions(pool) if one.version == "v1.1.0")
        release.freeze(space.releases, pool, edition, space.settings().card, space.name)
    assert read_manifest(space.releases / "v1.1.0")["release"] == digest

    again = review.apply_file(space, path)
    assert (again.changed, again.done, again.version) == (0, 5, None)
    assert not space.is_released("v1.1.2")


@pytest.mark.parametrize("name", ["r.jsonl", "r.csv"])
def test_a_file_with_nothing_changed_makes_nothing(space: Workspace, name: str) -> None:
    path, _ = exported(space, name, rows="all")
    result = review.apply_file(space, path)
    assert (result.changed, result.done, result.version) == (0, 0, None)
    assert sorted(place.name for place in space.releases.iterdir()) == ["v1.0.0", "v1.1.0"]


def test_only_answers_make_a_version_whose_rows_are_the_same(space: Workspace) -> None:
    path, rows = exported(space)
    for row in rows[:3]:
        row |= dict.fromkeys(QUESTIONS, "yes")
    rows[2]["acceptable_output"] = "no"
    done = review.apply_file(space, save(path, rows))
    assert (done.version, done.answered) == ("v1.1.1", 3)
    assert done.release is not None
    before, after = (read_manifest(space.releases / v) for v in ("v1.1.0", "v1.1.1"))
    assert after["release"] == before["release"]
    with Pool.open(space.pool_file, read_only=True) as pool:
        assert review.shares(pool, 0) is None
        found = review.shares(pool)
    assert found is not None
    assert (found["reviewed"], found["answered"]) == (3, 3)
    assert found["questions"]["valid_task"] == {"answered": 3, "yes": 3, "share": 1.0}
    assert found["questions"]["acceptable_output"] == {"answered": 3, "yes": 2, "share": 0.6667}
    assert found["all_yes"] == {"answered": 3, "yes": 2, "share": 0.6667}
    # A later answer stands over an earlier one, an empty cell leaves it, and the file shows what was said.
    path, rows = exported(space)
    assert [row["acceptable_output"] for row in rows[:4]] == ["yes", "yes", "no", ""]
    rows[2] |= {"acceptable_output": "yes", "valid_task": ""}
    rows[0]["verdict"] = "reject"
    rows[1]["output"] = "Another one."
    assert review.apply_file(space, save(path, rows)).version == "v1.1.2"
    with Pool.open(space.pool_file, read_only=True) as pool:
        later, earlier = review.shares(pool), review.shares(pool, 1)
    assert later is not None
    assert earlier is not None
    assert (later["reviewed"], later["rejected"], later["corrected"]) == (2, 1, 1)
    assert later["all_yes"] == {"answered": 2, "yes": 2, "share": 1.0}
    assert earlier["rejected"] == 0


def test_the_card_tells_what_people_said(space: Workspace) -> None:
    file, rows = exported(space, "r.jsonl", rows="accepted")
    for row in rows[:4]:
        row.update(valid_task="yes", appropriate_input="yes", acceptable_output="no")
    rows[0]["acceptable_output"] = "yes"
    rows[4]["verdict"] = "reject"
    rows[5]["output"] = "Somebody knew better."
    review.apply_file(space, save(file, rows))
    newest = sorted(space.releases.iterdir())[-1]
    found = read_manifest(newest)["review"]
    assert (found["reviewed"], found["rejected"], found["corrected"], found["won"]) == (5, 1, 1, 0)
    card = (newest / "README.md").read_text()
    assert "People have looked at 5 rows of this version" in card
    assert "In all reviews together 1 row was taken out, 1 corrected\nand 0 brought in." in card
    assert "| Is the output a correct and acceptable answer? | 4 | 25.0% |" in card
    assert "| All three | 4 | 25.0% |" in card
    assert "Nobody has checked" not in card
    assert "### Review" not in (space.releases / "v1.0.0" / "README.md").read_text()


def test_one_instance_goes_and_its_task_stays(space: Workspace) -> None:
    path, rows = exported(space, rounds=(2, 2))
    assert [row["input"] for row in rows] == ["mouse", "ox", "sheep", ""]
    rows[1] |= {"verdict": "reject", "note": "too easy"}
    done = review.apply_file(space, save(path, rows))
    assert done.release is not None
    assert [row["input"] for row in published(done.release, "default")[-3:]] == ["mouse", "sheep", ""]
    lost = [row for row in published(done.release, "rejected") if row["reason"] == REJECTED_BY_REVIEWER]
    assert [(row["task_id"] is None, row["detail"]) for row in lost] == [(False, "too easy")]
    # It can be won back.
    path, rows = exported(space, rows="rejected", reasons=[REJECTED_BY_REVIEWER])
    (row,) = rows
    assert (row["input"], row["output"]) == ("ox", "oxen")
    row["verdict"] = "accept"
    back = review.apply_file(space, save(path, rows))
    assert (back.won, back.version) == (1, "v1.1.2")
    assert {row["input"] for row in published(back.release, "default")} >= {"mouse", "ox", "sheep"}
    assert not [row for row in published(back.release, "rejected") if row["reason"] == REJECTED_BY_REVIEWER]


def test_a_task_whose_rows_all_go_is_a_rejected_candidate(space: Workspace) -> None:
    path, rows = exported(space, rounds=(2, 2))
    for number, row in enumerate(rows[:3]):
        row |= {"verdict": "reject", "note": f"note {number}"}
    done = review.apply_file(space, save(path, rows))
    assert done.rejected == 3
    (row,) = (r for r in published(done.release, "rejected") if r["reason"] == REJECTED_BY_REVIEWER)
    assert (len(row["instances"]), row["detail"]) == (3, "note 0; note 1; note 2")
    assert done.release is not None
    check(done.release)


def test_an_instruction_is_changed_in_all_rows_of_its_task(space: Workspace) -> None:
    path, rows = exported(space, rounds=(2, 2))
    changed = [{**row, "instruction": "Give the noun's plural."} for row in rows[:3]]
    with pytest.raises(
        ReviewError, match=r"line 1, field `instruction`: changed, but .* line 2 keeps another one"
    ):
        review.apply_file(space, save(path, [changed[0], *rows[1:]]))
    with pytest.raises(ReviewError, match=r"line 1, .* 1 more of its rows are not in the file"):
        review.apply_file(space, save(path, changed[:2]))
    done = review.apply_file(space, save(path, [*changed[:2], {**changed[2], "verdict": "reject"}]))
    assert (done.corrected, done.rejected) == (2, 1)
    found = [row for row in published(done.release, "default") if row["instruction"] == "Give the noun's plural."]
    assert [row["input"] for row in found] == ["mouse", "ox"]


def test_export_keeps_corrected_and_lost_imports_apart(space: Workspace) -> None:
    """What a file said of a row stays with the rows that are as they were."""
    path, rows = exported(space, rounds=(2, 2))
    rows[0]["output"] = "Mice."
    rows[1]["verdict"] = "reject"
    rows[3]["instruction"] = "Name the author of Middlemarch."
    review.apply_file(space, save(path, rows))
    out = space.path.parent / "out.jsonl"
    exchange.export_file(space, out, "all_generated_instances")
    found = [row for row in load(out) if "noun" in row["instruction"] or "Middlemarch" in row["instruction"]]
    assert sorted((row["instruction"], row["input"], row["output"], row.get("source")) for row in found) == [
        ("Give the plural of the noun.", "mouse", "Mice.", None),
        ("Give the plural of the noun.", "sheep", "sheep.", 2),
        ("Name the author of Middlemarch.", "", "George Eliot.", None),
    ]


def test_a_round_with_fewer_tasks_says_so(space: Workspace) -> None:
    path, rows = exported(space, rounds=(1, 1))
    for row in rows[:2]:
        row["verdict"] = "reject"
    done = review.apply_file(space, save(path, rows))
    assert done.short == {1: 2}
    assert done.release is not None
    (revision,) = read_manifest(done.release)["revisions"]
    assert revision["changes"] == {"1": {"lost": 2, "short": 2}}


def empty_round(space: Workspace) -> Workspace:
    """The second round, which is an import, has dropped nothing."""
    assert not [verdict for verdict in verdicts(space, 2) if verdict.drop or verdict.lost]
    return space


def test_an_export_holds_no_more_than_a_line_at_a_time(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset may have millions of rows: what is written is forgotten before the next is read."""
    held: list[int] = []
    given: list[int] = []
    made = review._accepted

    def counting(*values: Any) -> Iterator[tuple[dict[str, Any], str]]:
        for one in made(*values):
            given.append(1)
            yield one

    def write(path: Path, lines: Iterator[dict[str, Any]], *, overwrite: bool) -> tuple[int, int]:
        for number, _ in enumerate(lines):
            held.append(len(given) - number)
        return len(held), 0

    monkeypatch.setattr(review, "_accepted", counting)
    monkeypatch.setattr(files, "write", write)
    assert review.export_file(space, space.path.parent / "r.jsonl").lines == 16
    assert max(held) == 1


def test_what_is_chosen(space: Workspace) -> None:
    _, everything = exported(space, rows="all")
    _, first = exported(space, rounds=(1, 1))
    assert {row["round"] for row in first} == {1}
    assert len(first) == 12
    _, dropped = exported(space, rows="rejected", reasons=["too_short"])
    assert {row["reason"] for row in dropped} == {"too_short"}
    samples = [exported(space, rows="all", sample=5, seed=seed)[1] for seed in (1, 1, 2)]
    assert samples[0] == samples[1] != samples[2]
    assert all(len(sample) == 5 and all(row in everything for row in sample) for sample in samples)
    near = [row for row in everything if row["score"] is not None]
    assert near
    assert all(row["neighbour"] for row in near)
    kept = space.path.parent / "r.jsonl"
    before = kept.read_bytes()
    with pytest.raises(ReviewError, match="there is nothing of that kind to review"):
        review.export_file(empty_round(space), kept, rows="rejected", rounds=(2, 2), overwrite=True)
    assert kept.read_bytes() == before
    with pytest.raises(ReviewError, match="nothing was dropped for 'sad' in these rounds; the reasons are: "):
        exported(space, rows="rejected", reasons=["sad"])
    with pytest.raises(ReviewError, match="rounds: expected some of 1-2, got 2-3"):
        exported(space, rounds=(2, 3))
    with pytest.raises(FormatError, match="exists already"):
        review.export_file(space, space.path.parent / "r.jsonl")
    with pytest.raises(ReviewError, match=r"expected a file that ends in \.jsonl or \.csv"):
        review.export_file(space, space.path.parent / "r.xlsx")


Edit = Callable[[Rows], object]


def _set(number: int, **values: Any) -> Edit:
    return lambda rows: rows[number].update(values)


ACCEPT_BOTH = {"verdict": "accept", "instruction": "One text.", "input": "", "output": "Once."}
MISTAKES: dict[str, tuple[Edit, str]] = {
    "unknown verdict": (
        _set(1, verdict="drop"),
        "{n}, field `verdict`: expected keep, reject, accept or nothing, got 'drop'",
    ),
    "an answer that is none": (
        _set(1, valid_task="maybe"),
        "{n}, field `valid_task`: expected yes, no or nothing, got 'maybe'",
    ),
    "unknown id": (_set(1, id="0123456789abcdef"), "{n}: 0123456789abcdef is no row of this workspace"),
    "unknown candidate": (_set(1, id="c1/999/0"), "{n}: c1/999/0 is no candidate of a complete round"),
    "no id": (_set(1, id=" "), "{n}, field `id`: empty; expected the id"),
    "an id twice": (lambda rows: rows.insert(2, dict(rows[1])), "stands in {n} already; keep one of them"),
    "empty instruction": (_set(1, instruction=" "), "{n}, field `instruction`: empty; expected a text"),
    "empty output": (_set(1, output=""), "{n}, field `output`: empty; expected a text, or `reject`"),
    "accepted already": (_set(1, verdict="accept"), "{n}, field `verdict`: "),
    "kept, but rejected": (
        _set(-1, verdict="keep"),
        "{last}, field `verdict`: c2/1/1 is a rejected candidate; expected accept, reject or nothing",
    ),
    "changed and not accepted": (
        _set(-1, output="A"),
        "{last}, field `verdict`: empty, and the texts are changed",
    ),
    "a duplicate of a row": (
        lambda rows: rows[1].update({name: rows[0][name] for name in TEXTS}),
        "{n}: {id} becomes an exact duplicate of row {first} of round 1",
    ),
    "the same row twice": (
        lambda rows: [rows[number].update({**ACCEPT_BOTH, "verdict": ""}) for number in (0, 1)],
        "{n}: {id} becomes the very row that {zero} becomes; change one of them",
    ),
    "a missing column": (
        lambda rows: [row.pop("note") for row in rows],
        "`note` is missing; expected id, verdict",
    ),
}


@pytest.fixture(scope="session")
def with_rejected(grown: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with a rejected candidate at a known place, the last."""
    path = Path(shutil.copytree(grown, tmp_path_factory.mktemp("rejected") / "w"))
    space = Workspace(path)
    _, rows = exported(space, rounds=(2, 2))
    rows[3]["verdict"] = "reject"
    review.apply_file(space, save(path.parent / "r.jsonl", rows))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_and_change_nothing(
    with_rejected: Path, tmp_path: Path, name: str, kind: str
) -> None:
    space = Workspace(with_rejected)
    before = space.pool_file.read_bytes()
    path = tmp_path / f"r.{kind}"
    review.export_file(space, path, rows="all")
    rows = load(path)
    last = next(number for number, row in enumerate(rows) if row["reason"] == REJECTED_BY_REVIEWER)
    rows.append(rows.pop(last))
    edit, expected = MISTAKES[name]
    key, first = rows[1]["id"], rows[0]["id"]
    rows[-1]["id"] = expected_last = rows[-1]["id"]
    edit(rows)
    save(path, rows)
    word, shift = ("row", 2) if kind == "csv" else ("line", 1)
    said = expected.replace("{last}", f"{word} {len(rows) - 1 + shift}").replace("{n}", f"{word} {1 + shift}")
    said = said.replace("{zero}", f"{word} {shift}").replace("{id}", key).replace("{first}", first)
    with pytest.raises(ReviewError) as caught:
        review.apply_file(space, path)
    assert said.replace("c2/1/1", expected_last) in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert space.pool_file.read_bytes() == before


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "not JSON": ("jsonl", b'{"id": \n', "line 1: not valid JSON"),
    "not an object": ("jsonl", b"[1]\n", "row 1: expected a JSON object, found a number"),
    "a number for a text": (
        "jsonl",
        json.dumps({**dict.fromkeys(NEEDED, ""), "id": "a", "output": 7}).encode(),
        "line 1, field `output`: expected a text, found a number",
    ),
    "half a character": (
        "jsonl",
        json.dumps({**dict.fromkeys(NEEDED, ""), "id": "a", "output": "\ud83d"}).encode(),
        "line 1, field `output`: holds half a character",
    ),
    "empty": ("jsonl", b"", "has no line in it"),
    "an empty table": ("csv", (",".join(COLUMNS) + "\r\n").encode(), "has no line in it"),
    "not UTF-8": (
        "csv",
        ",".join(COLUMNS).encode() + b"\r\n\xe4\r\n",
        "line 2: not UTF-8 text; save it once more",
    ),
    "UTF-16": ("csv", ",".join(COLUMNS).encode("utf-16"), "line 1: not UTF-8 text"),
    "half a character in CSV": ("csv", ",".join(COLUMNS).encode() + b"\r\n\xed\xa0\x80", "line 2: not UTF-8"),
    "NUL": ("csv", ",".join(COLUMNS).encode() + b"\r\na\0b", "line 2: holds a NUL character"),
    "an open quotation mark": ("csv", ",".join(COLUMNS).encode() + b'\r\n"a', "row 2: not valid CSV"),
    "too many fields": ("csv", ",".join(COLUMNS).encode() + b"\r\na" + b",b" * 20, "row 2: 21 fields, but 14 col"),
    "a row that ends early": (
        "csv",
        ",".join(COLUMNS).encode() + b"\r\na,1,keep",
        "row 2: ends before the column",
    ),
    "a column twice": ("csv", b"note," + ",".join(COLUMNS).encode(), "row 1: column `note` is there twice"),
    "no columns": ("csv", b"a,b\r\n1,2\r\n", "row 1: column `id` is missing; expected id, verdict, "),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_one_line(tmp_path: Path, name: str) -> None:
    ending, content, expected = BROKEN[name]
    path = tmp_path / f"r.{ending}"
    path.write_bytes(content)
    with pytest.raises(ReviewError) as caught:
        files.read(path)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_row_that_is_not_there_any_more(space: Workspace) -> None:
    path, rows = exported(space, rows="all")
    other = save(space.path.parent / "other.jsonl", rows)
    rows[0]["verdict"], rows[1]["output"] = "reject", "Corrected."
    review.apply_file(space, save(path, rows))
    stale = load(other)
    assert review.apply_file(space, other).changed == 0  # nothing is said of the rows that are gone
    stale[0]["output"] = "Too late."
    with pytest.raises(ReviewError, match=r"line 1: \w+ is not in the dataset any more: v1\.1\.1 took it out"):
        review.apply_file(space, save(other, stale))
    stale[0]["verdict"], stale[1]["verdict"] = "reject", "reject"
    with pytest.raises(ReviewError, match=r"line 2: \w+ is not .* v1\.1\.1 replaced it by \w+; export the rows"):
        review.apply_file(space, save(other, stale))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_what_spreadsheets_save(space: Workspace, separator: str) -> None:
    """Other separators and line breaks in cells, empty rows, cells left out at the end: none is a correction."""
    path, rows = exported(space, "r.csv")
    rows[0]["output"] = "First line.\nSecond line."
    review.apply_file(space, save(path, rows))
    _, rows = exported(space, "r.csv")
    out = io.StringIO(newline="")
    table = csv.writer(out, delimiter=separator, lineterminator="\r\n")
    table.writerow(rows[0])
    for row in rows:
        cells = [str(cell).replace("\n", "\r\n") for cell in row.values()]
        while not cells[-1] and len(cells) > 6:
            cells.pop()
        table.writerow(cells)
    out.write(separator * (len(rows[0]) - 1) + "\r\n\r\n")
    path.write_bytes(out.getvalue().encode("utf-8-sig"))
    assert review.apply_file(space, path).changed == 0


NASTY = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text(
    "\"',;\t\r\n=+-@0'7e. \ufeffa雪🙂＝"
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(NASTY, NASTY, NASTY, NASTY), min_size=1, max_size=4))
@example([("=1+1", "'=x", "''7", "+a")])
@example([("\ufeff-5", "3/4", "TRUE", "May 1")])
@example([("a\r\nb", "\r", '"', "'")])
def test_texts_come_back_as_they_were(tmp_path: Path, texts: list[tuple[str, str, str, str]]) -> None:
    lines = [
        {**dict.fromkeys(COLUMNS, ""), "id": f"c1/{n}/0", "round": 1, "instruction": i, "input": g, "output": o}
        | {"note": note, "score": 0.25}
        for n, (i, g, o, note) in enumerate(texts)
    ]
    for kind in ("jsonl", "csv"):
        path = tmp_path / f"r.{kind}"
        if kind == "csv" and any("\0" in text for row in texts for text in row):
            with pytest.raises(ReviewError, match=r"holds a NUL character, which no CSV can; name a \.jsonl file"):
                files.write(path, lines, overwrite=True)
            continue
        files.write(path, lines, overwrite=True)
        for line, found in zip(lines, files.read(path), strict=True):
            assert found.id == line["id"]
            assert dict(found.texts) == {name: line[name] for name in TEXTS}
            assert found.note == str(line["note"]).strip()


@given(NASTY)
@example("=HYPERLINK(1)")
@example("'＝1")
def test_a_guard_comes_off_as_it_went_on(text: str) -> None:
    cell = files.guarded(text)
    assert files.unguarded(cell) == text
    assert not cell or cell[0] not in "=+-@\t\r\n＝＋－＠"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("@you", "'@you"),
        ("- a list", "'- a list"),
        ("007", "'007"),
        ("3/4", "'3/4"),
        ("1234567890e12345", "'1234567890e12345"),
        (
            "3.14159265358979323846264338327950288419716939937510",
            "'3.14159265358979323846264338327950288419716939937510",
        ),
        ("5月4日", "'5月4日"),
        ("下午3:30", "'下午3:30"),
        ("5 p", "'5 p"),
        ("1. Mai", "'1. Mai"),
        ("Falsch", "'Falsch"),
        ("5月的花", "5月的花"),
        ("5 apples", "5 apples"),
        ("May 1", "'May 1"),
        ("true", "'true"),
        ("50 %", "'50 %"),
        ("'tis", "'tis"),
        ("It is 7.", "It is 7."),
        ("", ""),
    ],
)
def test_cells_that_a_spreadsheet_would_change_are_guarded(text: str, cell: str) -> None:
    assert files.guarded(text) == cell


def test_a_text_that_excel_cut_is_no_correction(space: Workspace) -> None:
    path, rows = exported(space, "r.jsonl")
    rows[0]["output"] = " ".join(f"word {n}" for n in range(5000))
    review.apply_file(space, save(path, rows))
    path = space.path.parent / "long.csv"
    assert review.export_file(space, path).long == 1
    rows = load(path)
    rows[0]["output"] = rows[0]["output"][:32767]
    with pytest.raises(ReviewError, match=r"row 2, field `output`: was cut at 32,767 characters"):
        review.apply_file(space, save(path, rows))


@pytest.mark.parametrize("length", [32_767, 40_000])
def test_a_guarded_text_that_excel_cut_is_no_correction(space: Workspace, length: int) -> None:
    """The apostrophe in front takes a character of the cell."""
    path, rows = exported(space, "r.jsonl")
    rows[0]["output"] = ("- an item\n" * (length // 10 + 1))[: length - 1] + "."
    review.apply_file(space, save(path, rows))
    path = space.path.parent / "long.csv"
    assert review.export_file(space, path).long == 1
    rows = load(path)
    rows[0]["output"] = rows[0]["output"][:32767]
    assert rows[0]["output"].startswith("'- an item")
    with pytest.raises(ReviewError, match=r"row 2, field `output`: was cut at 32,767 characters"):
        review.apply_file(space, save(path, rows))


def test_any_sequence_of_reviews_keeps_every_count(space: Workspace) -> None:
    """Random decisions, one file after another: the rows of the release are those that were decided."""
    rng = random.Random(7)
    for step in range(2):
        path, rows = exported(space, f"r{step}.{rng.choice(['csv', 'jsonl'])}", rows="all")
        expected = sum(not row["reason"] for row in rows)
        for row in rng.sample(rows, 8):
            if not row["reason"]:
                what = rng.choice(["reject", "correct", "answer"])
                expected -= what == "reject"
                row |= {
                    "reject": {"verdict": "reject"},
                    "correct": {"output": f"Step {step}, {rng.random()}."},
                }.get(what, {"valid_task": rng.choice(["yes", "no"])})
            elif row["instruction"]:
                row |= {"verdict": "accept", "output": f"Won in {step}, {rng.random()}."}
                expected += 1
        done = review.apply_file(space, save(path, rows))
        assert done.release is not None
        assert read_manifest(done.release)["rows"] == expected
        check(done.release)


@pytest.fixture
def stand_in() -> Iterator[Server]:
    with running(Server()) as server:
        yield server


def test_a_reviewed_workspace_grows_on(space: Workspace, stand_in: Server) -> None:
    path, rows = exported(space, rounds=(1, 1))
    rows[0]["verdict"] = "reject"
    review.apply_file(space, save(path, rows))
    asked = config.with_overrides(space.settings(), {"tasks": 3, "endpoint.url": stand_in.url})
    (finished,) = run.grow(space, asked)
    assert finished.release is not None
    assert finished.release.name == "v1.2.0"
    assert read_manifest(finished.release)["rows"] == 15 + 3
    check(finished.release)


def test_what_a_person_decided_stands_over_a_replay(space: Workspace) -> None:
    path, rows = exported(space, rows="all", rounds=(1, 1))
    kept, corrected, unseen = [row for row in rows if not row["reason"]][:3]
    won = next(row for row in rows if row["reason"] == "too_short")
    kept["verdict"], corrected["output"], unseen["valid_task"] = "keep", "Corrected.", "yes"
    won["verdict"] = "accept"
    review.apply_file(space, save(path, rows))
    strict = config.with_values(space.settings(), {"filters": {"min_words": 100}})
    done = replay(space, strict, rounds=range(1, 2))
    assert done.release is not None
    found = [row for row in published(done.release, "default") if row["round"] == 1]
    assert {row["instruction"] for row in found} == {one["instruction"] for one in (kept, corrected, won)}


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return tool.run(*arguments)


def test_the_command(space: Workspace) -> None:
    path = space.path.parent / "rows.csv"
    done = command("review", space.path, "--export", path, "--sample", "3", "--seed", "1")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith(f"wrote 3 lines of 16 to {path}\nnext: edit it, then `selfinstruct-hub review")
    assert command("review", space.path, "--export", path).returncode == 2  # it may have been edited
    done = command("review", space.path, "--apply", path)
    assert (done.returncode, done.stdout) == (0, "nothing to do: 3 lines read, and nothing is decided anew\n")
    rows = load(path)
    rows[0]["verdict"] = "reject"
    save(path, rows)
    done = command("review", space.path, "--apply", path, "--dry-run")
    assert done.stdout == "dry run, nothing changed: rows 1 rejected; 3 lines read\n"
    assert done.stderr.startswith("note: round ") or rows[0]["round"] == "2"
    done = command("review", space.path, "--apply", path, "--json")
    found = json.loads(done.stdout)
    assert (found["version"], found["rejected"], found["dry_run"]) == ("v1.1.1", 1, False)
    done = command("review", space.path, "--apply", path)
    assert (
        "nothing to do: 3 lines read, and nothing is decided anew (1 line says what stands already)" in done.stdout
    )
    rows[1]["verdict"] = "drop"
    done = command("review", space.path, "--apply", save(path, rows))
    assert done.returncode == 2
    assert done.stderr.endswith("row 3, field `verdict`: expected keep, reject, accept or nothing, got 'drop'\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "review: give --export FILE or --apply FILE, and not both"),
        (["--export", "a.csv", "--apply", "a.csv"], "review: give --export FILE or --apply FILE, and not both"),
        (["--apply", "a.csv", "--sample", "3"], "belong to --export"),
        (["--export", "a.csv", "--json"], "--dry-run and --json belong to --apply"),
        (["--export", "a.csv", "--rows", "accepted", "--reason", "x"], "--reason is about what was dropped"),
        (["--export", "a.csv", "--rows", "some"], "--rows: expected accepted, rejected or all, got 'some'"),
        (["--export", "a.csv", "--rounds", "2-1"], "--rounds: expected A-B"),
        (["--apply", "none.csv"], "none.csv: cannot be read (No such file or directory)"),
    ],
)
def test_wrong_usage(grown: Path, options: list[str], said: str) -> None:
    done = command("review", grown, *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1

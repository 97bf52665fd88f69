"""What changed between two releases: rows by round, read back from Parquet, beside a plain comparison."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct_hub.difference import difference
from selfinstruct_hub.records import digest
from tests.support.hub.commands import Commands, commands

Row = tuple[str, str, str]  # instruction, input, output


def write(folder: Path, rounds: dict[int, list[Row]], version: str = "v1.0.0", *, rows_a_shard: int = 3) -> Path:
    """A release's manifest and its default config."""
    files = []
    for number, rows in rounds.items():
        parts = [rows[start : start + rows_a_shard] for start in range(0, len(rows), rows_a_shard)]
        for place, part in enumerate(parts):
            path = folder / f"data/default/train-round-{number:04d}-{place:05d}-of-{len(parts):05d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            table = [
                {"id": digest(*row), "instruction": row[0], "input": row[1], "output": row[2], "round": number}
                for row in part
            ]
            pq.write_table(pa.Table.from_pylist(table), path)
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            entry = {"path": path.relative_to(folder).as_posix(), "config": "default", "round": number}
            files.append({**entry, "rows": len(part), "sha256": sha256})
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"version": version, "rounds": [{"round": number} for number in rounds], "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


A, B, C = ("Name a river.", "", "Rhine"), ("Name a lake.", "", "Como"), ("Sort.", "b a", "a b")
A2, C2, C3 = ("Name a river.", "", "Po"), ("Sort.", "b a", "A B"), ("Sort.", "d c", "c d")
CASES: dict[str, tuple[dict[int, list[Row]], dict[int, list[Row]], dict[int, tuple[int, int, int, int]]]] = {
    "nothing": ({1: [A, B]}, {1: [A, B]}, {1: (2, 0, 0, 0)}),
    "another order is nothing": ({1: [A, B]}, {1: [B, A]}, {1: (2, 0, 0, 0)}),
    "a round more": ({1: [A]}, {1: [A], 2: [B, C]}, {1: (1, 0, 0, 0), 2: (0, 2, 0, 0)}),
    "a round less": ({1: [A], 2: [B]}, {1: [A]}, {1: (1, 0, 0, 0), 2: (0, 0, 1, 0)}),
    "another output": ({1: [A, B]}, {1: [A2, B]}, {1: (1, 0, 0, 1)}),
    "another input and output": ({1: [C]}, {1: [C3]}, {1: (0, 0, 0, 1)}),
    "the same input comes first": ({1: [C, A]}, {1: [C3, C2]}, {1: (0, 1, 1, 1)}),
    "an instance less": ({1: [C, C3]}, {1: [C2]}, {1: (0, 0, 1, 1)}),
    "the same row twice": ({1: [A, A]}, {1: [A]}, {1: (1, 0, 1, 0)}),
    "in another round it is another row": ({1: [A], 2: []}, {1: [], 2: [A]}, {1: (0, 0, 1, 0), 2: (0, 1, 0, 0)}),
    "all new": ({1: [A]}, {1: [B]}, {1: (0, 1, 1, 0)}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_became_of_the_rows(tmp_path: Path, case: str) -> None:
    before, after, expected = CASES[case]
    found = difference(write(tmp_path / "a", before), write(tmp_path / "b", after, "v1.1.0"))
    assert (found.before, found.after) == ("v1.0.0", "v1.1.0")
    counts = {r.round: (r.same, len(r.added), len(r.removed), len(r.changed)) for r in found.rounds}
    assert counts == expected
    assert tuple(found.totals.values()) == tuple(map(sum, zip(*expected.values(), strict=True)))


def test_ids_are_told(tmp_path: Path) -> None:
    found = difference(write(tmp_path / "a", {1: [A, B]}), write(tmp_path / "b", {1: [A2, C]})).as_dict()
    assert found["rounds"] == [
        {
            "round": 1,
            "same": 0,
            "added": [digest(*C)],
            "removed": [digest(*B)],
            "changed": [{"from": digest(*A), "to": digest(*A2)}],
        }
    ]
    assert {key: found[key] for key in ("same", "added", "removed", "changed")} == {
        "same": 0,
        "added": 1,
        "removed": 1,
        "changed": 1,
    }


rows = st.lists(st.tuples(*(st.sampled_from("abc") for _ in range(3))), max_size=12)


@settings(deadline=None, max_examples=60)
@given(before=rows, after=rows)
def test_every_row_is_counted_once(tmp_path_factory: pytest.TempPathFactory, before: Any, after: Any) -> None:
    folder = tmp_path_factory.mktemp("diff")
    (found,) = difference(write(folder / "a", {1: before}), write(folder / "b", {1: after})).rounds
    was, now = (Counter(digest(*row) for row in side) for side in (before, after))
    assert found.same == (was & now).total()
    left = [row for row, _ in found.changed]
    come = [row for _, row in found.changed]
    assert Counter([*found.removed, *left]) == was - now
    assert Counter([*found.added, *come]) == now - was
    texts = {digest(*row): row for row in (*before, *after)}
    assert all(texts[a][0] == texts[b][0] and texts[a] != texts[b] for a, b in found.changed)
    # Nothing that could be told as changed is told as removed and added.
    assert not {texts[row][0] for row in found.removed} & {texts[row][0] for row in found.added}


def test_a_round_of_the_same_bytes_is_not_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, {1: [A, B, C, A2]})
        for shard in (tmp_path / name).rglob("*.parquet"):
            shard.unlink()
    (found,) = difference(tmp_path / "a", tmp_path / "b").rounds
    assert (found.same, found.added, found.removed) == (4, (), ())


def test_the_command(tmp_path: Path) -> None:
    with commands(dict(os.environ)) as command:
        _check_command(command, tmp_path)


def _check_command(command: Commands, tmp_path: Path) -> None:
    first = write(tmp_path / "w/releases/v1.0.0", {1: [A, B]})
    second = write(tmp_path / "w/releases/v1.1.0", {1: [A2, B], 2: [C]}, "v1.1.0")
    done = command("diff", tmp_path / "w", "v1.0.0", "v1.1.0")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "v1.0.0 to v1.1.0: 1 same, 1 added, 0 removed, 1 changed",
        "round  same  added  removed  changed",
        "    1     1      0        0        1",
        "    2     0      1        0        0",
    ]
    told = json.loads(command("diff", first, second, "--json").out)
    assert (told["from"], told["to"], told["added"]) == ("v1.0.0", "v1.1.0", 1)
    missing = command("diff", tmp_path / "w", "v1.0.0", "v3.0.0")
    assert missing.code == 2
    assert missing.err == f"error: {tmp_path / 'w'}: has no release v3.0.0; it has: v1.0.0, v1.1.0\n"
    one = command("diff", tmp_path / "w", "v1.0.0")
    assert one.code == 2
    assert one.err.startswith(
        f"error: v1.0.0: expected two versions, as in `selfinstruct-hub diff {tmp_path / 'w'} "
    )
    building = tmp_path / "w/releases/.building-v1.2.0"
    building.mkdir()
    (building / "manifest.json").write_text("{")
    assert ".building" not in command("diff", tmp_path / "w", "v1.0.0", "v3.0.0").err
    (building / "manifest.json").unlink()
    (building / "manifest.json").mkdir()
    unreadable = command("diff", building, first)
    assert (unreadable.code, len(unreadable.err.splitlines())) == (1, 1)
    no_release = command("diff", first, tmp_path)
    assert no_release.code == 1
    assert no_release.err == f"error: {tmp_path}: is no release (manifest.json is missing)\n"
    next(second.rglob("*.parquet")).write_bytes(b"torn")
    torn = command("diff", first, second)
    assert torn.code == 1
    assert "cannot be read" in torn.err
    assert len(torn.err.splitlines()) == 1

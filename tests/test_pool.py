"""The pool: what goes in comes out, whole or not at all, and files that are no pool are named."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from selfinstruct_hub.errors import PoolError
from selfinstruct_hub.pool import SCHEMA_VERSION, Pool
from selfinstruct_hub.records import (
    Candidate,
    Completion,
    Decoding,
    Drop,
    Instance,
    Neighbour,
    Request,
    Round,
    Similarity,
    Verdict,
    task_of,
)

ROUND = Round(1, "v1.0.0", 10, False, {"recipe": "alpaca", "novelty": {"threshold": 0.7}})
SEED = {
    "id": "s",
    "name": "n",
    "instruction": "Name a colour.",
    "instances": [{"input": "", "output": "Red\u2028."}],
    "is_classification": False,
}


def request(number: int) -> Request:
    decoding = Decoding(200, temperature=0.5, stop=("\n9.",), seed=number, grammar=("regex", "a+"))
    return Request(1, number, 0, "tasks", f"prompt {number}", decoding, ("s", "t"))


def answer(text: str = "text") -> Completion:
    return Completion(text, "eos", 10, 20, "model", "tgi", 0.1, 0.2, 0.3)


def verdicts(number: int) -> list[Verdict]:
    good = Candidate("Name a tree.", (Instance("a", "b"), Instance("c", "d")))
    bad = Candidate(None, (), missing="instruction", cut_off=True)
    near = Similarity((Neighbour("s", 0.7000000000000001),), 0.123)
    return [
        Verdict(1, number, 0, good, task=task_of(good, good.instances), similarity=near),
        Verdict(1, number, 1, bad, drop=Drop("missing_field", "instruction")),
        Verdict(1, number, 2, good, drop=Drop("too_similar", "ROUGE-L 1.000 with s"), similarity=near),
    ]


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    made = Pool.create(tmp_path / "pool.sqlite3")
    made.set_seeds([SEED], "print")
    made.begin_round(ROUND)
    return made


def test_everything_comes_back_as_it_went_in(pool: Pool) -> None:
    pool.add_completion(request(0), answer("läng\u2028\0x"))
    pool.add_draw(1, 0, verdicts(0))
    pool.close()
    with Pool.open(pool.path) as again:
        assert again.rounds() == [ROUND]
        assert again.completion(1, 0, 0) == (request(0), answer("läng\u2028\0x"))
        assert again.completion(1, 1, 0) is None
        assert list(again.verdicts(1)) == verdicts(0)
        assert list(again.verdicts(1, accepted=True)) == verdicts(0)[:1]
        assert list(again.verdicts(1, accepted=False)) == verdicts(0)[1:]
        assert [t.instances[0].output for t in again.seeds()] == ["Red\u2028."]
        assert again.meta("seeds") == "print"


def test_counts_come_from_judged_draws_only(pool: Pool) -> None:
    for number in range(3):
        pool.add_completion(request(number), answer())
    pool.add_draw(1, 0, verdicts(0))
    pool.add_draw(1, 1, [Verdict(1, 1, 0, Candidate("x", (), cut_off=True), drop=Drop("cut_off"))])
    assert pool.counts(1) == {
        "tasks": 1,
        "rows": 2,
        "requests": 2,
        "completions": 2,
        "parsed": 1,
        "candidates": 4,
        "drops": {"cut_off": 1, "missing_field": 1, "too_similar": 1},
        "tokens": {"prompt": 20, "generated": 40},
        "unjudged": 1,
    }
    assert pool.cost(1) == (3, 90)
    assert pool.judged_draws(1) == 2
    assert pool.models(1) == ["model"]


def test_a_draw_is_stored_whole_or_not_at_all(pool: Pool) -> None:
    first, second, _ = verdicts(0)
    with pytest.raises(sqlite3.IntegrityError):
        pool.add_draw(1, 0, [first, second, first])  # the same position twice
    assert pool.judged_draws(1) == 0
    assert list(pool.verdicts(1)) == []


def test_an_answer_is_never_overwritten(pool: Pool) -> None:
    pool.add_completion(request(0), answer("one"))
    with pytest.raises(sqlite3.IntegrityError):
        pool.add_completion(request(0), answer("two"))
    stored = pool.completion(1, 0, 0)
    assert stored is not None
    assert stored[1].text == "one"


def test_a_killed_process_loses_nothing_it_stored(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from selfinstruct_hub.pool import Pool
        from tests.test_pool import ROUND, SEED, answer, request
        pool = Pool.create(Path(sys.argv[1]))
        pool.set_seeds([SEED], "print")
        pool.begin_round(ROUND)
        for number in range(10**6):
            pool.add_completion(request(number), answer())
            print(number, flush=True)
    """)
    path = tmp_path / "pool.sqlite3"
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    assert child.stdout is not None
    with child.stdout:
        said = [child.stdout.readline() for _ in range(20)]
        os.kill(child.pid, signal.SIGKILL)
        said += child.stdout.readlines()
    child.wait()
    with Pool.open(path) as pool:
        pool.check()
        assert pool.cost(1)[0] in (len(said), len(said) + 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a pool of selfinstruct-hub"),
        (b"hello, this is no database at all, only a text" * 99, "not a pool of selfinstruct-hub"),
    ],
)
def test_files_that_are_no_pool(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "pool.sqlite3"
    path.write_bytes(content)
    with pytest.raises(PoolError, match=said):
        Pool.open(path)
    assert path.read_bytes() == content


def test_somebody_elses_and_newer_and_damaged_pools(tmp_path: Path, pool: Pool) -> None:
    other = tmp_path / "other.sqlite3"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE t (x)")
    db.close()
    with pytest.raises(PoolError, match="not a pool"):
        Pool.open(other)

    pool.close()
    with sqlite3.connect(pool.path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(PoolError, match="made by a newer selfinstruct-hub"):
        Pool.open(pool.path)
    with sqlite3.connect(pool.path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.close()

    content = bytearray(pool.path.read_bytes())
    content[4096 * 2 : 4096 * 4] = b"\xff" * 4096 * 2
    pool.path.write_bytes(content)
    with pytest.raises(PoolError, match="damaged"), Pool.open(pool.path) as damaged:
        damaged.check()


def test_a_full_disk_is_named_and_loses_nothing(pool: Pool) -> None:
    pool.add_completion(request(0), answer())
    # SQLite's own limit on pages gives the same error as a disk without space.
    ((pages,),) = pool._rows("PRAGMA page_count")
    pool._rows(f"PRAGMA max_page_count = {pages}")

    def fill() -> None:
        for number in range(1, 50):
            pool.add_completion(request(number), answer("x" * 5000))

    with pytest.raises(PoolError, match="the disk is full") as error:
        fill()
    assert "\n" not in str(error.value)
    pool._rows("PRAGMA max_page_count = 100000")
    stored = pool.cost(1)[0]
    pool.add_completion(request(99), answer())  # and it goes on once there is space
    assert pool.cost(1)[0] == stored + 1
    pool.check()

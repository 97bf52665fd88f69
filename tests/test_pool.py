"""The pool: what goes in comes out, whole or not at all, and files that are no pool are named."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfinstruct_hub.errors import PoolError
from selfinstruct_hub.pool import Pool, file
from selfinstruct_hub.pool.schema import MIGRATIONS, SCHEMA_VERSION
from selfinstruct_hub.records import (
    Candidate,
    Completion,
    Decoding,
    Drop,
    Failure,
    Instance,
    Lost,
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
    lost = (Lost(Instance("e", ""), Drop("cut_off", "detail")),)
    extra = {"rows": [{"id": 3}]}
    good = Candidate(
        "Name a tree.", (Instance("a", "b"), Instance("c", "d")), stage="tasks", lost=lost, extra=extra
    )
    bad = Candidate(None, (), missing="instruction", cut_off=True, stage="tasks")
    gone = replace(good, failure=Drop("request_refused", "422"), calls=(0, 4))
    near = Similarity((Neighbour("s", 0.7000000000000001),), 0.123)
    return [
        Verdict(1, number, 0, good, task=task_of(good, good.instances), similarity=near, lost=lost),
        Verdict(1, number, 1, bad, drop=Drop("missing_field", "instruction")),
        Verdict(1, number, 2, gone, drop=Drop("too_similar", "ROUGE-L 1.000 with s"), similarity=near),
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
    pool.add_draw(1, 1, [Verdict(1, 1, 0, Candidate("x", (), cut_off=True, stage="tasks"), drop=Drop("cut_off"))])
    assert pool.counts(1) == {
        "tasks": 1,
        "rows": 2,
        "requests": 2,
        "completions": 2,
        "failed": {},
        "parsed": 1,
        "candidates": 4,
        "acceptance": 0.25,
        "drops": {"cut_off": 1, "missing_field": 1, "too_similar": 1},
        "lost_instances": {"cut_off": 1},
        "similarity": {"mean": 0.7, "p90": 0.7},
        "tokens": {"prompt": 20, "generated": 40},
        "stages": {
            "tasks": {
                "requests": 2,
                "failed": {},
                "parsed": 1,
                "tokens": {"prompt": 20, "generated": 40},
                "candidates": 4,
                "drops": {"cut_off": 1, "missing_field": 1, "too_similar": 1},
            }
        },
        "unjudged": 1,
    }
    assert pool.cost(1) == (3, 30, 60)
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


# What a pool of format 1 held, as its own program wrote it.
FORMAT_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE seeds (position INTEGER PRIMARY KEY, task TEXT NOT NULL);
CREATE TABLE rounds (
    number INTEGER PRIMARY KEY, version TEXT NOT NULL UNIQUE, wanted INTEGER NOT NULL,
    complete INTEGER NOT NULL DEFAULT 0, settings TEXT NOT NULL, asked TEXT NOT NULL
);
CREATE TABLE completions (
    round INTEGER NOT NULL REFERENCES rounds, number INTEGER NOT NULL, call INTEGER NOT NULL,
    stage TEXT NOT NULL, prompt TEXT NOT NULL, decoding TEXT NOT NULL, demonstrations TEXT NOT NULL,
    text TEXT NOT NULL, finish_reason TEXT NOT NULL, prompt_tokens INTEGER, generated_tokens INTEGER,
    model TEXT NOT NULL, endpoint_kind TEXT NOT NULL, queue_time REAL, inference_time REAL, total_time REAL,
    PRIMARY KEY (round, number, call)
);
CREATE TABLE draws (
    round INTEGER NOT NULL REFERENCES rounds, number INTEGER NOT NULL, candidates INTEGER NOT NULL,
    PRIMARY KEY (round, number)
);
CREATE TABLE verdicts (
    round INTEGER NOT NULL, number INTEGER NOT NULL, position INTEGER NOT NULL,
    candidate TEXT NOT NULL, task TEXT, reason TEXT, detail TEXT, nearest TEXT NOT NULL, mean REAL NOT NULL,
    PRIMARY KEY (round, number, position), FOREIGN KEY (round, number) REFERENCES draws
);
CREATE INDEX accepted ON verdicts (round, number, position) WHERE task IS NOT NULL;
INSERT INTO rounds VALUES (1, 'v1.0.0', 1, 1, '{"demonstrations":{"human":3},"recipe":"alpaca"}', '{}');
INSERT INTO completions VALUES
 (1, 0, 0, 'tasks', 'p', '{"max_new_tokens":9}', '[]', 't', 'eos', 1, 2, 'm', 'tgi', NULL, NULL, NULL);
INSERT INTO draws VALUES (1, 0, 3);
INSERT INTO verdicts VALUES (1, 0, 0,
 '{"cut_off":false,"instances":[["","x"]],"instruction":"Name it.","is_classification":null,"missing":null}',
 '{"id":"t","instances":[["","x"]],"instruction":"Name it.","is_classification":null}',
 NULL, NULL, '[["s",0.25]]', 0.1);
INSERT INTO verdicts VALUES (1, 0, 1,
 '{"cut_off":false,"instances":[["","x"]],"instruction":"Name it.","is_classification":null,"missing":null}',
 NULL, 'too_similar', 'ROUGE-L', '[["t",1.0]]', 0.2);
INSERT INTO verdicts VALUES (1, 0, 2,
 '{"cut_off":true,"instances":[],"instruction":"Name","is_classification":null,"missing":null}',
 NULL, 'cut_off', '', '[]', 0.0);
PRAGMA application_id = 1397311554;
PRAGMA user_version = 1
"""


def test_a_pool_of_format_1_is_read_and_migrated_with_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "pool.sqlite3"
    old = sqlite3.connect(path)
    old.executescript(FORMAT_1)
    old.close()
    before = path.read_bytes()

    def look(pool: Pool) -> None:
        counts = pool.counts(1)
        assert (counts["tasks"], counts["candidates"], counts["parsed"]) == (1, 3, 1)
        assert counts["similarity"] == {"mean": 0.625, "p90": 1.0}
        assert list(counts["stages"]) == ["tasks"]
        assert [v.similarity.score if v.similarity else None for v in pool.verdicts(1)] == [0.25, 1.0, None]
        assert [task.instruction for task in pool.tasks(1)] == ["Name it."]
        assert pool.rounds()[0].settings["demonstrations"]["machine"] == 0
        assert {v.candidate.calls for v in pool.verdicts(1)} == {(0,)}

    with Pool.open(path, read_only=True) as pool:
        look(pool)
    assert path.read_bytes() == before  # a reader leaves it as it is
    assert [p.name for p in tmp_path.iterdir()] == ["pool.sqlite3"]
    with Pool.open(path) as pool:
        look(pool)
        pool.check()
    assert sqlite3.connect(tmp_path / "pool.sqlite3.format-1").execute("PRAGMA user_version").fetchone() == (1,)
    with Pool.open(path) as pool:
        look(pool)
        pool.begin_round(Round(2, "v2.0.0", 5, False, {}, {}))
        pool.add_draw(2, 0, [], [Failure(0, "tasks", "timeout", "no answer within 9 s", 6)])
        counts = pool.counts(2)
        assert (counts["requests"], counts["completions"], counts["failed"]) == (1, 0, {"timeout": 1})


def test_an_open_round_of_format_1_goes_on_as_a_new_major_version(tmp_path: Path) -> None:
    """What it will be released with has other columns than the release before it."""
    from types import SimpleNamespace

    from selfinstruct_hub import config
    from selfinstruct_hub.endpoint import Limits
    from selfinstruct_hub.plan import resolve
    from selfinstruct_hub.rounds import next_round

    path = tmp_path / "pool.sqlite3"
    old = sqlite3.connect(path)
    old.executescript(FORMAT_1)
    endpoint: Any = SimpleNamespace(embedded=False, chat=False, model="m", limits=Limits(max_total_tokens=4096))
    asked = config.Settings(demonstrations=config.Demonstrations(human=1))
    settings = resolve(asked, endpoint)
    for key in ("columns", "language_name", "domain"):
        settings.pop(key)
    settings["demonstrations"] = {"human": 1, "max_characters": 900}
    old.execute("INSERT INTO rounds VALUES (2, 'v1.1.0', 9, 0, ?, '{}')", (json.dumps(settings),))
    old.execute(
        "INSERT INTO completions VALUES (2, 0, 0, 'tasks', 'p', '{\"max_new_tokens\":9}', '[]', 't', 'eos', 1, 2, "
        "'m', 'tgi', NULL, NULL, NULL)"
    )
    old.commit()
    old.close()
    said: list[str] = []
    with Pool.open(path) as pool:
        pool.set_seeds([SEED], "print")
        round_ = next_round(pool, asked, endpoint, 9, said.append)
        assert (round_.number, round_.version) == (2, "v2.0.0")
        assert pool.rounds()[-1] == round_
        assert said == []  # nothing that the user set has changed
        hotter = config.with_overrides(asked, {"decoding.temperature": 0.3})
        next_round(pool, hotter, endpoint, 9, said.append)
    assert "(decoding.temperature)" in said[0]


# What a death, a lost file or a failing disk leaves behind.


def killed_pool(path: Path) -> Path:
    """A pool whose process was killed: what it stored last is in its log only."""
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from selfinstruct_hub.pool import Pool
        from tests.test_pool import ROUND, SEED, answer, request
        pool = Pool.create(Path(sys.argv[1]))
        pool.set_seeds([SEED], "print")
        pool.begin_round(ROUND)
        pool._rows("PRAGMA wal_checkpoint")
        for number in range(5):
            pool.add_completion(request(number), answer("x" * 3000))
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    path.parent.mkdir()
    subprocess.run([sys.executable, "-c", script, str(path)], cwd=Path(__file__).parents[1], check=False)
    return path


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return killed_pool(tmp_path_factory.mktemp("killed") / "w" / "pool.sqlite3")


@pytest.fixture
def left(killed: Path, tmp_path: Path) -> Path:
    """A copy of a killed process's files that a test may change."""
    shutil.copytree(killed.parent, tmp_path / "left")
    return tmp_path / "left" / "pool.sqlite3"


def cut(path: Path, share: float) -> None:
    with path.open("rb+") as file:
        file.truncate(int(path.stat().st_size * share))


def spoilt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("what", "missing"),
    [
        (lambda path: beside(path, "-wal").unlink(), 5),
        (lambda path: beside(path, "-wal").write_bytes(b""), 5),
        (lambda path: cut(beside(path, "-wal"), 0.5), None),
        (lambda path: spoilt(beside(path, "-wal")), None),
        (lambda path: path.write_bytes(b"") or beside(path, "-commits").write_text("no number"), 0),
    ],
    ids=["log removed", "log emptied", "log cut", "log spoilt", "pool emptied"],
)
def test_a_log_that_was_cut_is_noticed(left: Path, read_only: bool, what: Any, missing: int | None) -> None:
    what(left)
    kept = {place.name: place.read_bytes() for place in left.parent.iterdir() if "-shm" not in place.name}
    with pytest.raises(PoolError) as error:
        Pool.open(left, read_only=read_only)
    said = str(error.value)
    assert "\n" not in said
    if missing == 0:
        assert "not a pool" in said
        return
    (number,) = re.findall(r"(\d+) of its 8 transactions are missing", said) or [0]
    assert int(number) == missing if missing else 0 < int(number) < 6
    assert "restore pool.sqlite3, pool.sqlite3-wal and pool.sqlite3-commits from one backup" in said
    # Whoever has a copy of the log can still put it back: nothing was tidied up.
    assert kept == {place.name: place.read_bytes() for place in left.parent.iterdir() if "-shm" not in place.name}
    beside(left, "-commits").unlink()  # as it says
    with Pool.open(left, read_only=read_only) as pool:
        pool.check()
        assert pool.cost(1)[0] < 5


def test_a_log_that_is_whole_is_taken_up(left: Path) -> None:
    with Pool.open(left, read_only=True) as pool:
        assert pool.cost(1)[0] == 5
    with Pool.open(left) as pool:
        assert pool.cost(1)[0] == 5
        pool.add_completion(request(9), answer())
    assert int(beside(left, "-commits").read_text()) == 9
    assert {place.name for place in left.parent.iterdir()} == {"pool.sqlite3", "pool.sqlite3-commits"}


def test_a_pool_without_its_small_file_is_as_good_as_any(left: Path) -> None:
    """A copied folder, an older program's pool, a small file that a power cut has spoilt or that stayed behind."""
    for content in (None, b"", b"\0" * 21, f"{3:020d}\n".encode()):
        beside(left, "-commits").unlink(missing_ok=True)
        if content is not None:
            beside(left, "-commits").write_bytes(content)
        with Pool.open(left) as pool:
            counted = int(pool.meta("commits") or 0)
            pool.set_meta("a", "b")
        assert int(beside(left, "-commits").read_text()) == counted + 1


def test_a_reader_sees_a_writer_that_begins_beside_it(pool: Pool) -> None:
    """Nobody wrote when it was opened; without a lock it would read pages of two moments."""
    pool.add_completion(request(0), answer())
    pool.close()
    with Pool.open(pool.path, read_only=True) as reader:
        assert reader.cost(1)[0] == 1
        with reader.snapshot():
            assert len(reader.rounds()) == 1
            with Pool.open(pool.path) as writer:
                writer.add_completions([(request(number), answer("x" * 3000)) for number in range(1, 200)])
            assert reader.cost(1)[0] == 1
        assert reader.cost(1)[0] == 200
        reader.check()
    assert {place.name for place in pool.path.parent.iterdir()} == {"pool.sqlite3", "pool.sqlite3-commits"}


def test_a_pool_behind_a_link(left: Path, tmp_path: Path) -> None:
    """On a larger disk: SQLite keeps the log beside the file, the small file is beside the link."""
    (tmp_path / "w").mkdir()
    link = tmp_path / "w" / "pool.sqlite3"
    link.symlink_to(left)
    beside(left, "-commits").rename(beside(link, "-commits"))
    with Pool.open(link, read_only=True) as reader:
        assert reader.cost(1)[0] == 5
    with Pool.open(link) as again:
        assert again.cost(1)[0] == 5
        again.add_completion(request(9), answer())
    assert int(beside(link, "-commits").read_text()) == 9


def test_an_older_copy_in_place_of_the_pool_is_noticed(pool: Pool) -> None:
    pool.close()
    old = pool.path.read_bytes()
    with Pool.open(pool.path) as again:
        again.add_completion(request(0), answer())
    pool.path.write_bytes(old)
    with pytest.raises(PoolError, match="1 of its 4 transactions are missing"):
        Pool.open(pool.path)


def test_a_pool_that_is_missing_is_not_begun_anew(pool: Pool) -> None:
    pool.close()
    pool.path.unlink()
    for call in (Pool.open, Pool.create):
        with pytest.raises(PoolError, match=r"is missing, and pool\.sqlite3-commits says that it was .* 3 times"):
            call(pool.path)
    beside(pool.path, "-commits").unlink()
    Pool.create(pool.path).close()


def test_what_is_rolled_back_is_not_counted(pool: Pool) -> None:
    before = pool.meta("commits")
    first, second, _ = verdicts(0)
    with pytest.raises(sqlite3.IntegrityError):
        pool.add_draw(1, 0, [first, second, first])
    assert pool.meta("commits") == before
    assert int(beside(pool.path, "-commits").read_text()) == int(before or 0)


def glanced(path: Path) -> str:
    """What a glance says of a pool."""
    try:
        with Pool.open(path) as pool:
            pool.glance()
    except PoolError as error:
        return str(error)
    return ""


def test_damaged_pages_are_found_at_a_glance(pool: Pool) -> None:
    for number in range(40):
        pool.add_completion(request(number), answer("x" * 2000))
    pool.close()
    whole = pool.path.read_bytes()
    found = 0
    pages = len(whole) // 4096
    for page in range(1, pages):
        content = bytearray(whole)
        content[4096 * page : 4096 * page + 64] = os.urandom(64)
        pool.path.write_bytes(content)
        found += bool(re.search("damaged", glanced(pool.path)))
    # What is not found are texts in the middle of a long one, which SQLite knows nothing of.
    assert found > 0.9 * (pages - 1)


def test_a_stored_text_that_is_no_json_is_damage(pool: Pool) -> None:
    pool.add_draw(1, 0, verdicts(0))
    pool._rows("UPDATE verdicts SET candidate = '{\"instruction\": ' WHERE position = 0")
    with pytest.raises(PoolError, match="damaged"):
        list(pool.verdicts(1))
    with pytest.raises(PoolError, match=r"damaged.*a text in the table verdicts is no JSON"):
        pool.glance()


@pytest.mark.parametrize(
    "spoil",
    [
        *(
            "ids = NULL",
            "ids = replace(ids, substr(ids, 1, 1), 'x')",
            "task_id = ids",
            "instances = 7",
            "short = 3",
        ),
        *("calls = '[3]'", "score = 'x'", "mean = 'y'"),
    ],
)
def test_ids_that_are_not_those_of_the_tasks_are_damage(pool: Pool, spoil: str) -> None:
    pool.add_draw(1, 0, verdicts(0))
    pool.glance()
    pool._rows(f"UPDATE verdicts SET {spoil} WHERE task IS NOT NULL")
    with pytest.raises(PoolError, match=r"damaged.*candidate 0 of draw 0 of round 1 in the table verdicts is not"):
        pool.glance()


@pytest.mark.parametrize(
    ("spoil", "look"),
    [
        ("UPDATE seeds SET task = replace(task, 'instruction', 'instruct)on')", lambda pool: pool.seeds()),
        ("UPDATE seeds SET task = replace(task, '\"input\"', '\"inpud\"')", lambda pool: pool.seeds()),
        ("UPDATE rounds SET settings = 'x' || settings", lambda pool: pool.rounds()),
        (
            "UPDATE verdicts SET candidate = replace(candidate, 'instances', 'inst`nces')",
            lambda pool: list(pool.verdicts(1)),
        ),
        ("UPDATE verdicts SET task = replace(task, '\"id\"', '\"ie\"')", lambda pool: list(pool.tasks(1))),
        ("UPDATE verdicts SET task = '[]' WHERE task IS NOT NULL", lambda pool: list(pool.tasks(1))),
        ("UPDATE verdicts SET lost = '[[1]]'", lambda pool: pool.verdict_at(1, 0, 0)),
        ("UPDATE completions SET decoding = '{\"a\": 1}'", lambda pool: pool.completion(1, 0, 0)),
        ("ALTER TABLE revisions RENAME COLUMN state TO stAte2", lambda pool: pool.revisions()),
    ],
)
def test_a_stored_row_that_was_spoilt_is_damage(pool: Pool, spoil: str, look: Any) -> None:
    pool.add_completion(request(0), answer())
    pool.add_draw(1, 0, verdicts(0))
    pool._rows(spoil)
    with pytest.raises(PoolError, match="the pool is damaged") as error:
        look(pool)
    assert "\n" not in str(error.value)


# Older formats. Each is made of the one before, as its own program did.


def pool_of_format(path: Path, version: int) -> None:
    old = sqlite3.connect(path, isolation_level=None)
    old.executescript(FORMAT_1)
    for number in range(1, version):
        old.executescript(MIGRATIONS[number])
    old.execute(f"PRAGMA user_version = {version}")
    old.close()


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6])
def test_every_older_format_becomes_todays(tmp_path: Path, version: int) -> None:
    path = tmp_path / "pool.sqlite3"
    pool_of_format(path, version)
    whole = path.read_bytes()
    with Pool.open(path, read_only=True) as pool:
        assert [task.instruction for task in pool.tasks(1)] == ["Name it."]
        before = pool.counts(1)
    assert path.read_bytes() == whole
    with Pool.open(path) as pool:
        pool.check()
        assert pool.counts(1) == before
        assert pool.revisions() == []
        assert pool.cost(1) == (1, 1, 2)
        pool.add_completion(replace(request(1), round=1), answer())
        tables = pool._rows("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")
    new = tmp_path / "new.sqlite3"
    with Pool.create(new) as fresh:
        assert fresh._rows("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1") == tables
        for (name,) in tables:
            columns = f"SELECT name FROM pragma_table_info('{name}') ORDER BY 1"
            with Pool.open(path, read_only=True) as migrated:
                assert migrated._rows(columns) == fresh._rows(columns)
    old = tmp_path / "old.sqlite3"
    old.write_bytes(whole)
    dumps = [list(sqlite3.connect(place).iterdump()) for place in (old, beside(path, f".format-{version}"))]
    assert dumps[0] == dumps[1]
    assert not beside(path, f".format-{version}.new").exists()


def test_a_large_older_pool_is_migrated_only_where_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader would need the memory and the time for all of it, each time."""
    path = tmp_path / "w" / "pool.sqlite3"
    path.parent.mkdir()
    pool_of_format(path, 6)
    monkeypatch.setattr(file, "SMALL", 1000)
    with pytest.raises(
        PoolError, match=rf"format 6, and too large.*`selfinstruct-hub grow {path.parent} --rounds 0`"
    ):
        Pool.open(path, read_only=True)
    assert not caplog.messages
    with Pool.open(path) as pool:
        pool.check()
    (said,) = caplog.messages
    assert said == f"{path}: is brought to pool format 7, which may take minutes; a copy as it was stays beside it"
    with Pool.open(path, read_only=True) as pool:
        assert pool.counts(1)["tasks"] == 1


@pytest.mark.parametrize("moment", ["before the copy", "in the copy", "before the change", "in the change"])
def test_a_death_while_migrating_leaves_the_old_pool_whole(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "pool.sqlite3"
    pool_of_format(path, 4)
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from selfinstruct_hub.pool import Pool, file
        moment, path = sys.argv[1], Path(sys.argv[2])
        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)
        if moment == "before the copy":
            Pool._keep_copy = die
        elif moment == "in the copy":
            path.with_name(path.name + ".format-4.new").write_bytes(b"half of it")
            die()
        elif moment == "before the change":
            Pool._transaction = die
        else:
            file.MIGRATIONS[5] += "; INSERT INTO meta SELECT 'x', die()"
            connect = file.sqlite3.connect
            def connecting(*values, **named):
                made = connect(*values, **named)
                made.create_function("die", 0, die)
                return made
            file.sqlite3.connect = connecting
        Pool.open(path)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script, moment, str(path)], cwd=Path(__file__).parents[1], check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (4,)
    assert sqlite3.connect(path).execute("SELECT count(*) FROM verdicts").fetchone() == (3,)
    with Pool.open(path) as pool:
        pool.check()
        assert pool.counts(1)["tasks"] == 1
    copy = sqlite3.connect(beside(path, ".format-4"))
    assert copy.execute("PRAGMA user_version").fetchone() == (4,)
    assert copy.execute("SELECT count(*) FROM verdicts").fetchone() == (3,)
    assert {place.name for place in tmp_path.iterdir()} == {
        *("pool.sqlite3", "pool.sqlite3-commits", "pool.sqlite3.format-4")
    }


# Answers that are dropped on purpose.


def test_dropped_texts_leave_counts_and_costs_as_they_were(pool: Pool) -> None:
    for number in range(20):
        untold = Completion("水" * 500, "eos", None, None, "model", "openai")
        pool.add_completion(request(number), answer("läng " * 100) if number % 2 else untold)
    pool.add_draw(1, 0, verdicts(0))
    for number in range(1, 20):
        pool.add_draw(1, number, [])
    pool.complete_round(1)
    pool.add_completion(request(20), answer("not needed"))  # and still there for a round that gets short
    columns = list(pool.answer_columns(1, 7))
    before = (pool.cost(1), pool.counts(1), pool.models(1), pool.judged_draws(1))
    answers, size = pool.texts_of(1)
    assert (answers, size > 20 * 600) == (20, True)
    assert pool.dropped_texts(1) == 0
    pool.drop_texts([1])
    assert (pool.cost(1), pool.counts(1), pool.models(1), pool.judged_draws(1)) == before
    assert list(pool.answer_columns(1, 7)) == columns
    assert pool.texts_of(1) == (0, 0)
    assert pool.dropped_texts(1) == 20
    assert pool.completion(1, 20, 0) == (request(20), answer("not needed"))
    stored = pool.completion(1, 1, 0)
    assert stored is not None
    assert (stored[0].prompt, stored[1].text, stored[1].prompt_tokens) == ("", "", 10)
    pool.drop_texts([1])
    assert pool.cost(1) == before[0]
    before_it = pool.size()[0]
    pool.shrink()
    assert pool.size()[0] < before_it
    pool.close()
    content = pool.path.read_bytes()
    assert "läng läng".encode() not in content
    assert "水水".encode() not in content
    with Pool.open(pool.path) as again:
        again.check()
        assert again.cost(1) == before[0]

"""Whatever a process dies of, the next start understands what is left: kills, full disks, lost files, two at once.

Many more kills: `python -m tests.survival`; `make test-survival` has them and the tests marked `survival`.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from selfinstruct_hub.errors import PoolError
from selfinstruct_hub.run import grow
from selfinstruct_hub.workspace import Workspace
from tests.support import tool
from tests.survival.kills import Tally, killed, stand, uninterrupted
from tests.survival.scenarios import (
    GROW,
    REPO,
    SCENARIOS,
    Scenario,
    Stand,
    available,
    grown,
    made,
    releases,
    stricter,
    unpackaged,
)

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with stand(tmp_path_factory.mktemp("home")) as there:
        yield there


@pytest.fixture(scope="module")
def whole(there: Stand, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with every round and release; tests only read it."""
    space = tmp_path_factory.mktemp("whole") / "w"
    grown(there, space)
    return space


@pytest.fixture
def space(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(whole, tmp_path / "w"))


# In the suite only what costs little.
MORE = pytest.mark.survival


@pytest.mark.parametrize(
    "name", ["grow", *(pytest.param(name, marks=MORE) for name in ("packaging", "push", "replay", "gc"))]
)
def test_two_kills_of_a_command(there: Stand, tmp_path: Path, name: str) -> None:
    tally = Tally(name)
    kept = uninterrupted(there, BY_NAME[name], tmp_path)
    rng = random.Random(f"7/{name}")
    while tally.kills < 2:
        killed(there, kept, tmp_path / str(tally.runs), rng, tally, 2 - tally.kills)
    assert tally.failures == []
    assert tally.whole
    assert tally.resumed == tally.runs


# A disk that is full.

_LIMITED = """
import resource, sys
def limit(size=int(sys.argv[1])):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
if sys.argv.pop(2) == "packaging":
    from selfinstruct_hub.release import shards
    write = shards.write
    shards.write = lambda *values, **named: (limit(), write(*values, **named))[1]
else:
    limit()
sys.argv[:2] = ["selfinstruct-hub"]
from selfinstruct_hub.cli import main
main()
"""


def limited(size: int, when: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A command in a process that may write no file beyond `size` bytes, from its start or from when it is
    packaging; SIGXFSZ is ignored by Python."""
    return tool.run("-c", _LIMITED, str(size), when, *arguments, timeout=60)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("size", [pytest.param(1000, marks=MORE), 300_000])
def test_a_full_disk_while_growing(there: Stand, whole: Path, tmp_path: Path, size: int) -> None:
    """At the pool's making, and at an answer."""
    space = tmp_path / "w"
    made(there, space)
    said = one_line(limited(size, "start", "grow", space, *GROW, "--endpoint", there.server.url))
    assert "the disk is full or failing" in said
    assert "free some space and start again, what was stored is kept" in said
    there.run("status", space)
    there.run("grow", space, *GROW, "--endpoint", there.server.url)
    assert releases(there, space) == releases(there, whole)


@pytest.mark.parametrize("size", [3_000, pytest.param(11_900, marks=MORE)])
def test_a_full_disk_while_packaging(there: Stand, whole: Path, tmp_path: Path, size: int) -> None:
    """At a shard, and at what is written behind them."""
    space = tmp_path / "w"
    unpackaged(there, space)
    said = one_line(limited(size, "packaging", "grow", space, *GROW, "--endpoint", there.server.url))
    assert "the disk is full; the round is safe in the pool: free some space and run" in said
    assert list((space / "releases").glob(".building-*")) == []
    there.run("grow", space, *GROW, "--endpoint", there.server.url)
    assert releases(there, space) == releases(there, whole)


@MORE
@pytest.mark.parametrize(("size", "when"), [(60_000, "start"), (3_000, "packaging")])
def test_a_full_disk_while_replaying(there: Stand, tmp_path: Path, size: int, when: str) -> None:
    space, well = tmp_path / "a" / "w", tmp_path / "b" / "w"
    stricter(there, space)
    stricter(there, well)
    there.run("replay", well)
    assert "the disk is full" in one_line(limited(size, when, "replay", space))
    assert not (space / "releases" / "v1.1.1").exists()
    there.run("replay", space)
    assert releases(there, space) == releases(there, well)
    assert (space / "releases" / "v1.1.1").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("no disk may be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@MORE
def test_a_disk_that_is_full_again_and_again(there: Stand, whole: Path, small_disk: Path) -> None:
    """A little more space for each start, until it is enough."""
    space = small_disk / "w"
    made(there, space)
    ballast = small_disk / "ballast"
    stopped = 0
    for free in range(20_000, 2_000_000, 170_000):
        ballast.unlink(missing_ok=True)
        room = shutil.disk_usage(small_disk).free
        ballast.write_bytes(b"x" * max(0, room - free))
        done = there.cmd("grow", space, *GROW, "--endpoint", there.server.url)
        if done.code == 0:
            break
        stopped += 1
        assert done.code == 1
        assert "the disk is full" in done.error
    assert stopped > 2
    assert releases(there, space) == releases(there, whole)


# Two at once.


def test_the_second_process_says_so_and_stops(there: Stand, space: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{"instruction": "Name a tree.", "input": "", "output": "An oak."}]))
    commands: dict[str, tuple[str, ...]] = {
        "grow": ("--endpoint", there.server.url),
        "import": (str(file),),
        "gc": (),
        "replay": (),
        "regenerate": ("--endpoint", there.server.url),
    }
    known = {command.name or getattr(command.callback, "__name__", "") for command in _commands()}
    with Workspace(space).locked():
        for name, options in commands.items():
            if name in known:
                done = there.cmd(name, space, *options)
                assert (name, done.code) == (name, 1)
                assert done.error.endswith(
                    "another process is working on this workspace; wait for it or stop it"
                ), name
        # Whoever only reads does not wait, and finished releases are published beside a run.
        there.run("status", space)
        there.run("export", space, tmp_path / "out.json", "--format", "alpaca_data")
        there.hub.forget()
        there.run("push", space, "--repo", REPO)
    with Workspace(space).locked():
        pass
    # Two that pull the same commit into the same place would write the same files.
    pulling = tmp_path / f".pulled.pulling-{there.hub.repos[REPO].head[:12]}"
    pulling.mkdir()
    with Workspace(pulling).locked():
        done = there.cmd("pull", REPO, tmp_path / "pulled")
        assert (done.code, "another pull is making it" in done.error) == (1, True)
    there.run("pull", REPO, tmp_path / "pulled")
    assert (
        releases(there, tmp_path / "pulled")["v1.1.0/manifest.json"]
        == releases(there, space)["v1.1.0/manifest.json"]
    )


def test_a_file_system_without_locks_is_named(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock; use SoftFileLock instead")

    monkeypatch.setattr("selfinstruct_hub.workspace.FileLock.acquire", refuse)
    refused = pytest.raises(PoolError, match="its file system cannot lock files; work on a local disk")
    with refused, Workspace(space).locked():
        pass


def _commands() -> list[Any]:
    from selfinstruct_hub.cli import app

    return list(app.registered_commands)


# Files that are lost or spoilt: named by whatever looks at them, with what to do.


def said_by(there: Stand, space: Path) -> dict[str, str]:
    """What `status`, `doctor` and `grow` say of a workspace."""
    status = there.cmd("status", space)
    doctor = there.cmd("doctor", space, "--endpoint", there.server.url)
    grow = there.cmd("grow", space, *GROW, "--endpoint", there.server.url)
    assert (status.code, doctor.code, grow.code) == (1, 1, 1)
    return {"status": status.out + status.err, "doctor": doctor.out, "grow": grow.error}


def _without_its_log(space: Path) -> None:
    """A killed process's files, and the log is gone: here the small file that knows more stands for it."""
    told = space / "pool.sqlite3-commits"
    told.write_text(f"{int(told.read_text()) + 3:020d}\n")


def _spoilt_page(space: Path) -> None:
    with (space / "pool.sqlite3").open("rb+") as file:
        file.seek(4096 * 5)
        file.write(b"\xff" * 4096)


def _cut(space: Path) -> None:
    os.truncate(space / "pool.sqlite3", (space / "pool.sqlite3").stat().st_size // 2)


def _spoilt_text(space: Path) -> None:
    """What SQLite takes for a text like any other."""
    db = sqlite3.connect(space / "pool.sqlite3")
    db.execute("UPDATE verdicts SET candidate = substr(candidate, 2) WHERE position = 0")
    db.commit()
    db.close()


def _without_its_pool(space: Path) -> None:
    for name in ("pool.sqlite3", "pool.sqlite3-commits"):
        (space / name).unlink()


SHARD = "releases/v1.0.0/data/default/train-round-0001-00000-of-00001.parquet"


def _changed(space: Path) -> None:
    content = bytearray((space / SHARD).read_bytes())
    content[100] ^= 1
    (space / SHARD).write_bytes(content)


LOST: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "a page of the pool": (_spoilt_page, "the pool is damaged", "restore it from a backup"),
    "a text in the pool": (_spoilt_text, "a text in the table verdicts is no JSON", "restore it from a backup"),
    "half of the pool": (_cut, "the pool is damaged", "restore it from a backup"),
    "the pool": (lambda w: (w / "pool.sqlite3").unlink(), "is missing, and", "restore it from a backup"),
    "the pool and its small file": (
        _without_its_pool,
        "has v1.0.0, v1.1.0 that were made of it",
        "restore it from a backup",
    ),
    "its log": (_without_its_log, "3 of its", "or delete pool.sqlite3-commits to go on with what is there"),
    "a shard": (lambda w: (w / SHARD).unlink(), f"{SHARD}: is missing", "or move the release away"),
    "a shard's end": (lambda w: os.truncate(w / SHARD, 50), f"{SHARD}: has 50 bytes", "or move the release away"),
    "a shard's bit": (_changed, f"{SHARD}: has changed since it was released", "or move the release away"),
    "a manifest": (
        lambda w: (w / "releases/v1.0.0/manifest.json").unlink(),
        "(manifest.json is missing)",
        "or move the release away",
    ),
}


@pytest.mark.parametrize("name", LOST)
def test_what_is_lost_is_named_with_what_to_do(there: Stand, space: Path, name: str) -> None:
    spoil, named, advice = LOST[name]
    spoil(space)
    for command, said in said_by(there, space).items():
        lines = [line for line in said.splitlines() if named in line]
        assert len(lines) == 1, (command, said)
        assert advice in lines[0], command


def test_a_release_that_is_moved_away_is_built_again_from_the_pool(there: Stand, space: Path, whole: Path) -> None:
    (space / SHARD).unlink()
    (space / "releases" / "v1.0.0").rename(space / "moved")
    done = there.cmd("status", space, "--json")
    assert done.json["problems"] == []
    assert "v1.0.0 (round 1) is complete and has no release yet" in done.json["unfinished"]
    assert f"`selfinstruct-hub grow {space} --rounds 0` packages it" in done.json["unfinished"]
    asked = len(there.server.requests)
    done = there.cmd("grow", space, "--rounds", "0")  # no endpoint, and none is started
    assert (done.code, "embedded engine" in done.err, len(there.server.requests)) == (0, False, asked)
    assert releases(there, space) == releases(there, whole)
    assert there.cmd("status", space, "--json").json["unfinished"] is None


def test_a_power_cut_behind_a_release_finds_it_on_the_disk(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder may be in its place before what is in it has been written."""
    release = space / "releases" / "v1.1.0"
    shutil.rmtree(release)
    fsync, rename = os.fsync, Path.rename
    settled: set[int] = set()
    at_the_move: set[int] = set()

    def settling(number: int) -> None:
        settled.add(os.fstat(number).st_ino)
        fsync(number)

    def moving(path: Path, target: Path) -> Path:
        if target == release:
            at_the_move.update(settled)
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", settling)
    monkeypatch.setattr(Path, "rename", moving)
    workspace = Workspace(space)
    assert grow(workspace, workspace.settings(), rounds=0)[0].release == release
    assert {place.stat().st_ino for place in (*release.rglob("*"), release)} <= at_the_move
    assert release.parent.stat().st_ino in settled


def test_a_release_that_the_pool_knows_nothing_of_is_named(there: Stand, space: Path) -> None:
    """An older backup of the pool below newer releases."""
    (space / "releases" / "v1.1.0").rename(space / "releases" / "v1.7.0")
    done = there.cmd("grow", space, *GROW, "--endpoint", there.server.url)
    assert done.code == 1
    assert "v1.7.0: is released, and pool.sqlite3 has not come so far; restore pool.sqlite3 from a" in done.error


def test_every_scenario_is_one_of_a_command() -> None:
    assert {"grow", "packaging", "push"} <= {one.name for one in available()}
    assert all(isinstance(one, Scenario) for one in available())


def test_the_limit_is_one() -> None:
    """Without the limit of files, the tests of a full disk would test nothing."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN

"""The gate on a cluster gives the verdicts of the gate on one machine, and fails in one line."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
from rouge_score import rouge_scorer

from selfinstruct_hub import __version__
from selfinstruct_hub import dedup as deduplication
from selfinstruct_hub.errors import ClusterError, UsageError
from selfinstruct_hub.novelty import NoveltyGate, cluster, ray_connection
from selfinstruct_hub.novelty.cluster import ClusterGate, Workers
from selfinstruct_hub.novelty.search import FastSearch
from selfinstruct_hub.records import Similarity
from tests.benchmarks.corpus import instructions

# All of them in one worker: they share a cluster. Ray is not imported here, but by the gate, in its own way.
pytestmark = [
    pytest.mark.xdist_group("cluster"),
    pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray"),
]

ROOT = Path(__file__).parents[1]
WORKERS, THRESHOLD = 3, 0.7


def alive(pids: set[int]) -> set[int]:
    states = {pid: Path(f"/proc/{pid}/stat") for pid in pids}
    return {
        p for p, stat in states.items() if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
    }


def descendants(pid: int) -> set[int]:
    """Every process that `pid` has started, or one of those has."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], stdout=subprocess.PIPE, text=True, check=True).stdout
    pairs = [(int(child), int(parent)) for child, parent in (line.split() for line in listed.splitlines())]
    found: set[int] = set()
    while more := {child for child, parent in pairs if parent in found | {pid}} - found:
        found |= more
    return found


def assert_gone(pids: set[int]) -> None:
    deadline = time.monotonic() + 60
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(pids)


@pytest.fixture(scope="module")
def ray() -> Iterator[ModuleType]:
    """Ray with a cluster that gates join; it is gone afterwards."""
    before = descendants(os.getpid())
    with ray_connection.connected(WORKERS, None):
        import ray

        started = descendants(os.getpid()) - before
        folder = Path(str(ray.get_runtime_context().get_session_name())).name
        yield ray
        started |= descendants(os.getpid()) - before
    assert len(started) > WORKERS
    assert_gone(started)
    assert not list(Path("/tmp").glob(f"ray-*/{folder}"))


def accepted(gate: ClusterGate | NoveltyGate, rows: Sequence[str]) -> list[Similarity]:
    """What is near each of `rows`, those that nothing is near being accepted."""
    comparison = gate.comparison(rows)
    found = []
    for place in range(len(rows)):
        found.append(comparison[place])
        if not found[-1].nearest:
            comparison.accept(place, f"row {place}")
    return found


def started(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """`dedup`, in a group of processes of its own as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "selfinstruct_hub", "dedup", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def jsonl(path: Path, rows: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"instruction": row, "n": n}) + "\n" for n, row in enumerate(rows)))
    return path


@pytest.fixture(scope="class")
def workers(ray: ModuleType) -> Iterator[Workers]:
    with Workers(WORKERS) as workers:
        yield workers


class TestWorkers:
    def test_they_find_what_one_machine_finds(self, workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cluster, "_PARCEL", 300)  # so that all shares are large enough to be indexed
        rows = instructions(4700, "en") + instructions(2800, "zh")
        random.Random(3).shuffle(rows)
        one = NoveltyGate(3, mode="fast", threshold=THRESHOLD)
        several = workers.gate(THRESHOLD, 3)
        found = []
        for gate in (one, several):
            gate.extend((f"pool {place}", row) for place, row in enumerate(rows[:6500]))
            found.append(accepted(gate, rows[6500:]))
        assert len(one) == len(several)
        assert max(several._sizes) - min(several._sizes) < 1024
        assert found[0] == found[1]
        near = [similarity for similarity in found[1] if similarity.nearest]
        assert 100 < len(near) < 800
        assert sum(len(similarity.nearest) == 3 for similarity in near) > 20

    def test_verdicts_are_rouge_scores_with_ties_to_the_first_of_all(
        self, workers: Workers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Batches of four, so that equal texts lie in different shares; and something is added in between."""
        monkeypatch.setattr(FastSearch, "batch", lambda self, size: 4)
        monkeypatch.setattr(cluster, "_PARCEL", 2)
        rng = random.Random(5)
        rows = [
            " ".join(rng.choices("a b c d e f g h i j".split(), k=rng.choice([3, 5, 7, 10]))) for _ in range(120)
        ]
        rows += ["", "a b c d e f g", "a b c d e f g h i j"]
        pool = [(f"pool {place}", row) for place, row in enumerate(rows[:30] * 2)]
        late = [("late 0", rows[100]), ("late 1", rows[110])]
        scorer = rouge_scorer.RougeScorer(["rougeL"])
        workers.gate(0.9).extend(pool)  # a gate of its own, which does not show
        gate = workers.gate(0.5, 2)
        gate.extend(pool)
        comparison = gate.comparison(rows[30:])
        for place, row in enumerate(rows[30:]):
            if place == 41:
                gate.extend(late)
                pool += late
            scores = [(scorer.score(text, row)["rougeL"].fmeasure, key) for key, text in pool]
            wanted = sorted((pair for pair in scores if pair[0] > 0.5), key=lambda pair: -pair[0])[:2]
            similarity = comparison[place]
            assert [(near.score, near.id) for near in similarity.nearest] == wanted
            assert similarity.mean is None
            if len(wanted) < 2 or place % 5 == 0:  # some that are near, too, as for equals
                comparison.accept(place, f"row {place}")
                pool.append((f"row {place}", row))
        assert len(gate) == len(pool) > 70

    def test_a_worker_that_dies_is_one_line(
        self, ray: ModuleType, workers: Workers, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cluster, "_PARCEL", 10)
        gate = workers.gate(THRESHOLD)
        gate.extend([("one", "name a tree"), ("two", "sing it loud")])
        comparison = gate.comparison(["name a tree"] * 2000)
        assert comparison[0].nearest[0].id == "one"
        pid = ray.get(workers.actors[1].__ray_call__.remote(lambda _: os.getpid()))
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ClusterError, match=r"^a worker of the Ray cluster was lost, .*\(ActorDiedError\)$"):
            [comparison[place] for place in range(1, 2000)]
        with pytest.raises(ClusterError, match=r"^a worker of the Ray cluster was lost"):
            gate.extend((str(number), "name a tree") for number in range(1000))
        assert capfd.readouterr() == ("", "")


def test_more_workers_than_processors_are_not_waited_for(ray: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_START", 1.0)
    with pytest.raises(ClusterError, match=r"^only \d of 9 workers started in 1 seconds: .*fewer workers$"):  # noqa: SIM117
        with Workers(9):
            pass


def test_another_version_on_a_machine_is_refused(ray: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "__version__", "9.9.9")
    with pytest.raises(ClusterError, match=rf"^selfinstruct-hub is 9\.9\.9 here and {__version__} on "):  # noqa: SIM117
        with Workers(1):
            pass


def test_a_machine_without_the_package_is_refused(ray: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = ModuleType("not_installed_there")
    monkeypatch.setitem(sys.modules, elsewhere.__name__, elsewhere)
    exec("class Worker:\n def about(self): pass", vars(elsewhere))
    monkeypatch.setattr(cluster, "Worker", vars(elsewhere)["Worker"])
    with pytest.raises(ClusterError, match=rf"^a worker did not start: .* needs selfinstruct-hub {__version__} "):  # noqa: SIM117
        with Workers(1):
            pass


def test_the_command_joins_a_cluster(ray: ModuleType, tmp_path: Path) -> None:
    rows = instructions(3000, "en")
    file, against = jsonl(tmp_path / "rows.jsonl", rows[1000:]), jsonl(tmp_path / "bench.jsonl", rows[:1000])
    plain = deduplication.dedup(file, out=tmp_path / "plain.jsonl", against=[against])
    assert len(plain.drops) == 2
    process = started(
        *(str(file), "--against", str(against), "--out", str(tmp_path / "joined.jsonl"), "--json"),
        *("--ray", ray.get_runtime_context().gcs_address, "--workers", str(WORKERS)),
        **ray_connection.own_settings(),
    )
    said, mistakes = process.communicate(timeout=180)
    assert (process.returncode, mistakes) == (0, "")
    assert json.loads(said)["dropped"] == dict(plain.drops)
    for kind in (".jsonl", ".dropped.jsonl"):
        assert (tmp_path / f"joined{kind}").read_bytes() == (tmp_path / f"plain{kind}").read_bytes()
    assert [node["Alive"] for node in ray.nodes()] == [True]  # the cluster goes on


def test_as_many_workers_as_processors_are_free(ray: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 2.0})
    with ray_connection.connected(None, None) as count:
        assert count == 2
    monkeypatch.setattr(ray, "available_resources", lambda: {"memory": 1.0})
    with pytest.raises(ClusterError, match=r"^no CPU of the Ray cluster is free: "), Workers():
        pass


@pytest.mark.skipif(os.name == "nt", reason="has no signals")
def test_sigterm_ends_the_command_in_order(ray: ModuleType) -> None:
    """Where nothing else was to happen then, Ray's processes and files must still go."""
    with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.skipif(os.name == "nt", reason="has no signals")
def test_ctrl_c_leaves_no_cluster(tmp_path: Path) -> None:
    """With a temporary folder too deep for sockets, and without a word of Ray's."""
    deep, home, work = tmp_path / ("deep" * 20), tmp_path / "home", tmp_path / "work"
    for folder in (deep, home, work):
        folder.mkdir()
    os.mkfifo(tmp_path / "pipe")
    arguments = [str(tmp_path / "pipe"), "--out", str(work / "out.jsonl"), "--workers", "1"]
    process = started(*arguments, TMPDIR=str(deep), HOME=str(home))
    with (tmp_path / "pipe").open("w") as feed:
        feed.writelines(json.dumps({"instruction": f"row {n} of {n * 7}"}) + "\n" for n in range(5000))
        feed.flush()
        deadline = time.monotonic() + 120
        while not list(work.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.02)
        running = descendants(process.pid)
        assert len(running) > 3
        started_with = "".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in alive(running))
        files = {Path(found) for found in re.findall(r"/tmp/ray-\w+", started_with)}
        assert [folder.is_dir() for folder in files] == [True]
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it, to all of them
        said = process.communicate(timeout=180)
    assert (process.returncode, *said) == (130, "", "interrupted; nothing was written\n")
    assert_gone(running)
    assert [list(folder.iterdir()) for folder in (deep, home, work)] == [[], [], []]
    assert [folder.exists() for folder in files] == [False]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1: "),
        ("ray://127.0.0.1:1", "no Ray cluster answers at ray://127.0.0.1:1: "),
        ("somewhere", "'somewhere' is no address of a Ray cluster: expected local, auto, host:6379 or ray://"),
        ("", "'' is no address of a Ray cluster: "),
    ],
)
def test_an_address_without_a_cluster_is_one_line(address: str, said: str) -> None:
    with pytest.raises((ClusterError, UsageError)) as raised, Workers(2, address):
        pass
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


def test_no_cluster_on_this_machine_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own words for it name options that this command has not."""
    said = "Could not find any running Ray instance. Please specify the one to connect to by setting `--address`"
    ended = subprocess.CompletedProcess([], 1, "", f"{said} flag.\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(ClusterError) as raised:
        ray_connection._rehearse("auto")
    assert str(raised.value) == (
        "no Ray cluster to join at auto: none runs on this machine; name its address, or start one with "
        "`ray start --head`"
    )


def test_something_else_at_the_address_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says nothing: Ray would try for many minutes."""
    import socket

    monkeypatch.setattr(ray_connection, "_JOIN", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ClusterError, match=r"^no Ray cluster to join at .*: .* 2 seconds$"):
            ray_connection._rehearse(address)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r'run pip install "selfinstruct-hub\[ray\]"$'), Workers(2):
        pass

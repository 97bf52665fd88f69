"""The gate on a cluster gives the verdicts of the gate on one machine, and fails in one line."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
from rouge_score import rouge_scorer

from selfinstruct_hub import __version__
from selfinstruct_hub.errors import ClusterError
from selfinstruct_hub.novelty import NoveltyGate, cluster
from selfinstruct_hub.novelty.cluster import ClusterGate
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
    deadline = time.monotonic() + 20
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(pids)


@pytest.fixture(scope="module")
def ray() -> Iterator[ModuleType]:
    """Ray with a cluster that gates join; it is gone afterwards."""
    before = descendants(os.getpid())
    with cluster.connected(WORKERS, None):
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


def test_a_cluster_finds_what_one_machine_finds(ray: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_PARCEL", 300)  # so that all shares are large enough to be indexed
    rows = instructions(5000, "en") + instructions(4000, "zh")
    random.Random(3).shuffle(rows)
    one = NoveltyGate(3, mode="fast", threshold=THRESHOLD)
    with ClusterGate(3, threshold=THRESHOLD, workers=WORKERS) as several:
        found = []
        for gate in (one, several):
            gate.extend((f"pool {place}", row) for place, row in enumerate(rows[:6500]))
            found.append(accepted(gate, rows[6500:]))
        assert len(one) == len(several)
        assert max(several._sizes) - min(several._sizes) < 1024
    assert found[0] == found[1]
    near = [similarity for similarity in found[1] if similarity.nearest]
    assert 300 < len(near) < 2000
    assert sum(len(similarity.nearest) == 3 for similarity in near) > 20


def test_verdicts_are_rouge_scores_with_ties_to_the_first_of_all(
    ray: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of four, so that equal texts lie in different shares; and something is added in between."""
    monkeypatch.setattr(FastSearch, "batch", lambda self, size: 4)
    monkeypatch.setattr(cluster, "_PARCEL", 2)
    rng = random.Random(5)
    rows = [" ".join(rng.choices("a b c d e f g h i j".split(), k=rng.choice([3, 5, 7, 10]))) for _ in range(160)]
    rows += ["", "a b c d e f g", "a b c d e f g h i j"]
    pool = [(f"pool {place}", row) for place, row in enumerate(rows[:30] * 2)]
    late = [("late 0", rows[100]), ("late 1", rows[140])]
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    with ClusterGate(2, threshold=0.5, workers=WORKERS) as gate:
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


def test_a_worker_that_dies_is_one_line(ray: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    with ClusterGate(threshold=THRESHOLD, workers=WORKERS) as gate:
        gate.extend([("one", "name a tree"), ("two", "sing it loud")])
        comparison = gate.comparison(["name a tree"] * 5000)
        assert comparison[0].nearest[0].id == "one"
        os.kill(ray.get(gate._actors[1].__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)
        with pytest.raises(ClusterError, match=r"^a worker of the Ray cluster was lost, .*\(ActorDiedError\)$"):
            [comparison[place] for place in range(1, 5000)]
        with pytest.raises(ClusterError, match=r"^a worker of the Ray cluster was lost"):
            gate.extend((str(number), "name a tree") for number in range(100_000))
    assert capfd.readouterr() == ("", "")


def test_more_workers_than_processors_are_not_waited_for(ray: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_START", 1.0)
    with pytest.raises(ClusterError, match=r"^only \d of 9 workers started in 1 seconds: .*fewer workers$"):  # noqa: SIM117
        with ClusterGate(threshold=THRESHOLD, workers=9):
            pass


def test_another_version_on_a_machine_is_refused(ray: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "__version__", "9.9.9")
    with pytest.raises(ClusterError, match=rf"^selfinstruct-hub is 9\.9\.9 here and {__version__} on "):  # noqa: SIM117
        with ClusterGate(threshold=THRESHOLD, workers=1):
            pass


def test_a_machine_without_the_package_is_refused(ray: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = ModuleType("not_installed_there")
    monkeypatch.setitem(sys.modules, elsewhere.__name__, elsewhere)
    exec("class Share:\n def __init__(self, *_): pass\n def about(self): pass", vars(elsewhere))
    monkeypatch.setattr(cluster, "Share", vars(elsewhere)["Share"])
    with pytest.raises(ClusterError, match=rf"^a worker did not start: .* needs selfinstruct-hub {__version__} "):  # noqa: SIM117
        with ClusterGate(threshold=THRESHOLD, workers=1):
            pass


def run(script: str, *values: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *values],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_existing_cluster_is_joined_and_goes_on(ray: ModuleType) -> None:
    script = """
        import sys
        from selfinstruct_hub.novelty.cluster import ClusterGate

        with ClusterGate(threshold=0.7, workers=3, address=sys.argv[1]) as gate:
            gate.extend([("one", "name a tree"), ("two", "sing it loud")])
            print(gate.comparison(["sing it"])[0].nearest[0].id)
    """
    address = ray.get_runtime_context().gcs_address
    process = run(script, address, **cluster.own_settings())
    assert process.communicate(timeout=60) == ("two\n", "")
    assert process.returncode == 0
    with ClusterGate(threshold=THRESHOLD, workers=WORKERS) as gate:  # its workers have made room
        assert len(gate) == 0


@pytest.mark.skipif(os.name == "nt", reason="has no signals")
def test_a_cluster_of_its_own_goes_with_it(tmp_path: Path) -> None:
    """On SIGTERM as well; with a temporary folder too deep for sockets, and without a word."""
    script = """
        import tempfile, time
        from selfinstruct_hub.novelty.cluster import ClusterGate

        with ClusterGate(threshold=0.7, workers=1, address="local") as gate:
            gate.extend([("one", "name a tree")])
            print(gate.comparison(["name a tree"])[0], flush=True)
            time.sleep(60)
    """
    deep = tmp_path / ("deep" * 20)
    home = tmp_path / "home"
    deep.mkdir()
    home.mkdir()
    process = run(script, TMPDIR=str(deep), HOME=str(home))
    assert process.stdout
    assert "one" in process.stdout.readline()
    started = descendants(process.pid)
    assert len(started) > 3
    process.terminate()
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 128 + signal.SIGTERM
    assert_gone(started)
    assert not list(home.iterdir())


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1: "),
        ("ray://127.0.0.1:1", "no Ray cluster answers at ray://127.0.0.1:1: "),
        ("somewhere", "somewhere is no address of a Ray cluster: host:6379, ray://host:10001 or auto"),
    ],
)
def test_an_address_without_a_cluster_is_one_line(address: str, said: str) -> None:
    with pytest.raises(ClusterError) as raised, ClusterGate(threshold=THRESHOLD, workers=2, address=address):
        pass
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


def test_something_else_at_the_address_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says nothing: Ray would try for many minutes."""
    import socket

    monkeypatch.setattr(cluster, "_JOIN", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ClusterError, match=r"^no Ray cluster to join at .*: .* 2 seconds$"):
            cluster._rehearse(address)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r'run pip install "selfinstruct-hub\[ray\]"$'):  # noqa: SIM117
        with ClusterGate(threshold=THRESHOLD, workers=2):
            pass

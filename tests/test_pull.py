"""A workspace out of a published version, over a Hub on loopback: what it holds, and that it grows on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from selfinstruct_hub import config, release, run
from selfinstruct_hub.exchange import import_file
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import Verdict
from selfinstruct_hub.release import read_manifest
from selfinstruct_hub.rounds import editions
from selfinstruct_hub.status import status
from selfinstruct_hub.workspace import Workspace
from tests.support.hub import BEFORE, Fault, Hub, Repo, running
from tests.support.hub.commands import Commands, commands
from tests.support.tgi import Server, write_anything
from tests.support.tgi import running as serving

REPO = "org/my-tasks"
# An accepted row, one that is too short, one with the same input twice, and one with a lost instance.
ROWS: list[dict[str, Any]] = [
    {"instruction": "Name three rivers that cross a border.", "input": "", "output": "Rhine, Danube and Meuse."},
    {"instruction": "Do it.", "input": "", "output": "Done."},
    {"instruction": "Say which language the sentence is in.", "input": "Bonjour", "output": "French, I believe."},
    {"instruction": "Say which language the sentence is in.", "input": "Hola", "output": "Hola"},
]
SEEDS = [
    {
        "id": f"mine_{n}",
        "name": f"name {n}",
        "instruction": text,
        "instances": [{"input": "", "output": f"Answer number {n}."}],
        "is_classification": n % 2 == 0,
    }
    for n, text in enumerate(
        (
            "Explain how a lantern works.",
            "Plan a budget for a small violin school.",
            "Decide whether the treaty is about fishing.",
            "Translate the recipe into French.",
            "Describe what a compiler does with a loop.",
            "Tell the difference between an enzyme and a hormone.",
            "Suggest a name for a glacier museum.",
        )
    )
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(Server(answer=write_anything)) as server:
        yield server


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Path:
    """A round of Alpaca, an import, and a round of Self-Instruct, from seeds in a file beside the workspace."""
    path = tmp_path_factory.mktemp("pull") / "my-tasks"
    file = path.parent / "own-seeds.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in SEEDS))
    settings = config.with_overrides(config.Settings(), {"seeds": str(file), "tasks": 8, "card.pictures": "off"})
    space = Workspace.create(path, settings)
    grow(space, server)
    (path.parent / "rows.json").write_text(json.dumps(ROWS))
    import_file(space, path.parent / "rows.json")
    grow(space, server, recipe="self-instruct")
    return path


def grow(space: Workspace, server: Server, **values: Any) -> None:
    settings = config.with_overrides(space.settings(), {"endpoint.url": server.url, **values})
    (done,) = run.grow(space, settings)
    assert done.release is not None


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running(Hub()) as hub:
        yield hub


@pytest.fixture(scope="module")
def cmd(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with commands(hub.environment(tmp_path_factory.mktemp("home"), HF_TOKEN="hf_writes")) as cmd:
        yield cmd


@pytest.fixture(scope="module")
def pushed(hub: Hub, cmd: Commands, grown: Path) -> Repo:
    done = cmd("push", grown, "--repo", REPO)
    assert done.code == 0, done.err
    return hub.repos[REPO]


@pytest.fixture(autouse=True)
def _no_faults(hub: Hub, pushed: Repo) -> Iterator[None]:
    before = (pushed.head, dict(pushed.tags))
    yield
    hub.faults.clear()
    hub.held.clear()
    pushed.head, pushed.tags = before


@pytest.fixture
def pulled(cmd: Commands, tmp_path: Path) -> Workspace:
    done = cmd("pull", REPO, tmp_path / "w")
    assert done.code == 0, done.err
    return Workspace.at(tmp_path / "w")


def files_of(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def test_the_release_is_there_byte_for_byte(grown: Path, pulled: Workspace) -> None:
    assert sorted(path.name for path in pulled.path.iterdir()) == [
        *("pool.sqlite3", "pool.sqlite3-commits", "releases", "seeds.jsonl", "selfinstruct.yaml"),
    ]
    (folder,) = pulled.releases.iterdir()
    assert folder.name == "v2.0.0"
    assert files_of(folder) == files_of(grown / "releases" / "v2.0.0")
    assert [path.name for path in pulled.path.parent.iterdir()] == ["w"]


def test_the_pool_says_what_was_published(grown: Path, pulled: Workspace) -> None:
    was, now = status(Workspace.at(grown)), status(pulled)
    for round_ in (*was["rounds"], *now["rounds"]):
        round_.pop("unjudged")
    assert now["rounds"] == was["rounds"]
    assert (now["tasks"], now["rows"], now["seeds"]) == (was["tasks"], was["rows"], len(SEEDS))
    assert now["versions"] == ["v2.0.0"]


def told(verdict: Verdict) -> Any:
    """What a release tells of a verdict."""
    near = verdict.similarity.nearest[:1] if verdict.similarity else ()
    return (
        *(verdict.number, verdict.position, verdict.task, verdict.drop),
        *(verdict.candidate.instruction, verdict.candidate.stage),
        verdict.similarity if verdict.task else near,
        sorted((lost.instance.input, lost.instance.output, lost.drop.reason) for lost in verdict.lost),
    )


def test_every_verdict_is_there(grown: Path, pulled: Workspace) -> None:
    with (
        Pool.open(grown / "pool.sqlite3", read_only=True) as was,
        Pool.open(pulled.pool_file, read_only=True) as now,
    ):
        assert now.seeds() == was.seeds()
        lost = 0
        for earlier, later in zip(was.rounds(), now.rounds(), strict=True):
            assert (later.number, later.version, later.wanted, later.complete, later.settings) == (
                *(earlier.number, earlier.version, earlier.wanted, True, earlier.settings),
            )
            expected = [told(verdict) for verdict in was.verdicts(earlier.number)]
            found = [told(verdict) for verdict in now.verdicts(earlier.number)]
            assert found == expected
            lost += sum(len(verdict.lost) for verdict in now.verdicts(earlier.number))
            answers = {(r.number, r.call): (r, c) for r, c in was.completions(earlier.number)}
            for request, answer in now.completions(earlier.number):
                asked, answered = answers[request.number, request.call]
                assert (request.stage, request.decoding, request.demonstrations) == (
                    *(asked.stage, asked.decoding, asked.demonstrations),
                )
                assert (answer.model, answer.finish_reason, answer.generated_tokens) == (
                    *(answered.model, answered.finish_reason, answered.generated_tokens),
                )
                # The texts were never published.
                assert (request.prompt, answer.text) == ("", "")
        assert lost > 0


def test_the_pool_alone_gives_the_published_shards_again(pulled: Workspace, tmp_path: Path) -> None:
    """So nothing that a release tells is lost, whatever becomes of the folder."""
    with Pool.open(pulled.pool_file, read_only=True) as pool:
        # As a round of its own would be: what it was asked for is not published round by round.
        again = release.freeze(tmp_path / "again", pool, editions(pool)[-1], pulled.settings().card, "my-tasks")
    assert again is not None
    published = read_manifest(pulled.releases / "v2.0.0")
    assert read_manifest(again)["release"] == published["release"]
    assert [f["sha256"] for f in read_manifest(again)["files"] if "config" in f] == [
        f["sha256"] for f in published["files"] if "config" in f
    ]


def test_it_grows_on(cmd: Commands, server: Server, pulled: Workspace, tmp_path: Path) -> None:
    before = files_of(pulled.releases / "v2.0.0")
    grow(pulled, server, tasks=6, recipe="self-instruct")
    found = status(pulled)
    assert [(r["round"], r["version"], r["tasks"]) for r in found["rounds"]][-1] == (4, "v2.1.0", 6)
    # No older round is packaged again, and the newest release holds their shards as they were.
    assert sorted(path.name for path in pulled.releases.iterdir()) == ["v2.0.0", "v2.1.0"]
    after = files_of(pulled.releases / "v2.1.0")
    shards = {path: digest for path, digest in before.items() if path.endswith(".parquet")}
    assert shards.items() <= after.items()
    was, now = (read_manifest(pulled.releases / version) for version in ("v2.0.0", "v2.1.0"))
    counted = [
        {key: value for key, value in entry.items() if key not in ("models", "cost")}
        for entry in now["rounds"][:3]
    ]
    assert counted == [
        {key: value for key, value in entry.items() if key not in ("models", "cost")} for entry in was["rounds"]
    ]
    with Pool.open(pulled.pool_file, read_only=True) as pool:
        known = {task.id for number in (1, 2, 3) for task in pool.tasks(number)}
        seeds = {task.id for task in pool.seeds()}
        shown = {key for request, _ in pool.completions(4) for key in request.demonstrations}
        assert shown & known, "pulled tasks are shown"
        assert shown <= known | seeds
    # And the next version goes where the others are.
    done = cmd("push", pulled.path, "--repo", REPO, "--json")
    assert done.code == 0, done.err
    assert (done.json["published"], [s["version"] for s in done.json["releases"]]) == (["v2.0.0"], ["v2.1.0"])
    again = cmd("pull", REPO, tmp_path / "again")
    assert again.code == 0, again.err
    assert "v2.1.0" in again.out
    assert files_of(tmp_path / "again" / "releases" / "v2.1.0") == after


def test_the_gate_knows_what_was_pulled(pulled: Workspace, tmp_path: Path) -> None:
    """The rows of the release, imported once more, are all too similar to themselves."""
    with Pool.open(pulled.pool_file, read_only=True) as pool:
        tasks = [task for number in (1, 3) for task in pool.tasks(number)]
    rows = [
        {"instruction": t.instruction, "input": i.input, "output": i.output} for t in tasks for i in t.instances
    ]
    file = tmp_path / "again.json"
    file.write_text(json.dumps(rows))
    result = import_file(pulled, file)
    assert (result.tasks, result.drops) == (0, {"too_similar": len(tasks)})


def test_the_same_answers_give_the_same_next_round(
    server: Server, grown: Path, pulled: Workspace, tmp_path: Path
) -> None:
    """Growing on after a pull is growing on where it was published."""
    shutil.copytree(grown, tmp_path / "original")
    original = Workspace.at(tmp_path / "original")
    shutil.copy(grown.parent / "own-seeds.jsonl", tmp_path)
    digests = []
    for space in (original, pulled):
        grow(space, server, tasks=5, recipe="self-instruct")
        digests.append(
            {f["path"]: f["sha256"] for f in read_manifest(space.releases / "v2.1.0")["files"] if "config" in f}
        )
    assert digests[0] == digests[1]


def test_an_earlier_version(cmd: Commands, grown: Path, tmp_path: Path) -> None:
    done = cmd("pull", REPO, tmp_path / "w", "--revision", "v1.0.0")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith(f"pulled {REPO} v1.0.0 (commit ")
    assert lines[0].endswith("): 1 round, 8 tasks, 8 rows")
    assert lines[-1] == f"next: selfinstruct-hub grow {tmp_path / 'w'} makes v1.1.0"
    assert files_of(tmp_path / "w/releases/v1.0.0") == files_of(grown / "releases/v1.0.0")


def test_a_branch_and_an_empty_directory_will_do(cmd: Commands, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "link").symlink_to("w")
    kept = (tmp_path / "w").stat().st_ino
    done = cmd("pull", REPO, tmp_path / "link", "--revision", "main")
    assert done.code == 0, done.err
    assert (tmp_path / "w/releases/v2.0.0/manifest.json").is_file()
    # It may be a mounted disk, or where the user stands.
    assert (tmp_path / "w").stat().st_ino == kept
    assert [path.name for path in sorted((tmp_path / "w").iterdir())] == [
        *("pool.sqlite3", "pool.sqlite3-commits", "releases", "seeds.jsonl", "selfinstruct.yaml"),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "w"]


def test_two_pulls_into_one_place(pushed: Repo, cmd: Commands, tmp_path: Path) -> None:
    building = tmp_path / f".w.pulling-{pushed.head[:12]}"
    building.mkdir()
    with FileLock(building / ".lock"):
        done = cmd("pull", REPO, tmp_path / "w")
    assert (done.code, done.error) == (1, f"{tmp_path / 'w'}: another pull is making it; wait for it or stop it")
    assert cmd("pull", REPO, tmp_path / "w").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_an_address_in_the_published_settings_is_not_followed(pushed: Repo, cmd: Commands, tmp_path: Path) -> None:
    """It would be asked, with the user's key, as soon as the workspace grows."""
    tree = pushed.tree()
    manifest, text = json.loads(tree["manifest.json"]), tree["selfinstruct.yaml"].decode()
    assert text.count("\n  url: null") == 1
    content = text.replace("\n  url: null", "\n  url: http://127.0.0.1:9").encode()
    entry = next(file for file in manifest["files"] if file["path"] == "selfinstruct.yaml")
    entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    changes = {"selfinstruct.yaml": content, "manifest.json": json.dumps(manifest).encode()}
    pushed.tags["v9.0.0"] = pushed.write(changes)
    done = cmd("pull", REPO, tmp_path / "w")
    assert done.code == 0, done.err
    assert Workspace.at(tmp_path / "w").settings().endpoint.urls == []


# Cut, and mistakes.


@pytest.mark.parametrize("what", ["manifest.json", "GET .*parquet"])
def test_a_cut_connection_is_tried_again(hub: Hub, cmd: Commands, tmp_path: Path, what: str) -> None:
    hub.faults = [Fault(what, status=503, headers={"Retry-After": "0"}), Fault(what, when=BEFORE)]
    done = cmd("pull", REPO, tmp_path / "w")
    assert done.code == 0, done.err
    assert sum(fault.seen > fault.skip for fault in hub.faults) == 2


@pytest.mark.parametrize("exists", [False, True])
def test_killed_in_the_middle_it_goes_on(
    hub: Hub, cmd: Commands, grown: Path, tmp_path: Path, exists: bool
) -> None:
    if exists:
        (tmp_path / "w").mkdir()
    hub.faults = [Fault("GET .*resolve.*parquet", skip=4, times=10**6, hold=True)]
    pid = cmd.start("pull", REPO, tmp_path / "w")
    assert hub.held.wait(20)
    os.kill(pid, signal.SIGKILL)
    cmd.wait()
    assert (tmp_path / "w").exists() == exists
    assert not (tmp_path / "w" / "selfinstruct.yaml").exists()
    hub.faults = []
    before = len(hub.log)
    done = cmd("pull", REPO, tmp_path / "w")
    assert done.code == 0, done.err
    read = [asked for asked in hub.log[before:] if asked.method == "GET" and asked.path.endswith(".parquet")]
    manifest = read_manifest(tmp_path / "w/releases/v2.0.0")
    assert len(read) == sum("config" in file for file in manifest["files"]) - 4
    assert files_of(tmp_path / "w/releases/v2.0.0") == files_of(grown / "releases/v2.0.0")
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
    assert not list((tmp_path / "w").glob(".pulling*"))


def changed(**values: Any) -> Callable[[Repo], None]:
    def change(repo: Repo) -> None:
        manifest = json.loads(repo.tree()["manifest.json"])
        repo.tags["v9.0.0"] = repo.write({"manifest.json": json.dumps({**manifest, **values}).encode()})

    return change


def tampered(repo: Repo) -> None:
    path = next(path for path in repo.tree() if "default" in path)
    content = bytearray(repo.tree()[path])
    content[40] ^= 1
    repo.tags["v9.0.0"] = repo.write({path: bytes(content)})


def incomplete(repo: Repo) -> None:
    repo.tags["v9.0.0"] = repo.write({"loading_script.py": None})


def no_manifest(repo: Repo) -> None:
    repo.tags["v9.0.0"] = repo.write({"manifest.json": None})


def nothing(repo: Repo) -> None:
    pass


FILES = {"files": [{"path": "../../escaped.txt", "bytes": 1, "sha256": ""}]}
MISTAKES: dict[str, tuple[Callable[[Repo], None], list[str], int, str]] = {
    "an unknown revision": (
        nothing,
        [REPO, "--revision", "v7.0.0"],
        2,
        "org/my-tasks: has no revision v7.0.0; its versions: v1.0.0, v1.1.0, v2.0.0",
    ),
    "an unknown dataset": (nothing, ["org/none"], 1, "org/none: no such dataset at http://127.0.0.1"),
    "no name": (nothing, ["none"], 2, "'none' is no name of a dataset on the Hub"),
    "not one of ours": (no_manifest, [REPO], 1, "is no dataset of selfinstruct-hub (manifest.json is missing"),
    "another manifest": (changed(rounds=7), [REPO], 1, "is no dataset of selfinstruct-hub"),
    "a manifest with other paths": (changed(**FILES), [REPO], 1, "is no dataset of selfinstruct-hub"),
    "a newer format": (
        changed(format=99),
        [REPO],
        1,
        "made by a newer selfinstruct-hub (format 99, this one reads",
    ),
    "an older format": (changed(format=1), [REPO], 1, "made by an older selfinstruct-hub (format 1), and cannot"),
    "a changed byte": (tampered, [REPO], 1, "is not the file that was released"),
    "a missing file": (incomplete, [REPO], 1, "loading_script.py is missing, and manifest.json names it"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(pushed: Repo, cmd: Commands, tmp_path: Path, case: str) -> None:
    change, arguments, code, expected = MISTAKES[case]
    change(pushed)
    done = cmd("pull", *arguments[:1], tmp_path / "w", *arguments[1:])
    assert done.code == code, done.err
    assert expected in done.error
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_something_in_it_is_refused(hub: Hub, cmd: Commands, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "mine.txt").write_text("mine")
    before = len(hub.log)
    done = cmd("pull", REPO, tmp_path / "w")
    assert (done.code, done.error) == (2, f"{tmp_path / 'w'}: is not empty; name a new or empty directory")
    assert len(hub.log) == before
    file = tmp_path / "file"
    file.write_text("mine")
    assert "is not empty" in cmd("pull", REPO, file).error


def test_a_private_dataset_without_a_token(hub: Hub, cmd: Commands, tmp_path: Path) -> None:
    done = cmd("pull", REPO, tmp_path / "w", HF_TOKEN="")
    assert done.code == 1
    assert done.error.endswith("a private one needs HF_TOKEN or `hf auth login`")
    hub.repos[REPO].private = False
    try:
        assert cmd("pull", REPO, tmp_path / "w", HF_TOKEN="").code == 0
    finally:
        hub.repos[REPO].private = True

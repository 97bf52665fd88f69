"""Publishing, with the real client against a Hub on loopback: what lands there, what is refused and how it is
said, and that a push cut at any request is completed by the next one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import configure_http_backend, constants
from huggingface_hub.utils._runtime import is_xet_available

from selfinstruct_hub import config, run
from selfinstruct_hub.errors import HubAccessError, UsageError
from selfinstruct_hub.hub.client import quiet
from selfinstruct_hub.hub.connection import Connection
from selfinstruct_hub.workspace import Workspace
from tests.support.hub import AFTER, BEFORE, MIDDLE, Asked, Fault, Hub, Repo, running
from tests.support.hub.commands import Commands, commands
from tests.support.tgi import Server
from tests.support.tgi import running as serving

VERSIONS = ["v1.0.0", "v1.1.0", "v1.2.0"]
CLIENT = Path(__file__).parent / "support" / "hub" / "client.py"
TOKEN = "hf_writes"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running(Hub()) as hub:
        yield hub


@pytest.fixture(scope="module")
def cmd(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    home = tmp_path_factory.mktemp("home")
    with commands(hub.environment(home, HF_TOKEN=TOKEN)) as cmd:
        yield cmd


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with three rounds of three tasks; tests only read it."""
    path = tmp_path_factory.mktemp("push") / "my-tasks"
    with serving(Server()) as server:
        space = Workspace.create(path, config.Settings())
        values = {"tasks": 3, "endpoint.url": server.url, "card.pictures": "off"}
        run.grow(space, config.with_overrides(space.settings(), values), rounds=3)
    return path


@pytest.fixture
def space(grown: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(grown, tmp_path / "w")
    return tmp_path / "w"


@pytest.fixture(autouse=True)
def _empty(hub: Hub) -> None:
    hub.forget()


def files_of(release: Path) -> dict[str, bytes]:
    return {p.relative_to(release).as_posix(): p.read_bytes() for p in sorted(release.rglob("*")) if p.is_file()}


def published(repo: Repo, revision: str) -> dict[str, bytes]:
    tree = repo.tree(revision)
    del tree[".gitattributes"]
    return tree


def check_published(hub: Hub, name: str, space: Path, versions: list[str] = VERSIONS) -> None:
    """Every release is one commit with its files and nothing else, and its tag, in order."""
    repo = hub.repos[name]
    assert list(repo.tags) == versions
    for version in versions:
        assert published(repo, version) == files_of(space / "releases" / version)
    history = repo.history()
    assert [oid for oid, _ in reversed(history)][1:] == [repo.tags[version] for version in versions]
    assert [commit.title for _, commit in reversed(history)][1:] == [f"Release {version}" for version in versions]


def test_every_release_is_one_commit_and_one_tag(hub: Hub, cmd: Commands, grown: Path) -> None:
    done = cmd("push", grown, "--repo", "org/my-tasks")
    assert done.code == 0, done.err
    check_published(hub, "org/my-tasks", grown)
    repo = hub.repos["org/my-tasks"]
    assert repo.private
    assert [line.split(",")[0] for line in done.out.splitlines()[:-1]] == [f"{v}: published" for v in VERSIONS]
    assert done.out.splitlines()[-1] == f"{hub.url}/datasets/org/my-tasks"
    assert f"v1.0.0: {len(files_of(grown / 'releases' / 'v1.0.0'))} files added" in done.err
    # And again: nothing is written.
    before = len(hub.log)
    again = cmd("push", grown, "--repo", "org/my-tasks", "--json")
    assert again.json == {
        "repo": "org/my-tasks",
        "url": f"{hub.url}/datasets/org/my-tasks",
        "created": False,
        "private": True,
        "dry_run": False,
        "published": VERSIONS,
        "tagged": [],
        "releases": [],
        "waiting": [],
    }
    assert [asked for asked in hub.log[before:] if asked.writes] == []


def test_a_trainer_loads_every_version(hub: Hub, cmd: Commands, grown: Path, tmp_path: Path) -> None:
    assert cmd("push", grown, "--repo", "org/my-tasks").code == 0
    versions = {"v1.0.0": 3, "v1.2.0": 9}
    arguments = {"repo": "org/my-tasks", "revisions": list(versions), "names": [None, "messages", "seeds"]}
    done = subprocess.run(
        [sys.executable, str(CLIENT), "load", json.dumps(arguments)],
        env=hub.environment(tmp_path, HF_TOKEN=TOKEN),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for version, found in json.loads(done.stdout).items():
        rows = versions.pop(version)
        assert {name: one["rows"] for name, one in found.items()} == {
            "default": rows,
            "messages": rows,
            "seeds": 175,
        }
        assert {one["version"] for one in found.values()} == {version.removeprefix("v")}
    assert versions == {}


def test_a_later_release_sends_only_what_is_new(hub: Hub, cmd: Commands, grown: Path, space: Path) -> None:
    for later in ("v1.1.0", "v1.2.0"):
        shutil.rmtree(space / "releases" / later)
    assert cmd("push", space, "--repo", "org/my-tasks").code == 0
    hub.log.clear()
    done = cmd("push", grown, "--repo", "org/my-tasks", "--json")
    assert done.json["published"] == ["v1.0.0"]
    check_published(hub, "org/my-tasks", grown)
    shards = {
        path: content
        for version in ("v1.1.0", "v1.2.0")
        for path, content in files_of(grown / "releases" / version).items()
        if path.endswith(".parquet")
    }
    new = {path for path in shards if "round-0002" in path or "round-0003" in path}
    uploads = [asked for asked in hub.log if asked.method == "PUT"]
    assert len(uploads) == len(new) < len(shards)
    assert sum(asked.sent for asked in uploads) == sum(len(shards[path]) for path in new)
    step = done.json["releases"][0]
    assert {path for path in (*step["added"], *step["changed"]) if path.endswith(".parquet")} <= new
    assert step["unchanged"] > 0


def test_stale_files_are_deleted_one_by_one(hub: Hub, cmd: Commands, space: Path) -> None:
    """The first release has files that the next ones do not have, one of them alone in its folder."""
    release = space / "releases" / "v1.0.0"
    manifest = json.loads((release / "manifest.json").read_text())
    gone = ["assets/old.png", "data/default/notes.txt"]
    for path in gone:
        (release / path).parent.mkdir(exist_ok=True)
        (release / path).write_bytes(b"old")
        manifest["files"].append({"path": path, "bytes": 3, "sha256": hashlib.sha256(b"old").hexdigest()})
    (release / "manifest.json").write_text(json.dumps(manifest))
    told = cmd("push", space, "--repo", "org/my-tasks", "--dry-run", "--json").json
    assert [step["deleted"] for step in told["releases"]] == [[], gone, []]
    assert cmd("push", space, "--repo", "org/my-tasks").code == 0
    check_published(hub, "org/my-tasks", space)


def test_dry_run_writes_nothing_and_says_everything(hub: Hub, cmd: Commands, grown: Path) -> None:
    done = cmd("push", grown, "--repo", "org/my-tasks", "--dry-run")
    assert done.code == 0
    assert hub.repos == {}
    assert not any(asked.writes for asked in hub.log)
    told = cmd("push", grown, "--repo", "org/my-tasks", "--dry-run", "--json").json
    lines = done.out.splitlines()
    first = files_of(grown / "releases" / "v1.0.0")
    assert lines[:3] == [
        "dry run: nothing was written",
        "would make private dataset org/my-tasks",
        f"v1.0.0: would send {len(first)} files, {sum(map(len, first.values())) / 1e3:.1f} kB",
    ]
    path = told["releases"][0]["added"][0]
    assert f"  add     {path} ({len(first[path]) / 1e3:.1f} kB)" in lines
    assert any(line.startswith("  change  manifest.json (") for line in lines)
    assert [step["version"] for step in told["releases"]] == VERSIONS
    assert cmd("push", grown, "--repo", "org/my-tasks").code == 0
    # What was said is what was sent.
    for step, version in zip(told["releases"], VERSIONS, strict=True):
        files = files_of(grown / "releases" / version)
        assert step["bytes"] == sum(len(files[path]) for path in (*step["added"], *step["changed"]))


def test_public_when_asked(hub: Hub, cmd: Commands, grown: Path) -> None:
    assert cmd("push", grown, "--repo", "org/my-tasks", "--public").code == 0
    assert not hub.repos["org/my-tasks"].private
    refused = cmd("push", grown, "--repo", "org/my-tasks", "--private")
    assert refused.code == 1
    assert refused.error.startswith("org/my-tasks is public, and --private was asked for; only its settings page")


# Cut anywhere.


def whens(asked: Asked) -> list[str]:
    """At which moments of a request a cut makes a difference: before it counts is after the one before it."""
    return [MIDDLE] if asked.method == "PUT" else [AFTER] if asked.writes else [BEFORE]


def committed(repo: Repo) -> set[str]:
    """Digests of the large files that a commit names."""
    return {blob.sha256 for _, commit in repo.history() for blob in commit.files.values() if blob.large}


def moments(log: list[Asked]) -> list[int]:
    """Places in `log`: the first and the last request of each kind, for every release anew. Between them are only
    more large files of a release, uploaded in any order."""
    found: dict[tuple[int, str], list[int]] = {}
    release = 0
    for place, asked in enumerate(log):
        kind = f"{asked.method} {re.sub('[0-9a-f]{40,}', '*', asked.path)}"
        found.setdefault((release, kind), []).append(place)
        release += "/tag/" in asked.path
    return sorted({place for places in found.values() for place in (places[0], places[-1])})


def test_a_push_killed_at_any_request_is_completed_by_the_next(hub: Hub, cmd: Commands, space: Path) -> None:
    shutil.rmtree(space / "releases" / "v1.0.0")
    assert cmd("push", space, "--repo", "org/whole").code == 0
    check_published(hub, "org/whole", space, VERSIONS[1:])
    whole, log = hub.repos["org/whole"], list(hub.log)
    assert len(moments(log)) > 20
    left: set[Any] = set()
    for place in moments(log):
        for when in whens(log[place]):
            name = f"org/cut-{place}-{when}"
            hub.held.clear()
            hub.faults = [Fault(skip=place, times=10**6, hold=True, when=when)]
            pid = cmd.start("push", space, "--repo", name)
            assert hub.held.wait(60), name
            os.kill(pid, signal.SIGKILL)
            assert cmd.wait().code == -signal.SIGKILL
            hub.faults = []
            if cut := hub.repos.get(name):
                # Never half a release, whatever is there.
                assert {oid for oid, _ in cut.history()} <= whole.commits.keys(), name
            # Which of a release's large files have come makes no difference, only whether any has.
            waiting = cut and any(oid not in committed(cut) for oid in cut.objects)
            state = (cut.head, *cut.tags, waiting) if cut else None
            if state in left:
                continue  # what the next push finds is all that it knows
            left.add(state)
            done = cmd("push", space, "--repo", name)
            assert done.code == 0, (name, done.err)
            repo = hub.repos[name]
            # Ids of commits follow from content and parents: the same history, the same tags.
            assert (repo.tags, repo.head) == (whole.tags, whole.head), name
    # Nothing, the empty repository, and before and after each commit and tag, at least.
    assert len(left) > 6


@pytest.mark.parametrize("when", [BEFORE, AFTER])
@pytest.mark.parametrize("what", ["repos/create", "commit/main", "/tag/", "refs", "lfs/objects/batch"])
def test_a_cut_connection_is_tried_again(hub: Hub, cmd: Commands, grown: Path, what: str, when: str) -> None:
    hub.faults = [Fault(what, when=when)]
    done = cmd("push", grown, "--repo", "org/my-tasks")
    assert done.code == 0, done.err
    assert "the connection was cut; trying again in 1 s" in done.err
    check_published(hub, "org/my-tasks", grown)


def test_an_upload_cut_in_the_middle_is_sent_again(hub: Hub, cmd: Commands, grown: Path) -> None:
    hub.faults = [Fault("PUT", skip=3, when=MIDDLE)]
    done = cmd("push", grown, "--repo", "org/my-tasks")
    assert done.code == 0, done.err
    check_published(hub, "org/my-tasks", grown)


def test_what_may_pass_is_tried_again_as_long_as_is_asked(hub: Hub, cmd: Commands, grown: Path) -> None:
    now = {"Retry-After": "0"}
    hub.faults = [
        Fault("whoami", times=2, status=429, headers=now),
        Fault("preupload", status=503, headers=now),
        Fault("commit/main", skip=1, times=3, status=500, headers=now),
        Fault("/tag/", status=429, headers={"RateLimit": '"api";r=0;t=1'}),
    ]
    done = cmd("push", grown, "--repo", "org/my-tasks")
    assert done.code == 0, done.err
    assert "tagging v1.0.0: HTTP 429; trying again in 1 s" in done.err
    check_published(hub, "org/my-tasks", grown)


def test_it_gives_up_in_the_end_and_goes_on_later(hub: Hub, cmd: Commands, grown: Path) -> None:
    hub.faults = [Fault("/tag/", times=99, status=503, headers={"Retry-After": "0"})]
    done = cmd("push", grown, "--repo", "org/my-tasks")
    assert done.code == 1
    assert done.error == f"{hub.url}: tagging v1.0.0 failed (HTTP 503); the same command goes on later"
    assert sum("/tag/" in asked for asked in hub.asked) == 5
    hub.faults = [Fault("commit/main", status=429, headers={"Retry-After": "3600"})]
    done = cmd("push", grown, "--repo", "org/my-tasks")
    assert done.code == 1
    assert done.error.startswith(f"{hub.url}: publishing v1.1.0 failed (HTTP 429)")
    hub.faults = []
    told = cmd("push", grown, "--repo", "org/my-tasks", "--json")
    assert told.code == 0
    check_published(hub, "org/my-tasks", grown)


def test_a_server_that_falls_silent_is_not_waited_for(hub: Hub) -> None:
    hub.faults = [Fault("whoami", hold=True)]
    said: list[str] = []
    opened = Connection(endpoint=hub.url, token=TOKEN, say=said.append, pause=lambda s: None, patience=0.5)
    try:
        assert opened.call("asking", opened.api.whoami)["name"] == "me"
    finally:
        configure_http_backend()
    assert said[0] == "asking: no answer in time; trying again in 1 s"


def test_ctrl_c_and_the_same_command_goes_on(hub: Hub, cmd: Commands, grown: Path) -> None:
    hub.faults = [Fault("commit/main", skip=1, hold=True)]
    pid = cmd.start("push", grown, "--repo", "org/my-tasks")
    assert hub.held.wait(60)
    os.kill(pid, signal.SIGINT)
    done = cmd.wait()
    assert done.code == 130
    assert (
        done.err.splitlines()[-1] == "interrupted; the same command goes on: what has its commit is not sent again"
    )
    assert list(hub.repos["org/my-tasks"].tags) == ["v1.0.0"]
    assert cmd("push", grown, "--repo", "org/my-tasks").code == 0
    check_published(hub, "org/my-tasks", grown)


def test_ctrl_c_does_not_wait_for_uploads(hub: Hub, cmd: Commands, grown: Path) -> None:
    """Which the client has in threads of its own, and waits for."""
    hub.faults = [Fault("PUT", times=99, hold=True)]
    pid = cmd.start("push", grown, "--repo", "org/my-tasks")
    assert hub.held.wait(60)
    before = time.monotonic()
    os.kill(pid, signal.SIGINT)
    done = cmd.wait()
    assert time.monotonic() - before < 60  # they never end
    assert done.code == 130
    assert done.err.splitlines()[-1].startswith("interrupted; the same command goes on")
    hub.faults = []
    assert cmd("push", grown, "--repo", "org/my-tasks").code == 0
    check_published(hub, "org/my-tasks", grown)


def test_a_terminal_shows_how_far_it_is(hub: Hub, grown: Path, tmp_path: Path) -> None:
    ours, its = pty.openpty()
    environment = {**hub.environment(tmp_path, HF_TOKEN=TOKEN), "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [sys.executable, "-m", "selfinstruct_hub", "push", str(grown), "--repo", "org/my-tasks"],
        stdin=its,
        stdout=subprocess.PIPE,
        stderr=its,
        env=environment,
    ) as child:
        os.close(its)
        text = b""
        with contextlib.suppress(OSError):  # Linux says so when the other side is closed
            while piece := os.read(ours, 65536):
                text += piece
        assert child.stdout is not None
        out = child.stdout.read()
    os.close(ours)
    assert child.returncode == 0
    assert b"\xe2\x94\x81" in text, "a bar"
    assert "v1.0.0: published as commit" in text.decode()
    assert b"\x1b" not in out


# What others do there.


def test_a_missing_tag_is_made_again(hub: Hub, cmd: Commands, grown: Path) -> None:
    assert cmd("push", grown, "--repo", "org/my-tasks").code == 0
    repo = hub.repos["org/my-tasks"]
    tags = dict(repo.tags)
    del repo.tags["v1.0.0"], repo.tags["v1.2.0"]
    done = cmd("push", grown, "--repo", "org/my-tasks", "--json").json
    assert (done["published"], done["tagged"], done["releases"]) == (["v1.1.0"], ["v1.0.0", "v1.2.0"], [])
    assert repo.tags == tags


def _other_commit(repo: Repo) -> None:
    repo.write({"README.md": b"# mine\n"}, "Update README.md")


def _other_file(repo: Repo) -> None:
    repo.write({"notes.md": b"mine"}, "Add notes")


def _moved_tag(repo: Repo) -> None:
    repo.tags["v1.1.0"] = repo.tags["v1.0.0"]


def _newer_from_elsewhere(repo: Repo) -> None:
    manifest = json.loads(repo.tree()["manifest.json"])
    repo.tags["v1.5.0"] = repo.write({"manifest.json": json.dumps({**manifest, "version": "v1.5.0"}).encode()})


def _back(repo: Repo) -> None:
    repo.head = repo.tags["v1.0.0"]


def _never_published(repo: Repo) -> None:
    del repo.tags["v1.0.0"]
    newest = repo.commits[repo.head]
    repo.head = repo._keep(type(newest)(newest.files, None, "squashed"))
    repo.tags["v1.1.0"] = repo.head


CONFLICTS: dict[str, tuple[Callable[[Repo], None], str]] = {
    "a commit on main by hand": (
        _other_commit,
        r"org/my-tasks: main \(commit \w{8}, 'Update README.md'\) is v1.1.0 with changes that push did not make "
        r"\(README.md\); undo them on the Hub, or push to another repository",
    ),
    "a file by hand": (_other_file, r"is v1.1.0 with changes that push did not make \(notes.md\)"),
    "a tag moved": (
        _moved_tag,
        r"tag v1.1.0 holds another release than .*; a published version never changes, so",
    ),
    "a tag moved to a commit by hand": (
        lambda repo: repo.tags.update({"v1.1.0": repo.write({"README.md": b"# mine"})}),
        r"tag v1.1.0 holds another release than .*; a published version never changes, so",
    ),
    "another workspace publishes": (
        _newer_from_elsewhere,
        r"is v1.5.0, which this workspace does not have; `selfinstruct-hub pull org/my-tasks NEW-DIR` makes",
    ),
    "main is back": (_back, r"main is back at v1.0.0, and tag v1.1.0 is newer; bring main to that tag"),
    "history is squashed": (_never_published, r"main is at v1.1.0 already, and v1.0.0 was never published there"),
}


@pytest.mark.parametrize("case", CONFLICTS)
def test_nothing_is_built_on_what_others_did(hub: Hub, cmd: Commands, grown: Path, space: Path, case: str) -> None:
    change, expected = CONFLICTS[case]
    shutil.rmtree(space / "releases" / "v1.2.0")
    assert cmd("push", space, "--repo", "org/my-tasks").code == 0
    repo = hub.repos["org/my-tasks"]
    change(repo)
    before = (repo.head, dict(repo.tags))
    done = cmd("push", grown, "--repo", "org/my-tasks")
    assert done.code == 1
    assert re.search(expected, done.error), done.error
    assert (repo.head, dict(repo.tags)) == before


@pytest.mark.parametrize("when", ["gone", "changed"])
def test_a_published_release_that_was_touched_here_is_named(
    hub: Hub, cmd: Commands, grown: Path, space: Path, when: str
) -> None:
    """What differs lies in the workspace, so nobody is told to undo something on the Hub."""
    shutil.copytree(space / "releases" / "v1.2.0", space / "later")
    shutil.rmtree(space / "releases" / "v1.2.0")
    assert cmd("push", space, "--repo", "org/my-tasks").code == 0
    (space / "later").rename(space / "releases" / "v1.2.0")
    card = space / "releases" / "v1.1.0" / "README.md"
    if when == "gone":
        card.unlink()
        expected = f"{card}: cannot be read (No such file or directory), and manifest.json names it; restore it"
    else:
        card.write_bytes(card.read_bytes().replace(b"#", b"!", 1))
        expected = f"{card}: is not the file that was released; restore it from a copy"
    done = cmd("push", space, "--repo", "org/my-tasks")
    assert done.code == 1
    assert done.error.startswith(expected)
    assert list(hub.repos["org/my-tasks"].tags) == ["v1.0.0", "v1.1.0"]
    # An older one is not built on, and is left in peace.
    shutil.copy(grown / "releases/v1.1.0/README.md", card)
    (space / "releases/v1.0.0/README.md").unlink()
    assert cmd("push", space, "--repo", "org/my-tasks").code == 0
    assert list(hub.repos["org/my-tasks"].tags) == VERSIONS


def test_a_release_in_the_making_is_none_yet(hub: Hub, cmd: Commands, space: Path) -> None:
    building = space / "releases" / ".building-v1.3.0"
    building.mkdir()
    (building / "manifest.json").write_text('{"version":')
    assert cmd("push", space, "--repo", "org/my-tasks").code == 0
    check_published(hub, "org/my-tasks", space)


def test_a_name_that_is_taken_by_something_else_is_no_tag(hub: Hub, cmd: Commands, grown: Path) -> None:
    """Such as a branch: the Hub says that it is there, and there is no tag."""
    hub.faults = [Fault("/tag/", times=99, status=409, text="Reference exists already")]
    done = cmd("push", grown, "--repo", "org/my-tasks")
    assert done.code == 1
    assert done.error.startswith("tagging v1.0.0: Reference exists already, and there is no such tag; look for a ")
    assert hub.repos["org/my-tasks"].tags == {}


def test_a_hub_behind_another_address(hub: Hub, cmd: Commands, grown: Path) -> None:
    """The client cannot read the addresses that it answers with, when everything is done already."""
    hub.own_address = "https://hub.example.org"
    done = cmd("push", grown, "--repo", "org/my-tasks")
    assert done.code == 0, done.err
    check_published(hub, "org/my-tasks", grown)


def test_somebody_commits_while_a_release_is_uploaded(hub: Hub, cmd: Commands, grown: Path) -> None:
    """The commit is refused by the Hub itself (412), after the plan was made."""
    hub.faults = [Fault("commit/main", hold=True)]
    cmd.start("push", grown, "--repo", "org/my-tasks")
    assert hub.held.wait(60)
    repo = hub.repos["org/my-tasks"]
    repo.write({"notes.md": b"mine"})
    head = repo.head
    hub.release()
    done = cmd.wait()
    assert done.code == 1
    assert done.error.startswith("org/my-tasks has moved on meanwhile: somebody else is writing to it; nothing of")
    assert (repo.head, repo.tags) == (head, {})


def test_a_repository_with_other_files_is_refused(hub: Hub, cmd: Commands, grown: Path) -> None:
    hub.repos["org/old"] = Repo({".gitattributes": b"", "train.csv": b"a,b"})
    done = cmd("push", grown, "--repo", "org/old")
    assert done.code == 1
    assert "holds files that push did not put there (train.csv); undo that on the Hub, or push to" in done.error
    hub.repos["org/empty"] = Repo({".gitattributes": b""})
    assert cmd("push", grown, "--repo", "org/empty").code == 0
    check_published(hub, "org/empty", grown)


def test_another_workspace_of_the_same_versions_is_refused(
    hub: Hub, cmd: Commands, grown: Path, space: Path
) -> None:
    assert cmd("push", grown, "--repo", "org/my-tasks").code == 0
    manifest = space / "releases" / "v1.1.0" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("}", "} ", 1))
    done = cmd("push", space, "--repo", "org/my-tasks")
    assert done.code == 1
    assert done.error.startswith("org/my-tasks: tag v1.1.0 holds another release than ")


# Pull requests.


def test_a_pull_request_holds_one_release_and_no_tag(hub: Hub, cmd: Commands, grown: Path) -> None:
    done = cmd("push", grown, "--repo", "org/my-tasks", "--create-pr")
    assert done.code == 0, done.err
    repo = hub.repos["org/my-tasks"]
    link = f"{hub.url}/datasets/org/my-tasks/discussions/1"
    assert f"v1.0.0: pull request {link}; it has no tag yet: merge it, then push again tags it" in done.out
    assert "waiting until that is merged: v1.1.0, v1.2.0" in done.out
    assert (repo.tags, len(repo.pulls), len(repo.history())) == ({}, 1, 1)
    told = cmd("push", grown, "--repo", "org/my-tasks", "--create-pr", "--dry-run").out.splitlines()
    assert told[1] == "would open a pull request instead of a commit and a tag"
    # Asked for again, it is found.
    again = cmd("push", grown, "--repo", "org/my-tasks", "--create-pr", "--json").json
    assert again["releases"][0]["pull_request"] == link
    assert len(repo.pulls) == 1
    repo.merge(1)
    following = cmd("push", grown, "--repo", "org/my-tasks", "--create-pr", "--json").json
    assert following["tagged"] == ["v1.0.0"]
    assert following["releases"][0]["pull_request"].endswith("/2")
    repo.merge(2)
    rest = cmd("push", grown, "--repo", "org/my-tasks", "--json").json
    assert (rest["published"], rest["tagged"]) == (["v1.0.0"], ["v1.1.0"])
    assert [published(repo, version) for version in VERSIONS] == [
        files_of(grown / "releases" / version) for version in VERSIONS
    ]


def test_a_lost_answer_opens_no_second_pull_request(hub: Hub, cmd: Commands, grown: Path) -> None:
    hub.faults = [Fault("commit/main", when=AFTER)]
    assert cmd("push", grown, "--repo", "org/my-tasks", "--create-pr").code == 0
    assert len(hub.repos["org/my-tasks"].pulls) == 1


def test_a_reader_may_propose(hub: Hub, cmd: Commands, grown: Path) -> None:
    hub.repos["other/theirs"] = Repo({".gitattributes": b""})
    assert cmd("push", grown, "--repo", "other/theirs", "--create-pr").code == 0
    assert list(hub.repos["other/theirs"].pulls) == [1]


# Mistakes: one clear line, the right exit code, nothing written.


def damage(space: Path, path: str = "data/default/train-round-0001-00000-of-00001.parquet") -> None:
    """One changed byte in the second release."""
    file = space / "releases" / "v1.1.0" / path
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def leave(space: Path) -> None:
    shutil.rmtree(space / "releases")


MISTAKES: dict[str, tuple[Any, str, dict[str, str], int, str]] = {
    "no token": (None, "org/my-tasks", {"HF_TOKEN": ""}, 1, r"no token for the Hub; set HF_TOKEN or use `hf auth"),
    "a token that only reads": (
        *(None, "org/my-tasks", {"HF_TOKEN": "hf_reads"}, 1),
        r"the token of me may only read; make one that may write at http://127.0.0.1:\d+/settings/tokens",
    ),
    "a fine-grained token without the right": (
        *(None, "org/my-tasks", {"HF_TOKEN": "hf_fine"}, 1),
        r"making org/my-tasks: .* refuses \(You don't have the rights .*\); the token of me must have write "
        "access to org",
    ),
    "a wrong token": (
        *(None, "org/my-tasks", {"HF_TOKEN": "hf_wrong"}, 1),
        r"http://127.0.0.1:\d+ does not accept the token; make one at",
    ),
    "somebody else's name": (
        *(None, "somebody/my-tasks", {}, 1),
        r"the token of me must have write access to somebody$",
    ),
    "somebody else's dataset": (
        *(None, "other/public", {}, 1),
        r"publishing v1.0.0: .* refuses \(You don't have the rights to write to this repository\); the token of",
    ),
    "somebody else's private dataset": (
        *(None, "other/secret", {}, 1),
        r"making other/secret: .*the token of me must have write access to other$",
    ),
    "no organisation": (
        None,
        "my-tasks",
        {},
        2,
        r"'my-tasks' is no name of a dataset on the Hub; expected ORG/NAME",
    ),
    "no name at all": (None, "org/", {}, 2, r"'org/' is no name of a dataset on the Hub"),
    "a name with a blank": (None, "org/my tasks", {}, 2, r"is no name of a dataset on the Hub"),
    "an address": (None, "https://hub/org/x", {}, 2, r"is no name of a dataset on the Hub"),
    "the script's name": (
        *(None, "org/loading_script", {}, 2),
        r"org/loading_script: a dataset must not be called like the script that lies in it",
    ),
    "a changed byte": (damage, "org/my-tasks", {}, 1, r"v1\.1\.0/data/default/train-round-0001.*parquet"),
    "a changed card": (lambda s: damage(s, "README.md"), "org/my-tasks", {}, 1, r"v1\.1\.0/README\.md"),
    "a damaged manifest": (
        lambda s: (s / "releases/v1.1.0/manifest.json").write_text("{"),
        *("org/my-tasks", {}, 1, r"manifest\.json: is damaged"),
    ),
    "a folder with another name": (
        lambda s: (s / "releases/v1.1.0").rename(s / "releases/v1.9.0"),
        *("org/my-tasks", {}, 1, r"v1\.9\.0: holds release v1\.1\.0; give the folder its name back"),
    ),
    "nothing to publish": (leave, "org/my-tasks", {}, 2, r"has no release to publish; `selfinstruct-hub grow"),
    "no workspace": (shutil.rmtree, "org/my-tasks", {}, 2, r"has no release to publish"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line_and_nothing_is_published(hub: Hub, cmd: Commands, space: Path, case: str) -> None:
    prepare, name, environment, code, expected = MISTAKES[case]
    hub.repos["other/public"] = Repo({".gitattributes": b""})
    hub.repos["other/secret"] = Repo({".gitattributes": b""}, private=True)
    before = {name: repo.head for name, repo in hub.repos.items()}
    if prepare:
        prepare(space)
    done = cmd("push", space, "--repo", name, **environment)
    assert done.code == code, done.err
    assert re.search(expected, done.error), done.error
    assert {name: repo.head for name, repo in hub.repos.items()} == before
    assert all(not repo.tags for repo in hub.repos.values())


def test_a_card_that_the_hub_refuses(hub: Hub, cmd: Commands, grown: Path) -> None:
    """The Hub knows rules for the YAML that nobody else does."""
    hub.refused_cards = "license"
    done = cmd("push", grown, "--repo", "org/my-tasks")
    card = grown / "releases" / "v1.0.0" / "README.md"
    assert done.code == 1
    said = 'Invalid metadata in README.md. - "license" must be one of those known'
    assert done.error == f"{card}: the Hub refuses the card ({said})"
    assert len(hub.repos["org/my-tasks"].history()) == 1


def test_large_files_that_the_hub_refuses(hub: Hub, cmd: Commands, grown: Path) -> None:
    hub.refused_objects = "Private storage limit reached"
    done = cmd("push", grown, "--repo", "org/my-tasks")
    assert done.code == 1
    assert done.error.startswith("publishing v1.0.0: the Hub takes no large file (")
    assert "Private storage limit reached" in done.error
    assert len(hub.repos["org/my-tasks"].history()) == 1


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"{}", b"[]"])
def test_another_server_than_a_hub(hub: Hub, cmd: Commands, grown: Path, body: bytes) -> None:
    hub.faults = [Fault(times=99, status=200, body=body)]
    for arguments in (("push", grown, "--repo", "org/x"), ("pull", "org/x", grown.parent / "new")):
        done = cmd(*arguments)
        assert done.code == 1
        assert done.error == f"{hub.url} answers, but not as a Hub does; look at HF_ENDPOINT"
    assert len(hub.asked) == 2, "asked again, it would say the same"


@pytest.mark.parametrize("endpoint", ["localhost:8080", "127.0.0.1", "ftp://hub", "http://", "http://hub:port"])
def test_an_endpoint_that_is_no_address(endpoint: str) -> None:
    with pytest.raises(UsageError, match="HF_ENDPOINT is no address; expected one such as https://"):
        Connection(endpoint=endpoint, token=TOKEN)


@pytest.mark.parametrize("token", ["hf_planted€", "hf_plan\nted", "hf planted"])
def test_a_token_that_can_be_none(token: str) -> None:
    with pytest.raises(HubAccessError, match="has a character that no token has; look at HF_TOKEN") as caught:
        Connection(endpoint="http://127.0.0.1:9", token=token)
    assert "plan" not in str(caught.value)


def test_files_take_the_way_that_has_time_outs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    pytest.importorskip("hf_xet")
    Connection(endpoint="http://127.0.0.1:9", token=TOKEN)
    configure_http_backend()
    assert not is_xet_available()


def test_bars_that_the_user_wants_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library would warn otherwise, which is an error in tests."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", False)
    # The module, which a class of the same name hides.
    monkeypatch.setattr(sys.modules["huggingface_hub.utils.tqdm"], "HF_HUB_DISABLE_PROGRESS_BARS", False)
    with quiet():
        pass


def test_a_key_is_hidden_before_a_message_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_plantedplanted")
    found = Connection(endpoint="http://127.0.0.1:9").words("x" * 290 + " hf_plantedplanted")
    configure_http_backend()
    assert "plan" not in found


def test_offline_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubAccessError, match="HF_HUB_OFFLINE is set; unset it to reach the Hub"):
        Connection()


def test_the_token_is_never_shown(hub: Hub, cmd: Commands, grown: Path) -> None:
    hub.users["hf_plantedplanted"] = hub.users[TOKEN]
    hub.faults = [
        Fault("whoami", status=503, text="token hf_plantedplanted", headers={"Retry-After": "0"}),
        Fault("commit/main", status=400, text="bad Authorization: Bearer hf_plantedplanted"),
    ]
    done = cmd("push", grown, "--repo", "org/my-tasks", HF_TOKEN="hf_plantedplanted")
    assert done.code == 1
    assert "bad Authorization: Bearer ***" in done.error
    assert "planted" not in done.out + done.err

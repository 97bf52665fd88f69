"""The Hub of these tests is one to its own client: a dataset's whole life over real HTTP, and the faults it is
told to have."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import RemoteDisconnected
from pathlib import Path

import pytest

from tests.support.hub import AFTER, MIDDLE, Fault, Hub, Repo, running

CLIENT = Path(__file__).parent / "support" / "hub" / "client.py"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running(
        Hub({"org/data": Repo({"a.txt": b"0123456789", "d/b.parquet": b"x" * 100}, tags=("v1.0.0",))})
    ) as hub:
        yield hub


def ask(
    hub: Hub, path: str, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    request = urllib.request.Request(f"{hub.url}{path}", body, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_a_datasets_whole_life_with_the_installed_client(tmp_path: Path) -> None:
    with running(Hub(page=2)) as hub:
        done = subprocess.run(
            [sys.executable, str(CLIENT), "life", json.dumps({"repo": "org/new"})],
            env=hub.environment(tmp_path, HF_TOKEN="hf_writes"),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert hub.repos == {}
    found = json.loads(done.stdout)
    large = found.pop("large")
    assert large["README.md"] is None
    assert len(large["data/a.parquet"]) == 64
    assert found == {
        "user": "me",
        "missing": True,
        "private": True,
        "codes": [["stale", 412], ["tag", 409], ["revision", 404]],
        "pull": "1",
        "pull_state": "open",
        "tags": {"v1.0.0": True},
        "head": True,
        "pulls": 1,
        "paths": [".gitattributes", "README.md", "data/a.parquet", "data/b.parquet"],
        "commits": ["two", "one", "initial commit"],
        "read": True,
        "snapshot": [".gitattributes", "README.md", "data/a.parquet", "gone.txt"],
    }


def test_the_same_content_is_uploaded_once(tmp_path: Path) -> None:
    with running(Hub()) as hub:
        subprocess.run(
            [sys.executable, str(CLIENT), "life", json.dumps({"repo": "org/new"})],
            env=hub.environment(tmp_path, HF_TOKEN="hf_writes"),
            capture_output=True,
            check=True,
        )
        # data/b.parquet has the bytes of data/a.parquet.
        assert sum(asked.method == "PUT" for asked in hub.log) == 1


@pytest.mark.parametrize(
    ("path", "token", "code"),
    [
        ("/api/datasets/org/none", None, 401),
        ("/api/datasets/org/none", "hf_writes", 404),
        ("/api/datasets/org/data", "hf_nobody", 401),
        ("/api/datasets/org/secret", "hf_other", 404),
        ("/api/datasets/org/secret", "hf_reads", 200),
        ("/api/datasets/org/data/tree/v9", None, 404),
        ("/api/datasets/org/data/tree/v1.0.0", None, 200),
        ("/api/whoami-v2", None, 401),
        ("/datasets/org/data/resolve/main/none.txt", None, 404),
    ],
)
def test_who_may_see_what(hub: Hub, path: str, token: str | None, code: int) -> None:
    hub.repos["org/secret"] = Repo({"a": b"a"}, private=True)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    assert ask(hub, path, headers=headers)[0] == code


@pytest.mark.parametrize(
    ("token", "code"),
    [("hf_writes", 200), ("hf_reads", 403), ("hf_fine", 403), ("hf_other", 403), ("hf_nobody", 401)],
)
def test_who_may_write(hub: Hub, token: str, code: int) -> None:
    body = json.dumps({"tag": "v2.0.0"}).encode()
    assert (
        ask(hub, "/api/datasets/org/data/tag/main", "POST", body, {"Authorization": f"Bearer {token}"})[0] == code
    )
    assert ("v2.0.0" in hub.repos["org/data"].tags) == (code == 200)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("bytes=2-4", b"234"), ("bytes=7-", b"789"), ("bytes=-2", b"89"), (None, b"0123456789")],
)
def test_ranges(hub: Hub, asked: str | None, expected: bytes) -> None:
    headers = {"Range": asked} if asked else {}
    code, content = ask(hub, "/datasets/org/data/resolve/v1.0.0/a.txt", headers=headers)
    assert (code, content) == (206 if asked else 200, expected)


def test_a_commit_never_changes() -> None:
    repo = Repo({"a": b"1"}, tags=("v1",))
    first = repo.head
    second = repo.write({"a": b"2", "b": b"3"})
    assert repo.tree("v1") == repo.tree(first) == {"a": b"1"}
    assert repo.tree() == repo.tree(second) == {"a": b"2", "b": b"3"}
    assert [oid for oid, _ in repo.history()] == [second, first]


def test_faults_hit_the_requests_they_are_for(hub: Hub) -> None:
    hub.faults = [
        Fault("refs", status=429, headers={"Retry-After": "7"}),
        Fault("tree", skip=1, status=503),
        Fault("a.txt", when=AFTER),
        Fault("POST", when=MIDDLE),
    ]
    assert ask(hub, "/api/datasets/org/data/refs")[0] == 429
    assert ask(hub, "/api/datasets/org/data/refs")[0] == 200
    assert [ask(hub, "/api/datasets/org/data/tree/main")[0] for _ in range(3)] == [200, 503, 200]
    with pytest.raises((RemoteDisconnected, ConnectionResetError)):
        ask(hub, "/datasets/org/data/resolve/main/a.txt")
    with pytest.raises((RemoteDisconnected, ConnectionError, urllib.error.URLError)):
        ask(hub, "/api/validate-yaml", "POST", b"x" * 1000)
    assert hub.log[-1].sent == 500
    assert [asked.status for asked in hub.log] == [429, 200, 200, 503, 200, 0, 0]


def test_a_held_request_waits_until_its_client_goes(hub: Hub) -> None:
    hub.faults = [Fault("whoami", hold=True)]

    def wait() -> None:
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(f"{hub.url}/api/whoami-v2", timeout=0.3)

    thread = threading.Thread(target=wait)
    thread.start()
    assert hub.held.wait(60)
    thread.join(60)
    assert not thread.is_alive()
    assert ask(hub, "/api/datasets/org/data")[0] == 200

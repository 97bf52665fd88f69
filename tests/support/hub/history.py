"""Datasets with a history like git's, in memory: commits that never change, a branch, tags, pull requests, and
large files by their SHA-256. What the Hub decides of a repository is decided here; nothing here knows HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAIN = "main"
ZERO_TIME = "2026-01-01T00:00:00.000Z"
LARGE_SUFFIXES = (".parquet", ".png", ".arrow", ".gz", ".zip")  # of the .gitattributes that a new dataset gets
ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE_SUFFIXES).encode()


class StaleParent(Exception):
    """The branch has moved on since the commit was prepared."""


class Missing(Exception):
    """A commit names a large file that nobody has uploaded, or deletes a file that is not there."""


@dataclass(frozen=True)
class Blob:
    """A file's content; `large` ones are pointers in git."""

    content: bytes
    large: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        head = "version https://git-lfs.github.com/spec/v1"
        return f"{head}\noid sha256:{self.sha256}\nsize {len(self.content)}\n".encode()

    @property
    def oid(self) -> str:
        stored = self.pointer if self.large else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()


@dataclass(frozen=True)
class Commit:
    """A whole tree with where it came from."""

    files: Mapping[str, Blob]
    parent: str | None
    title: str
    message: str = ""
    author: str = "somebody"

    @property
    def oid(self) -> str:
        tree = sorted((path, blob.oid) for path, blob in self.files.items())
        return hashlib.sha1(repr((tree, self.parent, self.title, self.message)).encode()).hexdigest()


@dataclass
class Repo:
    """A dataset: its files at first, who may read them, and tags on that commit beside main."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    gated: bool = False
    tags: Any = ()  # names at first; kept as {name: commit}
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    pulls: dict[int, str] = field(default_factory=dict)
    pull_states: dict[int, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # uploaded large files by SHA-256

    def __post_init__(self) -> None:
        files = {path: Blob(content, is_large(path, len(content))) for path, content in self.files.items()}
        self.head = self._keep(Commit(files, None, "initial commit"))
        self.tags = dict.fromkeys(self.tags, self.head)
        self.objects.update((blob.sha256, blob.content) for blob in files.values() if blob.large)

    def find(self, revision: str) -> str | None:
        """The commit that a branch, tag, pull request's reference or commit id stands for."""
        if revision in (MAIN, "refs/heads/main"):
            return self.head
        if revision.startswith("refs/pr/"):
            return self.pulls.get(int(revision.rsplit("/", 1)[-1]))
        name = revision.removeprefix("refs/tags/")
        return self.tags.get(name) or (revision if revision in self.commits else None)

    def tree(self, revision: str = MAIN) -> dict[str, bytes]:
        """The files of a revision."""
        oid = self.find(revision)
        assert oid is not None, revision
        return {path: blob.content for path, blob in sorted(self.commits[oid].files.items())}

    def history(self, revision: str = MAIN) -> list[tuple[str, Commit]]:
        """Commits of a revision, the newest first."""
        found = []
        oid = self.find(revision)
        while oid is not None:
            found.append((oid, self.commits[oid]))
            oid = self.commits[oid].parent
        return found

    @property
    def commit(self) -> str:
        """The commit of main."""
        return self.head

    def apply(
        self,
        lines: list[dict[str, Any]],
        decode: Any,
        *,
        revision: str = MAIN,
        create_pr: bool = False,
        author: str = "somebody",
    ) -> tuple[str, int | None]:
        """Makes the commit that the lines of a request describe, all of it or none; returns its id and the number
        of the pull request where one was opened. A commit that changes nothing is none."""
        header = lines[0]["value"]
        parent = self.find(revision)
        assert parent is not None
        if header.get("parentCommit") not in (None, parent):
            raise StaleParent(header["parentCommit"])
        files = dict(self.commits[parent].files)
        for line in lines[1:]:
            value, path = line["value"], line["value"]["path"]
            if line["key"] == "file":
                files[path] = Blob(decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.objects:
                    raise Missing(f"large file {path} was never uploaded")
                files[path] = Blob(self.objects[value["oid"]], large=True)
            elif line["key"] == "deletedFile":
                if files.pop(path, None) is None:
                    raise Missing(f"A file with this name doesn't exist: {path}")
            else:
                assert line["key"] == "deletedFolder", line["key"]
                files = {name: blob for name, blob in files.items() if not name.startswith(f"{path.rstrip('/')}/")}
        if files == self.commits[parent].files and not create_pr:
            return parent, None
        made = self._keep(Commit(files, parent, header["summary"], header.get("description", ""), author))
        if create_pr:
            number = len(self.pulls) + 1
            self.pulls[number], self.pull_states[number] = made, "open"
            return made, number
        if revision.startswith("refs/pr/"):
            self.pulls[int(revision.rsplit("/", 1)[-1])] = made
        else:
            self.head = made
        return made, None

    def write(self, files: Mapping[str, bytes | None], title: str = "Update by hand") -> str:
        """A commit of somebody else's; None deletes."""
        now = dict(self.commits[self.head].files)
        for path, content in files.items():
            if content is None:
                del now[path]
            else:
                now[path] = Blob(content, is_large(path, len(content)))
        self.head = self._keep(Commit(now, self.head, title))
        return self.head

    def merge(self, number: int) -> None:
        """Merges a pull request, as one commit on main."""
        source = self.commits[self.pulls[number]]
        self.head = self._keep(Commit(source.files, self.head, f"{source.title} (#{number})", source.message))
        self.pull_states[number] = "merged"

    def _keep(self, commit: Commit) -> str:
        self.commits[commit.oid] = commit
        return commit.oid


def is_large(path: str, size: int, limit: int = 10_000_000) -> bool:
    """Whether the Hub keeps a file outside of git."""
    return size > 0 and (path.endswith(LARGE_SUFFIXES) or size > limit)

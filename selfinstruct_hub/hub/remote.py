"""What a dataset on the Hub holds now: its branch, tags and trees. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from selfinstruct_hub.hub.connection import REPO_TYPE, AbsentError, Connection
from selfinstruct_hub.workspace import MANIFEST

MAIN = "main"
# The Hub puts it into every repository, and it stays.
KEPT = frozenset({".gitattributes"})


@dataclass(frozen=True)
class Stored:
    """A file of a commit: its size in bytes, git's id of it, and its SHA-256 where it is kept outside of git."""

    size: int
    blob: str
    sha256: str | None

    def is_file(self, size: int, sha256: str, git_id: Callable[[], str]) -> bool:
        """Whether it is a file of that size and digest; git's id is asked for where nothing else tells."""
        if self.size != size:
            return False
        return self.sha256 == sha256 if self.sha256 is not None else self.blob == git_id()


Tree = Mapping[str, Stored]


@dataclass
class Remote:
    """A dataset on the Hub. Trees are asked for once."""

    connection: Connection
    name: str
    exists: bool
    private: bool = False
    head: str | None = None  # commit of main
    tags: dict[str, str] = field(default_factory=dict)  # name to commit
    pulls: dict[int, str] = field(default_factory=dict)  # number to commit, open or not
    _trees: dict[str, Tree] = field(default_factory=dict)
    _manifests: dict[str, Stored | None] = field(default_factory=dict)

    @classmethod
    def at(cls, connection: Connection, name: str) -> Remote:
        """The dataset as it stands."""
        remote = cls(connection, name, exists=False)
        remote.refresh()
        return remote

    def refresh(self) -> None:
        """Asks again what there is."""
        what, api = f"looking at {self.name}", self.connection.api
        place: dict[str, Any] = {"repo_id": self.name, "repo_type": REPO_TYPE}
        try:
            info = self.connection.call(what, api.repo_info, **place)
            refs = self.connection.refs(self.name, pulls=True)
        except AbsentError:
            self.exists, self.head = False, None
            return
        self.exists, self.private = True, bool(info.private)
        self.head = next((ref.target_commit for ref in refs.branches if ref.name == MAIN), None)
        self.tags = {ref.name: ref.target_commit for ref in refs.tags}
        self.pulls = {int(ref.ref.rsplit("/", 1)[-1]): ref.target_commit for ref in refs.pull_requests or []}

    def tree(self, commit: str) -> Tree:
        """The files of a commit, without those that the Hub keeps for itself."""
        if commit not in self._trees:
            self._trees[commit] = self.connection.call(f"reading {self.name}", self._tree, commit)
        return self._trees[commit]

    def _tree(self, commit: str) -> Tree:
        entries = self.connection.api.list_repo_tree(
            self.name, recursive=True, revision=commit, repo_type=REPO_TYPE
        )
        return {
            entry.path: _stored(entry) for entry in entries if hasattr(entry, "size") and entry.path not in KEPT
        }

    def manifest(self, commit: str) -> Stored | None:
        """The manifest of a commit, or None where it has none."""
        if commit in self._trees:
            return self._trees[commit].get(MANIFEST)
        if commit not in self._manifests:
            found = self.connection.call(
                f"reading {self.name}",
                self.connection.api.get_paths_info,
                self.name,
                [MANIFEST],
                revision=commit,
                repo_type=REPO_TYPE,
            )
            self._manifests[commit] = _stored(found[0]) if found else None
        return self._manifests[commit]

    def commits(self) -> list[tuple[str, str]]:
        """(id, title) of the commits of main, the newest first."""
        found = self.connection.call(
            f"reading {self.name}", self.connection.api.list_repo_commits, self.name, repo_type=REPO_TYPE
        )
        return [(commit.commit_id, commit.title) for commit in found]

    def pull_is_open(self, number: int) -> bool:
        found = self.connection.call(
            f"reading {self.name}",
            self.connection.api.get_discussion_details,
            self.name,
            number,
            repo_type=REPO_TYPE,
        )
        return found.status in ("open", "draft")


def _stored(entry: Any) -> Stored:
    return Stored(entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else None)

"""The part of a push that writes: makes the repository, its commits, pull requests and tags.

Every call asks, before it is made a second time, whether the first has done its work and only the answer was lost.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from selfinstruct_hub import __version__
from selfinstruct_hub.errors import HubAccessError, HubConflictError, HubError, ReleaseError
from selfinstruct_hub.figures import counted
from selfinstruct_hub.hub.connection import REPO_TYPE, AbsentError, ConflictError, Connection
from selfinstruct_hub.hub.local import Release
from selfinstruct_hub.hub.remote import Remote
from selfinstruct_hub.hub.state import Unpublished
from selfinstruct_hub.hub.steps import Step, Watch, announced

# Files that are read through a counter, so that an upload shows how far it is; each is an open file.
_MOST_COUNTED = 64


@dataclass
class Writing:
    """Writes for the user `who`. `remote.head` follows what was committed."""

    connection: Connection
    remote: Remote
    who: str
    watch: Watch
    place: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.place = {"repo_id": self.remote.name, "repo_type": REPO_TYPE}

    def create(self, *, private: bool) -> None:
        name = self.remote.name
        self.watch.say(f"making {'private' if private else 'public'} dataset {name}")

        def attempt() -> None:
            try:
                self.connection.api.create_repo(**self.place, private=private, exist_ok=True)
            except ValueError as error:
                if not _is_done(error):
                    raise

        with self._access_named():
            self.connection.call(f"making {name}", attempt)
        self.remote.refresh()
        if self.remote.head is None:
            raise HubError(f"{name}: was made and cannot be seen; try the same command again")
        if self.remote.private != private or self.remote.tree(self.remote.head):
            # Somebody else was faster.
            self._moved("has appeared meanwhile")

    def commit(self, one: Unpublished, step: Step) -> str:
        """One commit with the whole release, on top of the head that it was planned for; returns its id."""
        parent = self.remote.head
        assert parent is not None

        def landed() -> str | None:
            """The commit, where an answer was lost after it was made."""
            self.remote.refresh()
            if self.remote.head == parent:
                return None
            head = self.remote.head
            if head is None or not one.release.is_tree(self.remote.tree(head)):
                self._moved("has moved on meanwhile")
            return head

        self.watch.say(announced(step))
        try:
            commit = self._commit(one, step, parent, again=landed)
        except ConflictError:
            commit = landed() or self._moved("has moved on meanwhile")
        self.remote.head = commit
        return commit

    def propose(self, one: Unpublished, step: Step) -> Step:
        """The same as a pull request, which stays open until a person merges it."""
        name = self.remote.name

        def proposed() -> str | None:
            self.remote.refresh()
            for number, commit in sorted(self.remote.pulls.items()):
                if one.release.is_manifest(self.remote.manifest(commit)) and self.remote.pull_is_open(number):
                    return f"{self.connection.page(name)}/discussions/{number}"
            return None

        url = proposed()
        if url is None:
            self.watch.say(f"{announced(step)}, as a pull request")
            try:
                url = self._commit(one, step, self.remote.head, again=proposed, create_pr=True)
            except ConflictError:
                self._moved("has moved on meanwhile")
            self.watch.say(f"{step.version}: pull request {url}")
        else:
            self.watch.say(f"{step.version}: is in pull request {url} already")
        return replace(step, pull_request=url)

    def _commit(
        self,
        one: Unpublished,
        step: Step,
        parent: str | None,
        *,
        again: Callable[[], str | None],
        create_pr: bool = False,
    ) -> str:
        """The id of the commit, or the pull request's address."""

        def attempt() -> str:
            with _operations(one, self.watch) as operations:
                try:
                    made = self.connection.api.create_commit(
                        **self.place,
                        operations=operations,
                        commit_message=f"Release {step.version}",
                        commit_description=_description(one.release),
                        parent_commit=parent,
                        create_pr=create_pr,
                    )
                except ValueError as error:
                    if _is_done(error) and (found := again()) is not None:
                        return found
                    raise
            return str(made.pr_url if create_pr else made.oid)

        with self._access_named():
            try:
                return self.connection.call(f"publishing {step.version}", attempt, again=again)
            except ValueError as error:
                said = self.connection.words(str(error))
                if "LFS batch API returned errors" in said:  # a full quota, for one
                    raise HubError(f"publishing {step.version}: the Hub takes no large file ({said})") from None
                if "metadata" not in said:  # the Hub's check of the card's YAML
                    raise
                raise HubError(f"{one.release.folder / 'README.md'}: the Hub refuses the card ({said})") from None

    def tag(self, version: str, commit: str) -> None:
        """The tag on a commit. One that is there already must be on the same."""

        def tagged() -> bool | None:
            self.remote.refresh()
            at = self.remote.tags.get(version)
            if at not in (None, commit):
                raise HubConflictError(
                    f"{self.remote.name}: tag {version} is on another commit now ({str(at)[:8]}, not "
                    f"{commit[:8]}); look at who else publishes there, then push again"
                )
            return True if at else None

        def attempt() -> bool:
            # Without a message: such a tag is the commit, and no object of its own.
            self.connection.api.create_tag(**self.place, tag=version, revision=commit)
            return True

        with self._access_named():
            try:
                self.connection.call(f"tagging {version}", attempt, again=tagged)
            except ConflictError as error:
                if tagged() is None:
                    # Something else has the name, such as a branch: git takes one for the other.
                    raise HubConflictError(
                        f"{error}, and there is no such tag; look for a branch called {version} in "
                        f"{self.remote.name}, remove it, then push again"
                    ) from None

    def _moved(self, how: str) -> NoReturn:
        raise HubConflictError(
            f"{self.remote.name} {how}: somebody else is writing to it; nothing of theirs was touched. Push again "
            "when they are done"
        )

    @contextmanager
    def _access_named(self) -> Iterator[None]:
        """A refusal, with whose token it was."""
        name = self.remote.name
        try:
            yield
        except AbsentError:
            raise HubAccessError(
                f"{name}: the token of {self.who} cannot see or make it; is it somebody else's?"
            ) from None
        except HubAccessError as error:
            raise HubAccessError(
                f"{error}; the token of {self.who} must have write access to {name.split('/')[0]}"
            ) from None


def _is_done(error: ValueError) -> bool:
    """Whether the client failed only at the address in the answer: a Hub behind another address than its own (a
    mirror, a gateway) says the one that it knows, and the work is done by then."""
    return "Unable to retrieve user and repo ID" in str(error)


def _description(release: Release) -> str:
    manifest = release.manifest
    return (
        f"{counted(manifest['rows'], 'row')} of {counted(manifest['tasks'], 'task')}, "
        f"release {manifest['release']}, published by selfinstruct-hub {__version__}"
    )


@contextmanager
def _operations(one: Unpublished, watch: Watch) -> Iterator[list[Any]]:
    """What a commit does, file by file: deleting a whole folder could take files along that stay."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    written = {path: one.release.files[path] for path in (*one.added, *one.changed)}
    total = sum(file.size for file in written.values())
    sent = 0

    def moved(count: int) -> None:
        nonlocal sent
        sent += count
        watch.sent(sent, total)

    with contextlib.ExitStack() as stack:
        counted_files = sorted(written, key=lambda path: -written[path].size)[:_MOST_COUNTED]
        operations: list[Any] = []
        for path, file in written.items():
            source: Any = file.path
            if path in counted_files:
                source = stack.enter_context(_Counted(file.path, moved))
            operation = CommitOperationAdd(path, source)
            if operation.upload_info.sha256.hex() != file.sha256:
                raise ReleaseError(f"{file.path}: has changed since it was checked; nothing of it was published")
            if isinstance(source, _Counted):
                source.counts = True
            operations.append(operation)
        yield [*operations, *(CommitOperationDelete(path, is_folder=False) for path in one.deleted)]


class _Counted(io.BufferedReader):
    """A file that tells how many bytes were read of it for the first time, once `counts` is set."""

    def __init__(self, path: Path, moved: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path))
        self.counts = False
        self._moved = moved
        self._most = 0

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        if self.counts and (at := self.tell()) > self._most:
            self._moved(at - self._most)
            self._most = at
        return piece

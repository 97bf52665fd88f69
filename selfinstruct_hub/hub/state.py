"""Which releases are published already, and what the next commits change: releases beside what the Hub holds.

Reads only. Everything that would build on somebody else's work is refused here, before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfinstruct_hub import versions
from selfinstruct_hub.errors import HubConflictError
from selfinstruct_hub.hub.local import LocalFile, Release
from selfinstruct_hub.hub.remote import Remote


@dataclass(frozen=True)
class Unpublished:
    """A release that has no commit yet, and what its commit does to the one before."""

    release: Release
    added: tuple[str, ...]
    changed: tuple[str, ...]
    deleted: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """`published` have commit and tag, `untagged` (version, commit) only a commit; `unpublished` neither. All by
    version."""

    published: tuple[str, ...]
    untagged: tuple[tuple[str, str], ...]
    unpublished: tuple[Unpublished, ...]


def compare(releases: Sequence[Release], remote: Remote) -> Comparison:
    """How far `releases` (by version) are published in `remote`.

    Raises HubConflictError where a tag holds something else, or main is not at the newest that is published.
    """
    if not remote.exists or remote.head is None:
        return Comparison((), (), _changes(releases, {}))
    tagged = [release for release in releases if release.version in remote.tags]
    for release in tagged:
        if not release.is_outline(remote.tree(remote.tags[release.version])):
            raise HubConflictError(
                f"{remote.name}: tag {release.version} holds another release than {release.folder}; a published "
                "version never changes, so push to another repository, or pull that one and grow on from it"
            )
    rest = [release for release in releases if release.version not in remote.tags]
    published = tuple(release.version for release in tagged)
    if not rest:
        return Comparison(published, (), ())
    tree = remote.tree(remote.head)
    if not tree and not tagged:
        return Comparison(published, (), _changes(rest, {}))
    at = next((release for release in releases if release.is_manifest(remote.manifest(remote.head))), None)
    if at is None or not at.is_tree(tree):
        raise HubConflictError(_diverged(remote, releases, at))
    below = [release for release in rest if _order(release) <= _order(at)]
    untagged = tuple((release.version, _commit_of(release, at, remote)) for release in below)
    if newer := [release.version for release in tagged if _order(release) > _order(at)]:
        raise HubConflictError(
            f"{remote.name}: main is back at {at.version}, and tag {newer[-1]} is newer; bring main to that tag, "
            "then push again"
        )
    return Comparison(published, untagged, _changes([r for r in rest if r not in below], at.files))


def _order(release: Release) -> tuple[int, int, int]:
    return versions.parse(release.version)


def _commit_of(release: Release, at: Release, remote: Remote) -> str:
    """The commit of a release that has no tag and is not newer than the one that main is at."""
    assert remote.head is not None
    if release is at:
        return remote.head
    for commit, title in remote.commits():
        # Merging a pull request adds its number to the title.
        if title.startswith(f"Release {release.version}") and release.is_manifest(remote.manifest(commit)):
            return commit
    raise HubConflictError(
        f"{remote.name}: main is at {at.version} already, and {release.version} was never published there; move "
        f"{release.folder} out of the workspace, or push to another repository"
    )


def _changes(releases: Sequence[Release], before: Mapping[str, LocalFile]) -> tuple[Unpublished, ...]:
    """What the commit of each does to the one before it; the first finds the files `before`."""
    found = []
    for release in releases:
        files = release.files
        found.append(
            Unpublished(
                release,
                added=tuple(path for path in files if path not in before),
                changed=tuple(p for p, file in files.items() if p in before and before[p].sha256 != file.sha256),
                deleted=tuple(path for path in before if path not in files),
            )
        )
        before = files
    return tuple(found)


def _diverged(remote: Remote, releases: Sequence[Release], at: Release | None) -> str:
    """Why main cannot be built on, and what to do."""
    assert remote.head is not None
    tree = remote.tree(remote.head)
    newest, title = remote.commits()[0]
    where = f"{remote.name}: main (commit {newest[:8]}, {title!r})"
    if at is not None:
        other = at.differing(tree)
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        return (
            f"{where} is {at.version} with changes that push did not make ({', '.join(other[:3])}{more}); undo "
            "them on the Hub, or push to another repository"
        )
    known = set(remote.tags.values())
    if remote.head in known:
        tag = next(tag for tag, commit in remote.tags.items() if commit == remote.head)
        return (
            f"{where} is {tag}, which this workspace does not have; `selfinstruct-hub pull {remote.name} NEW-DIR` "
            "makes a workspace that goes on from there"
        )
    return (
        f"{where} holds files that push did not put there ({', '.join(sorted(tree)[:3]) or 'none any more'}); "
        "undo that on the Hub, or push to another repository"
    )

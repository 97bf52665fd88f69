"""The releases of a workspace as a push sees them: files with sizes and digests, as their manifests say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from selfinstruct_hub import versions
from selfinstruct_hub.errors import ReleaseError, WorkspaceError
from selfinstruct_hub.hub.remote import KEPT, Stored, Tree
from selfinstruct_hub.release import read_manifest
from selfinstruct_hub.workspace import MANIFEST, is_release


@dataclass(frozen=True)
class LocalFile:
    """A file of a release, as its manifest says."""

    path: Path
    size: int  # bytes
    sha256: str

    def is_stored(self, stored: Stored) -> bool:
        """Whether `stored` is this file. Raises ReleaseError where it had to be read, and is not what the manifest
        says: what differs then lies here, and not on the Hub."""
        return stored.is_file(self.size, self.sha256, lambda: self.git_id)

    @cached_property
    def git_id(self) -> str:
        """Git's id of the content: a SHA-1 with a header."""
        blob = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        digest = hashlib.sha256()
        try:
            with self.path.open("rb") as file:
                while piece := file.read(1 << 20):
                    blob.update(piece)
                    digest.update(piece)
        except OSError as error:
            raise ReleaseError(
                f"{self.path}: cannot be read ({error.strerror}), and {MANIFEST} names it; restore it from a copy"
            ) from None
        if digest.hexdigest() != self.sha256:
            raise ReleaseError(f"{self.path}: is not the file that was released; restore it from a copy")
        return blob.hexdigest()


@dataclass(frozen=True)
class Release:
    """A release folder. `files` are by their path in it, the manifest last."""

    version: str
    folder: Path
    manifest: Mapping[str, Any]
    files: Mapping[str, LocalFile]

    @property
    def manifest_file(self) -> LocalFile:
        return self.files[MANIFEST]

    def is_manifest(self, stored: Stored | None) -> bool:
        """Whether `stored` is this release's manifest, to the byte."""
        return stored is not None and self.manifest_file.is_stored(stored)

    def is_tree(self, tree: Tree) -> bool:
        """Whether a commit with `tree` holds this release and nothing else."""
        return tree.keys() == self.files.keys() and all(
            file.is_stored(tree[name]) for name, file in self.files.items()
        )

    def is_outline(self, tree: Tree) -> bool:
        """The same as far as it can be told without reading a file here but the manifest: the files of an older
        release may be gone from the workspace, or have been touched."""
        return (
            tree.keys() == self.files.keys()
            and self.is_manifest(tree[MANIFEST])
            and all(
                (stored.size, stored.sha256 or file.sha256) == (file.size, file.sha256)
                for stored, file in ((tree[name], file) for name, file in self.files.items())
            )
        )

    def differing(self, tree: Tree) -> list[str]:
        """The paths at which a commit with `tree` is another one, sorted."""
        return sorted(
            {path for path in tree if path not in self.files}
            | {name for name, file in self.files.items() if name not in tree or not file.is_stored(tree[name])}
        )


def releases_of(directory: Path) -> list[Release]:
    """The releases of the workspace `directory`, by version.

    Raises WorkspaceError where there is none, ReleaseError for a manifest that cannot be read or names another
    version than its folder.
    """
    folder = directory / "releases"
    try:
        places = list(folder.iterdir()) if folder.is_dir() else []
        # One that is still being built has a hidden name, and is none yet.
        found = [_release(place) for place in places if not place.name.startswith(".") and is_release(place)]
    except OSError as error:
        raise WorkspaceError(f"{error.filename or folder}: cannot be read ({error.strerror})") from None
    if not found:
        raise WorkspaceError(
            f"{directory}: has no release to publish; `selfinstruct-hub grow {directory}` makes one"
        )
    return sorted(found, key=lambda release: versions.parse(release.version))


def _release(folder: Path) -> Release:
    manifest = read_manifest(folder)
    try:
        version = str(manifest["version"])
        versions.parse(version)
        files = {
            str(file["path"]): LocalFile(folder / file["path"], int(file["bytes"]), str(file["sha256"]))
            for file in manifest["files"]
        }
    except (KeyError, TypeError, ValueError):
        raise ReleaseError(f"{folder / MANIFEST}: is no manifest of a release") from None
    if version != folder.name:
        raise ReleaseError(f"{folder}: holds release {version}; give the folder its name back")
    if clash := (KEPT | {MANIFEST}) & files.keys():
        raise ReleaseError(f"{folder / MANIFEST}: names {min(clash)}, which no release has")
    content = (folder / MANIFEST).read_bytes()
    files[MANIFEST] = LocalFile(folder / MANIFEST, len(content), hashlib.sha256(content).hexdigest())
    return Release(version, folder, manifest, files)

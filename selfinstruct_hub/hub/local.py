"""The releases of a workspace as a push sees them: files with sizes and digests, as their manifests say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct_hub import versions
from selfinstruct_hub.errors import ReleaseError, WorkspaceError
from selfinstruct_hub.hub.remote import KEPT, Stored, Tree
from selfinstruct_hub.release import read_manifest
from selfinstruct_hub.workspace import MANIFEST, is_release


@dataclass(frozen=True)
class LocalFile:
    path: Path
    size: int  # bytes
    sha256: str


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
        file = self.manifest_file
        return stored is not None and stored.is_file(file.path, file.size, file.sha256)

    def is_tree(self, tree: Tree) -> bool:
        """Whether a commit with `tree` holds this release and nothing else."""
        return tree.keys() == self.files.keys() and all(
            tree[name].is_file(file.path, file.size, file.sha256) for name, file in self.files.items()
        )


def releases_of(directory: Path) -> list[Release]:
    """The releases of the workspace `directory`, by version.

    Raises WorkspaceError where there is none, ReleaseError for a manifest that cannot be read or names another
    version than its folder.
    """
    folder = directory / "releases"
    try:
        places = list(folder.iterdir()) if folder.is_dir() else []
        found = [_release(place) for place in places if is_release(place)]
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

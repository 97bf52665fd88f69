"""What a push does, or would do, as plain data: a step for every release. Asks and writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from selfinstruct_hub.figures import counted
from selfinstruct_hub.hub.state import Unpublished


@dataclass(frozen=True)
class Step:
    """One release that is to be published, or was. `sizes` are the bytes of what is added or changed, by path."""

    version: str
    added: tuple[str, ...]
    changed: tuple[str, ...]
    deleted: tuple[str, ...]
    unchanged: int
    sizes: Mapping[str, int]
    commit: str | None = None
    tagged: bool = False
    pull_request: str | None = None

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())

    def as_dict(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "added": list(self.added),
            "changed": list(self.changed),
            "deleted": list(self.deleted),
            "unchanged": self.unchanged,
            "bytes": self.bytes,
            "commit": self.commit,
            "tagged": self.tagged,
            "pull_request": self.pull_request,
        }


@dataclass(frozen=True)
class Pushed:
    """What a push has done, or would do. `published` were there already with their tags; `tagged` had a commit and
    got their tag. `waiting` are releases behind a pull request, which `create_pr` says was asked for."""

    repo: str
    url: str
    created: bool
    private: bool
    dry_run: bool
    published: tuple[str, ...] = ()
    tagged: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    waiting: tuple[str, ...] = ()
    create_pr: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {
            "repo": self.repo,
            "url": self.url,
            "created": self.created,
            "private": self.private,
            "dry_run": self.dry_run,
            "published": list(self.published),
            "tagged": list(self.tagged),
            "releases": [step.as_dict() for step in self.steps],
            "waiting": list(self.waiting),
        }


@dataclass(frozen=True)
class Watch:
    """What the caller wants to hear: a line for every step, and (bytes sent, bytes in all) of a commit."""

    say: Callable[[str], None] = lambda text: None
    sent: Callable[[int, int], None] = lambda done, total: None


def step_of(one: Unpublished) -> Step:
    files = one.release.files
    return Step(
        version=one.release.version,
        added=one.added,
        changed=one.changed,
        deleted=one.deleted,
        unchanged=len(files) - len(one.added) - len(one.changed),
        sizes={path: files[path].size for path in (*one.added, *one.changed)},
    )


def announced(step: Step) -> str:
    """A step in one line, before it is made."""
    kinds = (("added", step.added), ("changed", step.changed), ("deleted", step.deleted))
    parts = [f"{counted(len(files), 'file')} {what}" for what, files in kinds if files]
    return f"{step.version}: {', '.join(parts)}, {size(step.bytes)}"


def size(count: int) -> str:
    """A number of bytes as a person reads it."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"

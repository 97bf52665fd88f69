"""Who asks, and what they may do: tokens, and whose repository may be seen and written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from tests.support.hub.answers import Refused
from tests.support.hub.history import Repo

if TYPE_CHECKING:
    from tests.support.hub.server import Hub


@dataclass(frozen=True)
class User:
    """Whose token it is: a name, organisations it may write to, and what the token may do."""

    name: str
    orgs: tuple[str, ...] = ()
    role: str = "write"  # write | read | fineGrained (may read only)

    def owns(self, namespace: str) -> bool:
        return namespace in (self.name, *self.orgs)


def user_of(hub: Hub, request: web.Request) -> User | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if not scheme:
        return None
    if token not in hub.users:
        raise Refused(401, "", "Invalid credentials in Authorization header")
    return hub.users[token]


def reader(hub: Hub, name: str, user: User | None) -> Repo:
    repo = hub.repos.get(name)
    hidden = repo is not None and repo.private and not (user and user.owns(name.split("/")[0]))
    if repo is None or hidden:
        # As the Hub answers who is not logged in, and who is.
        raise Refused(404 if user else 401, "RepoNotFound", "Repository not found")
    return repo


def writer(hub: Hub, name: str, user: User | None, *, proposes: bool = False) -> Repo:
    repo = reader(hub, name, user)
    if user is None:
        raise Refused(401, "", "Invalid username or password.")
    if not (proposes or user.owns(name.split("/")[0])) or user.role != "write":
        raise Refused(403, "", "You don't have the rights to write to this repository")
    return repo

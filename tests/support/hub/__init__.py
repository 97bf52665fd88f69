"""A Hub on loopback that can be read and written over real HTTP, with the faults of a network. See `server`."""

from tests.support.hub.faults import AFTER, BEFORE, MIDDLE, Fault
from tests.support.hub.history import Blob, Commit, Repo
from tests.support.hub.server import Asked, Hub, User, running

__all__ = ["AFTER", "BEFORE", "MIDDLE", "Asked", "Blob", "Commit", "Fault", "Hub", "Repo", "User", "running"]

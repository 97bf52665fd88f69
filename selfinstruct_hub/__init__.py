"""Grow a pool of instruction tasks with a language model and publish every round as a versioned dataset.

What the command line does is here as functions: see `library`. Names are imported when they are asked for, so that
`import selfinstruct_hub` costs nothing.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from selfinstruct_hub.config import Settings
    from selfinstruct_hub.errors import SelfInstructError
    from selfinstruct_hub.library import (
        abandon,
        diff,
        export_file,
        fill,
        gc,
        grow,
        import_file,
        pull,
        push,
        regenerate,
        replay,
        report,
        reproduce,
        review_apply,
        review_export,
        status,
        verify,
    )
    from selfinstruct_hub.recipes import Complete, Passes, Plan, Recipe
    from selfinstruct_hub.recipes import register as register_recipe
    from selfinstruct_hub.records import Candidate, Completion, Decoding, Instance, Task
    from selfinstruct_hub.sampling import Deck, demonstrations
    from selfinstruct_hub.working import Hooks
    from selfinstruct_hub.workspace import Workspace

__all__ = [
    "Candidate",
    "Complete",
    "Completion",
    "Deck",
    "Decoding",
    "Hooks",
    "Instance",
    "Passes",
    "Plan",
    "Recipe",
    "SelfInstructError",
    "Settings",
    "Task",
    "Workspace",
    "__version__",
    "abandon",
    "demonstrations",
    "diff",
    "export_file",
    "fill",
    "gc",
    "grow",
    "import_file",
    "pull",
    "push",
    "regenerate",
    "register_recipe",
    "replay",
    "report",
    "reproduce",
    "review_apply",
    "review_export",
    "status",
    "verify",
]

# Where each name is, and what it is called there.
_ROOMS = {
    "config": ("Settings",),
    "errors": ("SelfInstructError",),
    "library": (
        *("abandon", "diff", "export_file", "fill", "gc", "grow", "import_file", "pull", "push", "regenerate"),
        *("replay", "report", "reproduce", "review_apply", "review_export", "status", "verify"),
    ),
    "recipes": ("Complete", "Passes", "Plan", "Recipe", "register_recipe"),
    "records": ("Candidate", "Completion", "Decoding", "Instance", "Task"),
    "sampling": ("Deck", "demonstrations"),
    "working": ("Hooks",),
    "workspace": ("Workspace",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}
_CALLED = {"register_recipe": "register"}


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    room = import_module(f"{__name__}.{_ROOM_OF[name]}")
    found = globals()[name] = getattr(room, _CALLED.get(name, name))
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Python sets a package's attribute to each submodule that is imported. Where a function has the name of its
    room (`grow`), the name stays the function's; the room is imported from by its path."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in _ROOM_OF):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

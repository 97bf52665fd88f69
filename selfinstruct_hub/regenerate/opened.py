"""Whether a regeneration that was begun goes on: with the same choice, evaluation sets, model and prompts."""

from __future__ import annotations

from selfinstruct_hub.endpoint import Endpoint
from selfinstruct_hub.errors import UsageError
from selfinstruct_hub.judging import Gates
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import REGENERATE, Revision
from selfinstruct_hub.regenerate.choosing import Choice
from selfinstruct_hub.rounds import check_closed, is_noted, unfinished


def opened_now(pool: Pool, choice: Choice) -> Revision | None:
    """The regeneration that is not finished. Raises UsageError where something else is chosen now, PoolError where
    another kind of revision is open."""
    revision = pool.open_revision()
    if revision is None:
        return None
    if revision.kind != REGENERATE:
        check_closed(pool)
    if other := _differing(revision, choice):
        options = ", ".join(f"--{name}" for name in other)
        raise UsageError(f"{pool.path}: {unfinished(revision)}; it was begun with another {options}")
    return revision


def over_now(pool: Pool, choice: Choice) -> Revision | None:
    """The regeneration of the same choice that is complete, and whose command has not come to its end."""
    revision = next(reversed(pool.revisions()), None)
    if revision is None or revision.kind != REGENERATE or not is_noted(pool, revision.number):
        return None
    if pool.rounds()[-1].number > revision.after_round:
        return None  # others have worked here since, so that it is asked for on purpose
    return None if _differing(revision, choice) else revision


def _differing(revision: Revision, choice: Choice) -> list[str]:
    """What is chosen otherwise now."""
    was, now = revision.settings, {**choice.as_settings(), "part": choice.part, "seed": choice.seed}
    begun = {**was["chosen"], "part": was["part"], "seed": was["seed"]}
    return [name for name, value in now.items() if value is not None and value != begun[name]]


def check_gates(revision: Revision, gates: Gates) -> None:
    """Raises UsageError where `revision` was begun with other evaluation sets."""
    if revision.settings.get("decontamination") != gates.settings["decontamination"]:
        raise UsageError(
            f"{revision.version} was begun with other evaluation sets than `decontamination` names now; put them "
            "back until it is finished, or put everything back with --abandon"
        )


def check_endpoint(revision: Revision, endpoint: Endpoint) -> None:
    """A revision is of one model, asked in one form."""
    was = revision.settings
    if was["model"] != endpoint.model:
        raise UsageError(
            f"{revision.version} was begun with {was['model']}, and the endpoint serves {endpoint.model}; go on "
            "with an endpoint of that model, or put everything back with --abandon"
        )
    if was["chat"] != endpoint.chat:
        begun, now = ("with", "without") if was["chat"] else ("without", "with")
        raise UsageError(
            f"{revision.version} was begun {begun} a chat template, and the endpoint now works {now} one; go on "
            f"with `endpoint.chat: {'on' if was['chat'] else 'off'}`, or put everything back with --abandon"
        )

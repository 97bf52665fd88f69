"""By which gates the rows of each round stand, after all that revisions have done to them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfinstruct_hub.records import REGENERATE, REPLAY, TOP_UP

# A gate's section of the settings, and the key that it is there with.
GATES = {"decontamination": "against", "paraphrases": "model"}


def standing(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each round of a release its number as `round`, the novelty thresholds that its rows have passed, one of
    them each, as `thresholds`, and under each gate's name its settings where all rows have passed it.

    A replay judges all of a round. What tops it up is judged by rules of its own, so a gate holds for all rows
    only where both had the same; and so it is with new inputs and evaluation sets.
    """
    found = []
    for round_ in manifest["rounds"]:
        number, settings = round_["round"], round_["settings"]
        thresholds, gates = [settings["novelty"]["threshold"]], _gates(settings)
        for one in manifest.get("revisions", ()):
            said = one["settings"]
            if one["kind"] == REPLAY and number in said["judged"]:
                thresholds, gates = [said["novelty"]["threshold"]], _gates(said)
            elif one["kind"] == TOP_UP and (by := said["judging"].get(str(number))):
                thresholds.append(by["novelty"]["threshold"])
                own = _gates(by)
                gates = {name: gate if gate == own[name] else None for name, gate in gates.items()}
            elif one["kind"] == REGENERATE and said["part"] == "instance" and number in one["rounds"]:
                sets = _gates(said)["decontamination"]
                gates["decontamination"] = sets if sets == gates["decontamination"] else None
        found.append({"round": number, "thresholds": thresholds, **gates})
    return found


def _gates(settings: Mapping[str, Any]) -> dict[str, Mapping[str, Any] | None]:
    sections = {name: settings.get(name) or {} for name in GATES}
    return {name: section if section.get(GATES[name]) else None for name, section in sections.items()}

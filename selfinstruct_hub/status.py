"""What a workspace holds, as plain data: the contract behind `status --json`."""

from __future__ import annotations

from typing import Any

from selfinstruct_hub.pool import Pool
from selfinstruct_hub.workspace import Workspace


def status(workspace: Workspace) -> dict[str, Any]:
    """Recipe, language, seeds, tasks, rows, versions and rounds; see the README for the keys.

    Reads only: safe while another process grows the workspace.
    """
    settings = workspace.settings()
    result: dict[str, Any] = {
        "recipe": settings.recipe,
        "language": settings.language,
        "seeds": 0,
        "tasks": 0,
        "rows": 0,
        "versions": [],
        "rounds": [],
    }
    if not workspace.pool_file.exists():
        return result
    with Pool.open(workspace.pool_file, read_only=True) as pool:
        result["seeds"] = len(pool.seeds())
        for round_ in pool.rounds():
            counts = pool.counts(round_.number)
            result["rounds"].append(
                {
                    "round": round_.number,
                    "version": round_.version,
                    "recipe": round_.settings["recipe"],
                    **counts,
                    "wanted": round_.wanted,
                    "complete": round_.complete,
                }
            )
            result["tasks"] += counts["tasks"]
            result["rows"] += counts["rows"]
            if workspace.is_released(round_.version):
                result["versions"].append(round_.version)
    return result

"""A pulled workspace is reviewed like any other, and its review is published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfinstruct_hub import config, review, run
from selfinstruct_hub.errors import ReviewError
from selfinstruct_hub.release import read_manifest
from selfinstruct_hub.release.verify import check
from selfinstruct_hub.status import status
from selfinstruct_hub.workspace import Workspace
from tests.support.hub import Hub, running
from tests.support.hub.commands import commands
from tests.support.tgi import Server
from tests.support.tgi import running as serving


def test_rows_of_a_published_dataset_are_reviewed(tmp_path: Path) -> None:
    with serving(Server()) as server:
        own = Workspace.create(tmp_path / "own", config.Settings())
        run.grow(own, config.with_overrides(own.settings(), {"tasks": 9, "endpoint.url": server.url}))
    with running(Hub()) as hub, commands(hub.environment(tmp_path / "home", HF_TOKEN="hf_writes")) as cmd:
        assert cmd("push", own.path, "--repo", "org/tasks").code == 0
        assert cmd("pull", "org/tasks", tmp_path / "w").code == 0
        space = Workspace.open(tmp_path / "w")
        file = tmp_path / "rows.jsonl"
        review.export_file(space, file, rows="all")
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        accepted = [row for row in rows if not row["reason"]]
        won = next(row for row in rows if row["reason"] == "too_short")
        accepted[0] |= {"verdict": "reject", "note": "no"}
        accepted[1] |= {"output": "Corrected.", "valid_task": "yes"}
        accepted[2] |= {"valid_task": "no"}
        won["verdict"] = "accept"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        done = review.apply_file(space, file)
        assert done.release is not None
        check(done.release)
        manifest = read_manifest(done.release)
        assert (manifest["version"], manifest["rows"], manifest["tasks"]) == ("v1.0.1", 9, 9)
        assert status(space)["rows"] == 9
        assert manifest["rounds"][0]["drops"]["rejected_by_reviewer"] == 1
        assert cmd("push", space.path, "--repo", "org/tasks").code == 0
        assert set(hub.repos["org/tasks"].tags) == {"v1.0.0", "v1.0.1"}
        # Whoever pulls it next has the rows as they were reviewed.
        assert cmd("pull", "org/tasks", tmp_path / "again").code == 0
        again = Workspace.open(tmp_path / "again")
        assert status(again)["rows"] == 9
        with pytest.raises(ReviewError, match=r"line 1: .* is no row of this workspace, or none any more"):
            review.apply_file(again, file)

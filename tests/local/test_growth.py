"""Both recipes grow in both languages on the real model: one task each, through every step."""

from pathlib import Path

import pytest

from selfinstruct_hub import config, run
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.recipes import named
from selfinstruct_hub.records import estimated_tokens
from selfinstruct_hub.workspace import Workspace

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("engine")]


# The longest pair of each; what the other two would show is in the tests of recipes.
@pytest.mark.parametrize(("recipe", "language"), [("alpaca", "en"), ("self-instruct", "zh")])
def test_a_task_grows(local_server: str, tmp_path: Path, recipe: str, language: str) -> None:
    workspace = Workspace.create(
        tmp_path / "w", config.with_overrides(config.Settings(), {"recipe": recipe, "language": language})
    )
    # One after the other, so that nothing is asked for that is not needed. Two tasks in one answer are read where
    # an answer is cheap; tests/local/test_endpoint.py does so for the other recipe.
    per_request = 2 if recipe == "alpaca" else 1
    asked_for = {"tasks": 1, "tasks_per_request": per_request, "seed": 3}
    overrides = {**asked_for, "endpoint.url": local_server, "endpoint.concurrency": 1}
    (result,) = run.grow(workspace, config.with_overrides(workspace.settings(), overrides), max_requests=60)
    assert result.release is not None
    with Pool.open(workspace.pool_file, read_only=True) as pool:
        (task,) = pool.tasks(1)
        assert task.instances
        counts = pool.counts(1)
        assert list(counts["stages"]) == list(named(recipe).stages)
        for stage in counts["stages"].values():
            assert stage["parsed"] > 0
        for request, completion in pool.completions(1):
            assert request.decoding.grammar is not None
            if completion.prompt_tokens is not None:
                # What is booked for a prompt before it is asked is no less than what it turns out to take.
                assert completion.prompt_tokens <= estimated_tokens(request.prompt)

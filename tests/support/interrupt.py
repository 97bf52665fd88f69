"""A run that is interrupted again and again, a step later each time, until it comes to its end."""

from __future__ import annotations

from selfinstruct_hub import config, run
from selfinstruct_hub.grow import Progress
from selfinstruct_hub.workspace import Workspace


def grown_in_pieces(space: Workspace, settings: config.Settings, rounds: int) -> list[run.Finished]:
    """The results of the start that was not interrupted any more."""
    for steps in range(1, 100):
        left = steps

        def observe(progress: Progress) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

        try:
            results = run.grow(space, settings, rounds=rounds, hooks=run.Hooks(observe=observe))
        except KeyboardInterrupt:
            continue
        assert steps > 3, "it was hardly interrupted"
        return results
    raise AssertionError("it never came to an end")

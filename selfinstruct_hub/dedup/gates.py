"""Gates on a cluster. No rows and no files here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from selfinstruct_hub.errors import UsageError
from selfinstruct_hub.novelty import FULL_UP_TO, mode_for
from selfinstruct_hub.novelty.seam import Gate

if TYPE_CHECKING:
    from selfinstruct_hub.novelty.cluster import Workers


@contextmanager
def cluster_gates(workers: int | None, address: str | None) -> Iterator[Callable[[float], Gate]]:
    """Makes gates whose texts lie in `workers` processes of a Ray cluster, which start with the first gate: one of
    its own on this machine, or that at `address`. Without a number there are as many as processors are free.

    Raises ClusterError where the cluster cannot be used, UsageError for a threshold at which it is of no use.
    """
    with ExitStack() as stack:
        started: list[Workers] = []

        def gate(threshold: float) -> Gate:
            if mode_for(FULL_UP_TO + 1, threshold) == "full":
                raise UsageError(
                    f"--threshold {threshold:g}: on a Ray cluster it must be 0.5 or more, because below that "
                    "nearly everything has to be compared; raise it, or leave out --workers and --ray"
                )
            if not started:
                from selfinstruct_hub.novelty.cluster import Workers

                started.append(stack.enter_context(Workers(workers, address)))
            return started[0].gate(threshold)

        yield gate

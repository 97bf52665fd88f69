"""What a gate must do to be asked by `dedup`; the one that is asked where no other is handed in, and those on a
cluster.

No rows and no files here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

from selfinstruct_hub.errors import UsageError
from selfinstruct_hub.novelty import FULL_UP_TO, NoveltyGate, mode_for
from selfinstruct_hub.records import Similarity

if TYPE_CHECKING:
    from selfinstruct_hub.novelty.cluster import Workers


class Comparison(Protocol):
    """Texts that are compared one after the other, each when it has its turn."""

    def __getitem__(self, place: int, /) -> Similarity:
        """What the text at `place` is nearest to, of all that the gate holds then."""

    def accept(self, place: int, key: str, /) -> None:
        """Adds the text at `place`, which has had its turn, to the gate under the id `key`."""


class Gate(Protocol):
    """Texts that others are compared with. Of what scores above its threshold, the nearest is reported."""

    def __len__(self) -> int: ...

    def extend(self, instructions: Iterable[tuple[str, str]], /) -> None:
        """Adds (id, text) pairs."""

    def comparison(self, instructions: Sequence[str], /) -> Comparison:
        """Compares several texts."""


def novelty_gate(threshold: float) -> Gate:
    """A gate in this process, made for a file that may be long: the verdict is the same in both modes."""
    return NoveltyGate(1, mode=mode_for(FULL_UP_TO + 1, threshold), threshold=threshold)


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

"""The fast gate for pools beyond one machine's memory: a job on a Ray cluster.

The pool is split into shares, one for each worker, which keeps its texts and ids and finds what is above the
threshold among them. The driver keeps the numbers of all tokens, so that every text is read into tokens once, and
of the texts only the batch at hand: it sends the batch to all workers, compares its texts with one another, and
hands those that were accepted to the worker with the least. Every text has its number in the whole pool, by which
ties fall: verdicts, neighbours and scores are those of `NoveltyGate` in fast mode, to the last bit.

Nothing is imported from Ray until workers start.
"""

from __future__ import annotations

import platform
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from types import TracebackType
from typing import Any

from selfinstruct_hub import __version__
from selfinstruct_hub.errors import ClusterError
from selfinstruct_hub.novelty.encoding import Alphabet, Encoded, Texts
from selfinstruct_hub.novelty.ray_connection import connected, first_line, one_line
from selfinstruct_hub.novelty.search import FastSearch
from selfinstruct_hub.records import Neighbour, Similarity

# Texts that go to a worker at once, and how many such parcels may be on their way to each.
_PARCEL, _ON_THEIR_WAY = 4096, 2
# Seconds for every worker to start: machines may have to be woken up.
_START = 120.0

Found = tuple[int, int, float, str]  # the query's number in its batch, the text's in the whole pool, F1, the id


class Share:
    """What one worker holds of the pool."""

    def __init__(self, most_similar: int, threshold: float) -> None:
        self._texts = Texts()
        self._search = FastSearch(self._texts, most_similar, threshold)
        # The numbers that the first text of each parcel has here and in the whole pool.
        self._own: list[int] = []
        self._whole: list[int] = []

    def hold(self, first: int, ids: Sequence[str], texts: Sequence[Encoded]) -> None:
        """Adds texts, the first of them number `first` of the whole pool."""
        self._own.append(len(self._texts))
        self._whole.append(first)
        for key, text in zip(ids, texts, strict=True):
            self._texts.append(key, text)

    def above(self, queries: Sequence[Encoded]) -> list[Found]:
        """What of this share scores above the threshold, the most similar of each query."""
        self._search.settle()
        found = []
        for number, known in enumerate(self._search.known(queries, len(self._texts))):
            # Texts have the same order here as in the whole pool, so that ties fall as they do there.
            best, _ = self._search.nearest(known, [], {}, len(self._texts))
            found += [(number, self._number(place), score, self._texts.ids[place]) for place, score in best]
        return found

    def _number(self, place: int) -> int:
        parcel = bisect_right(self._own, place) - 1
        return self._whole[parcel] + place - self._own[parcel]


class Worker:
    """A process of the cluster, with its share of every gate."""

    def __init__(self) -> None:
        self._shares: list[Share] = []

    def about(self) -> tuple[str, str]:
        """The machine, and the version of this package there."""
        return platform.node(), __version__

    def open(self, most_similar: int, threshold: float) -> None:
        """Makes an empty share of the next gate."""
        self._shares.append(Share(most_similar, threshold))

    def hold(self, gate: int, first: int, ids: Sequence[str], texts: Sequence[Encoded]) -> None:
        """`Share.hold` for gate number `gate`."""
        self._shares[gate].hold(first, ids, texts)

    def above(self, gate: int, queries: Sequence[Encoded]) -> list[Found]:
        """`Share.above` for gate number `gate`."""
        return self._shares[gate].above(queries)


class Workers:
    """`count` processes of a Ray cluster, among which gates are shared out: of a cluster of its own on this
    machine, or of that at `address` ("auto", "host:6379", "ray://host:10001"), where every machine has this
    version of this package. Without `count` they are as many as processors are free there. A process that is
    connected to Ray already stays so, whatever the address. Raises ClusterError where the cluster cannot be used,
    or fails while it is: what a lost worker held is lost, and so are the gates.

        with Workers(4) as workers:
            gate = workers.gate(0.7)
    """

    def __init__(self, count: int | None = None, address: str | None = None) -> None:
        assert count is None or count > 0
        self.actors: list[Any] = []
        self._count = count
        self._address = address
        self._gates = 0
        self._open = ExitStack()

    def __enter__(self) -> Workers:
        with ExitStack() as stack:
            count = stack.enter_context(connected(self._count, self._address))
            stack.callback(self._remove)
            self._start(count)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def __len__(self) -> int:
        return len(self.actors)

    def gate(self, threshold: float, most_similar: int = 1) -> ClusterGate:
        """An empty gate, in all workers."""
        self._gates += 1
        with one_line():
            opened = [actor.open.remote(most_similar, threshold) for actor in self.actors]
        return ClusterGate(self.actors, self._gates - 1, opened, threshold, most_similar)

    def _start(self, count: int) -> None:
        import ray

        # Each has a processor, so that a full cluster does not take it; on different machines, for their memory.
        worker = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(Worker)
        with one_line():
            self.actors = [worker.remote() for _ in range(count)]
            asked = [actor.about.remote() for actor in self.actors]
            ready, missing = ray.wait(asked, num_returns=count, timeout=_START)
        if missing:
            raise ClusterError(
                f"only {len(ready)} of {count} workers started in {_START:g} seconds: each takes a CPU of "
                "the cluster, and too few are free; ask for fewer workers"
            )
        try:
            answers = ray.get(asked)
        except Exception as error:  # whatever importing this package raises there, in Ray's wrapping
            raise ClusterError(
                f"a worker did not start: every machine of the cluster needs selfinstruct-hub {__version__} "
                f"({first_line(error)})"
            ) from error
        for machine, version in answers:
            if version != __version__:
                raise ClusterError(
                    f"selfinstruct-hub is {__version__} here and {version} on {machine}: "
                    "every machine of the cluster needs the same version"
                )

    def _remove(self) -> None:
        import ray

        for actor in self.actors:
            with suppress(Exception):  # it may be gone, and the whole cluster too
                ray.kill(actor)
        self.actors = []


class ClusterGate:
    """A `NoveltyGate` in fast mode whose texts lie in workers; `Workers.gate` makes it."""

    def __init__(
        self, actors: Sequence[Any], number: int, opened: Iterable[Any], threshold: float, most_similar: int
    ) -> None:
        self.threshold = threshold
        self._actors = actors
        self._number = number
        self._under_way = deque(opened)
        self._alphabet = Alphabet()
        self._search = FastSearch(Texts(), most_similar, threshold)  # for what is on the driver, without a pool
        self._sizes = [0] * len(actors)
        self._accepted: list[tuple[str, Encoded]] = []  # and not handed to a worker yet

    def __len__(self) -> int:
        return sum(self._sizes) + len(self._accepted)

    def extend(self, instructions: Iterable[tuple[str, str]]) -> None:
        """Adds (id, instruction) pairs to what is compared with."""
        self._hand_over()
        pairs = iter(instructions)
        while parcel := list(islice(pairs, _PARCEL)):
            self._hold([(key, self._alphabet.encoded(text)) for key, text in parcel])

    def comparison(self, instructions: Sequence[str]) -> ClusterComparison:
        """Compares several instructions one after the other, as `NoveltyGate.comparison` does."""
        return ClusterComparison(self, instructions)

    def _ask(self, queries: Sequence[Encoded]) -> list[Any]:
        """Sends `queries` to all workers."""
        import ray

        self._hand_over()
        with one_line():
            sent = ray.put(queries)  # once for all workers of a machine
            return [actor.above.remote(self._number, sent) for actor in self._actors]

    def _answers(self, asked: list[Any]) -> list[Found]:
        import ray

        with one_line():
            while self._under_way:
                ray.get(self._under_way.popleft())
            return [found for answer in ray.get(asked) for found in answer]

    def _accept(self, key: str, text: Encoded) -> None:
        self._accepted.append((key, text))

    def _hand_over(self) -> None:
        """Hands what was accepted to a worker, all of it to one: texts are indexed by the thousand."""
        accepted, self._accepted = self._accepted, []
        if accepted:
            self._hold(accepted)

    def _hold(self, parcel: Sequence[tuple[str, Encoded]]) -> None:
        import ray

        least = self._sizes.index(min(self._sizes))
        ids, texts = zip(*parcel, strict=True)
        with one_line():
            self._under_way.append(self._actors[least].hold.remote(self._number, sum(self._sizes), ids, texts))
            while len(self._under_way) > _ON_THEIR_WAY * len(self._actors):
                ray.get(self._under_way.popleft())
        self._sizes[least] += len(parcel)


class ClusterComparison:
    """`Comparison` over a cluster: instructions that are compared one after the other, with all that is in the
    gate when each has its turn. The workers look for a batch while the driver compares it in itself and reads the
    next one into tokens; that is not sent before this one is done, for what is accepted of this one counts."""

    def __init__(self, gate: ClusterGate, instructions: Sequence[str]) -> None:
        self._gate = gate
        self._instructions = instructions
        self._queries: list[Encoded] = []  # as far as they were needed
        self._first = self._size = 0
        self._known: list[list[tuple[int, float]]] = []
        self._mutual: Any = ()
        self._added: dict[int, int] = {}
        self._ids: dict[int, str] = {}  # of what was found and accepted, by number in the pool

    def __getitem__(self, place: int) -> Similarity:
        row = place - self._first
        # Anew, too, where something was added to the gate that is not of these.
        if not 0 <= row < len(self._known) or len(self._gate) != self._size + len(self._added):
            self._begin(place)
            row = 0
        best, mean = self._gate._search.nearest(self._known[row], self._mutual[row], self._added, self._size)
        return Similarity(tuple(Neighbour(self._ids[number], score) for number, score in best), mean)

    def accept(self, place: int, key: str) -> None:
        """Adds the instruction at `place`, which has had its turn, to the gate under the id `key`."""
        number = len(self._gate)
        self._added[place - self._first] = number
        self._ids[number] = key
        self._gate._accept(key, self._queries[place])

    def _begin(self, place: int) -> None:
        """Compares those from `place` on, as many as one does at once."""
        gate = self._gate
        end = place + gate._search.batch(len(gate))
        self._read(end)
        queries = self._queries[place:end]
        asked = gate._ask(queries)
        self._first, self._size, self._added = place, len(gate), {}
        self._mutual = gate._search.mutual(queries)
        self._read(2 * end - place)
        self._known, self._ids = [[] for _ in queries], {}
        for row, number, score, key in gate._answers(asked):
            self._known[row].append((number, score))
            self._ids[number] = key

    def _read(self, end: int) -> None:
        encoded = self._gate._alphabet.encoded
        self._queries += [encoded(text) for text in self._instructions[len(self._queries) : end]]

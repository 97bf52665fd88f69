"""The fast gate for pools beyond one machine's memory: a job on a Ray cluster.

The pool is split into shares, one for each worker, which keeps its texts and ids and finds what is above the
threshold among them. The driver keeps the numbers of all tokens, so that every text is read into tokens once, and
of the texts only the batch at hand: it sends the batch to all workers, compares its texts with one another, and
hands those that were accepted to the worker with the least. Every text has its number in the whole pool, by which
ties fall: verdicts, neighbours and scores are those of `NoveltyGate` in fast mode, to the last bit.

Nothing is imported from Ray until a gate is opened. What a failing cluster says becomes one line here.
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from itertools import islice
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any

from selfinstruct_hub import __version__
from selfinstruct_hub.errors import ClusterError
from selfinstruct_hub.novelty.encoding import Alphabet, Encoded, Texts
from selfinstruct_hub.novelty.search import FastSearch
from selfinstruct_hub.records import Neighbour, Similarity

# Texts that go to a worker at once, and how many such parcels may be on their way to each.
_PARCEL, _ON_THEIR_WAY = 4096, 2
# Seconds for a machine to answer at all, to let us into its cluster, and for every worker to start: machines may
# have to be woken up.
_ANSWER, _JOIN, _START = 10.0, 60.0, 120.0
# Bytes for what is on its way, on each machine of a cluster of our own; Ray takes a third of all memory otherwise.
_STORE = 100_000_000
# The longest folder that leaves room for the names of Ray's sockets in it, of which a path may have 107 bytes.
_LONGEST_FOLDER = 30

Found = tuple[int, int, float, str]  # the query's number in its batch, the text's in the whole pool, F1, the id


class Share:
    """What one worker holds of the pool."""

    def __init__(self, most_similar: int, threshold: float) -> None:
        self._texts = Texts()
        self._search = FastSearch(self._texts, most_similar, threshold)
        # The numbers that the first text of each parcel has here and in the whole pool.
        self._own: list[int] = []
        self._whole: list[int] = []

    def about(self) -> tuple[str, str]:
        """The machine, and the version of this package there."""
        return platform.node(), __version__

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
            best, _ = self._search.nearest(queries[number], known, [], {}, len(self._texts))
            found += [(number, self._number(place), score, self._texts.ids[place]) for place, score in best]
        return found

    def _number(self, place: int) -> int:
        parcel = bisect_right(self._own, place) - 1
        return self._whole[parcel] + place - self._own[parcel]


class ClusterGate:
    """A `NoveltyGate` in fast mode over `workers` processes of a Ray cluster: one of its own on this machine, or
    that at `address` ("auto", "host:6379", "ray://host:10001"), where every machine has this version of this
    package. A process that is connected to Ray already stays so, whatever the address. Raises ClusterError where
    the cluster cannot be used, or fails while it is: what a lost worker held is lost, and so is the gate.

        with ClusterGate(threshold=0.7, workers=4) as gate: ...
    """

    def __init__(
        self, most_similar: int = 1, *, threshold: float, workers: int, address: str | None = None
    ) -> None:
        assert workers > 0
        self.threshold = threshold
        self._most_similar = most_similar
        self._workers = workers
        self._address = address
        self._alphabet = Alphabet()
        self._search = FastSearch(Texts(), most_similar, threshold)  # for what is on the driver, without a pool
        self._actors: list[Any] = []
        self._sizes = [0] * workers
        self._accepted: list[tuple[str, Encoded]] = []  # and not handed to a worker yet
        self._under_way: deque[Any] = deque()
        self._open = ExitStack()

    def __enter__(self) -> ClusterGate:
        with ExitStack() as stack:
            stack.enter_context(connected(self._workers, self._address))
            stack.callback(self._remove)
            self._start()
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

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

    def _start(self) -> None:
        import ray

        # Each has a processor, so that a full cluster does not take it; on different machines, for their memory.
        worker = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(Share)
        with _told():
            self._actors = [worker.remote(self._most_similar, self.threshold) for _ in range(self._workers)]
            asked = [actor.about.remote() for actor in self._actors]
            ready, missing = ray.wait(asked, num_returns=len(asked), timeout=_START)
        if missing:
            raise ClusterError(
                f"only {len(ready)} of {self._workers} workers started in {_START:g} seconds: each takes a CPU of "
                "the cluster, and too few are free; ask for fewer workers"
            )
        try:
            answers = ray.get(asked)
        except Exception as error:  # whatever importing this package raises there, in Ray's wrapping
            raise ClusterError(
                f"a worker did not start: every machine of the cluster needs selfinstruct-hub {__version__} "
                f"({_first_line(error)})"
            ) from error
        for machine, version in answers:
            if version != __version__:
                raise ClusterError(
                    f"selfinstruct-hub is {__version__} here and {version} on {machine}: "
                    "every machine of the cluster needs the same version"
                )

    def _remove(self) -> None:
        import ray

        for actor in self._actors:
            with suppress(Exception):  # it may be gone, and the whole cluster too
                ray.kill(actor)
        self._actors = []

    def _ask(self, queries: Sequence[Encoded]) -> list[Any]:
        """Sends `queries` to all workers."""
        import ray

        self._hand_over()
        with _told():
            sent = ray.put(queries)  # once for all workers of a machine
            return [actor.above.remote(sent) for actor in self._actors]

    def _answers(self, asked: list[Any]) -> list[Found]:
        import ray

        with _told():
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
        with _told():
            self._under_way.append(self._actors[least].hold.remote(sum(self._sizes), ids, texts))
            while len(self._under_way) > _ON_THEIR_WAY * self._workers:
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
        best, mean = self._gate._search.nearest(
            self._queries[place], self._known[row], self._mutual[row], self._added, self._size
        )
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


@contextmanager
def connected(workers: int, address: str | None) -> Iterator[None]:
    """Ray at `address`, or a cluster of our own with room for `workers`, until it is left. Where the process is
    connected to Ray already, that stays, then and afterwards."""
    own = address in (None, "local")
    if not own:
        _reach(str(address))
    with ExitStack() as stack:
        with _environment(own_settings() if own else {}):
            try:
                import ray
            except ImportError as error:
                raise ClusterError(
                    "Ray, which compares on several machines, is not installed: run "
                    'pip install "selfinstruct-hub[ray]"'
                ) from error
            if not ray.is_initialized():
                options: dict[str, Any] = {"address": address}
                if own:
                    # Not in the usual place, where others would find the cluster by "auto".
                    folder = tempfile.mkdtemp(prefix="ray-", dir=_short_folder())
                    stack.callback(shutil.rmtree, folder, ignore_errors=True)
                    options = {"address": "local", "num_cpus": workers, "num_gpus": 0, "_temp_dir": folder}
                    options |= {"object_store_memory": _STORE, "include_dashboard": False}
                else:
                    _rehearse(str(address))
                try:
                    stack.enter_context(_initialized(options))
                except Exception as error:  # Ray and what it stands on raise all kinds here
                    where = "a Ray cluster does not start here" if own else f"no Ray cluster to join at {address}"
                    raise ClusterError(f"{where}: {_first_line(error)}") from error
        yield


@contextmanager
def _initialized(options: Mapping[str, Any]) -> Iterator[None]:
    import ray

    before = signal.getsignal(signal.SIGTERM)
    mine = threading.current_thread() is threading.main_thread()  # signals are for this one only
    try:
        # What Ray itself has to say of a lost worker would go to stdout, whatever is asked for.
        ray._private.worker._worker_logs_enabled = False
        ray.init(**options, log_to_driver=False, logging_level=logging.CRITICAL)
        if mine:
            # Ray has set something that prints a stack. What the command does then is its own business; where it
            # does nothing, Ray's processes and files would stay.
            signal.signal(signal.SIGTERM, before or (lambda number, _: sys.exit(128 + number)))
        yield
    finally:
        ray.shutdown()
        ray._private.worker._worker_logs_enabled = True
        if mine:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@cache
def own_settings() -> Mapping[str, str]:
    """How a cluster of our own is started: no statistics are sent, environments and GPUs stay as they are. It
    listens on loopback only, and other users of the machine are kept out by a token: Ray reads these when it is
    imported, so that they come too late where the program has imported it before."""
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if sys.modules.get("ray") is None:
        settings |= {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # no other machines, on Linux either
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token_hex(32),
        }
    return settings


def _short_folder() -> Path:
    folder = Path(tempfile.gettempdir())
    return folder if len(str(folder)) <= _LONGEST_FOLDER or os.name == "nt" else Path("/tmp")


def _reach(address: str) -> None:
    """Tells at once where nothing answers; Ray tries for a minute."""
    if address == "auto":
        return
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ClusterError(f"{address} is no address of a Ray cluster: host:6379, ray://host:10001 or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()
    except OSError as error:
        raise ClusterError(f"no Ray cluster answers at {address}: {_first_line(error)}") from error


def _rehearse(address: str) -> None:
    """Joins in a process of its own first: with something else at the address Ray tries for many minutes, prints
    what it thinks of it, and may end the process."""
    script = (
        "import sys, ray\n"
        "try: ray.init(sys.argv[1], log_to_driver=False, logging_level=50)\n"
        "except Exception as error: sys.exit(str(error).strip() or type(error).__name__)"
    )
    command = [sys.executable, "-c", script, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_JOIN)
    except subprocess.TimeoutExpired:
        said = f"what answers there does not let this machine in within {_JOIN:g} seconds"
        raise ClusterError(f"no Ray cluster to join at {address}: {said}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line and not line.startswith("[")]  # [: its log
        said = lines[0].rstrip(":. ") if lines else f"Ray ended with {done.returncode}"
        raise ClusterError(f"no Ray cluster to join at {address}: {said}")


@contextmanager
def _told() -> Iterator[None]:
    """Makes one line of a cluster that fails."""
    from ray import exceptions

    try:
        yield
    except MemoryError as error:
        raise ClusterError("a worker of the Ray cluster ran out of memory: take more of them") from error
    except exceptions.RayTaskError:  # raised in our code there: a bug, whose traceback Ray brings along
        raise
    except (exceptions.RayError, ConnectionError) as error:
        raise ClusterError(
            "a worker of the Ray cluster was lost, and its share of the pool with it (it was killed, memory ran "
            f"out, or its machine is gone): start again ({type(error).__name__})"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(":. ")

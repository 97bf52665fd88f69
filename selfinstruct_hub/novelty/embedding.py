"""An optional gate for paraphrases, which ROUGE-L cannot see: cosine similarity of sentence embeddings.

Compares a text with everything added before it. Models are read from a local folder, nothing is ever downloaded;
model2vec and sentence-transformers are imported when a gate is opened and not before. No rule, no verdict: what
is too near is the judge's business.

A score depends on its two texts alone, to the last bit, whatever was compared with them: a text is embedded
without regard to its neighbours, products by BLAS (whose last bits depend on the shapes it is given) only find
candidates, and these are settled in float64 by sums in one fixed order.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import warnings
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from selfinstruct_hub.digests import sha256_of
from selfinstruct_hub.errors import ConfigError
from selfinstruct_hub.records import Neighbour

SETTING = "paraphrases.model"
# What every model2vec folder holds; the names are its own.
_STATIC_FILES = ("model.safetensors", "tokenizer.json", "config.json")
_EXPECTED = f"a model2vec folder ({', '.join(_STATIC_FILES)}) or a sentence-transformers folder (modules.json)"

# Texts embedded at a time while a gate is filled, queries and rows multiplied at a time: each product is 8 MB.
_TEXTS = 4096
_QUERIES = 256
_ROWS = 8192
# Scores are rounded to this many digits: two texts of the same words in another order then tie, though their
# embeddings, sums of the same vectors, differ in the last bits of float32.
_DIGITS = 6


class Encoder(Protocol):
    """An embedding model, and the package that runs it."""

    package: str

    def encode(self, texts: Sequence[str]) -> Any:
        """An array (texts, dimensions), at least one text. A row must depend on its own text only, to the last
        bit; its length does not matter, and zero means that the model has nothing to say about the text."""


class EmbeddingGate:
    """Instructions that a candidate is compared with. `threshold` is the cosine above which a judge takes two
    instructions for paraphrases. Four bytes are held for each dimension of each instruction."""

    def __init__(self, model: Encoder, threshold: float) -> None:
        self.threshold = threshold
        self._model = model
        self._added = 0
        # One row for every text that has a vector, of length 1; the room behind the last one is spare.
        self._units: Any = np.zeros((0, 0), np.float32)
        self._ids: list[str] = []
        self._places = array("q")  # how many instructions had been added before the row's

    @classmethod
    def opened(cls, folder: Path, threshold: float) -> EmbeddingGate:
        """A gate with the model in `folder`. Raises ConfigError where there is none, or its package is missing."""
        return cls(model_in(folder), threshold)

    def __len__(self) -> int:
        return self._added

    def extend(self, instructions: Iterable[tuple[str, str]]) -> None:
        """Adds (id, instruction) pairs to what is compared with."""
        rest = iter(instructions)
        while batch := list(itertools.islice(rest, _TEXTS)):
            for (key, _), unit in zip(batch, self._embedded([text for _, text in batch]), strict=True):
                self._append(key, unit)

    def compare(self, instruction: str, *, among: int | None = None) -> Neighbour | None:
        """The nearest of all instructions, or of the first `among` that were added, with its cosine; the first
        added where several are as near. None where there is none, or the text has no vector."""
        end = len(self._ids) if among is None else bisect_left(self._places, among)
        (query,) = self._embedded([instruction])
        nearest = _Nearest(query[None])
        self._search(nearest, 0, end)
        return self._neighbour(nearest, 0)

    def comparison(self, instructions: Sequence[str]) -> EmbeddingComparison:
        """The same for several instructions, embedded at once and compared faster than one by one."""
        return EmbeddingComparison(self, self._embedded(instructions))

    def _embedded(self, texts: Sequence[str]) -> Any:
        """Rows of length 1, or of zeros where the model has no vector for a text: float32 (texts, dimensions)."""
        if not texts:
            return np.zeros((0, 0), np.float32)
        vectors = np.asarray(self._model.encode(texts), np.float32).astype(np.float64)
        lengths = np.sqrt(_sums(vectors * vectors))
        # A damaged model; NaN is above no threshold, and every paraphrase would pass unseen.
        if not np.isfinite(lengths).all():
            raise ConfigError(f"the model of {SETTING} gives numbers that are not finite: its files are damaged")
        lengths[lengths == 0] = 1
        return (vectors / lengths[:, None]).astype(np.float32)

    def _append(self, key: str, unit: Any) -> None:
        if unit.any():
            size = len(self._ids)
            if size == len(self._units):
                grown = np.empty((max(1024, 2 * size), len(unit)), np.float32)
                grown[:size] = self._units.reshape(size, len(unit))  # at first it has no columns
                self._units = grown
            self._units[size] = unit
            self._ids.append(key)
            self._places.append(self._added)
        self._added += 1

    def _search(self, nearest: _Nearest, begin: int, end: int) -> None:
        """Takes the rows from `begin` to `end` into account, which must not come before any that were."""
        for start in range(begin, end, _ROWS):
            nearest.consider(self._units[start : min(start + _ROWS, end)], start)

    def _neighbour(self, nearest: _Nearest, number: int) -> Neighbour | None:
        row = int(nearest.rows[number])
        return None if row < 0 else Neighbour(self._ids[row], float(nearest.scores[number]))


class EmbeddingComparison:
    """Several instructions that are compared one after the other, with all that is in the gate when each has its
    turn. What is there already is compared with many at once, what came since with each; the result is that of
    `EmbeddingGate.compare` to the last bit."""

    def __init__(self, gate: EmbeddingGate, queries: Any) -> None:
        self._gate = gate
        self._queries = queries
        self._first = self._size = 0
        self._known = _Nearest(queries[:0])

    def __getitem__(self, place: int) -> Neighbour | None:
        number = place - self._first
        if not 0 <= number < len(self._known.rows):
            self._begin(place)
            number = 0
        # Whatever was added to the gate since `_begin`, by `accept` or otherwise.
        turn = self._known.only(number)
        self._gate._search(turn, self._size, len(self._gate._ids))
        return self._gate._neighbour(turn, 0)

    def accept(self, place: int, key: str) -> None:
        """Adds the instruction at `place`, which has had its turn, to the gate under the id `key`."""
        self._gate._append(key, self._queries[place])

    def _begin(self, place: int) -> None:
        """Compares those from `place` on, as many as one does at once."""
        self._first, self._size = place, len(self._gate._ids)
        self._known = _Nearest(self._queries[place : place + _QUERIES])
        self._gate._search(self._known, 0, self._size)


class _Nearest:
    """For each query the best score so far and the row that has it; -1 where nothing was found."""

    def __init__(self, queries: Any) -> None:
        self.queries = queries
        self.rows = np.full(len(queries), -1, np.int64)
        # Nothing is better than 1: a query without a vector is thereby never looked at.
        self.scores = np.where(queries.any(axis=1), -2.0, 1.0)

    def only(self, number: int) -> _Nearest:
        """A copy with one of the queries."""
        one = _Nearest(self.queries[number : number + 1])
        one.rows[0], one.scores[0] = self.rows[number], self.scores[number]
        return one

    def consider(self, block: Any, first: int) -> None:
        """Takes rows into account that are numbered from `first`, above all that were."""
        rough = self.queries @ block.T
        # A float32 product of n terms is off by n / 2**24 at most in any order, for vectors of length 1; twice
        # that between two of them, and a unit of rounding each.
        slack = block.shape[1] * 2.0**-23 + 2 * 10.0**-_DIGITS
        best = rough.max(axis=1)
        for number in np.flatnonzero((best > self.scores - slack) & (self.scores < 1)):
            among = np.flatnonzero(rough[number] >= max(best[number], self.scores[number]) - slack)
            products = block[among].astype(np.float64) * self.queries[number].astype(np.float64)
            exact = np.minimum(np.round(_sums(products), _DIGITS), 1.0) + 0.0  # no minus zero
            top = int(exact.argmax())  # the first of equals
            if exact[top] > self.scores[number]:
                self.scores[number], self.rows[number] = exact[top], first + among[top]


def _sums(values: Any) -> Any:
    """The sum of each row, its halves added to one another again and again: elementwise, so that the order, and
    with it the last bit, depends neither on the number of rows nor on the machine."""
    while (width := values.shape[1]) > 1:
        half = (width + 1) // 2
        folded = values[:, :half].copy()
        folded[:, : width - half] += values[:, half:]
        values = folded
    return values[:, 0]


def fingerprint(folder: Path) -> str:
    """SHA-256 (hex) over the names and contents of a model's files. Hidden ones are left out: download tools keep
    dates in them. Raises ConfigError where `folder` is not one, or a file in it cannot be read."""
    folder = _existing(folder)
    total = hashlib.sha256()
    try:
        inside = ((path.relative_to(folder), path) for path in folder.rglob("*") if path.is_file())
        for name, path in sorted((name.as_posix(), path) for name, path in inside if not _hidden(name)):
            total.update(f"{sha256_of(path)} {name}\n".encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: cannot be read ({error.strerror})") from None
    return total.hexdigest()


def model_in(folder: Path) -> Encoder:
    """The model in `folder`. Raises ConfigError where there is none, or its package is missing."""
    folder = _existing(folder)
    modules = _modules(folder)
    # model2vec writes a modules.json, too, so that sentence-transformers can read its models.
    static = all(name in ("StaticEmbedding", "Normalize") for name in modules)
    if not modules and not all((folder / name).is_file() for name in _STATIC_FILES):
        raise ConfigError(f"{folder} holds no embedding model: {SETTING} takes {_EXPECTED}")
    package = "model2vec" if static else "sentence-transformers"
    try:
        return _Static(folder) if static else _Contextual(folder)
    except ImportError as error:
        install = '"selfinstruct-hub[embedding]"' if static else package
        raise ConfigError(
            f"{folder} needs {package}, which cannot be imported: run pip install {install} ({_line(error)})"
        ) from error
    except Exception as error:  # the libraries that read a model raise a dozen unrelated kinds
        raise ConfigError(
            f"{folder} is not a usable {package} model: {_line(error)}; download or save it again, whole"
        ) from error


class _Static:
    """A model2vec model: the mean of its tokens' vectors."""

    package = "model2vec"

    def __init__(self, folder: Path) -> None:
        from model2vec import StaticModel

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves closing config.json to the interpreter
            self._model = StaticModel.from_pretrained(folder)
        # In model2vec a text's last bits depend on its batch in two ways: with a text that has no token among
        # them, all are normalized in float64, and a tokenizer that pads does so to the longest.
        self._model.config = {}
        self._model.normalize = False
        self._model.tokenizer.no_padding()

    def encode(self, texts: Sequence[str]) -> Any:
        return self._model.encode(list(texts), max_length=None, use_multiprocessing=False)


class _Contextual:
    """A sentence-transformers model. One text at a time, on the CPU: in a batch the last bits of an embedding
    depend on the others in it, on a GPU on which one it is."""

    package = "sentence-transformers"

    def __init__(self, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    def encode(self, texts: Sequence[str]) -> Any:
        return np.stack([self._model.encode([text], show_progress_bar=False)[0] for text in texts])


def _existing(folder: Path) -> Path:
    path = folder.expanduser()
    if not path.is_dir():
        raise ConfigError(
            f"{folder} is not a folder: {SETTING} takes {_EXPECTED} on this machine, and nothing is downloaded; "
            "hf download ORG/NAME --local-dir FOLDER gets one from the Hub"
        )
    return path


def _modules(folder: Path) -> list[str]:
    """The kinds of modules in a sentence-transformers model; none where the folder is of another kind."""
    path = folder / "modules.json"
    if not path.is_file():
        return []
    try:
        return [str(module["type"]).rpartition(".")[2] for module in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{path} does not list a model's modules ({type(error).__name__}): download or save the model again"
        ) from error


def _hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)


def _line(error: BaseException) -> str:
    """What a library said, in one line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]

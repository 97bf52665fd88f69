"""What a judge asks beside the rules and ROUGE-L: evaluation sets that tasks must keep away from, and paraphrases.

Both are of the workspace's settings, with paths of this machine. What a round keeps of them (`settings`) names no
path, but every file's digest, so that a round is judged by the same ones to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from selfinstruct_hub.config import Settings
from selfinstruct_hub.digests import sha256_of
from selfinstruct_hub.errors import ConfigError, DataFileError, UsageError
from selfinstruct_hub.judging.evaluation import EvaluationSets
from selfinstruct_hub.novelty.embedding import EmbeddingGate, fingerprint, model_in
from selfinstruct_hub.records import CONTAMINATED, PARAPHRASE, Candidate, Drop, Neighbour, Round, prompt_text

# What a round's settings have of them where there are none; one made before they existed has nothing.
_NO_SETS: Mapping[str, Any] = {"against": []}
_NO_MODEL: Mapping[str, Any] = {"model": None}


@dataclass(frozen=True)
class Gates:
    """The gates that the settings ask for. `settings` is what a round keeps of them; `paraphrases` makes an empty
    gate."""

    sets: EvaluationSets | None = None
    paraphrases: Callable[[], EmbeddingGate] | None = None
    settings: Mapping[str, Any] = field(
        default_factory=lambda: {"decontamination": dict(_NO_SETS), "paraphrases": dict(_NO_MODEL)}
    )

    @classmethod
    def opened(cls, settings: Settings, beside: Path) -> Gates:
        """Reads the evaluation sets and the model, with paths relative to the folder `beside`.

        Raises DataFileError and ConfigError, one line, for what is not there or cannot be read.
        """
        own = settings.decontamination
        files = [_located(name, beside, "decontamination.against") for name in own.against]
        sets, kept = None, _NO_SETS
        if files:
            if twice := next((file for file in files if files.count(file) > 1), None):
                raise ConfigError(f"`decontamination.against`: {twice} is given twice; name it once")
            option = "`decontamination.columns`"
            sets = EvaluationSets(files, own.threshold, columns=own.columns, option=option)
            # Read by other columns than the ones that were meant, it would keep nothing out.
            if unread := [name for name in own.columns if name not in sets.columns]:
                raise ConfigError(
                    f"{option}: none of the files has a column `{unread[0]}`; there, "
                    f"{', '.join(sorted(sets.columns))} would be read"
                )
            for name, count in sets.counts.items():
                if not count:
                    raise ConfigError(f"{name}: has no texts in it; check `decontamination.against`")
            against = [
                {"file": file.name, "sha256": _digest(file), "texts": count}
                for file, count in zip(files, sets.counts.values(), strict=True)
            ]
            kept = {"threshold": own.threshold, "columns": own.columns, "against": against}
        paraphrases, model = None, _NO_MODEL
        if settings.paraphrases.model is not None:
            folder = _located(settings.paraphrases.model, beside, "paraphrases.model")
            threshold, encoder = settings.paraphrases.threshold, model_in(folder)

            def paraphrases() -> EmbeddingGate:
                return EmbeddingGate(encoder, threshold)

            package = encoder.package
            model = {"model": folder.name, "sha256": fingerprint(folder), "threshold": threshold}
            model |= {"package": f"{package} {version(package)}"}
        return cls(sets, paraphrases, {"decontamination": dict(kept), "paraphrases": dict(model)})

    def check(self, round_: Round) -> None:
        """Raises UsageError where `round_` was begun with other evaluation sets or another model."""
        for name, none, what in (
            ("decontamination", _NO_SETS, "evaluation sets"),
            ("paraphrases", _NO_MODEL, "a model for paraphrases"),
        ):
            was, now = round_.settings.get(name) or none, self.settings[name]
            if was != now:
                raise UsageError(
                    f"round {round_.number} was begun with {_told(was)} as `{name}`, and now it is {_told(now)}; "
                    f"put {what} back until the round is complete, or release it as it is: --tasks with the "
                    "number it has"
                )

    def contaminated(self, candidates: Sequence[Candidate]) -> Iterator[Drop | None]:
        """For each candidate, in order, whether its instruction, an input or both together are too near to a text
        of an evaluation set."""
        if self.sets is None:
            yield from (None for _ in candidates)
            return
        texts = [_texts(candidate) for candidate in candidates]
        found = self.sets.near([text for some in texts for text in some])
        for some in texts:
            # Of a task's texts the nearest, the first of equals.
            near = sorted(filter(None, (next(found) for _ in some)), key=lambda one: -one.score)
            if not near:
                yield None
                continue
            place = f"{near[0].file.name}, {near[0].place}"
            detail = f"ROUGE-L {near[0].score:.3f} with {place}"
            yield Drop(CONTAMINATED, detail, Neighbour(place, near[0].score))


def paraphrase(near: Neighbour) -> Drop:
    """Why a candidate is dropped that says what `near` says; its score is their cosine."""
    return Drop(PARAPHRASE, f"cosine {near.score:.3f} with {near.id}", near)


def _texts(candidate: Candidate) -> list[str]:
    instruction = candidate.instruction or ""
    inputs = [instance.input for instance in candidate.instances if instance.input.strip()]
    return list(dict.fromkeys([instruction, *inputs, *(prompt_text(instruction, given) for given in inputs)]))


def _located(name: str, beside: Path, setting: str) -> Path:
    try:
        path = beside / Path(name).expanduser()
        # A link keeps its own name: what it leads to may have none that says what it is (a cache of the Hub).
        path = path.parent.resolve() / path.name if path.name not in ("", "..") else path.resolve()
        if path.exists():
            return path
    except (OSError, RuntimeError, ValueError) as error:  # forbidden; no such home; no path at all
        raise ConfigError(f"{name}: cannot be looked at ({error}); check `{setting}`") from None
    raise ConfigError(f"{path}: there is no such file or folder; check `{setting}`")


def _digest(path: Path) -> str:
    """SHA-256 (hex) of a file, or over names and contents of a folder."""
    if path.is_dir():
        return fingerprint(path)
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataFileError(f"{path}: cannot be read ({error.strerror})") from None


def _told(settings: Mapping[str, Any]) -> str:
    """Which ones they are, for a message: names and digests."""
    one = settings if settings.get("model") else None
    files = [f"{file['file']} ({file['sha256'][:8]})" for file in settings.get("against", [])]
    if not files and one is None:
        return "none"
    named = ", ".join(files) if one is None else f"{one['model']} ({one['sha256'][:8]}, {one['package']})"
    columns = f", columns {', '.join(settings['columns'])}" if settings.get("columns") else ""
    return f"{named}, threshold {settings['threshold']:g}{columns}"

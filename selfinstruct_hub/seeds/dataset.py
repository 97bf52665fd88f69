"""Datasets of seeds: a folder on disk or an id on the Hub, opened with `datasets`.

The only part that calls the library. It loads data files and never code; whatever the library raises becomes
one line, and nothing of it is printed.
"""

from __future__ import annotations

import logging
import re
import tempfile
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfinstruct_hub.config import SeedDataset
from selfinstruct_hub.errors import SeedError
from selfinstruct_hub.languages import Language
from selfinstruct_hub.records import Task
from selfinstruct_hub.seeds import columns

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LOOKUP_TIMEOUT = 30.0  # seconds
_LOGGERS = ("datasets", "huggingface_hub", "fsspec")


def read(source: Path | str, mapping: SeedDataset, language: Language | None = None) -> list[Task]:
    """The seed tasks in the folder `source`, or in the dataset of that id on the Hub.

    Raises SeedError, one line, for whatever cannot be opened or used.
    """
    place = str(source) if isinstance(source, Path) else f"dataset {source}"
    with _quiet(), _opened(source, mapping, place) as table:
        chosen = columns.chosen(mapping, list(table.column_names), place)
        labels = {
            name: list(feature.names)
            for name, feature in table.features.items()
            if type(feature).__name__ == "ClassLabel"
        }
        with _errors_named(place):
            # Only these columns: a picture or a sound beside them is never looked at.
            table = table.with_format(None).select_columns(chosen.read)
            if mapping.limit is not None:
                table = table.select(range(min(mapping.limit, len(table))))
            rows = table.to_list()
    return columns.tasks(rows, chosen, labels, place, language)


@contextmanager
def _opened(source: Path | str, mapping: SeedDataset, place: str) -> Iterator[Any]:
    """The split that is asked for, as a `datasets.Dataset`."""
    if isinstance(source, str):
        yield _from_hub(source, mapping, place)
        return
    if mapping.revision is not None:
        raise SeedError(f"{place}: a folder has no revisions; set `seed_dataset.revision` to null")
    if any((source / name).is_file() for name in ("state.json", "dataset_dict.json")):
        yield _saved(source, mapping, place)
        return
    # A cache that lasts as long as this call: the library's own would not notice that only the README has
    # changed, and would keep a copy of the user's files.
    with tempfile.TemporaryDirectory(prefix="selfinstruct-seeds-", ignore_cleanup_errors=True) as cache:
        with _errors_named(place):
            builder = _builder(str(source), mapping, place, cache_dir=cache)
            builder.download_and_prepare()
        yield _split(builder, mapping, place)


def _saved(folder: Path, mapping: SeedDataset, place: str) -> Any:
    """The split out of a folder that `save_to_disk` wrote."""
    import datasets

    if mapping.config is not None:
        raise SeedError(f"{place}: saved with save_to_disk, so without configs; set `seed_dataset.config` to null")
    with _errors_named(place):
        saved = datasets.load_from_disk(str(folder))
    # A dataset that was never part of a dict does not say which split it is.
    splits = saved if isinstance(saved, datasets.DatasetDict) else {str(saved.split or "train"): saved}
    if mapping.split not in splits:
        raise SeedError(_no_split(mapping, list(splits), place))
    return splits[mapping.split]


def _from_hub(name: str, mapping: SeedDataset, place: str) -> Any:
    import datasets

    # The library would read these first, and `seeds` does not mean them.
    if Path(name).exists():
        raise SeedError(
            f"{place}: `{name}` is in the working directory too, but `seeds` is relative to the "
            "workspace; write its path as seen from there, or start elsewhere to take the dataset from the Hub"
        )
    if (Path(datasets.__file__).parent / "packaged_modules" / name).is_dir():
        raise SeedError(f"{place}: that is a file format of `datasets`, not a dataset; write org/name")
    revision = mapping.revision
    if not _offline():
        revision = _commit(name, mapping, place)
    with _hub_errors_named(name, place), _errors_named(place):
        builder = _builder(name, mapping, place, revision=revision)
        # Where it cannot ask the Hub, the library takes whatever revision it has.
        if revision is not None and builder.hash != revision:
            raise SeedError(
                f"{place}: the copy in the cache is of commit {builder.hash}, not of `{revision}`, and the Hub "
                "is not asked; unset HF_HUB_OFFLINE, or set `seed_dataset.revision` to that commit"
            )
        builder.download_and_prepare()
    return _split(builder, mapping, place)


def _offline() -> bool:
    import datasets
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE)


def _commit(name: str, mapping: SeedDataset, place: str) -> str:
    """The commit to read. Asked first and once: the library would try for a minute, and then go on in silence
    with an older copy."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return str(HfApi().dataset_info(name, revision=mapping.revision, timeout=_LOOKUP_TIMEOUT).sha)
    except GatedRepoError as error:
        raise SeedError(_gated(name, place)) from error
    except (RepositoryNotFoundError, HFValidationError):
        raise SeedError(
            f"{place}: there is no such file or folder, and no such dataset on the Hub that you may read; check "
            "`seeds`, and for a private dataset set HF_TOKEN or run `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise SeedError(
            f"{place}: no revision `{mapping.revision}`; set `seed_dataset.revision` to a branch, tag or commit"
        ) from None
    except HfHubHTTPError as error:
        raise SeedError(
            f"{place}: the Hub refuses ({_reason(error)}); check HF_TOKEN, or start again later"
        ) from error
    except Exception as error:  # of whatever HTTP library this version uses
        raise SeedError(
            f"{place}: {constants.ENDPOINT} cannot be reached ({_reason(error)}); start again when it can, or set "
            "HF_HUB_OFFLINE=1 to use a copy in the cache"
        ) from error


@contextmanager
def _hub_errors_named(name: str, place: str) -> Iterator[None]:
    """What reading from the Hub adds to the errors of reading a dataset, in a line that says what to do."""
    from huggingface_hub.errors import GatedRepoError

    try:
        yield
    except SeedError as failed:
        error = failed.__cause__
        if isinstance(error, GatedRepoError) or "is a gated dataset" in str(error):
            raise SeedError(_gated(name, place)) from error
        if isinstance(error, ConnectionError) and not _offline():
            raise SeedError(
                f"{place}: the Hub stopped answering ({_reason(error)}); start again when it does"
            ) from error
        if isinstance(error, ConnectionError):
            raise SeedError(
                f"{place}: not in the cache, and HF_HUB_OFFLINE is set; unset it, or set `seeds` to a file or "
                "folder that is here"
            ) from error
        raise


def _gated(name: str, place: str) -> str:
    from huggingface_hub import constants

    return (
        f"{place}: its authors grant access on request; ask at {constants.ENDPOINT}/datasets/{name}, then set "
        "HF_TOKEN or run `hf auth login`"
    )


def _builder(path: str, mapping: SeedDataset, place: str, **options: Any) -> Any:
    import datasets

    try:
        return datasets.load_dataset_builder(path, name=mapping.config, **options)
    except ValueError:
        # Which says in prose what is wrong: ask whether it is the config.
        try:
            known = datasets.get_dataset_config_names(path, revision=options.get("revision"))
        except Exception:  # then it is something else, and the first error says what
            known = []
        if mapping.config is None and len(known) > 1:
            raise SeedError(
                f"{place}: has several configs; set `seed_dataset.config` (init: --seed-config) to one of: "
                f"{', '.join(known)}"
            ) from None
        if mapping.config is not None and known and mapping.config not in known:
            raise SeedError(
                f"{place}: no config `{mapping.config}`; set `seed_dataset.config` (init: --seed-config) to one "
                f"of: {', '.join(known)}"
            ) from None
        raise


def _split(builder: Any, mapping: SeedDataset, place: str) -> Any:
    with _errors_named(place):
        try:
            return builder.as_dataset(split=mapping.split)
        except ValueError:  # no such split, no such slice of one, or nothing in it
            known = list(builder.info.splits or {})
            if mapping.split in known:
                raise SeedError(columns.no_rows(place)) from None
            raise SeedError(_no_split(mapping, known, place)) from None


def _no_split(mapping: SeedDataset, known: list[str], place: str) -> str:
    if not known:
        return columns.no_rows(place)
    return (
        f"{place}: no split `{mapping.split}`; set `seed_dataset.split` (init: --seed-split) to one of: "
        f"{', '.join(known)}"
    )


@contextmanager
def _errors_named(place: str) -> Iterator[None]:
    """Whatever the library or one of its readers raises, in one line."""
    try:
        yield
    except SeedError:
        raise
    except Exception as error:
        raise SeedError(
            f"{place}: cannot be read as a dataset ({_reason(error)}); it must hold Parquet, JSONL or CSV files "
            "with the same columns"
        ) from error


def _reason(error: BaseException) -> str:
    """What `error` says, in one line of bearable length."""
    from datasets.arrow_writer import SchemaInferenceError
    from datasets.exceptions import DatasetGenerationError

    if type(error) is DatasetGenerationError and error.__cause__ is not None:  # which only says that it failed
        error = error.__cause__
    # How the library trips over files without rows, each version in its own way.
    if isinstance(error, (IndexError, StopIteration, SchemaInferenceError)):
        return "it seems to be empty"
    said = str(error).removeprefix("An error occurred while generating the dataset")
    return textwrap.shorten(said, 200, placeholder=" ...") or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the library's bars, logs and warnings off the terminal: what matters of them is in our errors."""
    import datasets
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    bars, hub_bars = not datasets.are_progress_bars_disabled(), not are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        datasets.disable_progress_bars()
        disable_progress_bars()
        for name in levels:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            if bars:
                datasets.enable_progress_bars()
            if hub_bars:
                enable_progress_bars()
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)

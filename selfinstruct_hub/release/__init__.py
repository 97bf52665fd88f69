"""Freezes a round: Parquet shards, card, builder, settings, and the manifest last.

A release is built in a folder beside its place and moved there whole, so a release folder is complete or
absent. A finished release never changes. Everything derived is computed here, never typed.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from selfinstruct_hub import __version__, config, reviewed, versions
from selfinstruct_hub.errors import ReleaseError
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import IMPORT, Revision, Round, is_import
from selfinstruct_hub.release import contents, costs, page, script, shards
from selfinstruct_hub.release.threads import Behind
from selfinstruct_hub.rounds import Edition, editions
from selfinstruct_hub.workspace import MANIFEST, is_release


def freeze(
    releases: Path, pool: Pool, edition: Edition, card_settings: config.CardSettings, name: str
) -> Path | None:
    """Writes the release of an edition, which is complete, with every round up to its last; returns its folder, or
    None where there is no row yet (instructions were imported, and nothing else).

    The card's texts come from `card_settings`, everything else from the pool; `name` is the title used where they
    give none. A release that is there already is left alone.
    Raises ReleaseError where the folder cannot be written or something else is in its place.
    """
    target = releases / edition.version
    if is_release(target):
        return target
    if target.exists():
        raise ReleaseError(f"{target}: is no release ({MANIFEST} is missing); move it away and start again")
    with pool.as_of(edition.state):
        return _freeze(target, pool, edition, card_settings, name)


def _freeze(
    target: Path, pool: Pool, edition: Edition, card_settings: config.CardSettings, name: str
) -> Path | None:
    releases, round_ = target.parent, edition.round
    assert round_.complete, "only a complete round is frozen"
    made = [one for one in editions(pool) if (one.round.number, one.state) <= (round_.number, edition.state)]
    made = made[: made.index(edition) + 1]
    rounds = [one.round for one in made if one.revision is None]
    revisions = [one.revision for one in made if one.revision is not None]
    if not pool.has_rows(round_.number):
        return None
    building = releases / f".building-{edition.version}"
    with _disk_errors_named(target, building):
        if building.exists():
            shutil.rmtree(building)
        building.mkdir(parents=True)
        known = _known_shards(releases, made)
        seen = page.Seen(edition.version, card_settings.samples)
        with _counted(pool, rounds) as counts:
            files = shards.write(building, pool, rounds, known=known, watch=seen.add)
            seen.read(building, [file for file in files if (file["config"], file["round"]) in known])
        grown = {} if is_import(round_.settings) else {"tasks": round_.wanted}
        said = edition.revision.asked if edition.revision else round_.asked
        asked = config.Settings.model_validate({**said, **grown, "card": card_settings.model_dump()})
        manifest = _manifest(pool, edition, rounds, revisions, counts, asked, files)
        (building / config.FILE_NAME).write_text(config.render(asked), encoding="utf-8")
        (building / script.FILE_NAME).write_text(script.render(manifest), encoding="utf-8")
        title = card_settings.pretty_name or name
        earlier = [releases / one.version for one in reversed(made[:-1]) if is_release(releases / one.version)]
        page.write(building, manifest, card_settings, title, seen=seen, earlier=earlier)
        for extra in (config.FILE_NAME, script.FILE_NAME):
            manifest["files"].append({"path": extra, **shards.measure(building / extra)})
        (building / MANIFEST).write_text(
            json.dumps(manifest, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
        )
        # A power cut must not leave a release in its place whose files never reached the disk.
        for place in (*building.rglob("*"), building):
            shards.settle(place)
        building.rename(target)
        shards.settle(releases)
    return target


def read_manifest(release: Path) -> dict[str, Any]:
    """The manifest of the release folder `release`. Raises ReleaseError where there is none."""
    try:
        manifest: dict[str, Any] = json.loads((release / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ReleaseError(f"{release}: is no release ({MANIFEST} is missing)") from None
    except ValueError:
        raise ReleaseError(f"{release / MANIFEST}: is damaged; build the release anew") from None
    return manifest


def _manifest(
    pool: Pool,
    edition: Edition,
    rounds: list[Round],
    revisions: list[Revision],
    counts: dict[int, dict[str, Any]],
    settings: config.Settings,
    files: list[dict[str, Any]],
) -> dict[str, Any]:
    """What is known of the release, from the pool's counts by round. No clock enters: the same pool gives the same
    manifest."""
    per_round = [
        {
            "round": round_.number,
            "version": round_.version,
            "revised": _revised_in(round_.number, revisions),
            **{k: v for k, v in counts[round_.number].items() if k != "unjudged"},
            "settings": dict(round_.settings),
        }
        for round_ in rounds
    ]
    return {
        "format": versions.COLUMNS,
        "version": edition.version,
        "release": contents.digest_of(files),
        "recipe": next((r.settings["recipe"] for r in reversed(rounds) if not is_import(r.settings)), IMPORT),
        "language": settings.language,
        "license": settings.card.license,
        "seeds": len(pool.seeds()),
        "tasks": sum(r["tasks"] for r in per_round),
        "rows": sum(r["rows"] for r in per_round),
        "rounds": per_round,
        "revisions": [_revision(pool, one) for one in revisions],
        "review": _review(pool, edition),
        "made_with": {
            "selfinstruct-hub": __version__,
            **{package: installed(package) for package in ("pyarrow", "rapidfuzz", "rouge-score")},
        },
        "files": files,
    }


def _revised_in(number: int, revisions: Sequence[Revision]) -> str | None:
    """The version of the last revision that changed a round."""
    return next((one.version for one in reversed(revisions) if number in one.rounds), None)


def _review(pool: Pool, edition: Edition) -> Mapping[str, Any] | None:
    """What people said of the rows. What they had said of a pulled version holds until its rows are revised."""
    source = pool.pulled()
    if source and source.review and edition.state == source.revisions:
        return source.review
    return reviewed.shares(pool, edition.state)


def _revision(pool: Pool, revision: Revision) -> dict[str, Any]:
    requests, prompt, generated = pool.revision_cost(revision.number)
    return {
        "version": revision.version,
        "kind": revision.kind,
        "after_round": revision.after_round,
        "rounds": list(revision.rounds),
        "settings": dict(revision.settings),
        "requests": requests,
        "tokens": {"prompt": prompt, "generated": generated},
        "models": pool.revision_models(revision.number),
        "changes": dict(revision.changes),
    }


def _known_shards(releases: Path, made: Sequence[Edition]) -> shards.Known:
    """Shards of earlier releases: a round's shards are copied, not made again, so that they stay the same bytes
    whatever library version wrote them. Not those of a round that was revised since."""
    known: dict[tuple[str, int | None], list[tuple[Path, dict[str, Any]]]] = {}
    revised: set[int | None] = set()
    for later, edition in zip(reversed(made), reversed(made[:-1]), strict=False):
        if later.revision is not None:
            revised.update(later.revision.rounds)
        folder = releases / edition.version
        if not is_release(folder):
            continue
        manifest = read_manifest(folder)
        # Shards of one config must have the same columns, so older ones are written anew.
        if manifest["format"] == versions.COLUMNS:
            for file in manifest["files"]:
                if "config" in file and file["round"] not in revised:
                    known.setdefault((file["config"], file["round"]), []).append((folder / file["path"], file))
            break  # it holds those of the rounds before it
    return known


@contextmanager
def _counted(pool: Pool, rounds: list[Round]) -> Iterator[dict[int, dict[str, Any]]]:
    """The pool's counts by round, with models and cost, counted while the caller does something else; there when
    the context is left."""
    counts: dict[int, dict[str, Any]] = {}
    with pool.beside() as reader, Behind("counts") as behind:
        behind.do(lambda: counts.update({one.number: _counts(reader, one) for one in rounds}))
        try:
            yield counts
        except BaseException:
            reader.interrupt()
            raise


def _counts(pool: Pool, round_: Round) -> dict[str, Any]:
    number = round_.number
    return {**pool.counts(number), "models": pool.models(number), "cost": costs.of(pool, round_)}


@contextmanager
def _disk_errors_named(target: Path, building: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            # What is half built is of no use, and takes the space that is wanted.
            shutil.rmtree(building, ignore_errors=True)
            raise ReleaseError(
                f"{target}: the disk is full; the round is safe in the pool: free some space and run "
                "`selfinstruct-hub grow` again to package it"
            ) from error
        raise ReleaseError(f"{target}: cannot be written ({error.strerror or error})") from error

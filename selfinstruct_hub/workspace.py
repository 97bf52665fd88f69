"""A workspace: the folder that holds settings, pool and releases, and the lock that one process takes.

    DIR/selfinstruct.yaml   the settings
    DIR/pool.sqlite3        everything asked, answered and judged
    DIR/releases/vX.Y.Z/    the frozen rounds

Knows the layout; decides nothing about rounds or rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from selfinstruct_hub import assets, config, recipes, seeds
from selfinstruct_hub.errors import ConfigError, PoolError, WorkspaceBusyError, WorkspaceError
from selfinstruct_hub.pool import FILE_NAME as POOL_FILE
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.pool.file import check_not_lost
from selfinstruct_hub.records import Round, is_import

MANIFEST = "manifest.json"  # written last, so a folder that has one is a whole release
SEEDS_FILE = "seeds.jsonl"  # of a workspace that was made out of a release: the seeds that are in it
_LOCK_FILE = ".lock"
_ASKED_OF_HUB = "seeds_asked_of_hub"  # a fact of the pool: see `seeds.asked_of_hub`


def is_release(folder: Path) -> bool:
    """Whether `folder` holds a whole release."""
    return (folder / MANIFEST).is_file()


@dataclass(frozen=True)
class Workspace:
    """A folder made by `init`."""

    path: Path

    @classmethod
    def create(
        cls,
        path: Path | str,
        settings: config.Settings | None = None,
        *,
        own_seeds: Sequence[Mapping[str, Any]] = (),
        **values: Any,
    ) -> Workspace:
        """A new workspace in `path`, which must not exist or be empty. `values` are laid over the settings:
        `tasks=50`, `endpoint={"url": "http://gpu:8080"}`. `own_seeds` are rows of a seed file, which is written
        beside the settings as SEEDS_FILE.

        Raises WorkspaceError for a path that is taken, ConfigError for a setting, SeedError where the settings'
        seeds cannot be used."""
        path = Path(path)
        settings = settings or config.Settings()
        if values:
            settings = config.with_values(settings, values)
        if assets.is_taken(path.absolute().name):
            raise WorkspaceError(
                f"{path}: {assets.SCRIPT} is a file of every release, and `datasets` would run it or refuse to "
                "load a dataset of that name; choose another"
            )
        try:
            if path.exists() and not path.is_dir():
                raise WorkspaceError(f"{path}: is a file; name a new or empty directory")
            if (path / config.FILE_NAME).exists():
                raise WorkspaceError(
                    f"{path}: is a workspace already; `selfinstruct-hub grow {path}` goes on with it"
                )
            if path.exists() and any(path.iterdir()):
                raise WorkspaceError(f"{path}: is not empty; name a new or empty directory")
        except OSError as error:
            raise WorkspaceError(f"{path}: cannot be used ({error.strerror})") from None
        if not own_seeds:
            seeds.load(settings, path.absolute())
        try:
            path.mkdir(parents=True, exist_ok=True)
            if own_seeds:
                rows = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in own_seeds)
                (path / SEEDS_FILE).write_text(rows, encoding="utf-8")
            (path / config.FILE_NAME).write_text(config.render(settings), encoding="utf-8")
        except OSError as error:
            raise WorkspaceError(f"{path}: cannot be written ({error.strerror})") from None
        return cls(path)

    @classmethod
    def open(cls, path: Path | str) -> Workspace:
        """The workspace in `path`. Raises WorkspaceError where there is none."""
        return cls.at(Path(path))

    @classmethod
    def at(cls, path: Path) -> Workspace:
        """The workspace in `path`. Raises WorkspaceError where there is none."""
        try:
            if not path.is_dir():
                raise WorkspaceError(
                    f"{path}: no such directory; `selfinstruct-hub init {path}` makes a workspace"
                )
            if not (path / config.FILE_NAME).is_file():
                raise WorkspaceError(
                    f"{path}: not a workspace ({config.FILE_NAME} is missing); `selfinstruct-hub init` makes one"
                )
        except OSError as error:
            raise WorkspaceError(f"{path}: cannot be read ({error.strerror})") from None
        return cls(path)

    @property
    def name(self) -> str:
        """The folder's name, as text that can be written anywhere."""
        return self.path.resolve().name.encode("utf-8", "replace").decode()

    @property
    def pool_file(self) -> Path:
        return self.path / POOL_FILE

    @property
    def releases(self) -> Path:
        return self.path / "releases"

    def is_released(self, version: str) -> bool:
        """Whether `version` is frozen."""
        return is_release(self.releases / version)

    def check_pool_not_lost(self) -> None:
        """Raises PoolError where the pool is missing that was there: none is begun anew below what was made of
        it."""
        check_not_lost(self.pool_file)
        if not self.pool_file.exists() and self.releases.is_dir():
            released = sorted(place.name for place in self.releases.iterdir() if is_release(place))
            if released:
                raise PoolError(
                    f"{self.pool_file}: is missing, and {self.releases} has {', '.join(released)} that were made "
                    "of it; restore it from a backup, or move them away to begin anew"
                )

    def settings(self) -> config.Settings:
        """The settings as they stand in the file."""
        return config.load(self.path / config.FILE_NAME)

    def _check_recipe(self, round_: Round) -> None:
        """Whoever goes on with a workspace needs the recipes of its rounds, for their requests and for the
        card."""
        name = round_.settings["recipe"]
        if is_import(round_.settings):
            return
        try:
            recipes.named(name)
        except ConfigError:
            raise WorkspaceError(
                f"{self.path}: round {round_.number} was grown with the recipe `{name}`, which is not known here; "
                f"{config.REGISTER}"
            ) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the workspace for this process. The lock goes with the process, however that ends."""
        lock = FileLock(self.path / _LOCK_FILE)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise WorkspaceBusyError(
                f"{self.path}: another process is working on this workspace; wait for it or stop it"
            ) from None
        except OSError as error:
            raise PoolError(f"{self.path}: cannot be locked ({error.strerror}); check its permissions") from None
        except NotImplementedError:  # what older versions of filelock say of some network file systems
            raise PoolError(
                f"{self.path}: its file system cannot lock files; work on a local disk, or mount it with locks"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def open_pool(self, settings: config.Settings) -> Pool:
        """The pool, made and given its seeds the first time. Call with the lock held.

        A pool grows from one set of seeds, so later changes to our own seeds do not reach it, and a dataset on
        the Hub is not asked for again. Raises WorkspaceError where a seed file or folder of the user's has
        changed since the first answer, or another dataset is named.
        """
        beside = self.path.absolute()
        self.check_pool_not_lost()
        pool = Pool.open(self.pool_file) if self.pool_file.exists() else None
        try:
            if pool is not None:
                pool.glance()
            rounds = pool.rounds() if pool is not None else []
            for round_ in rounds:
                self._check_recipe(round_)
            answered = any(r.complete or (pool is not None and not pool.is_untouched(r.number)) for r in rounds)
            if answered and rounds[0].settings["language"].casefold() != settings.language.casefold():
                raise WorkspaceError(
                    f"{self.path}: the pool is in language `{rounds[0].settings['language']}`, and the settings "
                    f"say `{settings.language}`; begin a new workspace with `selfinstruct-hub init`"
                )
            asked = seeds.asked_of_hub(settings, beside)
            if pool is not None and answered and asked is not None and pool.meta(_ASKED_OF_HUB) == asked:
                return pool
            tasks = seeds.load(settings, beside)
            fingerprint = seeds.fingerprint(tasks)
            pool = pool or Pool.create(self.pool_file)
            if answered:
                if pool.meta("seeds") != fingerprint and settings.seeds is not None:
                    raise WorkspaceError(
                        f"{seeds.locate(settings.seeds, settings.language, beside)}: the seed tasks have changed "
                        "since this pool was begun; restore them, or begin a new workspace with "
                        "`selfinstruct-hub init`"
                    )
                return pool
            if pool.meta("seeds") != fingerprint:
                pool.set_seeds([seeds.as_row(task) for task in tasks], fingerprint)
            if pool.meta(_ASKED_OF_HUB) != asked:
                pool.set_meta(_ASKED_OF_HUB, asked)
        except BaseException:
            if pool is not None:
                pool.close()
            raise
        return pool

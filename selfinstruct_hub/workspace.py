"""A workspace: the folder that holds settings, pool and releases, and the lock that one process takes.

    DIR/selfinstruct.yaml   the settings
    DIR/pool.sqlite3        everything asked, answered and judged
    DIR/releases/vX.Y.Z/    the frozen rounds

Knows the layout; decides nothing about rounds or rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from selfinstruct_hub import assets, config, seeds
from selfinstruct_hub.errors import PoolError, WorkspaceBusyError, WorkspaceError
from selfinstruct_hub.pool import FILE_NAME as POOL_FILE
from selfinstruct_hub.pool import Pool

MANIFEST = "manifest.json"  # written last, so a folder that has one is a whole release
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
    def create(cls, path: Path, settings: config.Settings) -> Workspace:
        """A new workspace in `path`, which must not exist or be empty. Raises WorkspaceError otherwise, and
        SeedError where the settings' seeds cannot be used."""
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
        seeds.load(settings, path.absolute())
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / config.FILE_NAME).write_text(config.render(settings), encoding="utf-8")
        except OSError as error:
            raise WorkspaceError(f"{path}: cannot be written ({error.strerror})") from None
        return cls(path)

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

    def settings(self) -> config.Settings:
        """The settings as they stand in the file."""
        return config.load(self.path / config.FILE_NAME)

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
        pool = Pool.open(self.pool_file) if self.pool_file.exists() else None
        try:
            rounds = pool.rounds() if pool is not None else []
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

"""Finds what ends up in a dataset: the builder, the card's templates and the seeds.

They lie at the top of a checkout and inside the package in a wheel. Nothing else may know where.
"""

from __future__ import annotations

from pathlib import Path

# What the builder is called in every release.
SCRIPT = "loading_script.py"
_PACKAGE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """The folder `name` ("builder", "cards" or "seeds")."""
    for place in (_PACKAGE / "assets" / name, _PACKAGE.parent / name):
        if place.is_dir():
            return place
    raise FileNotFoundError(f"the installation is incomplete: {name}/ is missing beside {_PACKAGE}")


def text(name: str, file: str) -> str:
    """The text of one asset."""
    return (folder(name) / file).read_text(encoding="utf-8")


def is_taken(name: str) -> bool:
    """Whether a folder or a repository may not be called `name`: `datasets` runs a script that is called like the
    dataset it lies in, or since 4 refuses to load it."""
    return name.casefold().removesuffix(".py") == SCRIPT.removesuffix(".py")


def seed_languages() -> list[str]:
    """Languages that the installation brings seeds for."""
    return sorted(path.stem for path in folder("seeds").glob("*.jsonl"))

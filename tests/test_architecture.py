"""Imports run one way, nothing else talks HTTP, and the wheel brings everything under one name."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "selfinstruct_hub"

# The rooms in the order that imports may run: a room may import from those above it.
ROOMS = [
    *("__init__", "errors", "digests", "figures", "records", "rows", "datafiles"),
    *("assets", "versions", "events", "config", "languages", "seeds"),
    "sampling",
    *("parsing", "formats", "recipes"),
    *(
        "filters",
        "novelty",
        "pool",
        "workspace",
        "local",
        "endpoint",
        "plan",
        "judging",
        "saturation",
        "rounds",
        "grow",
        "reviewed",
        "release",
        "status",
        "upkeep",
        "interrupts",
        "working",
        "run",
        "regenerate",
        "top_up",
        "exchange",
        "review",
        "dedup",
        "doctor",
        "forecast",
        "published",
        "difference",
        "replay",
        "reproduce",
        "hub",
    ),
    "library",
    *("show", "cli", "__main__"),
]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def imports(path: Path) -> set[str]:
    """Dotted names of every module that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if "assets" not in path.parts[:-1])


def test_every_room_has_its_place() -> None:
    assert {room_of(path) for path in FILES} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    rank = {f"selfinstruct_hub.{room}": place for place, room in enumerate(ROOMS)}
    if path == PACKAGE / "__init__.py":
        return  # names what there is, and imports it when it is asked for: see test_library.py
    own = rank[f"selfinstruct_hub.{room_of(path)}"]
    for name in imports(path):
        room = ".".join(name.split(".")[:2])
        if room in rank:
            assert rank[room] <= own, f"{path.name} imports {name}, which lies below it"


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("aiohttp", {"endpoint", "local"}),
        ("text_generation", {"endpoint", "local"}),
        ("transformers", {"endpoint"}),
        ("sqlite3", {"pool"}),
        ("openvino_genai", {"local"}),
        ("pyarrow", {"release", "datafiles", "published"}),
        ("rapidfuzz", {"novelty"}),
        ("model2vec", {"novelty"}),
        ("ray", {"novelty"}),
        ("matplotlib", {"release"}),
        ("spacy", {"release"}),
        ("markdown_it", {"release"}),
        ("rich", {"show"}),
        ("typer", {"cli"}),
        ("datasets", {"seeds", "release"}),
    ],
)
def test_libraries_stay_in_their_rooms(library: str, rooms: set[str]) -> None:
    users = {room_of(p) for p in FILES if any(n.split(".")[0] == library for n in imports(p))}
    assert users, f"nothing uses {library}"
    assert users <= rooms


def test_only_one_room_writes_to_the_hub() -> None:
    """Others ask the library for a token, an inference client or a file. What stores a folder in several commits
    is used nowhere."""
    writing = {"create_commit", "create_repo", "create_tag", "CommitOperationAdd", "CommitOperationDelete"}
    never = {"upload_file", "upload_folder", "upload_large_folder", "push_to_hub", "delete_repo"}
    users = set()
    for path in FILES:
        tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        names = {getattr(node, "attr", getattr(node, "id", None)) for node in tree}
        assert not names & never, path
        if names & writing:
            users.add(room_of(path))
    assert users == {"hub"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_the_wheel_has_one_name_and_runs_from_anywhere(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"selfinstruct_hub"}
    for asset in ("builder/loading_script.py", "cards/dataset_card.md.j2", "seeds/en.jsonl"):
        assert f"selfinstruct_hub/assets/{asset}" in names
    # -P and -I keep the checkout out of the path; the installed dependencies stay.
    script = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "import selfinstruct_hub; print(selfinstruct_hub.__file__)\n"
        "from selfinstruct_hub.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(site), "init", str(tmp_path / "w")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))

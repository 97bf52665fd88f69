"""What the Hub says of a repository, in the shapes that its clients parse; and its refusals. Knows no routes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from tests.support.hub.history import MAIN, ZERO_TIME, Blob, Repo


class Refused(Exception):
    def __init__(self, status: int, code: str, text: str, **more: Any) -> None:
        super().__init__(text)
        self.status, self.code, self.text, self.more = status, code, text, more

    def response(self, headers: Mapping[str, str] | None = None) -> web.Response:
        told = {"X-Error-Message": self.text, **({"X-Error-Code": self.code} if self.code else {})}
        return web.json_response(
            {"error": self.text, **self.more}, status=self.status, headers={**told, **(headers or {})}
        )


def files_of(repo: Repo, revision: str) -> Mapping[str, Blob]:
    oid = repo.find(revision)
    if oid is None:
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return repo.commits[oid].files


def named(asked: dict[str, Any], owner: str) -> str:
    return f"{asked.get('organization') or owner}/{asked['name']}"


def validated(content: str, refused: str) -> dict[str, Any]:
    """What the Hub says of a card: its YAML must be a mapping."""
    try:
        found = yaml.safe_load(content.split("---")[1]) if content.startswith("---") else {}
    except yaml.YAMLError as error:
        return {"errors": [{"message": str(error)}], "warnings": []}
    errors = [] if isinstance(found, dict) else [{"message": "no mapping"}]
    if refused:
        errors.append({"message": f'"{refused}" must be one of those known'})
    return {"errors": errors, "warnings": []}


def refs(repo: Repo, with_pulls: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "branches": [{"name": MAIN, "ref": "refs/heads/main", "targetCommit": repo.head}],
        "converts": [],
        "tags": [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": c} for n, c in repo.tags.items()],
    }
    if with_pulls:
        found["pullRequests"] = [
            {"name": str(n), "ref": f"refs/pr/{n}", "targetCommit": c} for n, c in repo.pulls.items()
        ]
    return found


def discussion(name: str, repo: Repo, number: int) -> dict[str, Any]:
    return {
        "num": number,
        "title": repo.commits[repo.pulls[number]].title,
        "status": repo.pull_states[number],
        "author": {"name": "me"},
        "createdAt": ZERO_TIME,
        "isPullRequest": True,
        "events": [],
        "changes": {"base": "refs/heads/main"},
        "filesWithConflicts": [],
        "repo": {"name": name, "type": "dataset"},
        "diff": "",
    }


def entries(files: Mapping[str, Blob]) -> list[dict[str, Any]]:
    """Files and folders of a tree."""
    folders = {str(parent) for path in files for parent in Path(path).parents if str(parent) != "."}
    found: list[dict[str, Any]] = [
        {"type": "directory", "path": path, "oid": Blob(path.encode()).oid, "size": 0} for path in sorted(folders)
    ]
    for path, blob in sorted(files.items()):
        entry: dict[str, Any] = {"type": "file", "path": path, "oid": blob.oid, "size": len(blob.content)}
        if blob.large:
            entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": len(blob.pointer)}
        found.append(entry)
    return found


def is_below(path: str, folder: str, deep: bool) -> bool:
    if folder and not path.startswith(f"{folder}/"):
        return False
    return deep or "/" not in path.removeprefix(f"{folder}/" if folder else "")


def info(name: str, repo: Repo, revision: str) -> dict[str, Any]:
    files = files_of(repo, revision)
    return {
        "_id": "0" * 24,
        "id": name,
        "author": name.split("/")[0],
        "sha": repo.find(revision),
        "siblings": [{"rfilename": path} for path in files],
        "tags": [],
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "lastModified": ZERO_TIME,
        "createdAt": ZERO_TIME,
    }

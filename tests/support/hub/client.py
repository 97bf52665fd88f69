"""Drives the Hub's own clients in a process of their own, with whatever versions are installed there.

Stands alone: run as a script with HF_ENDPOINT set, an action and its arguments as JSON; prints JSON. Used to see
that the Hub of these tests is one to every version of huggingface_hub and datasets, and that what was published
loads.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def life(repo: str) -> dict[str, Any]:
    """Everything that the library does to a dataset from its making to its end."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    library: Any = huggingface_hub
    api, Add, Delete = library.HfApi(), library.CommitOperationAdd, library.CommitOperationDelete
    kind: dict[str, Any] = {"repo_id": repo, "repo_type": "dataset"}
    found: dict[str, Any] = {"user": api.whoami()["name"]}
    try:
        api.repo_info(**kind)
    except RepositoryNotFoundError:
        found["missing"] = True
    api.create_repo(**kind, private=True)
    api.create_repo(**kind, private=True, exist_ok=True)
    start = api.repo_info(**kind)
    found["private"] = start.private
    card, rows = b"---\nlicense: mit\n---\n\nhello\n", b"PAR1" * 100
    first = api.create_commit(
        **kind,
        operations=[Add("README.md", card), Add("data/a.parquet", rows), Add("gone.txt", b"x")],
        commit_message="one",
        parent_commit=start.sha,
    )
    api.create_tag(**kind, tag="v1.0.0", revision=first.oid)
    codes = []
    refused: dict[str, Any] = {
        "stale": lambda: api.create_commit(
            **kind, operations=[Add("b", b"b")], commit_message="b", parent_commit=start.sha
        ),
        "tag": lambda: api.create_tag(**kind, tag="v1.0.0", revision="main"),
    }
    for name, call in refused.items():
        try:
            call()
        except HfHubHTTPError as error:
            response: Any = error.response
            codes.append([name, response.status_code])
    try:
        api.create_tag(**kind, tag="v9.9.9", revision="0" * 40)
    except RevisionNotFoundError:
        codes.append(["revision", 404])
    second = api.create_commit(
        **kind,
        operations=[Delete("gone.txt", is_folder=False), Add("data/b.parquet", rows)],
        commit_message="two",
        parent_commit=first.oid,
    )
    pull = api.create_commit(**kind, operations=[Add("c", b"c")], commit_message="three", create_pr=True)
    refs = api.list_repo_refs(**kind, include_pull_requests=True)
    tree = api.list_repo_tree(**kind, revision=second.oid, recursive=True)
    infos = api.get_paths_info(repo, ["data/a.parquet", "README.md"], revision="v1.0.0", repo_type="dataset")
    large = {i.path: i.lfs and i.lfs.sha256 for i in infos}
    path = api.hf_hub_download(repo, "README.md", repo_type="dataset", revision="v1.0.0")
    folder = Path(api.snapshot_download(repo, repo_type="dataset", revision="v1.0.0"))
    found.update(
        codes=codes,
        pull=pull.pr_url.rsplit("/", 1)[-1],
        pull_state=api.get_discussion_details(repo, 1, repo_type="dataset").status,
        tags={ref.name: ref.target_commit == first.oid for ref in refs.tags},
        head=refs.branches[0].target_commit == second.oid,
        pulls=len(refs.pull_requests),
        paths=sorted(entry.path for entry in tree if hasattr(entry, "size")),
        large=large,
        commits=[commit.title for commit in api.list_repo_commits(**kind)],
        read=Path(path).read_bytes() == card,
        snapshot=sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()),
    )
    api.delete_tag(**kind, tag="v1.0.0")
    api.delete_repo(**kind)
    return found


def load(repo: str, revisions: list[str], names: list[str | None]) -> dict[str, Any]:
    """The configs of published versions, as a trainer loads them: rows, columns, version, and a digest of all."""
    import hashlib

    import datasets

    datasets.disable_progress_bars()
    found: dict[str, Any] = {revision: {} for revision in revisions}
    for revision, name in ((revision, name) for revision in revisions for name in names):
        rows = datasets.load_dataset(repo, name, revision=revision, split="train")
        content = json.dumps(rows.to_list(), sort_keys=True).encode()
        found[revision][name or "default"] = {
            "rows": len(rows),
            "columns": rows.column_names,
            "version": str(rows.version),
            "digest": hashlib.sha256(content).hexdigest(),
        }
    return found


if __name__ == "__main__":
    assert os.environ["HF_ENDPOINT"].startswith("http://127.0.0.1:")
    action, arguments = sys.argv[1], json.loads(sys.argv[2])
    actions: dict[str, Any] = {"life": life, "load": load}
    print(json.dumps(actions[action](**arguments)))

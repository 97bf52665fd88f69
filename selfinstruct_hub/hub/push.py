"""Publishes releases: each one commit that holds data, card, script and manifest, then its tag.

What is published already is found out by content, never remembered, so a push that was cut anywhere is completed
by the next one. Nothing is ever built on a branch that holds what this workspace has not made.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from selfinstruct_hub.errors import HubAccessError, HubConflictError, HubError
from selfinstruct_hub.hub.connection import Connection, check_name
from selfinstruct_hub.hub.local import releases_of
from selfinstruct_hub.hub.remote import Remote
from selfinstruct_hub.hub.state import compare
from selfinstruct_hub.hub.steps import Pushed, Watch, step_of
from selfinstruct_hub.hub.writing import Writing
from selfinstruct_hub.release.verify import check


def push(
    directory: Path,
    name: str,
    *,
    private: bool | None = None,
    dry_run: bool = False,
    create_pr: bool = False,
    watch: Watch | None = None,
    connection: Connection | None = None,
) -> Pushed:
    """Publishes the releases of the workspace `directory` that are not published yet as dataset `name`, by
    version.

    A dataset that is not there is made, private unless `private` is False. `create_pr` opens a pull request with
    the first of them instead, without a tag. `dry_run` writes nothing.
    Raises UsageError for a name or directory, ReleaseError for a release that is not as it was made,
    HubAccessError, HubConflictError where tags or main hold something else, HubError for the rest.
    """
    check_name(name)
    watch = watch or Watch()
    releases = releases_of(directory)
    connection = connection or Connection(say=watch.say)
    who = _writer(connection)
    remote = Remote.at(connection, name)
    if remote.exists and private is not None and remote.private != private:
        is_, asked = ("private", "public") if remote.private else ("public", "private")
        raise HubConflictError(
            f"{name} is {is_}, and --{asked} was asked for; only its settings page changes that "
            f"({connection.page(name)}/settings)"
        )
    found = compare(releases, remote)
    pending = found.unpublished[:1] if create_pr else found.unpublished
    for one in pending:
        watch.say(f"{one.release.version}: checking its files")
        check(one.release.folder, load=False)
    result = Pushed(
        repo=name,
        url=connection.page(name),
        created=not remote.exists,
        private=remote.private if remote.exists else private is not False,
        dry_run=dry_run,
        published=found.published,
        tagged=tuple(version for version, _ in found.untagged),
        steps=tuple(step_of(one) for one in pending),
        waiting=tuple(one.release.version for one in found.unpublished[1:]) if create_pr else (),
        create_pr=create_pr,
    )
    if dry_run:
        return result
    pushing = Writing(connection, remote, who, watch)
    if not remote.exists:
        pushing.create(private=result.private)
    for version, commit in found.untagged:
        watch.say(f"{version}: is there as commit {commit[:8]}; tagging it")
        pushing.tag(version, commit)
    steps = []
    for one, step in zip(pending, result.steps, strict=True):
        if create_pr:
            done = pushing.propose(one, step)
        else:
            commit = pushing.commit(one, step)
            pushing.tag(step.version, commit)
            watch.say(f"{step.version}: published as commit {commit[:8]}, tag {step.version}")
            done = replace(step, commit=commit, tagged=True)
        steps.append(done)
    return replace(result, steps=tuple(steps))


def _writer(connection: Connection) -> str:
    """Whose token it is. Raises HubAccessError where there is none or it may only read."""
    if not connection.token:
        raise HubAccessError("no token for the Hub; set HF_TOKEN or use `hf auth login`")
    found = connection.call("asking whose token it is", connection.api.whoami)
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        raise HubError(connection.no_hub)
    access = (found.get("auth") or {}).get("accessToken") or {}
    if access.get("role") == "read":
        raise HubAccessError(
            f"the token of {found['name']} may only read; make one that may write at "
            f"{connection.endpoint}/settings/tokens"
        )
    return str(found["name"])

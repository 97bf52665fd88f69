"""The card as one page for a browser: pictures inside it, nothing loaded from anywhere, light and dark.

Made anew from the release's own figures, so it has pictures and verbs also where the machine that made the release
could not draw or count them. The release is only read.
"""

from __future__ import annotations

import base64
import html
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from selfinstruct_hub import assets, config, versions
from selfinstruct_hub.errors import ConfigError, ReleaseError, UsageError
from selfinstruct_hub.records import is_import
from selfinstruct_hub.release import page
from selfinstruct_hub.release.page import card, diversity, pictures, samples
from selfinstruct_hub.workspace import MANIFEST, Workspace, is_release

TEMPLATE = "report.html.j2"
# Addresses that a page may lead to. Nothing is loaded from them.
_LINKS = ("https://", "http://", "mailto:", "#")
# What the page needs of every manifest, and of each of its rounds; what came later, with what stands for it.
_KEYS = {"version": str, "language": str, "rounds": list, "files": list, "tasks": int, "rows": int, "seeds": int}
_ROUND_KEYS = {
    **dict.fromkeys(("round", "tasks", "rows", "requests", "candidates"), int),
    **dict.fromkeys(("drops", "tokens", "settings"), dict),
    "version": str,
}
_GROWN_KEYS = {"decoding": dict, "demonstrations": dict, "tasks_per_request": int}
_LATER: dict[str, Any] = {
    **dict.fromkeys(("acceptance", "similarity", "cost")),
    **dict.fromkeys(("completions", "parsed"), 0),
    **{key: {} for key in ("failed", "lost_instances", "stages")},
    "models": [],
}
_MEASURED = frozenset(
    "rows tasks without_input classification instruction input output row_tokens tokens novelty first_words "
    "different_first_words endpoints rounds verbs".split()
)


def release_of(directory: Path, version: str | None = None) -> Path:
    """The release folder that `directory` is, or the newest of the workspace that it is, or the one of `version`.

    Raises WorkspaceError where it is neither, ReleaseError where there is no such release.
    """
    if is_release(directory):
        own = str(_manifest(directory).get("version"))
        if version not in (None, own):
            raise UsageError(f"--version: {directory} is the release {own}, not {version}")
        return directory
    releases = Workspace.at(directory).releases
    there = {folder.name: folder for folder in releases.glob("v*") if is_release(folder) and _is_tag(folder.name)}
    if not there:
        raise ReleaseError(f"{directory}: has no release yet; `selfinstruct-hub grow {directory}` makes one")
    names = sorted(there, key=versions.parse)
    if version is None:
        return there[names[-1]]
    if version not in there:
        raise ReleaseError(f"{directory}: has no release {version}; there are {', '.join(names)}")
    return there[version]


def write(release: Path, out: Path, *, overwrite: bool = False) -> None:
    """Writes the page of the folder `release` to the file `out`, whole or not at all.

    Raises ReleaseError where a file of the release cannot be read or `out` cannot be written.
    """
    if out.is_dir():
        raise ReleaseError(f"{out}: is a folder; name a file with --out")
    if out.exists() and not overwrite:
        raise ReleaseError(f"{out}: exists already; name another file with --out, or overwrite it with --force")
    if release.resolve() in out.resolve().parents:
        raise ReleaseError(f"{out}: lies in the release, which never changes; name another file with --out")
    text = rendered(release)
    unfinished = out.with_name(f".{out.name}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(out)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise ReleaseError(f"{out}: cannot be written ({error.strerror})") from None


def rendered(release: Path) -> str:
    """The page of the folder `release`, as text. Raises ReleaseError where a file of it cannot be read."""
    import jinja2

    manifest = _completed(release, _manifest(release))
    settings = config.load(release / config.FILE_NAME).card
    title = _title(release)
    try:
        found = manifest.get("statistics")
        if not found or _MEASURED - found.keys() or (found["verbs"] is None and _can_count(manifest, settings)):
            page.measure(release, manifest, settings)  # what the release was made without
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            drawn = _drawn(release, folder, manifest, settings)
            shown = samples.chosen(release, manifest["files"], manifest["version"], settings.samples)
            described = pictures.described(manifest["statistics"], drawn)
            text = card.body(manifest, settings, title, shown=shown, pictures=described)
            inside = {f"{pictures.FOLDER}/{path.name}": _inlined(path) for path in drawn}
    except OSError as error:
        raise ReleaseError(f"{release}: cannot be read ({error.strerror or error})") from None
    except (KeyError, TypeError, ConfigError, jinja2.UndefinedError) as error:
        # A manifest is somebody's file: what it says of a round's settings is not known before it is used.
        said = " ".join(str(error).split())
        raise ReleaseError(
            f"{release / MANIFEST}: lacks something that the page needs ({said}); make the page with the version "
            "of selfinstruct-hub that made the release, which its `made_with` names"
        ) from error
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True
    )
    template = environment.from_string(assets.text("cards", TEMPLATE))
    return template.render(
        title=html.escape(title), version=html.escape(manifest["version"]), body=_as_html(text, inside)
    )


def _manifest(release: Path) -> dict[str, Any]:
    try:
        found = json.loads((release / MANIFEST).read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ReleaseError(f"{release / MANIFEST}: is damaged; build the release anew")
    return found


def _completed(release: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """`manifest` with what versions before this one did not write into theirs. Raises ReleaseError where it lacks
    what they all did."""
    place = release / MANIFEST

    def expect(found: Any, keys: Mapping[str, type], what: str) -> None:
        if not isinstance(found, dict):
            raise ReleaseError(f"{place}: {what} is no object; restore it from a copy or build the release anew")
        for key, kind in keys.items():
            if not isinstance(found.get(key), kind):
                raise ReleaseError(
                    f"{place}: {what} has no `{key}` as every release has; restore it from a copy or build the "
                    "release anew"
                )

    expect(manifest, _KEYS, "the manifest")
    if not manifest["rounds"]:
        raise ReleaseError(f"{place}: tells of no round; restore it from a copy or build the release anew")
    for number, round_ in enumerate(manifest["rounds"]):
        expect(round_, _ROUND_KEYS, f"rounds[{number}]")
        settings = round_["settings"]
        expect(settings, {"recipe": str, "novelty": dict}, f"rounds[{number}].settings")
        if not is_import(settings):
            expect(settings, _GROWN_KEYS, f"rounds[{number}].settings")
        for key, value in _LATER.items():
            round_.setdefault(key, value)
    for number, file in enumerate(manifest["files"]):
        expect(file, {"path": str, **({"rows": int} if "config" in file else {})}, f"files[{number}]")
    expect(manifest.setdefault("made_with", {}), {}, "made_with")
    manifest["made_with"].setdefault("selfinstruct-hub", "of a version that it does not tell")
    return manifest


def _is_tag(name: str) -> bool:
    try:
        versions.parse(name)
    except ValueError:
        return False
    return True


def _can_count(manifest: Mapping[str, Any], settings: config.CardSettings) -> bool:
    return settings.verbs == "auto" and diversity.pipeline_for(manifest["language"]) is not None


def _drawn(
    release: Path, folder: Path, manifest: Mapping[str, Any], settings: config.CardSettings
) -> Sequence[Path]:
    """The release's own pictures, or new ones where it has too few."""
    if settings.pictures == "off":
        return []
    listed = {file["path"] for file in manifest["files"]}
    wanted = sorted(pictures.names(manifest["statistics"]))
    own = [release / pictures.FOLDER / name for name in wanted if f"{pictures.FOLDER}/{name}" in listed]
    if len(own) == len(wanted):
        return own
    new = pictures.draw(manifest["statistics"], folder)
    return new if len(new) > len(own) else own


def _title(release: Path) -> str:
    """As the release's card has it."""
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):
        found = yaml.safe_load((release / page.README).read_text(encoding="utf-8").split("\n---\n")[0])
        if isinstance(found, dict) and found.get("pretty_name"):
            return str(found["pretty_name"])
    return release.name


def _inlined(picture: Path) -> str:
    data = base64.b64encode(picture.read_bytes()).decode()
    return f"data:image/png;base64,{data}#{picture.stem}"


def _as_html(text: str, inside: Mapping[str, str]) -> str:
    """Markdown as HTML. HTML in it is shown, not obeyed; of pictures, only those `inside` are shown, and links
    lead to the web alone."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    for token in tokens:
        for child in token.children or ():
            if child.type == "image":
                source = inside.get(str(child.attrs["src"]))
                if source is None:
                    child.type, child.tag, child.content = "text", "", f"[{child.content}]"
                else:
                    child.attrs["src"] = source
            elif child.type == "link_open" and not str(child.attrs["href"]).startswith(_LINKS):
                del child.attrs["href"]
    parser.add_render_rule("fence", _fence)
    page_ = str(parser.renderer.render(tokens, parser.options, {}))
    return page_.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")


def _fence(_: Any, tokens: Sequence[Any], place: int, *__: Any) -> str:
    """A block with every line an element of its own: where a narrow page breaks one, what follows is indented, so
    that no part of a row's text begins where the names of the parts do."""
    lines = tokens[place].content.removesuffix("\n").split("\n")
    return "<pre><code>" + "".join(f"<span>{html.escape(line)}\n</span>" for line in lines) + "</code></pre>\n"

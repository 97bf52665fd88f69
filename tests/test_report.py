"""`report`: one page with everything in it, which loads nothing, and in which no row's text is markup."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from selfinstruct_hub import config
from selfinstruct_hub.errors import ReleaseError, UsageError, WorkspaceError
from selfinstruct_hub.release import page
from selfinstruct_hub.release.page import report
from selfinstruct_hub.workspace import Workspace
from tests.test_card import manifest_of

NASTY = "Name </pre></code><script>alert(1)</script> ![x](https://example.org/x.png) <img src='https://example.org/y.png'>"


class Page(HTMLParser):
    """The elements of a page, its text, and elements that were not closed."""

    VOID = frozenset({"meta", "img", "br", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.VOID, tag
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(autouse=True, scope="module")
def _pictures_of_few_tasks() -> Iterator[None]:
    with mock.patch("selfinstruct_hub.release.page.pictures.LEAST_TASKS", 0):
        yield


def release_in(folder: Path, *, version: str = "v1.2.0", card: config.CardSettings | None = None) -> Path:
    """A release with rows of test_card, whole but for the loading script."""
    card = card or config.CardSettings(verbs="off")
    folder.mkdir(parents=True)
    manifest = manifest_of(folder, verbs=None)
    del manifest["statistics"]
    manifest["version"] = version
    page.write(folder, manifest, card, "Trees & <seas>")
    (folder / config.FILE_NAME).write_text(config.render(config.Settings(card=card)), encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that tests only read."""
    description = (
        f"See [home](https://example.org), [here](javascript:x), ![far](https://example.org/z.png). {NASTY}"
    )
    card = config.CardSettings(verbs="off", description=description)
    return release_in(tmp_path_factory.mktemp("report") / "v1.2.0", card=card)


def before(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_page_is_whole_and_loads_nothing(release: Path) -> None:
    untouched = before(release)
    text = report.rendered(release)
    assert text == report.rendered(release)
    assert before(release) == untouched
    found = Page(text)
    assert found.open == []
    allowed = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "ul", "li", "div", "table"}
    allowed |= {"thead", "tbody", "tr", "th", "td", "pre", "code", "span", "strong", "a", "img", "em"}
    assert {tag for tag, _ in found.elements} <= allowed
    pictures = found.all("img")
    assert len(pictures) == 3
    for picture in pictures:
        assert picture["alt"]
        kind, _, data = (picture["src"] or "").partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data.partition("#")[0]).startswith(b"\x89PNG")
    assert [link.get("href") for link in found.all("a")] == ["https://example.org"]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert "prefers-color-scheme: dark" in style[1]
    policy = next(meta["content"] for meta in found.all("meta") if "content" in meta and "http-equiv" in meta)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_page_says_what_the_card_says(release: Path) -> None:
    found = Page(report.rendered(release))
    assert "Trees & <seas> v1.2.0" in found.text
    assert "</pre></code><script>alert(1)</script>" in found.text  # as text
    assert "![x](y.png)" in found.text  # a sample
    assert "<U+202E>today" in found.text
    headings = [tag for tag, _ in found.elements if tag == "h2"]
    assert len(headings) == (release / "README.md").read_text(encoding="utf-8").count("\n## ")
    tables = found.all("table")
    assert len([a for a in found.all("div") if a.get("class") == "table"]) == len(tables) >= 6


def test_no_part_of_a_text_can_stand_where_names_stand(release: Path) -> None:
    """However narrow a page is: a line that a browser breaks goes on indented, which needs lines of their own."""
    text = report.rendered(release)
    blocks = re.findall("<pre><code>(.*?)</code></pre>", text, re.DOTALL)
    assert len(blocks) > 6
    for block in blocks:
        lines = re.findall(r"<span>([^<]*)\n</span>", block)
        assert "".join(f"<span>{line}\n</span>" for line in lines) == block
    assert "<span>instruction:\n</span><span>  Name a bird.\n</span>" in text
    style = re.search(r"\npre span \{([^}]*)\}", text)
    assert style is not None
    rules = dict(rule.strip().split(": ") for rule in style[1].strip().rstrip(";").split(";"))
    assert rules["display"] == "block"
    assert rules["text-indent"] == f"-{rules['padding-left']}" != "-0"


def test_pictures_that_a_release_was_made_without_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("selfinstruct_hub.release.page.pictures.available", lambda: False)
        bare = release_in(tmp_path / "v1.2.0")
        assert "no pictures" in report.rendered(bare)
    assert len(Page(report.rendered(bare)).all("img")) == 3
    assert not (bare / "assets").exists()


def test_a_release_of_before_there_were_statistics_gets_them(release: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(release, old)
    manifest = json.loads((old / "manifest.json").read_text(encoding="utf-8"))
    del manifest["statistics"]
    (old / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert Page(report.rendered(old)).text == Page(report.rendered(release)).text


def changed(release: Path, target: Path, change: Any) -> Path:
    """A copy of a release, whose manifest `change` has changed."""
    shutil.copytree(release, target)
    manifest = json.loads((target / "manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    (target / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return target


def test_a_manifest_that_is_older_than_some_keys_is_enough(release: Path, tmp_path: Path) -> None:
    def older(manifest: dict[str, Any]) -> None:
        del manifest["made_with"]
        del manifest["statistics"]["row_tokens"]
        for round_ in manifest["rounds"]:
            for key in ("failed", "lost_instances", "cost", "models", "stages", "similarity"):
                del round_[key]

    text = Page(report.rendered(changed(release, tmp_path / "old", older))).text
    assert "Tool: selfinstruct-hub of a version that it does not tell;" in text
    assert "never answered" not in text
    assert "whole row, tokens (estimated)" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.pop("version"), "the manifest has no `version` as every release has"),
        (lambda m: m.update(rounds=[]), "tells of no round"),
        (lambda m: m.update(rounds=["x"]), r"rounds\[0\] is no object"),
        (lambda m: m["rounds"][1].pop("drops"), r"rounds\[1\] has no `drops`"),
        (lambda m: m.update(files={}), "the manifest has no `files`"),
        (lambda m: m["files"].append({"config": "default", "path": "x"}), r"files\[\d+\] has no `rows`"),
        (lambda m: m.update(made_with="me"), "made_with is no object"),
        (lambda m: m["statistics"].update(novelty=None), "lacks something that the page needs"),
        (lambda m: m["rounds"][0]["settings"].update(recipe="of-tomorrow"), "lacks something .*of-tomorrow"),
        (lambda m: m["rounds"][0]["settings"].pop("novelty"), r"rounds\[0\]\.settings has no `novelty`"),
        (
            lambda m: m["rounds"][1]["settings"].pop("tasks_per_request"),
            r"rounds\[1\]\.settings has no `tasks_per_r",
        ),
        (lambda m: m["rounds"][2]["settings"]["source"].pop("format"), "lacks something .*no attribute 'format'"),
    ],
)
def test_a_manifest_of_something_else_is_one_line(release: Path, tmp_path: Path, change: Any, said: str) -> None:
    odd = changed(release, tmp_path / "odd", change)
    with pytest.raises(ReleaseError, match=f"manifest.json: {said}") as caught:
        report.write(report.release_of(odd), tmp_path / "page.html")
    assert "\n" not in str(caught.value)


def test_a_card_that_is_no_text_costs_the_title_alone(release: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(release, tmp_path / "v1.2.0"))
    (copy / "README.md").write_bytes(b"---\npretty_name: \xff\n---\n")
    assert "<title>v1.2.0 v1.2.0</title>" in report.rendered(copy)


def test_pictures_can_be_left_out(tmp_path: Path) -> None:
    made = release_in(tmp_path / "v1.2.0", card=config.CardSettings(pictures="off", verbs="off", samples=0))
    found = Page(report.rendered(made))
    assert found.all("img") == []
    assert "no pictures" in found.text
    assert "Samples" not in found.text
    assert not (made / "assets").exists()


def test_the_release_is_found(tmp_path: Path) -> None:
    space = Workspace.create(tmp_path / "w", config.Settings())
    with pytest.raises(ReleaseError, match="has no release yet"):
        report.release_of(space.path)
    for version in ("v1.9.0", "v1.10.0"):
        release_in(space.releases / version, version=version)
    (space.releases / "v2.0.0").mkdir()  # not a whole one
    assert report.release_of(space.path) == space.releases / "v1.10.0"
    assert report.release_of(space.path, "v1.9.0") == space.releases / "v1.9.0"
    assert report.release_of(space.releases / "v1.9.0") == space.releases / "v1.9.0"
    assert report.release_of(space.releases / "v1.9.0", "v1.9.0") == space.releases / "v1.9.0"
    with pytest.raises(ReleaseError, match=r"has no release v7\.0\.0; there are v1\.9\.0, v1\.10\.0"):
        report.release_of(space.path, "v7.0.0")
    with pytest.raises(UsageError, match=r"is the release v1\.9\.0, not v1\.10\.0"):
        report.release_of(space.releases / "v1.9.0", "v1.10.0")
    with pytest.raises(WorkspaceError, match="not a workspace"):
        report.release_of(space.releases / "v2.0.0")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json: is damaged"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json: is damaged"),
        (lambda folder: shutil.rmtree(folder / "data" / "default"), "cannot be read"),
        (lambda folder: (folder / "assets" / "lengths.png").unlink(), "cannot be read"),
        (lambda folder: next((folder / "data" / "default").iterdir()).write_bytes(b"PAR1"), "cannot be read"),
    ],
)
def test_a_damaged_release_is_one_line(release: Path, tmp_path: Path, damage: Any, said: str) -> None:
    copy = tmp_path / "v1.2.0"
    shutil.copytree(release, copy)
    damage(copy)
    with pytest.raises(ReleaseError, match=said):
        report.write(copy, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_nothing_is_overwritten_unasked(release: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    target.write_text("mine")
    with pytest.raises(ReleaseError, match="exists already; name another file with --out"):
        report.write(release, target)
    assert target.read_text() == "mine"
    report.write(release, target, overwrite=True)
    assert target.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(ReleaseError, match="is a folder"):
        report.write(release, tmp_path, overwrite=True)
    with pytest.raises(ReleaseError, match="cannot be written"):
        report.write(release, tmp_path / "none" / "page.html")
    with pytest.raises(ReleaseError, match="lies in the release, which never changes"):
        report.write(release, release / "page.html")


def test_the_command(release: Path, tmp_path: Path) -> None:
    def command(*options: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "selfinstruct_hub", "report", str(release), *options]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)

    done = command()
    assert (done.returncode, done.stdout, done.stderr) == (0, "wrote v1.2.0.html\n", "")
    assert (tmp_path / "v1.2.0.html").read_text(encoding="utf-8").endswith("</html>\n")
    again = command("--out", "v1.2.0.html")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith("error: v1.2.0.html: exists already")

"""selfinstruct.yaml: the written file says every setting, and every mistake in it is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from selfinstruct_hub import config
from selfinstruct_hub.errors import ConfigError


def test_the_written_file_holds_every_setting_and_reads_back(tmp_path: Path) -> None:
    changed = config.Settings.model_validate(
        {"tasks": 7, "seeds": "a: b #c.jsonl", "card": {"tags": ["x", "y: z"], "description": "two\nlines"}}
    )
    for settings in (config.Settings(), changed):
        path = tmp_path / "selfinstruct.yaml"
        path.write_text(config.render(settings), encoding="utf-8")
        assert config.load(path) == settings
        for name, _ in config.flatten(settings.model_dump()):
            line = re.search(rf"^ *{name.split('.')[-1]}: .*# \S", path.read_text(), re.MULTILINE)
            assert line, f"{name} has no line with a comment"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tasks: [1", "line 2, column 1: not valid YAML"),
        ("- 1", "expected settings as `key: value` lines, found a list"),
        ("taks: 3", "unknown setting `taks`; did you mean `tasks`?"),
        (
            "decoding: {temprature: 1}",
            "unknown setting `decoding.temprature`; did you mean `decoding.temperature`?",
        ),
        ("temperature: 1", "unknown setting `temperature`; did you mean `decoding.temperature`?"),
        ("decoding: {xyz: 1}", "unknown setting `decoding.xyz`; known here: temperature"),
        ("tasks: many", "`tasks`: expected a valid integer"),
        ("tasks: 0", "`tasks`: expected greater than or equal to 1, got 0"),
        ("tasks_per_request: few", "`tasks_per_request`: expected auto or a whole number, got 'few'"),
        ("decoding: 3", "`decoding`: "),
        ("decoding: {temperature: warm}", "`decoding.temperature`: expected auto or a number, got 'warm'"),
        ("decoding: {top_p: 1.0}", "`decoding.top_p`: expected less than 1, got 1.0"),
        ("tasks: true", "`tasks`: expected a value, got true"),
        ("decoding: {temperature: .inf}", "`decoding.temperature`: "),
        ("novelty: {threshold: 1.0}", "`novelty.threshold`: expected less than 1"),
        (
            "novelty: {mode: fast}\nsaturation: {mean_similarity: 0.5}",
            "`saturation`: a limit of similarity needs novelty.mode full or auto: fast does not measure it",
        ),
        ("filters: {blocked_words: ['']}", "`filters.blocked_words`: "),
        ("language: d3", "`language`: String should match pattern"),
        ("endpoint: {url: 'http://h:99999'}", "`endpoint.url`: Port out of range"),
        ("endpoint: {url: 'http://h/?token=x'}", "`endpoint.url`: expected a plain address"),
        ("card: {license: 2024-13-01}", "a value in it cannot be read"),
        ("tasks: " + "9" * 5000, "a value in it cannot be read"),
        ("tasks: " + "[" * 3000, "a value in it cannot be read"),
        ("recipe: magic", "`recipe`: expected 'alpaca' or 'self-instruct' (a recipe of your own is"),
        ("endpoint: {url: gpu:8080}", "`endpoint.url`: expected a URL such as http://127.0.0.1:8080"),
        ("filters: {min_words: 9, max_words: 3}", "min_words is above max_words"),
        ("tasks: 0\nseed: -1", "(and 1 more)"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "selfinstruct.yaml"
    path.write_text(text + "\n")
    with pytest.raises(ConfigError, match=re.escape(said)) as error:
        config.load(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_password_in_the_url_is_refused_without_being_repeated(tmp_path: Path) -> None:
    path = tmp_path / "selfinstruct.yaml"
    for text in ("endpoint: {url: 'http://me:hunter2@gpu:8080'}", "endpoint: http://me:hunter2@gpu:8080"):
        path.write_text(text + "\n")
        with pytest.raises(ConfigError, match="`endpoint") as error:
            config.load(path)
        assert "hunter2" not in str(error.value)


def test_on_and_off_are_words(tmp_path: Path) -> None:
    path = tmp_path / "selfinstruct.yaml"
    path.write_text("grammar: off\nfilters: {blocked_words: [on, yes]}\n")
    settings = config.load(path)
    assert settings.grammar == "off"
    assert settings.filters.blocked_words == ["on", "yes"]


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "selfinstruct.yaml"
    path.write_text("# nothing yet\n")
    assert config.load(path) == config.Settings()


def test_options_override_and_are_checked_alike() -> None:
    settings = config.with_overrides(config.Settings(), {"tasks": 5, "endpoint.concurrency": "8", "seed": None})
    assert (settings.tasks, settings.endpoint.concurrency, settings.seed) == (5, 8, 42)
    with pytest.raises(
        ConfigError, match=r"command line: `endpoint\.concurrency`: expected auto or a whole number"
    ):
        config.with_overrides(config.Settings(), {"endpoint.concurrency": "lots"})

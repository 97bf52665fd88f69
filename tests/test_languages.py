"""Tokens, lengths and openings, script by script."""

from __future__ import annotations

import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinstruct_hub import languages
from selfinstruct_hub.errors import ConfigError

NAMES = [unicodedata.name(chr(c), "") for c in range(0x20000)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't rename file_2.txt!", "don t rename file 2 txt"),  # rouge-score's own
        ("Résumé d’été : l'œuvre", "résumé d été l œuvre"),
        ("Re\u0301sume\u0301", "résumé"),  # decomposed
        ("x\u030c is rare", "x\u030c is rare"),  # no composed form
        ("Größe & Maß, naïve_test", "größe maß naïve test"),
        ("Объясни, что такое ёлка.", "объясни что такое ёлка"),
        ("اكتبْ قصيدةً عن ٣ طيور", "اكتبْ قصيدةً عن ٣ طيور"),
        ("می‌خواهم co\u00adoperate", "میخواهم cooperate"),  # non-joiner, soft hyphen
        ("हिन्दी में लिखो।", "हिन्दी में लिखो"),
        ("বাংলা কবিতা", "বাংলা কবিতা"),
        ("เขียน 2 ข้อ", "เ ขี ย น 2 ข้ อ"),
        ("ខ្មែរ", "ខ្ មែ រ"),
        ("コーヒーを2杯", "コ ー ヒ ー を 2 杯"),
        ("ｶﾞは゛", "ガ は"),  # half-width with its mark; a mark that is a symbol
        ("か\u3099", "が"),
        ("시를 써 주세요.", "시를 써 주세요"),
        ("用Python写don't_x", "用 python 写 don t x"),
        ("人々〇𠮷葛\U000e0100", "人 々 〇 𠮷 葛"),  # variation selector
        ("ＰＤＦ１２，Ⅳ ㎏ ½", "pdf12 iv kg 1 2"),
        ("I ❤️ 🌊👩‍🚀, 1️⃣ more…", "i 1 more"),
        ("—！？", ""),
        ("", ""),
    ],
)
def test_tokens(text: str, expected: str) -> None:
    assert languages.tokens(text) == expected.split()


@given(st.text())
def test_tokens_do_not_depend_on_how_a_text_is_composed(text: str) -> None:
    assert languages.tokens(unicodedata.normalize("NFD", text)) == languages.tokens(text)


@given(st.text())
def test_tokens_hold_a_letter_or_digit_and_no_space(text: str) -> None:
    """The blocked-word rule joins them with spaces."""
    for token in languages.tokens(text):
        # Chinese characters younger than this Python's database are tokens all the same.
        assert any(c.isalnum() or c > "\U00020000" for c in token)
        assert not any(c.isspace() for c in token)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write a poem - now", 5),  # white space alone counts in ASCII, as in the papers
        ("Écrivez un poème — vite !", 4),
        ("写一首关于秋天的诗。", 9),
        ("用 Python 写一个函数", 7),
        ("用Python写3行（最多）", 7),
        ("東京の天気を3行で", 9),
        ("เขียนกลอน", 8),
        ("हिन्दी में लिखो", 3),
        ("시를 써 주세요 😀", 3),
        ("！？…", 0),
        ("", 0),
    ],
)
def test_words(text: str, expected: int) -> None:
    assert languages.words(text) == expected


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_counts_as_the_papers_do(text: str) -> None:
    assert languages.words(text) == len(text.split())
    assert languages.chunks(text) == text.split()
    assert languages.unspaced(text) == 0


@given(st.text(st.characters(max_codepoint=0x2FF)))
def test_chunks_of_a_spaced_script_are_what_white_space_parts(text: str) -> None:
    assert languages.chunks(text) == text.split()


def test_chunks_keep_punctuation_and_marks() -> None:
    assert languages.chunks("好的， ok!再") == ["好", "的", "，", "ok!", "再"]
    assert languages.chunks("ข้อ") == ["ข้", "อ"]
    assert languages.unspaced("好的，ok!") == 2


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        ("en", "Name a river", True),
        ("en", "Écrire", True),  # accented letters are Latin
        ("en", "été", True),
        ("en", "写", False),
        ("en", "¿Qué", False),
        ("en", "٣ rivers", True),  # a digit of any script
        ("en", "", False),
        ("es", "¿Qué", True),
        ("es", "¡Di", True),
        ("zh", "《红楼梦》", True),
        ("zh", "Python", True),
        ("zh", "Ｐython", True),  # full-width
        ("zh", "はい", False),
        ("zh", "，写", False),
        ("ja", "日本", True),
        ("ja", "ｶﾀｶﾅ", True),  # half-width
        ("ru", "Java", True),
        ("ru", "Ёлка", True),
        ("ru", "Ελλάδα", False),
        ("sr", "Najveća", True),
        ("en", "µ is a letter", False),
        ("en", "ℝ and ﬁne", True),
        ("en", "🅰 rating", False),  # a symbol, though it normalises to a letter
    ],
)
def test_begins_well(code: str, text: str, expected: bool) -> None:
    assert languages.of(code).begins_well(text) is expected


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        ("zh", "Explain recursion", False),
        ("zh", "Explain 递归", True),
        ("zh", "はい、そうです", False),
        ("ja", "解释一下递归是什么", False),  # Chinese: no kana
        ("ja", "再帰とは何か", True),
        ("ru", "Spiegati meglio, però", False),
        ("en", "Резюме", False),
        ("en", "1 + 1 = ?", False),
        ("sr", "Најдужа", True),
    ],
)
def test_has_own_script(code: str, text: str, expected: bool) -> None:
    assert languages.of(code).has_own_script(text) is expected


@pytest.mark.parametrize("code", languages.known())
def test_every_language_of_the_table(code: str) -> None:
    language = languages.of(code)
    assert language.code == code
    assert language.name.istitle()
    assert language.scripts
    for script in language.scripts | language.guests:
        assert any(name.partition(" ")[0] == script for name in NAMES), script
    assert "LATIN" in language.scripts | language.guests
    assert language.guests.isdisjoint(language.scripts)
    assert not any(c.isalnum() or c.isspace() for c in language.openings)
    assert 0 < language.min_words < language.max_words
    assert all(languages.tokens(word) for word in language.blocked_words)
    assert len(code) == 2


def test_the_table_has_the_languages_most_written() -> None:
    wanted = (
        "en zh ja ko de fr es pt it nl pl cs sv da no fi tr ro hu el ru uk bg sr ar fa he ur hi bn ta te th vi id"
    )
    assert set(wanted.split()) <= set(languages.known())
    assert languages.known() == sorted(languages.known())


def test_subtags_and_names() -> None:
    assert languages.of("pt-BR").scripts == {"LATIN"}
    assert languages.of("pt-BR").code == "pt-BR"
    chinese = languages.of("zh-Hant", "Traditional Chinese")
    assert chinese.name == "Traditional Chinese"
    assert chinese.scripts == {"CJK"}
    assert chinese.max_words == languages.of("zh").max_words == 300
    assert languages.of("EN").name == "English"


def test_a_language_that_is_not_in_the_table() -> None:
    dzongkha = languages.of("dz", "Dzongkha")
    assert (dzongkha.code, dzongkha.name, dzongkha.max_words) == ("dz", "Dzongkha", 150)
    for text in ("རྫོང་ཁ", "Any", "7"):
        assert dzongkha.begins_well(text)
    assert not dzongkha.begins_well("«")
    assert dzongkha.has_own_script("any")
    assert not dzongkha.has_own_script("12")
    with pytest.raises(ConfigError, match=r"language `dz` .*`language_name` \(init: --language-name\)"):
        languages.of("dz")


def test_the_import_builds_no_pattern() -> None:
    """Commands that judge nothing must not wait for character classes."""
    code = "from selfinstruct_hub import languages as l; print(l._patterns.cache_info().currsize)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"

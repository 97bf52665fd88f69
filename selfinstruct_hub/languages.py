"""Languages: how a text is cut into tokens, how long it is, and with what an instruction may begin.

Everything that judges a text asks here, so that no rule takes white space or ASCII for granted. Scripts are told
apart by the character database that comes with Python. Pure: no files, no thresholds of a recipe.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import NamedTuple

from selfinstruct_hub.errors import ConfigError

_ASCII_TOKEN = re.compile(r"[a-z0-9]+")

# Blocks of the scripts that are written without spaces; those of Han letters hold nothing else.
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
_UNSPACED_BLOCKS = (
    *((0x0E00, 0x0E7F), (0x0E80, 0x0EFF), (0x0F00, 0x0FFF)),  # Thai, Lao, Tibetan
    *((0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)),  # Myanmar
    *((0x1780, 0x17FF), (0x3005, 0x3007), (0x3021, 0x3029)),  # Khmer, 々〆〇, Hangzhou numerals
    *((0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)),  # Hiragana and Katakana
    (0x1AFF0, 0x1B16F),
)
# Where combining marks lie: between the first two stretches are Han and Hangul, and beyond the last only scripts
# in use today are listed (Rohingya, Chakma, Wancho, Adlam), because every further range slows each look-up.
# Variation selectors are left out: they change a glyph, not a letter.
_MARK_BLOCKS = (
    *((0x0300, 0x30FF), (0xA66F, 0xABFF), (0xFB1E, 0xFB1E), (0xFE20, 0xFE2F)),
    *((0x10D00, 0x10D3F), (0x11100, 0x1114F), (0x1E2C0, 0x1E2FF), (0x1E900, 0x1E95F)),
)
# Non-joiner, joiner and soft hyphen stand inside a word and are written or left out as one likes.
_INVISIBLE = ("\u200c", "\u200d", "\u00ad")


class _Patterns(NamedTuple):
    token: re.Pattern[str]
    word: re.Pattern[str]
    chunk: re.Pattern[str]
    unspaced: re.Pattern[str]


@cache
def _patterns() -> _Patterns:
    """The patterns for text beyond ASCII. Built at the first such text, for it takes some 15 ms."""
    unspaced = _HAN + _ranges(c for a, b in _UNSPACED_BLOCKS for c in range(a, b + 1) if chr(c).isalnum())
    marks = _ranges(c for a, b in _MARK_BLOCKS for c in range(a, b + 1) if unicodedata.category(chr(c))[0] == "M")
    letter = rf"[^\W_{unspaced}]"
    return _Patterns(
        # `re` counts no combining mark among \w, and most vowels of Hindi are marks.
        token=re.compile(rf"{letter}+(?:[{marks}]+{letter}*)*|[{unspaced}][{marks}]*"),
        # From the first letter of a chunk to its end, so that a chunk without one does not count.
        word=re.compile(rf"{letter}[^\s{unspaced}]*|[{unspaced}]"),
        chunk=re.compile(rf"[^\s{unspaced}]+|[{unspaced}][{marks}]*"),
        unspaced=re.compile(rf"[{unspaced}]"),
    )


def _ranges(codes: Iterable[int]) -> str:
    """Ascending code points as the inside of a character class."""
    spans: list[list[int]] = []
    for code in codes:
        if spans and spans[-1][1] == code - 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in spans)


def tokens(text: str) -> list[str]:
    """What ROUGE-L compares, the same for every language. For ASCII they are rouge-score's own: runs of a-z and
    0-9 in the lower-cased text. Beyond it: NFKC; a character of a script without spaces, with its combining
    marks, is one token; otherwise a run of letters, digits and combining marks is one."""
    if text.isascii():
        return _ASCII_TOKEN.findall(text.lower())
    text = unicodedata.normalize("NFKC", text).lower()
    for character in _INVISIBLE:
        text = text.replace(character, "")
    return _patterns().token.findall(text)


def same_tokens(text: str, other: str) -> bool:
    """Whether two texts have the same tokens. Of most the first ones tell that they have not."""
    if text.isascii() and other.isascii():
        first, second = (_ASCII_TOKEN.search(one.lower()) for one in (text, other))
        if first is None or second is None or first[0] != second[0]:
            return first is second
    return tokens(text) == tokens(other)


def words(text: str) -> int:
    """Length of an instruction in words. For ASCII white-space-separated, as both papers count. Beyond it a
    character of a script without spaces is a word, and so is every other chunk that has a letter or digit."""
    return len(text.split() if text.isascii() else _patterns().word.findall(text))


def chunks(text: str) -> list[str]:
    """The text between white space, punctuation and all, with every character of a script without spaces (and
    its combining marks) by itself."""
    return text.split() if text.isascii() else _patterns().chunk.findall(text)


def unspaced(text: str) -> int:
    """How many characters are of a script that is written without spaces."""
    return 0 if text.isascii() else len(_patterns().unspaced.findall(text))


@lru_cache(maxsize=4096)
def script(letter: str) -> str:
    """The script of a letter: the first word of its Unicode name, full-width and other compatibility forms
    taken for the letter they stand for. Chinese characters are "CJK"."""
    return unicodedata.name(unicodedata.normalize("NFKC", letter)[0], "").partition(" ")[0]


@dataclass(frozen=True)
class Language:
    """What is known of a language. `name` is how a prompt calls it. `scripts` are those an instruction has to
    show (empty: any), `guests` those it may begin with besides, `openings` punctuation it may begin with.
    `min_words` and `max_words` count as `words` does. `blocked_words` and `program_openings` are the language's
    own, to be used with a recipe's list."""

    code: str
    name: str
    scripts: frozenset[str] = frozenset()
    guests: frozenset[str] = frozenset()
    openings: str = ""
    min_words: int = 4
    max_words: int = 150
    blocked_words: tuple[str, ...] = ()
    program_openings: tuple[str, ...] = ()

    def begins_well(self, text: str) -> bool:
        """The first character is a letter that may stand there, a digit of any script, or one of `openings`."""
        first = text[:1]
        if not first.isalpha():
            return first.isalnum() or (first != "" and first in self.openings)
        return not self.scripts or script(first) in self.scripts | self.guests

    def has_own_script(self, text: str) -> bool:
        """At least one letter is of `scripts`; at least one letter is there, where any script will do."""
        if text.isascii() and self.scripts and "LATIN" not in self.scripts:
            return False
        return any(c.isalpha() and (not self.scripts or script(c) in self.scripts) for c in text)


# What a text model cannot look at, hear, draw or visit. The recipes' lists are English and serve every language,
# since mixed text is common; a language's own list is added to it. Chinese words match as substrings, so what
# stands here must not lie inside harmless ones: 图 alone would hit 图书馆, 企图 and 意图, and 画一 hits 动画一共.
# 画出 does hit 刻画出, as the papers' "draw" hits "draw a conclusion". 音乐 and 影片 are things to write about
# as often as things to hear and see, so they stay out. Both ways of writing are given.
_CHINESE_BLOCKED = tuple(
    """
    图片 图像 图表 照片 相片 截图 插图 视频 音频 录音 文件 附件 地图 画图 绘图 绘制 画出
    画一幅 画一张 画一个 画一只 流程图 示意图 曲线图 柱状图 折线图 饼图 思维导图 前往
    圖片 圖像 圖表 截圖 插圖 視頻 音頻 錄音 檔案 地圖 畫圖 繪圖 繪製 畫出
    畫一幅 畫一張 畫一個 畫一隻 流程圖 示意圖 曲線圖 柱狀圖 折線圖 餅圖 思維導圖
    """.split()
)
# Blunt as the papers' rule is: "Write a programme" goes with it, and so does 写一个程序员的故事.
_CHINESE_PROGRAM = (
    *("写一个程序", "编写一个程序", "编写程序", "写一段程序", "写个程序"),
    *("寫一個程式", "編寫一個程式", "編寫程式", "寫一段程式", "寫個程式"),
)
_CHINESE_OPENINGS = "《「『“‘（"

# Languages of one script with spaces. They bring no blocked words: `filters.blocked_words` is there for these.
_SPACED = {
    "LATIN": """
        az Azerbaijani, ca Catalan, cs Czech, cy Welsh, da Danish, de German, en English, es Spanish,
        et Estonian, eu Basque, fi Finnish, fr French, ga Irish, gl Galician, hr Croatian, hu Hungarian,
        id Indonesian, is Icelandic, it Italian, lt Lithuanian, lv Latvian, ms Malay, nb Norwegian, nl Dutch,
        no Norwegian, pl Polish, pt Portuguese, ro Romanian, sk Slovak, sl Slovenian, sq Albanian, sv Swedish,
        sw Swahili, tl Tagalog, tr Turkish, vi Vietnamese""",
    "CYRILLIC": "be Belarusian, bg Bulgarian, kk Kazakh, mk Macedonian, mn Mongolian, ru Russian, uk Ukrainian",
    "ARABIC": "ar Arabic, fa Persian, ur Urdu",
    "DEVANAGARI": "hi Hindi, mr Marathi, ne Nepali",
    "ARMENIAN": "hy Armenian",
    "BENGALI": "bn Bengali",
    "ETHIOPIC": "am Amharic",
    "GEORGIAN": "ka Georgian",
    "GREEK": "el Greek",
    "GUJARATI": "gu Gujarati",
    "GURMUKHI": "pa Punjabi",
    "HANGUL": "ko Korean",
    "HEBREW": "he Hebrew",
    "KANNADA": "kn Kannada",
    "MALAYALAM": "ml Malayalam",
    "SINHALA": "si Sinhala",
    "TAMIL": "ta Tamil",
    "TELUGU": "te Telugu",
}
# 150 English words are some 850 letters, which is about this many characters without their marks.
_ALPHABETIC_MAX = 600
_LATIN = frozenset({"LATIN"})


def _table() -> dict[str, Language]:
    found = [
        Language(code, name, frozenset({own}), _LATIN - {own})
        for own, listed in _SPACED.items()
        for code, _, name in (entry.strip().partition(" ") for entry in listed.split(","))
    ]
    found += [
        Language(code, name, frozenset({own}), _LATIN, max_words=_ALPHABETIC_MAX)
        for code, name, own in (
            *(("th", "Thai", "THAI"), ("lo", "Lao", "LAO"), ("km", "Khmer", "KHMER")),
            *(("my", "Burmese", "MYANMAR"), ("bo", "Tibetan", "TIBETAN")),
        )
    ]
    languages = {language.code: language for language in found}
    languages["en"] = replace(languages["en"], program_openings=("Write a program",))
    languages["es"] = replace(languages["es"], openings="¿¡")
    languages["sr"] = Language("sr", "Serbian", frozenset({"CYRILLIC", "LATIN"}))
    # Two characters to an English word.
    languages["zh"] = Language(
        *("zh", "Chinese", frozenset({"CJK"}), _LATIN, _CHINESE_OPENINGS, 4, 300),
        *(_CHINESE_BLOCKED, _CHINESE_PROGRAM),
    )
    # Japanese begins with Chinese characters as often as not, but a sentence without any kana is Chinese.
    kana = frozenset({"HIRAGANA", "KATAKANA"})
    languages["ja"] = Language("ja", "Japanese", kana, _LATIN | {"CJK"}, _CHINESE_OPENINGS, 4, 300)
    return dict(sorted(languages.items()))


_TABLE = _table()


def known() -> list[str]:
    """The codes of the table, sorted."""
    return list(_TABLE)


def of(code: str, name: str | None = None) -> Language:
    """The language of an ISO 639-1 code; of "pt-BR", what is before the hyphen decides. `name` replaces the
    table's, and lets in a code that is not in it: any letter or digit may then begin an instruction.

    Raises ConfigError for such a code without a name.
    """
    language = _TABLE.get(code.partition("-")[0].lower())
    if language:
        return replace(language, code=code, name=name or language.name)
    if not name:
        raise ConfigError(
            f"language `{code}` is not one that we know: set `language_name` (init: --language-name) to its "
            "English name, as a prompt should say it"
        )
    return Language(code, name)

"""Every rule by its reason: tables of (candidate, reason), ending with what is kept."""

from __future__ import annotations

import pytest

from selfinstruct_hub import filters, languages
from selfinstruct_hub.filters import Rules
from selfinstruct_hub.records import Candidate, Drop, Instance, Lost

# As Alpaca's, one of them of two words that have to stand together.
BLOCKED = (
    *"image images graph graphs picture pictures file files map maps draw plot video audio flowchart".split(),
    "go to",
)


def rules_for(code: str) -> Rules:
    language = languages.of(code)
    blocked = (*BLOCKED, *language.blocked_words)
    return Rules(language.min_words, language.max_words, blocked, 5, 0.5, language)


RULES = rules_for("en")
ANSWER = (Instance("", "Fine."),)
ASK = "Turn the letter into a number"


def reason(candidate: Candidate, rules: Rules = RULES) -> str | None:
    """Of the first rule that objects, the instruction's before the instances'."""
    drop = filters.instruction_drop(candidate, rules) or filters.kept_instances(candidate, rules)[2]
    return drop.reason if drop else None


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("Do this now", "too_short"),
        ("word " * 151, "too_long"),
        ("Describe the Image in detail", "blocked_word"),
        ("Now go to the shop and buy bread", "blocked_word"),
        ("Explain this flowchart to a child", "blocked_word"),
        ("Write a program that sorts names", "write_a_program"),
        ("- Name three large rivers", "punctuation_start"),
        ("写一首关于秋天的诗", "foreign_start"),
        ("写一首关于 秋天 的 诗", "foreign_start"),
        ("Как дела? in plain English", "foreign_start"),
        ("“Carpe diem” means what exactly", "punctuation_start"),
        ("🌊 is which thing again", "punctuation_start"),
        ("1 + 1 = ?", "foreign_script"),
        ("Describe the ＩＭＡＧＥ in detail", "blocked_word"),  # full-width
        ("Résumé of an image—short, please", "blocked_word"),
        ("Do this right now", None),
        (("word " * 150).strip(), None),
        ("Explain what imagery and graphite have in common", None),
        ("write a program that sorts names", None),  # the papers' rule knows the capital only
        ("Now go quickly to the shop", None),
        ("Explain what imagé might mean", None),
        ("3 rivers in Asia, please", None),
        ("été is which season of year", None),
    ],
)
def test_instruction_rules(instruction: str, expected: str | None) -> None:
    assert reason(Candidate(instruction, ANSWER)) == expected


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("写诗。", "too_short"),
        ("诗" * 301, "too_long"),
        ("请描述这张图片的内容", "blocked_word"),
        ("請描述這張圖片的內容", "blocked_word"),
        ("画一幅秋天的风景", "blocked_word"),
        ("根据下面的image写一段话", "blocked_word"),  # the recipe's English list stays in force
        ("写一个程序来排序名字", "write_a_program"),
        ("，请写一首诗", "punctuation_start"),
        ("- 写一首关于秋天的诗", "punctuation_start"),
        ("はい、分かりました", "foreign_start"),
        ("Name three large rivers in Asia", "foreign_script"),
        ("写一首诗", None),
        ("诗" * 300, None),
        ("介绍这座图书馆的历史", None),  # 图 alone is no word of the list
        ("企图和意图有什么区别", None),
        ("为我的旅行做一个计划", None),
        ("这部动画一共有几集", None),
        ("推荐一部影片和一段音乐", None),
        ("《红楼梦》的作者是谁", None),
        ("“学而时习之”是什么意思", None),
        ("Python里如何写循环", None),
        ("3种减压的方法", None),
    ],
)
def test_instruction_rules_in_chinese(instruction: str, expected: str | None) -> None:
    assert reason(Candidate(instruction, ANSWER), rules_for("zh")) == expected


NATIVE = {
    "ar": "اكتب قصيدة قصيرة عن البحر",
    "bn": "সমুদ্র নিয়ে একটি ছোট কবিতা লেখো",
    "de": "Übersetze den folgenden Satz ins Englische",
    "el": "Γράψε ένα σύντομο ποίημα για τη θάλασσα",
    "en": "Write a short poem about the sea",
    "es": "¿Cuál es la capital de Perú?",
    "fa": "شعری کوتاه درباره دریا بنویس",
    "fr": "Écrivez un court poème sur la mer",
    "he": "כתוב שיר קצר על הים",
    "hi": "समुद्र के बारे में एक छोटी कविता लिखो",
    "id": "Tulislah puisi pendek tentang laut",
    "ja": "海についての短い詩を書いてください",
    "ka": "დაწერე მოკლე ლექსი ზღვის შესახებ",
    "ko": "바다에 대한 짧은 시를 써 주세요",
    "my": "ပင်လယ်အကြောင်း ကဗျာတိုတစ်ပုဒ် ရေးပါ",
    "pl": "Źródło światła: wymień trzy przykłady",
    "pt-BR": "Explique o que é uma órbita",
    "ru": "Ёлка: опиши её в двух предложениях",
    "sr": "Наведи три дуге реке у Европи",
    "ta": "கடலைப் பற்றி ஒரு சிறு கவிதை எழுது",
    "te": "సముద్రం గురించి ఒక చిన్న కవిత రాయి",
    "th": "เขียนบทกวีสั้น ๆ เกี่ยวกับทะเล",
    "tr": "İstanbul hakkında kısa bir şiir yaz",
    "uk": "Їжак: опиши його двома реченнями",
    "vi": "Đặt ba câu với từ biển",
    "zh": "写一首关于大海的短诗",
}


@pytest.mark.parametrize("code", NATIVE)
def test_a_sentence_of_the_language_passes(code: str) -> None:
    assert reason(Candidate(NATIVE[code], ANSWER), rules_for(code)) is None


@pytest.mark.parametrize("code", sorted({*languages.known(), *NATIVE}))
def test_a_sentence_of_another_script_is_dropped(code: str) -> None:
    """Every language of the table, with a stranger of each kind."""
    rules = rules_for(code)
    own = rules.language.scripts
    if "LATIN" not in own:
        assert reason(Candidate(NATIVE["en"], ANSWER), rules) == "foreign_script"
    if "GEORGIAN" not in own:
        assert reason(Candidate(NATIVE["ka"], ANSWER), rules) == "foreign_start"
    if own.isdisjoint({"CJK", "HIRAGANA"}):
        assert reason(Candidate(NATIVE["zh"], ANSWER), rules) == "foreign_start"
    if code == "ja":
        assert reason(Candidate(NATIVE["zh"], ANSWER), rules) == "foreign_script"


def test_a_language_of_the_users_may_begin_with_any_letter() -> None:
    rules = Rules(4, 150, (), 5, 0.5, languages.of("dv", "Dhivehi"))
    assert reason(Candidate("ކަނޑާ ބެހޭ ކުރު ޅެމެއް ލިޔޭ", ANSWER), rules) is None
    assert reason(Candidate("- ކަނޑާ ބެހޭ ކުރު ޅެމެއް", ANSWER), rules) == "punctuation_start"
    assert reason(Candidate("1 2 3 4", ANSWER), rules) == "foreign_script"


def test_a_blocked_word_without_letters_blocks_nothing() -> None:
    rules = Rules(1, 150, ("!!",), 5, 0.5, RULES.language)
    assert reason(Candidate("Wow !! ??", ANSWER), rules) is None
    assert reason(Candidate("!! ??", ANSWER), rules) == "punctuation_start"


@pytest.mark.parametrize(
    ("given", "output", "expected"),
    [
        ("", "", "empty_output"),
        ("", "<nooutput>", "empty_output"),
        ("The sky.", "The sky.", "output_repeats_input"),
        ("", "Here it is:", "ends_with_colon"),
        ("Consider this：", "Yes.", "ends_with_colon"),
        ("", "＜无输出＞", "empty_output"),
        ("", "暂无。", "empty_output"),
        ("", "name  the largest PLANET!", "output_repeats_instruction"),
        ("https://example.com/a?b=c", "A page.", "url_only_input"),
        ("", "so it is what it is " * 9, "looping_output"),
        ("", "так и есть, как оно есть " * 9, "looping_output"),
        ("", "是的，这个问题很有意思，我们来看看。" * 3, "looping_output"),
        ("", "It is large. " * 2 + "one two three four five six seven eight nine", None),
        ("", "春天来了，花开了。夏天来了，花谢了。秋天来了，叶落了。冬天来了，雪落了。", None),  # runs below 10
        ("", "无论如何", None),
        ("see https://example.com for more", "A page.", None),
        ("", "Jupiter", None),
    ],
)
def test_instance_rules(given: str, output: str, expected: str | None) -> None:
    assert reason(Candidate("Name the largest planet", (Instance(given, output),))) == expected


def test_what_the_parser_could_not_complete() -> None:
    assert reason(Candidate(None, (), missing="instruction")) == "missing_field"
    assert reason(Candidate("Name the largest planet", (), missing="output")) == "missing_field"
    assert reason(Candidate("Name the largest planet", ANSWER, cut_off=True)) == "cut_off"
    assert reason(Candidate("Name the largest planet", ())) == "missing_field"
    assert reason(Candidate("Name the largest planet", (), bare=True)) is None


def test_a_bad_instance_goes_alone() -> None:
    a, b, bad = Instance("x", "1"), Instance("y", "2"), Instance("z", "")
    before = Lost(Instance("w", ""), Drop("cut_off"))
    kept, lost, drop = filters.kept_instances(Candidate(ASK, (a, bad, b, a), lost=(before,)), RULES)
    assert (kept, drop) == ((a, b), None)
    assert lost == (before, Lost(bad, Drop("empty_output")), Lost(a, Drop("duplicate_instance")))


def test_the_last_instance_takes_the_task_along() -> None:
    bad, worse = Instance("z", ""), Instance("z", "z")
    kept, lost, drop = filters.kept_instances(Candidate(ASK, (bad, worse)), RULES)
    assert (kept, drop) == ((), Drop("output_repeats_input"))
    assert [item.instance for item in lost] == [bad, worse]
    # What never became whole takes it along too, even where the instruction could have stood alone.
    cut = Lost(Instance("w", ""), Drop("cut_off"))
    for bare in (False, True):
        nothing = Candidate(ASK, (), lost=(cut,), bare=bare)
        assert filters.kept_instances(nothing, RULES) == ((), (cut,), Drop("cut_off"))
    assert filters.kept_instances(Candidate(ASK), RULES) == ((), (), Drop("missing_field", "instance"))
    assert filters.kept_instances(Candidate(ASK, bare=True), RULES) == ((), (), None)


def test_conflicts_take_the_task() -> None:
    a, b, other, bad = Instance("x", "1"), Instance("y", "2"), Instance("x", "3"), Instance("z", "")
    kept, lost, drop = filters.kept_instances(Candidate(ASK, (a, bad, b, other)), RULES)
    conflict = Drop("conflicting_outputs", "x")
    assert (kept, drop) == ((), conflict)
    assert lost == (Lost(bad, Drop("empty_output")), *(Lost(i, conflict) for i in (a, b, other)))
    # Different outputs without an input are no conflict.
    free = (Instance("", "1"), Instance("", "2"))
    assert filters.kept_instances(Candidate(ASK, free), RULES) == (free, (), None)


def test_five_instances_stay() -> None:
    many = tuple(Instance(str(i), str(i + 1)) for i in range(7))
    surplus = tuple(Lost(instance, Drop("surplus_instance")) for instance in many[5:])
    assert filters.kept_instances(Candidate(ASK, many), RULES) == (many[:5], surplus, None)


def test_the_loop_rule_can_be_off() -> None:
    looping = Candidate("Name the largest planet", (Instance("", "so it is what it is " * 9),))
    assert reason(looping) == "looping_output"
    assert reason(looping, Rules(4, 150, (), 5, None, RULES.language)) is None


def test_every_rule_has_a_case_above() -> None:
    import ast
    from pathlib import Path

    source = Path(filters.__file__).read_text()
    reasons = {
        str(node.args[0].value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Drop"
        and isinstance(node.args[0], ast.Constant)
    }
    here = Path(__file__).read_text()
    assert [r for r in reasons if f'"{r}"' not in here] == []
    assert len(reasons) >= 18

"""Our own Chinese seeds, seeds/zh.jsonl: everything about them that a program can check."""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
from collections import Counter
from typing import Any

import pytest
from rapidfuzz.distance import LCSseq

from selfinstruct_hub import assets, seeds
from selfinstruct_hub.records import Task

PATH = assets.folder("seeds") / "zh.jsonl"
HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
# What a model that reads and writes text only cannot be asked for.
BLOCKED = (
    "图片 图像 图表 照片 截图 视频 音频 音乐 文件 附件 地图 画图 绘制 画出 画一 流程图 示意图 链接 "
    "写一个程序 编写程序 写一段程序 编写一个程序"
).split()


def tokens(text: str) -> list[str]:
    """Han characters one by one and runs of ASCII letters and digits."""
    return re.findall(r"[\u3400-\u4dbf\u4e00-\u9fff]|[a-z0-9]+", text.lower())


def similarity(one: list[str], other: list[str]) -> float:
    """ROUGE-L F1."""
    return float(2 * LCSseq.similarity(one, other) / (len(one) + len(other)))


@pytest.fixture(scope="module")
def chinese() -> list[Task]:
    return seeds.read(PATH)


def test_every_row_has_exactly_the_keys_of_the_format() -> None:
    rows: list[dict[str, Any]] = [json.loads(line) for line in PATH.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == [f"seed_zh_{n}" for n in range(60)]
    for row in rows:
        assert list(row) == ["id", "name", "instruction", "instances", "is_classification"], row["id"]
        assert all(list(instance) == ["input", "output"] for instance in row["instances"]), row["id"]
    assert "\\u" not in PATH.read_text(encoding="utf-8")  # the characters themselves can be read


def test_the_mix(chinese: list[Task]) -> None:
    assert len(chinese) == 60
    assert len({task.name for task in chinese}) == 60
    assert all(re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", task.name) for task in chinese)
    assert 14 <= sum(bool(task.is_classification) for task in chinese) <= 18
    assert 18 <= sum(all(not i.input for i in task.instances) for task in chinese) <= 22
    several = [t for t in chinese if not t.is_classification and t.instances[0].input and len(t.instances) > 1]
    assert 13 <= len(several) <= 17
    # Input in every instance or in none.
    assert all(len({bool(i.input) for i in task.instances}) == 1 for task in chinese)


def test_classification_shows_different_short_labels(chinese: list[Task]) -> None:
    """They are demonstrations for a step that writes the label first."""
    tasks = [task for task in chinese if task.is_classification]
    for task in tasks:
        labels = [i.output for i in task.instances]
        assert 2 <= len(labels) <= 4, task.name
        assert len(set(labels)) == len(labels), task.name
        assert all(i.input and len(i.output) <= 5 for i in task.instances), task.name
    named = [task for task in tasks if all(i.output in task.instruction for i in task.instances)]
    assert len(named) >= 0.75 * len(tasks)
    assert len({i.output for task in tasks for i in task.instances}) >= 30


def test_no_instruction_breaks_a_rule_for_instructions(chinese: list[Task]) -> None:
    for task in chinese:
        assert HAN.match(task.instruction), task.name
        assert 10 <= len(task.instruction) <= 80, task.name
        assert [word for word in BLOCKED if word in task.instruction] == [], task.name
    openings = Counter(task.instruction[:2] for task in chinese)
    assert openings.most_common(1)[0][1] <= 4, openings.most_common(1)
    questions = sum("？" in task.instruction for task in chinese)
    assert questions >= 15


def test_no_instance_breaks_a_rule_for_instances(chinese: list[Task]) -> None:
    for task in chinese:
        inputs = [i.input for i in task.instances]
        assert len(set(inputs)) == len(inputs), task.name
        for instance in task.instances:
            assert instance.output not in (instance.input, task.instruction), task.name
            assert not instance.output.endswith((":", "：")), task.name
            assert not instance.input.endswith((":", "：")), task.name
            assert not re.fullmatch(r"(https?://|www\.)\S+", instance.input), task.name


def test_a_small_context_holds_several(chinese: list[Task]) -> None:
    shown = [len(t.instruction) + len(t.instances[0].input) + len(t.instances[0].output) for t in chinese]
    assert sum(length <= 450 for length in shown) >= 50
    whole = [len(t.instruction) + sum(len(i.input) + len(i.output) for i in t.instances) for t in chinese]
    assert sum(length < 160 for length in whole) >= 30
    assert max(len(i.output) for t in chinese for i in t.instances) >= 300  # and yet not all is short


def test_no_two_instructions_resemble_each_other(chinese: list[Task]) -> None:
    pairs = itertools.combinations([(task.name, tokens(task.instruction)) for task in chinese], 2)
    nearest = max((similarity(one, other), name, next_name) for (name, one), (next_name, other) in pairs)
    assert 0.1 < nearest[0] <= 0.5, nearest  # above 0.1: the comparison did compare


def test_code_and_json_are_well_formed(chinese: list[Task]) -> None:
    """Every Python answer compiles, and every JSON answer parses."""
    checked = Counter[str]()
    for task, instance in itertools.chain.from_iterable([(t, i) for i in t.instances] for t in chinese):
        for block in re.findall(r"```python\n(.*?)```", instance.output, re.DOTALL):
            compile(block, task.id, "exec")
            checked["python"] += 1
        if re.match(r"(def|import|from|class|for) ", instance.output):
            compile(instance.output, task.id, "exec")
            checked["python"] += 1
        if instance.output.startswith(("{", "[")):
            json.loads(instance.output)
            checked["json"] += 1
    assert checked == {"python": 2, "json": 3}


def test_answers_that_can_be_run_are_right(chinese: list[Task], capsys: pytest.CaptureFixture[str]) -> None:
    named = {task.name: task.instances for task in chinese}
    scope: dict[str, Any] = {}
    exec(named["mask_phone_python"][0].output, scope)
    assert scope["mask_phone"]("13812345678") == "138****5678"
    for wrong in ("1381234567", "138123456789", "1381234567a"):
        with pytest.raises(ValueError, match="11位"):
            scope["mask_phone"](wrong)

    pattern = named["regex_six_digit_code"][0].output.splitlines()[0]
    assert re.findall(pattern, "验证码123456，订单12345678，尾号1234") == ["123456"]

    for instance in named["predict_python_output"]:
        exec(instance.input, {})
        assert instance.output.startswith(f"打印{capsys.readouterr().out.strip()}。")

    bug = named["average_of_strings_bug"][0]
    with pytest.raises(TypeError):
        exec(bug.input, {})
    repaired = re.search(r"```python\n(.*?)```", bug.output, re.DOTALL)
    assert repaired is not None
    exec(repaired[1], {})
    assert capsys.readouterr().out.startswith("86.33")

    database = sqlite3.connect(":memory:")
    try:
        database.execute("CREATE TABLE orders (id INTEGER, city TEXT, amount REAL)")
        rows = [(1, "甲", 9000), (2, "甲", 2000), (3, "乙", 20000), (4, "丙", 10000)]
        database.executemany("INSERT INTO orders VALUES (?, ?, ?)", rows)
        found = database.execute(named["sql_city_totals"][0].output).fetchall()
    finally:
        database.close()
    assert found == [("乙", 20000), ("甲", 11000)]


def test_answers_keep_to_the_limits_they_were_given(chinese: list[Task]) -> None:
    named = {task.name: [(i.input, i.output) for i in task.instances] for task in chinese}
    limits = {"physics_teacher_card": 60, "bookshop_complaint_reply": 80, "local_news_headline": 15}
    for name, limit in {**limits, "fishing_net_gist": 30}.items():
        assert all(len(output) <= limit for _, output in named[name]), name
    assert all(len(first) == len(second) for first, second in named["couplet_second_line"])
    assert not set("雨伞") & set(named["umbrella_riddle"][0][1])
    assert [len(line) for line in re.findall(r"\w+", named["last_metro_verse"][0][1])] == [7, 7, 7, 7]
    chain = named["idiom_chain"][0][1].split("→")
    assert len(chain) == 6
    assert all(one[-1] == following[0] for one, following in itertools.pairwise(chain))

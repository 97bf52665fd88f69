"""The prompts in English, and in English about tasks in another language."""

from __future__ import annotations

from selfinstruct_hub.recipes.wording import Labels, Wording

_ALPACA = """\
Below is a numbered list of {total} tasks for a text assistant, each with the answer that an expert would give.

What every task on the list keeps to:
1. The tasks differ as much as possible: in subject, in kind of work (writing, explaining, extracting, \
sorting, calculating, planning, translating, coding and so on) and in the verb they begin with.
2. The instruction is in {language}, one or two sentences long, either an order or a question.
3. An assistant that only reads and writes text can do it. It never needs to see, hear, browse or act.
4. If the instruction works on some material, the input gives that material: concrete, realistic, complete, \
under 100 words. If it needs none, the input is {no_input}.
5. The output is the finished answer to this instruction and this input: correct, complete, under 100 words.
"""
ALPACA_IN_ANOTHER_LANGUAGE = (
    _ALPACA.rstrip("\n") + " Input and output are in {language} too, unless the task itself asks for another "
    "language.\n"
)
# The embedded engine takes "\s0-9" for a range that begins at a blank.
ANY_SENTENCE = r"[^\s#0-9*<>_-][^\n.?!。？！]+[.?!。？！]"

WORDING = Wording(
    labels=Labels(
        instruction="Instruction:",
        input="Input:",
        output="Output:",
        task="Task:",
        example="Example",
        class_label="Class label:",
        classification="Classification:",
        yes="Yes",
        no="No",
        no_input="<noinput>",
    ),
    sentence=r"[A-Z][^\n.?!]+[.?!]",
    opening=r"[^<\s]",
    alpaca=_ALPACA,
    alpaca_domain="6. Every task belongs to this domain: {domain}.\n",
    instructions="""\
Below is a numbered list of tasks that people give to an assistant which reads and writes text. All are written \
in {language}, each in one or two sentences. No two are alike: they differ in subject, in the kind of work and in \
the verb.
""",
    instructions_classification="""\
All are classification tasks: the answer is one label out of a few, and most tasks name the labels.
""",
    instructions_domain="All belong to this domain: {domain}.\n",
    classification="""\
A task is a classification task if its answer is always one label out of a small, fixed set. It is not one if the \
answer is free text, a number to be worked out, or a list. Each task below is marked accordingly.
""",
    input_first="""\
For each task below there are one to five worked examples, in {language} unless the task says otherwise. An \
input is concrete and complete; where the task needs none it is {no_input}, and one example is enough. The output \
is the finished, correct answer.
""",
    label_first="""\
For each classification task below there are worked examples in {language} with different class labels. The label \
comes first, then an input to which this label, and no other, belongs. As many of the task's labels as possible \
appear, each once.
""",
    outputs="""\
Below are tasks that people give to an assistant which reads and writes text. Each has the input that it \
works on, or {no_input} where it needs none, and the output that an expert would give: correct, complete, to \
the point, and in {language} unless the task asks for another language.
""",
    chat_tasks="""\
Go on with this list up to number {total}, in exactly the same form. Begin where it breaks off below, and write \
nothing but the list.
""",
    chat_instructions="""\
Go on with this list up to number {total}, one task after the other. Begin where it breaks off below, and write \
nothing but the list.
""",
    chat_classification="Is the last task a classification task? Answer with {yes} or {no} alone.\n",
    chat_input_first="""\
Write the worked examples of the last task, at most {most}, in exactly the same form as above. Begin where they \
break off below, and write nothing else.
""",
    chat_label_first="""\
Write the worked examples of the last task, at most {most}, each with a class label of its own, in exactly the \
same form as above. Begin where they break off below, and write nothing else.
""",
    chat_output="Write the output of the last task, complete and finished, and nothing else.\n",
)

"""The prompts in Chinese."""

from __future__ import annotations

from selfinstruct_hub.recipes.wording import Labels, Wording

WORDING = Wording(
    labels=Labels(
        instruction="指令：",
        input="输入：",
        output="输出：",
        task="任务：",
        example="示例",
        class_label="类别：",
        classification="是否为分类任务：",
        yes="是",
        no="否",
        no_input="<无输入>",
    ),
    # CJK ideographs, themselves and not as \u escapes, which older text-generation-inference servers refuse; the
    # sentence ends with full-width punctuation.
    sentence=r"[一-龥][^\n。？！]+[。？！]",
    opening=r"[^<\s]",
    alpaca="""\
下面列出交给文本助手的 {total} 个任务，每个任务都附有专家会给出的答案。

清单里的每个任务都做到以下几点：
1. 任务之间差别尽量大：主题不同，工作种类不同（写作、解释、提取、排序、计算、规划、翻译、编程等等），\
开头的动词也不同。
2. 指令用中文写成，一到两句话，可以是要求，也可以是提问。
3. 只会读写文字的助手就能完成，不需要看、听、上网或动手操作。
4. 如果指令要处理一段材料，输入就给出这段材料：具体、真实、完整，不超过一百字。如果不需要材料，输入写{no_input}。
5. 输出是针对这条指令和这份输入的完整答案：正确、完整，不超过一百字。
""",
    alpaca_domain="6. 所有任务都属于这个领域：{domain}。\n",
    instructions="""\
下面是人们交给文本助手的任务清单，助手只会读和写文字。任务都用中文写成，每个一到两句话。任务各不相同：\
主题、工作种类和开头的动词都不一样。
""",
    instructions_classification="全部是分类任务：答案是少数几个类别中的一个，多数任务会写明可选的类别。\n",
    instructions_domain="全部属于这个领域：{domain}。\n",
    classification="""\
如果一个任务的答案总是从少数几个固定的类别里选出一个，它就是分类任务。如果答案是自由书写的文字、需要计算的数字或一份清单，\
它就不是。下面对每个任务作出判断。
""",
    input_first="""\
下面给每个任务配上一到五个示例，除非任务另有要求，都用中文写成。输入要具体、完整；任务不需要输入时写{no_input}，\
这时一个示例就够了。输出是完整、正确的答案。
""",
    label_first="""\
下面给每个分类任务配上类别各不相同的示例。先写类别，再写一份属于且只属于这个类别的输入。任务的类别要尽量都出现，\
每个类别出现一次。
""",
    outputs="""\
下面是人们交给文本助手的任务，助手只会读和写文字。每个任务都附有要处理的输入（不需要输入时写{no_input}）和专家会给出的输出：\
正确、完整、切题，除非任务另有要求，都用中文写成。
""",
    chat_tasks="""\
请用完全相同的格式把这份清单续写到第 {total} 个任务。从下面中断的地方接着写，只写清单，不要写别的内容。
""",
    chat_instructions="""\
请把这份清单续写到第 {total} 个任务，一个接一个。从下面中断的地方接着写，只写清单，不要写别的内容。
""",
    chat_classification="最后这个任务是分类任务吗？只回答“{yes}”或“{no}”。\n",
    chat_input_first="""\
请用与上面完全相同的格式写出最后这个任务的示例，最多 {most} 个。从下面中断的地方接着写，不要写别的内容。
""",
    chat_label_first="""\
请用与上面完全相同的格式写出最后这个任务的示例，最多 {most} 个，每个示例的类别各不相同。从下面中断的地方接着写，\
不要写别的内容。
""",
    chat_output="请写出最后这个任务的输出，要完整，除此之外不要写别的内容。\n",
)

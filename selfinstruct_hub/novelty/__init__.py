"""The novelty gate: ROUGE-L F1 of an instruction against the seeds and every accepted task. The only gate with
state.

`measure` says what the score is and which overlap it takes, `encoding` how a text is kept, `scan` compares with
everything, `index` finds what is above the threshold without looking at the rest, `gate` is what a judge asks.
"""

from selfinstruct_hub.novelty.gate import FULL_UP_TO, Comparison, Mode, NoveltyGate, mode_for

__all__ = ["FULL_UP_TO", "Comparison", "Mode", "NoveltyGate", "mode_for"]

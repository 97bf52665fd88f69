"""The script of an instruction, which must be the language's, wherever the seed task came from."""

from __future__ import annotations

from selfinstruct_hub.errors import SeedError
from selfinstruct_hub.languages import Language


def check_script(instruction: str, language: Language | None, place: str) -> None:
    """Refuses an instruction without one character of the language's own script: seeds in another language
    than the setting says would teach the model that language, and every filter would judge by the wrong one.

    `place` names the instruction for the user: file and line or dataset and row, then the field or the column.
    """
    if language is not None and not language.has_own_script(instruction):
        raise SeedError(
            f"{place}: not a character of it is in the script of {language.name}; set `language` to the "
            f"language of the seeds, or `seeds` to tasks written in {language.name}"
        )

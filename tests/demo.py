"""The demo behind `make demo`: two rounds of ten tasks on the embedded model, and the release loaded.

    make demo                                        Alpaca's step, in English
    make demo RECIPE=self-instruct LANGUAGE=zh       the other recipe, the other language

Everything goes through the commands that a user would type. Interrupted, it goes on when it is started again;
finished, it starts over.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROUNDS, TASKS = 2, 10


def tool(*arguments: str) -> None:
    """Runs one command of the tool and shows it as it would be typed. Ends the demo where it fails."""
    print(f"\n$ selfinstruct-hub {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "selfinstruct_hub", *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="alpaca")
    parser.add_argument("--language", default="en")
    given = parser.parse_args()
    os.chdir(ROOT)
    started = time.monotonic()
    usual = (given.recipe, given.language) == ("alpaca", "en")
    workspace = Path("demo" if usual else f"demo-{given.recipe}-{given.language}")
    manifest = workspace / "releases" / f"v1.{ROUNDS - 1}.0" / "manifest.json"
    if manifest.is_file():
        shutil.rmtree(workspace)
    if not workspace.exists():
        tool("init", str(workspace), "--recipe", given.recipe, "--language", given.language)
    tool("grow", str(workspace), "--rounds", str(ROUNDS), "--tasks", str(TASKS))

    os.environ["HF_HUB_OFFLINE"] = "1"  # the release is a local folder; nothing else is needed
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    import datasets

    release = manifest.parent
    rows = datasets.load_dataset(str(release), split="train")
    version = json.loads(manifest.read_text(encoding="utf-8"))["version"]
    print(f"\n>>> rows = datasets.load_dataset({str(release)!r}, split='train')")
    print(f"{len(rows)} rows, version {rows.version}, columns {', '.join(rows.column_names)}")
    for row in rows.select(range(min(3, len(rows)))):
        print()
        for name in ("instruction", "input", "output"):
            text = row[name].replace("\n", "\n" + " " * 14)
            print(f"  {name:<11} {text if len(text) <= 400 else text[:400] + ' ...'}")
    if given.language != "en":
        print("\nThis model has hardly seen this language: the form is right, the text is not.")
    print(
        "\nThis model has 135 million parameters: what it writes has the right form and is mostly wrong."
        "\nGive `grow` an --endpoint with a larger one for rows worth training on. In a trainer:\n"
        "\n    from datasets import load_dataset"
        "\n    from trl import SFTTrainer"
        f'\n\n    train = load_dataset("{release}", "messages", split="train")  # on the Hub: revision="{version}"'
        '\n    SFTTrainer(model="your/base-model", train_dataset=train).train()'
    )
    print(f"\ndone in {time.monotonic() - started:.0f} s; the dataset card is {release / 'README.md'}")


if __name__ == "__main__":
    main()

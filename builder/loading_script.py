"""Builds this dataset with the `datasets` library.

Every release of `datasets` from 2.14 on loads the Parquet files beside this script by itself, so most people
never need it:

    datasets.load_dataset("<repository>", revision="<version>")

The script is for two other ways, in a folder that has all files of the release
(`huggingface_hub.snapshot_download` with `local_dir` makes one). Before `datasets` 4 it can be run:

    datasets.load_dataset("<folder>/loading_script.py", "messages", split="train", trust_remote_code=True)

On every version its class can be imported and used:

    from loading_script import InstructionDataset

    builder = InstructionDataset(config_name="messages")
    builder.download_and_prepare()
    rows = builder.as_dataset(split="train")

It stands alone: `datasets` copies it away from the data before it runs, so what it has to know about its release
is written into it.
"""

import inspect
import os
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

# >>> release (written when a release is packaged; where this file is developed it describes an empty release)
VERSION = "0.0.0"
RELEASE = ""
DEFAULT_CONFIG = "default"
DESCRIPTION = ""
LICENSE = ""
FILES: dict[str, Any] = {"default": {"train": []}}
FEATURES: dict[str, Any] = {"default": {"id": "string"}}
# <<< release


def features_of(columns: Any) -> Any:
    """`datasets.Features` of a config's columns: a dtype's name, a list holding one element, or a dict."""
    if isinstance(columns, dict):
        return {name: features_of(column) for name, column in columns.items()}
    if isinstance(columns, list):
        return [features_of(columns[0])]
    return datasets.Value(columns)


class InstructionDataset(datasets.ArrowBasedBuilder):  # type: ignore[misc]
    """One released version of the dataset, read from its Parquet files."""

    VERSION = datasets.Version(VERSION)
    BUILDER_CONFIGS = [datasets.BuilderConfig(name=name, version=datasets.Version(VERSION)) for name in FILES]
    DEFAULT_CONFIG_NAME = DEFAULT_CONFIG

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # A plain import passes neither. Relative paths would then start at the working directory, and the cache
        # would know these rows by config and version alone, and give back whatever was the first under them.
        given = inspect.signature(super().__init__).bind(*args, **kwargs)
        known = given.arguments
        known["base_path"] = known.get("base_path") or os.path.dirname(os.path.abspath(__file__))
        known["hash"] = known.get("hash") or RELEASE
        super().__init__(*given.args, **given.kwargs)

    def _info(self) -> Any:
        return datasets.DatasetInfo(
            description=DESCRIPTION,
            license=LICENSE,
            version=self.config.version,
            features=datasets.Features(features_of(FEATURES[self.config.name])),
        )

    def _split_generators(self, dl_manager: Any) -> list[Any]:
        splits = FILES[self.config.name]
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"files": dl_manager.download(paths)})
            for split, paths in splits.items()
        ]

    def _generate_tables(self, files: list[str]) -> Any:
        schema = self.info.features.arrow_schema
        for number, path in enumerate(files):
            with open(path, "rb") as file:
                for batch, table in enumerate(pq.ParquetFile(file).iter_batches()):
                    yield f"{number}_{batch}", pa.Table.from_batches([table]).select(schema.names).cast(schema)

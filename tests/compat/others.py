"""Reads the shards of a release with pandas, Polars and DuckDB. Stands alone, like `reader`: takes a folder of
shards and a file for the answer, which is {reader: {"rows", "digest"}}."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars


def told(rows: list[Any]) -> dict[str, Any]:
    content = json.dumps(rows, sort_keys=True).encode()
    return {"rows": len(rows), "digest": hashlib.sha256(content).hexdigest()}


def main(folder: str) -> dict[str, Any]:
    pattern = f"{folder}/*.parquet"
    relation = duckdb.sql(f"SELECT * FROM read_parquet('{pattern}')")
    names = relation.columns
    return {
        "pandas": told(pandas.read_parquet(folder).to_dict("records")),
        "polars": told(polars.read_parquet(pattern).to_dicts()),
        "duckdb": told([dict(zip(names, row, strict=True)) for row in relation.fetchall()]),
    }


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(main(sys.argv[1])))

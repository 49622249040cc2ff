"""The file of scores: predictions as Parquet, and in its header what they are about."""

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import fsspec
import pandas as pd

from misoxr.errors import StoreError, require
from misoxr.spec import Task
from misoxr.spec.build import build

__all__ = ["from_parquet", "to_parquet"]


def to_parquet(predictions: pd.DataFrame, tasks: Sequence[Task], about: Mapping[str, Any]) -> bytes:
    """Return the bytes of a file of scores."""
    arrow, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    table = arrow.Table.from_pandas(predictions.astype({"seed": str, "region": "string"}), preserve_index=False)
    header = {"tasks": [asdict(task) for task in tasks], "about": dict(about)}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"misoxr": json.dumps(header).encode()})
    file = io.BytesIO()
    parquet.write_table(table, file)
    return file.getvalue()


def from_parquet(path: str | os.PathLike[str]) -> tuple[pd.DataFrame, tuple[Task, ...], dict[str, Any]]:
    """Read what :func:`to_parquet` gave.

    Raises
    ------
    StoreError
        If the file cannot be read, or is none of misoxr's scores.
    """
    parquet = require("pyarrow.parquet", "parquet")
    try:
        with fsspec.open(os.fspath(path), "rb") as file:
            table = parquet.read_table(file)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"The scores {os.fspath(path)} cannot be read ({error}); give what Scores.save wrote. Of a store of cross_validate, the "
            "same call gives the scores at once."
        ) from error
    header = (table.schema.metadata or {}).get(b"misoxr")
    if header is None:
        raise StoreError(f"{os.fspath(path)} is a Parquet file without misoxr's header; was it written by Scores.save?")
    values = json.loads(header)
    predictions = table.to_pandas().astype({"region": object})
    predictions["region"] = predictions["region"].where(predictions["region"].notna(), None)
    predictions["seed"] = [int(seed) if str(seed).lstrip("-").isdigit() else seed for seed in predictions["seed"]]
    return predictions, tuple(build(Task, task) for task in values["tasks"]), values["about"]

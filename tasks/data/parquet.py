"""Parquet files as rows: how Hugging Face datasets are stored, on the hub and by `Dataset.to_parquet`.

Needs pyarrow (`pip install "trimtab[parquet]"`), which is only imported when a recipe names such a file.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trimtab.tasks.errors import DataError

BATCH = 256  # rows in memory at a time


def read_parquet(path: Path, shown: str, columns: Sequence[str] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, row) of every row, a batch in memory at a time. columns: to read, None for all of them.

    Raises DataError when pyarrow is not installed, when the file is not Parquet, or when it lacks a column.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f'{shown}: reading Parquet needs pyarrow, which is not installed; pip install "trimtab[parquet]"'
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_columns(columns, file.schema_arrow.names, shown)
            batches = file.iter_batches(batch_size=BATCH, columns=None if columns is None else list(columns))
            rows = (row for batch in batches for row in batch.to_pylist())
            yield from enumerate(rows, start=1)
    except OSError as error:
        raise DataError(f"{shown}: cannot be read: {error.strerror or error}") from None
    except pyarrow.ArrowException as error:
        raise DataError(f"{shown}: not a Parquet file that can be read: {str(error).splitlines()[0]}") from None


def _check_columns(wanted: Sequence[str] | None, there: Sequence[str], shown: str) -> None:
    for name in wanted or ():
        if name not in there:
            raise DataError(f"{shown}: data.columns names '{name}', the file has {', '.join(there)}")

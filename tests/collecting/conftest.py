"""A tiny model with a recipe of any size; the same as the benchmarks use."""

import runpy
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from trimtab.store.captures import schema

TINY = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "tiny.py"))


@pytest.fixture(scope="session")
def make_tiny() -> Callable[[Path, int, Sequence[str]], Path]:
    """make_tiny(folder, pairs, capture settings): a recipe file with its model and data."""
    return TINY["make"]


@pytest.fixture(scope="session")
def write_pairs() -> Callable[[Path, int], None]:
    """write_pairs(file, how many): the first rows are always the same."""
    return TINY["write_pairs"]


@pytest.fixture
def tiny_recipe(make_tiny, tmp_path) -> Path:
    """60 pairs at every block."""
    return make_tiny(tmp_path / "tiny", 60, ())


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch) -> None:
    """Chunks that fit the tests' regions; at their usual size every commit would write whole arrays anew."""
    monkeypatch.setattr(schema, "SMALLEST_CHUNK_BYTES", 2**12)

"""Rows as a PyTorch dataset: every row once, with and without workers; special tokens left out."""

import numpy as np
import pytest
import torch

from trimtab.store import ActivationStore, Where
from trimtab.store.captures.epochs import Epoch
from trimtab.tasks.collecting.capture import capture_recipe
from trimtab.tasks.collecting.torch_rows import RowBatches, loader
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.kinds import load_recipe


@pytest.fixture
def store(tiny_recipe, tmp_path) -> ActivationStore:
    made = capture_recipe(load_recipe(tiny_recipe, ["capture.dtype=float32"]), Home.at(tmp_path), 500_000)
    return ActivationStore.open(made.url)


def rows_of(batches) -> np.ndarray:
    found = torch.cat(list(batches)).numpy()
    return found[np.lexsort(found.T)]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_row_once(store, workers):
    everything = Where()
    rows = RowBatches(store.location.url, "z.1", Epoch(size=32, seed=3, buffer_rows=64), everything)
    whole = store.rows("z.1").reshape(store.n_rows, -1)
    assert np.array_equal(rows_of(loader(rows, workers)), whole[np.lexsort(whole.T)])


def test_epochs_differ_and_repeat(store):
    rows = RowBatches(store.location.url, "resid_post.2", Epoch(32))
    first, again = torch.cat(list(rows)), torch.cat(list(rows))
    rows.set_epoch(1)
    second = torch.cat(list(rows))
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert np.array_equal(rows_of([first]), rows_of([second]))


def test_special_tokens_are_left_out(store):
    ordinary = RowBatches(store.location.url, "resid_post.2", Epoch(32))
    special = int(store.index.special.sum())
    assert len(torch.cat(list(ordinary))) == store.n_rows - special

"""The shuffle is one: every row once, no place preferred, neighbours torn apart, parts that make a whole."""

import numpy as np
import pytest

from trimtab.store import ActivationStore, ArraySpec, Capture, TokenIndex
from trimtab.store.captures.epochs import Epoch
from trimtab.store.captures.statistics import Quantiles

ROWS, CHUNK, BUFFER = 6000, 50, 1500


@pytest.fixture(scope="module")
def numbered() -> ActivationStore:
    """A capture whose rows hold their own number."""
    index = TokenIndex.plain(np.full(ROWS // 20, 20))
    spec = ArraySpec("resid_post.0", (1,), ("d_model",), "float32", CHUNK)
    store = ActivationStore.create("memory://numbered", Capture({}), index, [spec])
    for region in store.pending_regions():
        with store.region_writer(region) as writer:
            numbers = np.arange(region.row_start, region.row_stop, dtype=np.float32)
            writer.write("resid_post.0", region.row_start, numbers[:, None])
    return store.finish()


def order_of(store: ActivationStore, seed: int, buffer: int = BUFFER) -> np.ndarray:
    return np.concatenate(list(store.shuffled("resid_post.0", 64, seed, buffer)))[:, 0].astype(int)


@pytest.mark.parametrize("buffer", [BUFFER, ROWS])
def test_every_place_is_as_likely_for_every_row(numbered, buffer) -> None:
    """Chi-square over (tenth of the file a row comes from) x (tenth of the epoch it comes out in), many seeds."""
    table = np.zeros((10, 10))
    for seed in range(60):
        place = np.empty(ROWS, int)
        place[order_of(numbered, seed, buffer)] = np.arange(ROWS)
        np.add.at(table, (np.arange(ROWS) * 10 // ROWS, place * 10 // ROWS), 1)
    expected = table.sum() / table.size
    # rows of one chunk come out together, so that the number of independent draws is the number of chunks
    independent = 60 * ROWS / CHUNK if buffer < ROWS else 60 * ROWS
    statistic = ((table - expected) ** 2 / expected).sum() * independent / table.sum()
    assert statistic < 150, "81 degrees of freedom: more than 150 happens once in 300000 times"


def test_a_batch_is_a_sample_of_the_whole_file(numbered) -> None:
    """No batch is made of a few chunks: 64 rows come from dozens of the 120."""
    for seed in range(5):
        order = order_of(numbered, seed)
        chunks = [len(np.unique(order[start : start + 64] // CHUNK)) for start in range(0, ROWS - 64, 64)]
        assert np.median(chunks) > 20 and min(chunks) > 8


def test_neighbours_are_torn_apart(numbered) -> None:
    order = order_of(numbered, 0)
    assert sorted(order) == list(range(ROWS))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.1
    assert (np.abs(np.diff(order)) == 1).mean() < 0.02
    assert (order == order_of(numbered, 0)).all() and (order != order_of(numbered, 1)).mean() > 0.99


@pytest.mark.parametrize("buffer", [1, 40, 64, 90, 200])
@pytest.mark.parametrize("size", [1, 32, 300])
def test_buffers_smaller_than_chunks_and_batches(numbered, buffer, size) -> None:
    order = np.concatenate(list(numbered.shuffled("resid_post.0", size, 0, buffer)))[:, 0]
    assert sorted(order.astype(int)) == list(range(ROWS))


@pytest.mark.parametrize("of", [2, 3, 7, 200])
def test_parts_are_disjoint_and_together_everything(numbered, of) -> None:
    parts = [list(numbered.epoch("resid_post.0", Epoch(64, 5, BUFFER, part, of))) for part in range(of)]
    rows = [np.concatenate(part)[:, 0].astype(int) for part in parts if part]
    assert sorted(np.concatenate(rows)) == list(range(ROWS))
    if of < 10:
        assert max(map(len, rows)) - min(map(len, rows)) <= CHUNK


def test_quantiles_are_within_their_accuracy(numbered) -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(0, 3, (4000, 3)), rng.standard_t(2, (4000, 3)) * 100, np.zeros((2000, 3))])
    whole = Quantiles.of(rows)
    merged = Quantiles.empty(3)
    for part in np.array_split(rng.permutation(rows), 7):
        merged = Quantiles.of(part).merge(merged)
    assert np.array_equal(whole.counts, merged.counts)
    for share in (0, 0.01, 0.25, 0.5, 0.9, 0.999, 1):
        exact = np.sort(rows, axis=0)[min(len(rows) - 1, int(share * len(rows)))]
        assert np.allclose(whole.at(share), exact, rtol=0.0101, atol=1e-6)
    assert np.allclose(numbered.quantiles("resid_post.0").at(0.5), ROWS / 2, rtol=0.02)
    with pytest.raises(ValueError, match="needs rows"):
        Quantiles.empty(2).at(0.5)
    with pytest.raises(ValueError, match="from 0 to 1"):
        whole.at(1.5)

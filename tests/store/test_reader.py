"""Rows come back by every way of asking, and an epoch is really shuffled."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import xarray

from trimtab.store import ActivationStore, ArraySpec, Capture, TokenIndex, TokenRole, Where, as_dataset
from trimtab.store.captures.chunks import ahead
from trimtab.store.captures.dtypes import from_bfloat16
from trimtab.store.captures.statistics import Moments
from trimtab.store.errors import Invalid, Mismatch, NotFound, StoreError

SITE = "resid_post.2"


@pytest.fixture(scope="module")
def long() -> ActivationStore:
    """5000 rows that count: row i is (i, -i)."""
    index = TokenIndex.plain([10] * 500)
    spec = ArraySpec("resid_post.0", (2,), ("d_model",), "float32", chunk_rows=64)
    store = ActivationStore.create("memory://long-rows", Capture({}), index, [spec], 20_000)
    rows = np.arange(5000, dtype=np.float32)[:, None] * [1, -1]
    for region in store.pending_regions():
        with store.region_writer(region) as writer:
            writer.write("resid_post.0", region.row_start, rows[region.row_start : region.row_stop])
    return store.finish()


def test_one_head(sample, store) -> None:
    assert np.array_equal(store.rows("z.1.2"), from_bfloat16(sample.rows["z.1"])[:, 2])
    assert store.rows("z.1.2", {"prompts": [3]}).shape == (np.diff(sample.index.offsets)[3], 4)


@pytest.mark.parametrize("site", ["z.1.3", "z.2", "resid_post.1.0", "resid_pots.1", "z.1.-1", "z"])
def test_unknown_sites(store, site) -> None:
    with pytest.raises(NotFound):
        store.rows(site)


@pytest.mark.parametrize(
    "where",
    [
        {"prompts": [5, 2, 39]},
        {"prompts": []},
        {"label": 1},
        {"split": "report"},
        {"roles": ["user", TokenRole.ASSISTANT]},
        {"special": False},
        {"special": True, "label": -1, "split": "fit", "roles": ["system", 4]},
    ],
)
def test_selections_equal_a_mask(sample, store, where) -> None:
    index = sample.index
    mask = np.ones(index.n_rows, bool)
    owner = index.prompt
    if "prompts" in where:
        mask &= np.isin(owner, where["prompts"])
    if "label" in where:
        mask &= index.label[owner] == where["label"]
    if "split" in where:
        mask &= index.split[owner] == where["split"]
    if "roles" in where:
        codes = [int(TokenRole[r.upper()]) if isinstance(r, str) else int(r) for r in where["roles"]]
        mask &= np.isin(index.role, codes)
    if "special" in where:
        mask &= index.special == where["special"]
    assert np.array_equal(store.rows(SITE, where), sample.rows[SITE][mask])
    assert np.array_equal(store.rows(SITE, Where(**where)), sample.rows[SITE][mask])
    assert np.array_equal(np.concatenate([*store.batches(SITE, 17, where), np.zeros((0, 8))]), sample.rows[SITE][mask])


@pytest.mark.parametrize(
    "where, error",
    [
        ({"split": "nope"}, NotFound),
        ({"prompts": [40]}, NotFound),
        ({"prompts": [-1]}, NotFound),
        ({"prompts": [0.5]}, Invalid),
        ({"roles": ["nobody"]}, Invalid),
        ({"layer": 3}, Invalid),
    ],
)
def test_bad_selections(store, where, error) -> None:
    with pytest.raises(error):
        store.rows(SITE, where)


@pytest.mark.parametrize("how", ["mean", "last", "first"])
@pytest.mark.parametrize("special", [None, False])
def test_pooling_equals_a_loop(sample, store, how, special) -> None:
    index, expected = sample.index, []
    for i in range(index.n_prompts):
        a, b = index.offsets[i], index.offsets[i + 1]
        rows = sample.rows[SITE][a:b].astype(np.float64)
        rows = rows if special is None else rows[~index.special[a:b]]
        expected.append({"mean": rows.mean(0), "last": rows[-1], "first": rows[0]}[how])
    got = store.pooled(SITE, how, Where(special=special))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, np.asarray(expected), rtol=1e-6, atol=1e-7)
    assert np.array_equal(store.pooled(SITE, how, Where(prompts=[7, 3], special=special)), got[[3, 7]])
    heads = store.pooled("z.1", how, Where(special=special))
    assert np.array_equal(store.pooled("z.1.1", how, Where(special=special)), heads[:, 1])


def test_pooling_nothing_is_refused(sample, store) -> None:
    lonely = int(np.flatnonzero(np.diff(sample.index.offsets) < 5)[0])  # too short to have every role
    missing = next(
        r for r in TokenRole if r not in sample.index.role[slice(*sample.index.offsets[lonely : lonely + 2])]
    )
    with pytest.raises(Mismatch, match="no selected row"):
        store.pooled(SITE, "mean", Where(prompts=[lonely], roles=[missing]))
    with pytest.raises(Invalid, match="median"):
        store.pooled(SITE, "median")


def test_contrast_matches_pairs(sample, store) -> None:
    contrast = store.contrast([SITE, "z.1.0"], split="fit")
    assert contrast.paired and contrast.pairs.tolist() == list(range(10))
    positive, negative = contrast[SITE]
    means = store.pooled(SITE, "mean", Where(special=False))
    assert np.array_equal(positive, means[0:20:2]) and np.array_equal(negative, means[1:20:2])
    assert contrast["z.1.0"][0].shape == (10, 4)
    with_special = store.contrast([SITE], pool="first", include_special=True)
    assert np.array_equal(with_special[SITE][0], sample.rows[SITE][sample.index.offsets[:-1]][::2])
    loose = store.contrast([SITE], pool=None)
    assert not loose.paired and len(loose[SITE][0]) + len(loose[SITE][1]) == (~sample.index.special).sum()


def test_contrast_orders_shuffled_pairs_and_says_when_there_are_none(sample, memory) -> None:
    from dataclasses import replace

    order = np.random.default_rng(5).permutation(20)
    pair = np.empty(40, int)
    pair[0::2], pair[1::2] = np.arange(20), order
    shuffled = replace(sample, index=replace(sample.index, pair=pair)).collect(memory())
    positive, negative = shuffled.contrast([SITE])[SITE]
    means = shuffled.pooled(SITE, "mean", Where(special=False))
    assert np.array_equal(positive, means[0::2])
    assert np.array_equal(negative, means[1::2][np.argsort(order)])
    alone = replace(sample, index=replace(sample.index, pair=np.full(40, -1))).collect(memory())
    assert not alone.contrast([SITE]).paired
    same = replace(sample, index=replace(sample.index, label=np.ones(40))).collect(memory())
    with pytest.raises(NotFound, match="40 positive and 0 negative"):
        same.contrast([SITE])


def test_batches_are_in_order(long) -> None:
    parts = list(long.batches("resid_post.0", 300))
    assert [len(p) for p in parts] == [300] * 16 + [200]
    assert np.array_equal(np.concatenate(parts)[:, 0], np.arange(5000))


def test_a_batch_belongs_to_whoever_got_it(long) -> None:
    for batch in long.batches("resid_post.0", 300):
        batch[:] = 0
    assert np.array_equal(long.rows("resid_post.0")[:, 0], np.arange(5000))


def test_reading_that_is_left_early_leaves_no_thread(long) -> None:
    before = threading.active_count()
    reading = long.batches("resid_post.0", 10)
    next(reading)
    assert threading.active_count() > before  # it reads ahead
    reading.close()
    assert threading.active_count() == before


def test_an_error_of_reading_ahead_arrives_in_its_turn() -> None:
    def read(key: int) -> int:
        if key == 2:
            raise NotFound("chunk 2")
        return key

    reading, seen = ahead(read, [0, 1, 2, 3]), []
    with pytest.raises(NotFound, match="chunk 2"):
        for value in reading:
            seen.append(value)
    assert seen == [0, 1]


@pytest.mark.parametrize("buffer_rows", [1, 500, 100_000])
def test_shuffled_gives_every_row_once(long, buffer_rows) -> None:
    parts = list(long.shuffled("resid_post.0", 128, 7, buffer_rows))
    seen = np.concatenate(parts)[:, 0]
    assert sorted(seen) == list(range(5000))
    assert all(len(p) == 128 for p in parts[:-1]) or buffer_rows == 1
    again = np.concatenate(list(long.shuffled("resid_post.0", 128, 7, buffer_rows)))[:, 0]
    other = np.concatenate(list(long.shuffled("resid_post.0", 128, 8, buffer_rows)))[:, 0]
    assert np.array_equal(seen, again) and not np.array_equal(seen, other)
    half = {"prompts": range(0, 500, 2)}
    some = np.concatenate(list(long.shuffled("resid_post.0", 128, 7, buffer_rows, half)))[:, 0]
    assert np.array_equal(np.sort(some), long.rows("resid_post.0", half)[:, 0])


def test_shuffled_really_shuffles(long) -> None:
    """Place and number are uncorrelated, neighbours do not stay neighbours, batches mix the whole range."""
    for buffer_rows in (1000, 100_000):
        places, near, spans = [], [], []
        for seed in range(8):
            parts = [p[:, 0] for p in long.shuffled("resid_post.0", 100, seed, buffer_rows)]
            seen = np.concatenate(parts)
            places.append(np.corrcoef(np.arange(5000), seen)[0, 1])
            near.append((np.abs(np.diff(seen)) == 1).mean())
            spans.append(np.mean([np.ptp(p) for p in parts]))
        assert abs(np.mean(places)) < 0.1
        assert np.mean(near) < (0.003 if buffer_rows > 5000 else 0.01)  # uniform: 2 / 5000 = 0.0004
        assert np.mean(spans) > 0.8 * 5000  # a uniform batch of 100 spans 0.98 of the range


def test_a_full_buffer_is_uniform(long) -> None:
    """Chi-squared over where the first 500 rows land, 40 seeds, 10 bins."""
    counts = np.zeros(10)
    for seed in range(40):
        seen = np.concatenate(list(long.shuffled("resid_post.0", 1000, seed, 10_000)))[:, 0]
        counts += np.histogram(np.flatnonzero(seen < 500), bins=10, range=(0, 5000))[0]
    expected = counts.sum() / 10
    assert ((counts - expected) ** 2 / expected).sum() < 27.9  # p = 0.001 at 9 degrees of freedom


def test_random_rows(long) -> None:
    rows = long.random_rows("resid_post.0", 50, 3)[:, 0]
    assert len(set(rows)) == 50 and not np.array_equal(rows, np.sort(rows))
    assert np.array_equal(rows, long.random_rows("resid_post.0", 50, 3)[:, 0])
    assert len(long.random_rows("resid_post.0", 50, 3, {"prompts": [1]})) == 10


def test_statistics_equal_numpy(sample, store, long) -> None:
    got = store.statistics("z.1", {"special": False})
    rows = from_bfloat16(sample.rows["z.1"])[~sample.index.special].reshape(-1, 12).astype(np.float64)
    scale = np.abs(rows).max(0)
    np.testing.assert_allclose(got.mean / scale, rows.mean(0) / scale, atol=1e-12)
    outer = np.outer(scale, scale)
    np.testing.assert_allclose(got.covariance / outer, np.cov(rows.T) / outer, atol=1e-12)
    assert got.count == len(rows)


def test_statistics_are_stable_and_merge() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(999, 3)) + 1e8  # the naive sum of squares loses every digit here
    total = Moments(0, np.zeros(3), np.zeros((3, 3)))
    for part in np.array_split(rows, 13):
        total = total.merge(Moments.of(part))
    np.testing.assert_allclose(total.covariance, np.cov(rows.T), rtol=1e-6, atol=1e-8)
    one = Moments.of(rows[:1])
    assert np.isfinite(one.covariance).all()


def test_as_dataset_gives_the_floats_of_every_dtype(sample, memory) -> None:
    specs = (*sample.specs, ArraySpec("mlp_post.1", (40,), ("d_mlp",), "int8", chunk_rows=9))
    rows = np.random.default_rng(4).normal(size=(sample.index.n_rows, 40)).astype(np.float32)
    store = replace(sample, specs=specs, rows=sample.rows | {"mlp_post.1": rows}).collect(memory())
    data = as_dataset(store)
    assert data["z.1"].dims == ("row", "head", "d_head") and data["mlp_post.1"].dims == ("row", "d_mlp")
    for site in store.sites:
        assert data[site].dtype == np.float32
        assert np.array_equal(data[site].values, store.rows(site))
    assert np.array_equal(data["split"].values, sample.index.split)
    assert np.array_equal(data["label"][data["row_prompt"]].values, sample.index.label[sample.index.prompt])


@pytest.mark.parametrize(
    "index",
    [
        {"row": slice(5, 40, 3), "head": 1},
        {"row": [30, 2, 2, 17], "d_head": slice(None, None, -1)},
        {"row": 7, "head": [2, 0], "d_head": 3},
        {"row": -1},
        {"row": []},
    ],
)
def test_as_dataset_is_indexed_like_the_rows(store, index) -> None:
    whole = xarray.DataArray(store.rows("z.1"), dims=("row", "head", "d_head"))
    assert as_dataset(store)["z.1"].isel(index).identical(whole.isel(index).rename("z.1"))


def test_as_dataset_reads_only_what_is_used(sample, memory) -> None:
    store = sample.create(memory())
    region = store.pending_regions()[0]
    with store.region_writer(region) as writer:
        sample.fill(writer, region)
    data = as_dataset(store)  # most rows do not exist yet
    written = data["z.1"].isel(row=slice(region.row_start, region.row_stop))
    assert np.array_equal(written.values, from_bfloat16(sample.rows["z.1"][region.row_start : region.row_stop]))
    with pytest.raises(StoreError, match="not collected yet"):
        data["z.1"].isel(row=-1).load()

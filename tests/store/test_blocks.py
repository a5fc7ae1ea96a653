"""int8 in blocks of 32: small, close, its error recorded, and the same however it was written."""

from dataclasses import replace

import numpy as np
import pytest

from trimtab.store import ArraySpec
from trimtab.store.captures.blocks import decode, encode, packed_width
from trimtab.store.captures.hdf5 import export_hdf5
from trimtab.store.errors import Invalid
from trimtab.store.verify import verify_capture

SPECS = (
    ArraySpec("resid_post.1", (72,), ("d_model",), "int8", 7),
    ArraySpec("z.1", (3, 40), ("head", "d_head"), "int8"),
)


@pytest.fixture
def lossy(samples):
    """Rows with a sink token and a massive dimension, as real ones have."""
    sample = samples(0, 40)
    rng, n = np.random.default_rng(0), sample.index.n_rows
    rows = {"resid_post.1": rng.normal(size=(n, 72)), "z.1": rng.normal(size=(n, 3, 40))}
    rows["resid_post.1"][:, 5] *= 500
    rows["resid_post.1"][0] *= 1000
    return replace(sample, specs=SPECS, rows={name: r.astype(np.float32) for name, r in rows.items()})


def test_within_half_a_step_of_each_block():
    rng = np.random.default_rng(0)
    for width in (1, 31, 32, 33, 576):
        rows = rng.normal(size=(50, width)) * np.exp(rng.normal(size=(50, 1)) * 3)
        packed = encode(rows)
        assert packed.dtype == np.uint8 and packed.shape == (50, packed_width(width))
        for start in range(0, width, 32):
            block, got = rows[:, start : start + 32], decode(packed, width)[:, start : start + 32]
            step = np.abs(block).max(axis=1, keepdims=True) / 127
            assert (np.abs(got - block) <= step * 0.57).all(), "half a step, and float16's rounding of 127 of them"
    assert not decode(encode(np.zeros((2, 40))), 40).any()


def test_it_comes_back_and_its_error_is_recorded(lossy, memory):
    store = lossy.collect(memory())
    for site, rows in lossy.rows.items():
        got = store.rows(site)
        assert got.dtype == np.float32 and got.shape == rows.shape
        want = np.sqrt(np.square(got.astype(np.float64) - rows).sum() / np.square(rows.astype(np.float64)).sum())
        # the worst block is one of a single large number: 32 errors of a uniform step of 1/127 of it
        assert 0 < store.error(site) < 1.1 * np.sqrt(32 / 12) / 127 and np.isclose(store.error(site), want)
    assert np.array_equal(store.rows("z.1.2"), store.rows("z.1")[:, 2])
    assert store.nbytes == store.n_rows * (72 + 6 + 3 * (40 + 4))
    shuffled = np.concatenate(list(store.shuffled("resid_post.1", 16, 0, 30)))
    assert np.allclose(np.sort(shuffled[:, 0]), np.sort(store.rows("resid_post.1")[:, 0]))
    assert all(finding.ok for finding in verify_capture(store.location))
    ordinary = np.median(np.abs(store.rows("resid_post.1") - lossy.rows["resid_post.1"])[1:, 32:64])
    assert ordinary < 0.02, "neither the sink nor the massive dimension ruins the other blocks"


def test_any_order_of_writing_gives_the_same_store(lossy, memory):
    whole, other, rng = lossy.collect(memory()), lossy.create(memory()), np.random.default_rng(1)
    handle = other.fork()
    for region in other.pending_regions():
        with handle.region_writer(region) as writer:
            for site, rows in lossy.rows.items():
                for some in np.array_split(rng.permutation(np.arange(region.row_start, region.row_stop)), 3):
                    writer.write(site, some, rows[some])
    other.merge([handle])
    assert other.finish().digest == whole.digest
    for name in ("regions/error", "regions/digest", "resid_post.1", "z.1"):
        assert np.array_equal(whole.zarr_group[name][:], other.zarr_group[name][:])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e7])
def test_what_a_scale_cannot_hold_is_refused(lossy, memory, value):
    store = lossy.create(memory())
    region = store.pending_regions()[0]
    rows = np.zeros((region.n_rows, 72), np.float32)
    rows[1, 70] = value
    with pytest.raises(Invalid, match=r"resid_post.1: row 1 holds"), store.region_writer(region) as writer:
        writer.write("resid_post.1", 0, rows)
    with pytest.raises(Invalid, match="give floats"), store.region_writer(region) as writer:
        writer.write("resid_post.1", 0, np.zeros(rows.shape, int))


def test_lossless_sites_have_no_error_and_lossy_ones_no_export(lossy, store, memory, tmp_path):
    assert store.error("resid_post.1") == 0.0 and "regions/error" not in store.zarr_group
    with pytest.raises(Invalid, match="int8 rows are not exported"):
        export_hdf5(lossy.collect(memory()), tmp_path / "x.h5")

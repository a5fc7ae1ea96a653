"""One capture: written by regions, exact, refused when wrong, the same however it was written."""

import pickle
import random
import time
import uuid
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.store import ActivationStore, ArraySpec, Capture, Location, TokenIndex
from trimtab.store.captures.dtypes import all_finite, bfloat16_bits, finite, from_bfloat16
from trimtab.store.captures.schema import region_edges
from trimtab.store.errors import Corrupt, Invalid, Mismatch, NotFound, StoreError


def test_what_was_written_is_read(sample, store) -> None:
    assert store.complete and len(store.layout.regions) > 5
    assert np.array_equal(store.rows("resid_post.1"), sample.rows["resid_post.1"].astype("f2").astype("f4"))
    assert np.array_equal(store.rows("resid_post.2"), sample.rows["resid_post.2"])
    assert np.array_equal(store.rows("z.1", dtype=None), sample.rows["z.1"])
    assert np.array_equal(store.rows("z.1"), from_bfloat16(sample.rows["z.1"]))
    assert store.n_rows == sample.index.n_rows and store.n_prompts == 40
    assert store.nbytes == store.n_rows * (8 * 2 + 8 * 4 + 12 * 2)
    assert store.index.digest == sample.index.digest


def test_zarr_reads_the_same_bytes(sample, store) -> None:
    """We write chunks ourselves; zarr must see what it would have written, edges and compression included."""
    root = store.zarr_group
    assert np.array_equal(root["z.1"][:], sample.rows["z.1"])
    assert np.array_equal(root["resid_post.1"][:], sample.rows["resid_post.1"].astype("f2"))
    assert root["z.1"].attrs["trimtab_dtype"] == "bfloat16"


def test_xarray_opens_it(sample, store) -> None:
    data = store.to_xarray()
    assert data["z.1"].dims == ("row", "head", "d_head")
    assert data["resid_post.2"].dims == ("row", "d_model")
    assert np.array_equal(data["resid_post.2"].values, sample.rows["resid_post.2"])
    assert data["label"].dims == ("prompt",)


def test_resume_after_an_exception(sample, memory) -> None:
    place = memory()
    store = sample.create(place)
    first, second = store.pending_regions()[:2]
    with store.region_writer(first) as writer:
        sample.fill(writer, first)
    with pytest.raises(RuntimeError), store.region_writer(second) as writer:
        sample.fill(writer, second)
        raise RuntimeError("the forward pass failed")
    again = sample.create(place)
    assert [r.number for r in again.pending_regions()] == list(range(1, len(store.layout.regions)))
    with pytest.raises(StoreError, match="regions are not written"):
        again.finish()
    with pytest.raises(StoreError, match="not complete"):
        _ = again.digest
    with pytest.raises(StoreError, match="not collected yet"):
        again.rows("z.1")
    assert len(again.rows("z.1", {"prompts": range(first.prompt_stop)})) == first.n_rows
    assert sample.collect(place).digest == sample.collect(memory()).digest


def test_finish_twice_changes_nothing(sample, store) -> None:
    snapshot = store.snapshot_id
    assert ActivationStore.open(store.location).finish().snapshot_id == snapshot
    assert sample.create(store.location).pending_regions() == []
    assert sample.create(store.location).complete


def test_another_capture_is_refused_and_says_what_differs(sample, store) -> None:
    other = replace(sample, capture=Capture({**sample.capture.fields, "model": {"name": "tiny", "revision": "b"}}))
    with pytest.raises(Mismatch, match=r"model.revision: 'a' here, 'b' there"):
        other.create(store.location)
    with pytest.raises(Mismatch, match="index_digest"):
        replace(sample, index=replace(sample.index, label=-sample.index.label)).create(store.location)
    with pytest.raises(Mismatch, match="arrays"):
        replace(sample, specs=sample.specs[:2]).create(store.location)
    with pytest.raises(Mismatch, match="regions"):
        replace(sample, region_bytes=2000).create(store.location)


def test_serial_equals_forked_in_any_order(sample, memory, store) -> None:
    other = sample.create(memory())
    regions = other.pending_regions()
    random.Random(1).shuffle(regions)
    for some in (regions[:5], regions[5:]):
        handles = [other.fork() for _ in range(3)]
        for i, region in enumerate(some):
            with handles[i % 3].region_writer(region) as writer:
                sample.fill(writer, region)
        other.merge(pickle.loads(pickle.dumps(handles)))
    assert other.finish().digest == store.digest


@pytest.mark.parametrize("scheme", ["memory", "folder"])
def test_a_region_written_twice(sample, memory, tmp_path, scheme) -> None:
    """A retried worker's same rows change nothing; other rows are refused, in one merge or in two."""
    store = sample.create(memory() if scheme == "memory" else tmp_path / "twice")
    region = store.pending_regions()[0]
    other = replace(sample, rows=sample.rows | {"resid_post.2": sample.rows["resid_post.2"] + 1})
    handles = [store.fork() for _ in range(3)]
    for handle, rows in zip(handles, (sample, sample, other), strict=True):
        with handle.region_writer(region) as writer:
            rows.fill(writer, region)
    with pytest.raises(Mismatch, match="with other rows"):
        store.merge(handles)
    assert region in store.pending_regions()
    snapshot = store.merge(handles[:2])
    assert store.merge(handles[:1]) == snapshot
    with pytest.raises(Mismatch, match="with other rows"):
        store.merge(handles[2:])
    for later in store.pending_regions():
        with store.region_writer(later) as writer:
            sample.fill(writer, later)
    assert store.finish().digest == sample.collect(memory()).digest


def test_processes_give_the_same_digest(sample, store, tmp_path, worker) -> None:
    """Forks merged by one committer, and processes that each commit by themselves."""
    forked, alone = sample.create(tmp_path / "forked"), sample.create(tmp_path / "alone")
    regions = len(forked.pending_regions())
    jobs = []
    for share in range(2):
        numbers = list(range(share, regions, 2))
        (tmp_path / f"fork{share}").write_bytes(pickle.dumps(forked.fork()))
        jobs.append(worker("fork", tmp_path / f"fork{share}", numbers))
        jobs.append(worker("alone", tmp_path / "alone", numbers))
    for job in jobs:
        job.join()
        assert job.exitcode == 0
    forked.merge([pickle.loads((tmp_path / f"fork{share}").read_bytes()) for share in range(2)])
    for other in (forked, alone):
        assert other.finish().digest == store.digest
        for site in store.sites:
            assert np.array_equal(other.rows(site, dtype=None), store.rows(site, dtype=None))


def test_kill_at_any_moment_then_resume(tmp_path, worker, samples) -> None:
    """Every kill leaves a store that opens, and the next run goes on; the end is the uninterrupted digest."""
    big = samples(3, 120)
    began = time.monotonic()
    whole = big.collect(tmp_path / "whole")
    length = time.monotonic() - began
    moments, interrupted = random.Random(0), 0
    for _ in range(10):
        job = worker("collect", tmp_path / "killed", (3, 120))
        time.sleep(moments.uniform(0.0, 0.4 * length))
        job.kill()
        job.join()
        interrupted += job.exitcode == -9
        if Location.parse(tmp_path / "killed").exists():
            store = big.create(tmp_path / "killed")
            pending = {region.number for region in store.pending_regions()}
            for region in [r for r in store.layout.regions if r.number not in pending][-2:]:
                where = {"prompts": range(region.prompt_start, region.prompt_stop)}
                assert np.array_equal(store.rows("resid_post.2", where), whole.rows("resid_post.2", where))
    assert interrupted >= 3, "the moments were chosen too late to kill anything"
    resumed = big.collect(tmp_path / "killed")
    assert resumed.digest == whole.digest
    for name in whole.zarr_group.array_keys():
        assert np.array_equal(whole.zarr_group[name][:], resumed.zarr_group[name][:])
        assert whole.zarr_group[name].metadata == resumed.zarr_group[name].metadata
    assert whole.zarr_group.attrs.asdict() == resumed.zarr_group.attrs.asdict()


@pytest.mark.parametrize(
    "site, value, cure",
    [
        ("resid_post.1", 70000.0, "65504.*collect with dtype bfloat16 or float32"),
        ("resid_post.1", np.nan, "run the model in float32"),
        ("resid_post.2", -np.inf, "run the model in float32"),
        ("z.1", np.inf, "bfloat16 holds finite values"),
    ],
)
def test_infinities_are_refused(sample, memory, site, value, cure) -> None:
    store = sample.create(memory())
    region = store.pending_regions()[1]
    spec = store.layout.spec(site)
    rows = np.zeros((region.n_rows, *spec.shape), np.float32)
    rows[2].flat[3] = value
    with (
        pytest.raises(Invalid, match=rf"{site}: row {region.row_start + 2} .*{cure}"),
        store.region_writer(region) as w,
    ):
        w.write(site, region.row_start, rows)
    assert region in store.pending_regions()


def test_wrong_writes_are_refused(sample, memory) -> None:
    store = sample.create(memory())
    region = store.pending_regions()[0]
    rows = sample.rows["resid_post.1"][: region.n_rows]
    for error, match, write in (
        (NotFound, "resid_post.9", lambda w: w.write("resid_post.9", 0, rows)),
        (Mismatch, "need shape", lambda w: w.write("resid_post.1", 0, rows[:, :3])),
        (Mismatch, "need shape", lambda w: w.write("resid_post.1", slice(0, 1), rows)),
        (Mismatch, "leave region", lambda w: w.write("resid_post.1", 1, rows)),
        (Mismatch, "leave region", lambda w: w.write("resid_post.1", -1, rows)),
        (Mismatch, "exactly once", lambda w: [w.write("resid_post.1", 0, rows) for _ in range(2)]),
        (Mismatch, "rows of region 0 were not written", lambda w: w.write("resid_post.1", 0, rows[:1])),
        (Invalid, "give floats", lambda w: w.write("resid_post.1", 0, rows.astype(int))),
        (Invalid, "as uint16", lambda w: w.write("z.1", 0, sample.rows["z.1"][: region.n_rows].astype(int))),
    ):
        with pytest.raises(error, match=match), store.region_writer(region) as writer:
            write(writer)
    assert len(store.pending_regions()) == len(store.layout.regions)


def test_bad_layouts_are_refused(sample, memory) -> None:
    with pytest.raises(Invalid, match="every site once"):
        replace(sample, specs=sample.specs + sample.specs[:1]).create(memory())
    with pytest.raises(Invalid, match="every site once"):
        replace(sample, specs=()).create(memory())
    with pytest.raises(Invalid, match="no prompt has a row"):
        replace(sample, index=TokenIndex.plain([0, 0])).create(memory())
    with pytest.raises(Invalid, match="float8"):
        ArraySpec.of("resid_post.1", (8,), "float8")
    with pytest.raises(Invalid, match="cannot name a site"):
        ArraySpec.of("../x", (8,))
    with pytest.raises(Invalid, match="cannot name a site"):
        ArraySpec.of("label", (8,))
    with pytest.raises(Invalid, match="plain JSON"):
        Capture({"x": object()})


def test_a_disk_that_is_too_small(tmp_path, monkeypatch, sample) -> None:
    monkeypatch.setattr(Location, "free_bytes", lambda self: 10)
    with pytest.raises(StoreError, match="cannot fit|cannot"):
        sample.create(tmp_path / "x")


def test_opening_what_is_no_capture(tmp_path) -> None:
    with pytest.raises(NotFound):
        ActivationStore.open(tmp_path / "nothing")
    Location.parse(tmp_path / "empty").repository(create=True)
    with pytest.raises(Corrupt, match="holds no capture"):
        ActivationStore.open(tmp_path / "empty")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.integers(1, 40), st.integers(1, 400))
def test_regions_tile_the_prompts(counts, row_bytes, budget) -> None:
    offsets = np.concatenate([[0], np.cumsum(counts)])
    edges = region_edges(offsets, row_bytes, budget)
    assert edges[0] == 0 and edges[-1] == len(counts) and (np.diff(edges) > 0).all()
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        assert b == a + 1 or offsets[b] - offsets[a] <= max(1, budget // row_bytes)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=20).filter(sum),
    st.integers(1, 12),
    st.integers(1, 300),
    st.sampled_from(["none", "small"]),
    st.randoms(use_true_random=False),
)
def test_any_shape_comes_back(counts, chunk, budget, codec, order) -> None:
    """Whatever the prompts, chunks, regions and order of writing: the rows come back bit for bit."""
    index = TokenIndex.plain(counts)
    rows = np.random.default_rng(0).normal(size=(index.n_rows, 3)).astype(np.float32)
    location = Location.parse(f"memory://{uuid.uuid4().hex}")
    spec = ArraySpec("resid_post.0", (3,), ("d_model",), "float32", chunk, codec)
    store = ActivationStore.create(location, Capture({}), index, [spec], budget)
    regions = store.pending_regions()
    order.shuffle(regions)
    for region in regions:
        with store.region_writer(region) as writer:
            writer.write("resid_post.0", region.row_start, rows[region.row_start : region.row_stop])
    assert np.array_equal(store.finish().rows("resid_post.0"), rows)
    assert np.array_equal(store.zarr_group["resid_post.0"][:], rows)
    location.delete()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_finite_is_told_of_every_half_precision_number(dtype) -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    spec = ArraySpec("resid_post.0", (1,), ("d_model",), dtype)
    values = bits.view(np.float16) if dtype == "float16" else from_bfloat16(bits)
    stored = bits.view(np.float16) if dtype == "float16" else bits
    assert np.array_equal(finite(stored, spec), np.isfinite(values))
    assert [all_finite(one, spec) for one in stored[:, None]] == np.isfinite(values).tolist()
    assert all_finite(stored[:0], spec)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_bfloat16_rounds_as_ieee(bits) -> None:
    value = np.array([bits], np.uint32).view(np.float32)
    got = from_bfloat16(bfloat16_bits(value))[0]
    if np.isnan(value[0]):
        assert np.isnan(got)
        return
    low = np.array([bits & 0xFFFF0000], np.uint32).view(np.float32)[0]
    high = from_bfloat16(np.array([((bits >> 16) + 1) & 0xFFFF], np.uint16))[0]
    assert got in (low, high) or np.isinf(got)
    if np.isfinite(high) and np.isfinite(low):
        assert abs(np.float64(got) - value[0]) == min(abs(np.float64(low) - value[0]), abs(np.float64(high) - value[0]))

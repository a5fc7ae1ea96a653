"""A token index is the same however it is kept: in memory, grown on disk, or read back piece by piece."""

import numpy as np
import pytest

from trimtab.store import ActivationStore, TokenIndex
from trimtab.store.captures import stored_index as index
from trimtab.store.captures.index import INDEX_PROMPT, INDEX_ROW
from trimtab.store.captures.stored_index import Column, GrowingIndex
from trimtab.store.digests import array_digest, json_digest, pieces_digest, texts_digest
from trimtab.store.errors import Mismatch

ARRAYS = ("offsets", *INDEX_ROW, *INDEX_PROMPT)
RECORDED = "553c043f138d6f634ebc9a882c643089164905ee4a8043389e332970843bdbc6"  # of `sample`, in format 1


def part(whole: TokenIndex, start: int, stop: int) -> TokenIndex:
    first, last = whole.offsets[[start, stop]]
    rows = {name: getattr(whole, name)[first:last] for name in INDEX_ROW}
    prompts = {name: getattr(whole, name)[start:stop] for name in INDEX_PROMPT}
    return TokenIndex(offsets=whole.offsets[start : stop + 1] - first, **rows, **prompts)


@pytest.fixture(params=[3, 1000])
def piece(request, monkeypatch) -> None:
    """Pieces smaller and larger than the sample."""
    monkeypatch.setattr(index, "PIECE", request.param)


def grown(whole: TokenIndex, step: int) -> GrowingIndex:
    growing = GrowingIndex()
    for start in range(0, whole.n_prompts, step):
        growing.extend(part(whole, start, min(whole.n_prompts, start + step)))
    return growing


@pytest.mark.parametrize("step", [1, 7, 40])
def test_grown_is_the_index_in_memory(sample, piece, step) -> None:
    growing = grown(sample.index, step)
    assert (growing.n_rows, growing.n_prompts) == (sample.index.n_rows, sample.index.n_prompts)
    assert growing.digest == sample.index.digest
    for name in ARRAYS:
        assert np.array_equal(np.concatenate(list(growing.pieces(name))), getattr(sample.index, name))
    edges = np.array([0, 1, 5, 17, 40])
    assert np.array_equal(growing.offsets_at(edges), sample.index.offsets[edges])


def test_the_digest_grows_with_the_index(sample) -> None:
    """It is kept once read, and must not be kept too long."""
    growing = GrowingIndex()
    growing.extend(part(sample.index, 0, 7))
    assert growing.digest == part(sample.index, 0, 7).digest
    growing.extend(part(sample.index, 7, 40))
    assert growing.digest == sample.index.digest


def test_stored_is_the_index_in_memory(sample, store, piece) -> None:
    stored = ActivationStore.open(store.location).index
    assert stored.digest == sample.index.digest
    for name in ARRAYS:
        assert np.array_equal(np.concatenate(list(stored.pieces(name))), getattr(sample.index, name))
        assert np.array_equal(getattr(stored, name), getattr(sample.index, name))
    assert np.array_equal(stored.prompt, sample.index.prompt)


def test_a_store_made_from_a_grown_index_is_the_same(sample, store, memory) -> None:
    other = ActivationStore.create(memory(), sample.capture, grown(sample.index, 3), sample.specs, sample.region_bytes)
    for region in other.pending_regions():
        with other.region_writer(region) as writer:
            sample.fill(writer, region)
    assert other.finish().digest == store.digest
    for name in store.zarr_group.array_keys():
        assert other.zarr_group[name].metadata == store.zarr_group[name].metadata


def test_the_digest_of_a_capture_is_what_it_always_was(store) -> None:
    """Whoever changes this raises layout.FORMAT: published captures would not verify any more."""
    assert store.digest == RECORDED


def test_digests_of_pieces() -> None:
    array = np.arange(10, dtype=np.int32)
    assert pieces_digest(array.dtype, array.shape, np.split(array, [3, 3, 9])) == array_digest(array)
    texts = np.array(["a", "", 'é"', "b"])
    for cut in ([], [1], [0, 2, 4]):
        assert texts_digest(np.split(texts, cut)) == json_digest(texts.tolist())
    assert texts_digest([]) == json_digest([])


def test_a_column_reads_what_was_appended(tmp_path) -> None:
    column = Column(np.int16, tmp_path)
    for start in range(0, 12, 3):
        column.append(np.arange(start, start + 3))
        assert column.read(0, start + 3).tolist() == list(range(start + 3))
    assert len(column) == 12 and column.read(4, 7).tolist() == [4, 5, 6]
    assert not list(tmp_path.iterdir()), "the file has no name, so that a killed process leaves nothing"


def test_rows_by_number(sample, store, memory) -> None:
    """Rows in any order, as a batch of many prompts brings them; one row twice is noticed."""
    other, rng = sample.create(memory()), np.random.default_rng(0)
    for region in other.pending_regions():
        with other.region_writer(region) as writer:
            for site, rows in sample.rows.items():
                for some in np.array_split(rng.permutation(np.arange(region.row_start, region.row_stop)), 3):
                    writer.write(site, some, rows[some])
    assert other.finish().digest == store.digest
    again = sample.create(memory())
    region = again.pending_regions()[0]
    buffer, rows = again.buffer(region), sample.rows["resid_post.1"]
    buffer.write("resid_post.1", np.array([0, 0, 1]), rows[[0, 0, 1]])
    with pytest.raises(Mismatch, match="were written before"):
        buffer.write("resid_post.1", np.array([1]), rows[[1]])
    with pytest.raises(Mismatch, match="leave region"):
        buffer.write("resid_post.1", np.array([region.row_stop]), rows[[0]])
    with pytest.raises(Mismatch, match="need shape"):
        buffer.write("resid_post.1", np.array([2, 3]), rows[[0]])
    with pytest.raises(Mismatch, match="were not written"):
        again.commit(buffer)

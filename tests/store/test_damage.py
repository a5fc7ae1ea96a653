"""Damaged rows are never used without a word: what is read is what was written, or one clear error."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trimtab.store import ActivationStore
from trimtab.store.captures.hdf5 import export_hdf5, import_hdf5
from trimtab.store.captures.layout import UNCHECKED
from trimtab.store.errors import Corrupt, StoreError
from trimtab.store.verify import verify_capture

INDEX = ("offsets", "token_id", "position", "role", "special", "label", "pair", "split")


@pytest.fixture
def wide(samples):
    """Rows and an index large enough for files of their own: Icechunk keeps small chunks in its manifests."""
    sample, rng = samples(0, 120), np.random.default_rng(0)
    specs = tuple(replace(spec, shape=(*spec.shape[:-1], 64), chunk_rows=100) for spec in sample.specs)
    rows = {spec.name: rng.normal(size=(sample.index.n_rows, *spec.shape)).astype(np.float32) for spec in specs}
    return replace(sample, specs=specs, rows=rows, region_bytes=150_000)


def everything(place: Path) -> dict[str, bytes]:
    """What a reader can get out of a capture."""
    store = ActivationStore.open(place)
    rows = {site: store.rows(site, dtype=None).tobytes() for site in store.sites}
    index = {name: getattr(store.index, name).tobytes() for name in INDEX}
    return {**rows, **index, "digests": store.region_digests().tobytes(), "digest": store.digest.encode()}


def flipped(file: Path, rng: random.Random) -> bytes:
    """One bit of a file's bytes, flipped."""
    raw = bytearray(file.read_bytes())
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(raw)


def test_one_flipped_bit_is_an_error_or_changes_nothing(wide, tmp_path) -> None:
    """60 times, each in another chunk, of rows (plain and compressed), index or digests; never other values."""
    place, rng = tmp_path / "capture", random.Random(4)
    wide.collect(place)
    right, chunks, refused = everything(place), sorted((place / "chunks").iterdir()), 0
    for _ in range(60):
        file = rng.choice(chunks)
        kept = file.read_bytes()
        file.write_bytes(flipped(file, rng))
        try:
            assert everything(place) == right
        except StoreError as error:
            refused += 1
            assert "trimtab repair" in str(error) and "\n" not in str(error)
        file.write_bytes(kept)
    assert refused > 30, "the rest were chunks that a later commit replaced, which nobody reads"
    assert everything(place) == right


def test_the_error_names_site_rows_regions_and_cure(wide, tmp_path) -> None:
    place = tmp_path / "capture"
    store = wide.collect(place)
    for file in (place / "chunks").iterdir():
        if file.stat().st_size == 100 * 64 * 4 + 4:  # float32
            file.write_bytes(file.read_bytes()[:-1] + b"?")
    message = r"resid_post.2, rows \d+..\d+ \(regions? \d.*\) are damaged: chunk \d cannot be read \(its checksum"
    with pytest.raises(Corrupt, match=message + r".*`trimtab repair` collects them again"):
        store.rows("resid_post.2")
    assert store.rows("resid_post.1").any(), "other sites are read as before"


def test_captures_of_before_are_read_and_resumed_without_checksums(samples, tmp_path) -> None:
    """Their rows are checked by `verify` only; their digest is the same."""
    new, place = samples(0, 10), tmp_path / "old"
    old = replace(new, specs=tuple(replace(spec, checksum=False) for spec in new.specs))
    begun = old.create(place)
    assert begun.layout.attributes()["format"] == UNCHECKED
    with begun.region_writer(begun.pending_regions()[0]) as writer:
        old.fill(writer, begun.layout.regions[0])
    store = new.collect(place)  # by today's trimtab
    assert not store.layout.checked and store.digest == new.collect(tmp_path / "new").digest
    assert all(finding.ok for finding in verify_capture(place))
    for site in store.sites:
        assert np.array_equal(store.rows(site), ActivationStore.open(tmp_path / "new").rows(site))


def test_xarray_and_zarr_compare_the_checksums_too(wide, tmp_path) -> None:
    pytest.importorskip("xarray")
    store = wide.collect(tmp_path / "capture")
    assert np.array_equal(store.to_xarray()["resid_post.2"].values, store.rows("resid_post.2"))
    for file in (tmp_path / "capture" / "chunks").iterdir():
        file.write_bytes(b"?" + file.read_bytes()[1:])
    with pytest.raises(ValueError, match="checksum"):
        store.to_xarray()["resid_post.2"].values  # noqa: B018


def test_a_damaged_hdf5_file_is_refused_selections_too(samples, tmp_path) -> None:
    """A whole export has a digest; a selection has the checksums of its chunks."""
    store = samples(0, 10).collect(tmp_path / "capture")
    path = export_hdf5(store, tmp_path / "some.h5", sites=["resid_post.2"], where={"label": 1})
    rows = store.rows("resid_post.2", {"label": 1}).tobytes()
    raw = path.read_bytes()
    at = raw.index(rows[:64])
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    with pytest.raises(Corrupt, match="some.h5"):
        import_hdf5(path, tmp_path / "back")

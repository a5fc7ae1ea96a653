"""Lineage, verification and HDF5: where things come from, whether they are whole, and one file out and in."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from trimtab.store import ActivationStore, ArraySpec, Capture, Catalog, TokenIndex
from trimtab.store.captures.hdf5 import export_hdf5, import_hdf5
from trimtab.store.catalog.lineage import lineage
from trimtab.store.errors import Corrupt, Invalid, NotFound, StoreError
from trimtab.store.verify import verify, verify_capture


@pytest.fixture
def made(sample, tmp_path) -> tuple[Catalog, ActivationStore]:
    """A capture, a plan from it and a verdict on the plan, in folders."""
    store = sample.collect(tmp_path / "capture")
    catalog = Catalog(tmp_path / "catalog")
    catalog.publish_capture("acts", store, key="acts-key")
    big = np.random.default_rng(0).normal(size=3000)
    catalog.publish("cheerful", "plan", {"v": big}, {"s": 1}, parents=[f"capture:{store.digest}"])
    catalog.publish("judged", "verdict", {}, {"ok": True}, parents=["cheerful", "acts@1"])
    catalog.promote("cheerful", "prod")
    return catalog, store


def test_captures_are_in_the_catalog(made) -> None:
    catalog, store = made
    header = catalog.get(f"capture:{store.digest}").header
    assert header["digest"] == store.digest and header["snapshot"] == store.snapshot_id
    assert ActivationStore.open(header["location"]).digest == store.digest
    assert catalog.publish_capture("acts", store).version == 1
    assert catalog.find("acts-key").kind == "capture"


def test_an_unfinished_capture_is_not_registered(sample, memory) -> None:
    with pytest.raises(StoreError, match="not complete"):
        Catalog(memory()).publish_capture("acts", sample.create(memory()))


def test_lineage_reaches_the_prompts(made) -> None:
    catalog, store = made
    tree = lineage(catalog, "judged@latest")
    walked = [(depth, node.kind) for depth, node in tree.walk()]
    assert walked[:5] == [(0, "verdict"), (1, "plan"), (2, "capture"), (3, "model"), (3, "prompts")]
    prompts = [node for _, node in tree.walk() if node.kind == "prompts"]
    assert {node.digest for node in prompts} == {"digest-0"}
    assert "revision=a" in str(tree)
    assert lineage(catalog, "cheerful@prod").ref == "cheerful@1"
    with pytest.raises(NotFound):
        lineage(catalog, "nobody")


def test_verify_finds_nothing_wrong(made) -> None:
    findings = verify(made[0])
    assert len(findings) == 4 and all(finding.ok for finding in findings), findings


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 0x10
    path.write_bytes(data)


def test_verify_finds_a_flipped_byte(tmp_path) -> None:
    """In each chunk file of a capture's rows (plain and compressed) and index, and of the catalog's arrays."""
    index = TokenIndex.plain([50] * 8)
    specs = [ArraySpec.of("resid_post.0", (64,)), ArraySpec.of("z.0", (4, 16), "float16", "small")]
    store = ActivationStore.create(tmp_path / "capture", Capture({}), index, specs, 40_000)
    rows = np.random.default_rng(0).normal(size=(400, 64)).astype(np.float32)
    for region in store.pending_regions():
        with store.region_writer(region) as writer:
            here = slice(region.row_start, region.row_stop)
            writer.write("resid_post.0", here, rows[here])
            writer.write("z.0", here, rows[here].reshape(-1, 4, 16))
    catalog = Catalog(tmp_path / "catalog")
    catalog.publish_capture("acts", store.finish())
    catalog.publish("plan", "plan", {"v": rows}, {}, parents=["acts"])
    chunks = [path for part in ("catalog", "capture") for path in (tmp_path / part / "chunks").iterdir()]
    assert len(chunks) > 3 and all(finding.ok for finding in verify(catalog))
    found = []
    for chunk in chunks:
        _flip(chunk, chunk.stat().st_size * 2 // 3)
        found.append([finding for finding in verify(Catalog(tmp_path / "catalog")) if not finding.ok])
        _flip(chunk, chunk.stat().st_size * 2 // 3)
    # the repository still holds each region's older boundary chunks, which no snapshot at the tip reads
    live = sum(bool(bad) for bad in found)
    assert live >= 3 and all(f.wrong and f.cure for bad in found for f in bad)
    names = {finding.thing for bad in found for finding in bad}
    assert names == {"plan@1", f"capture {tmp_path / 'capture'}"}
    assert all(finding.ok for finding in verify(catalog))


def test_verify_finds_missing_and_half_made_things(made, sample, tmp_path) -> None:
    catalog, store = made
    store.location.delete()
    bad = [finding for finding in verify(catalog) if not finding.ok]
    assert len(bad) == 1 and "capture" in bad[0].thing and "no store" in bad[0].wrong
    half = sample.create(tmp_path / "half")
    with half.region_writer(half.pending_regions()[0]) as writer:
        sample.fill(writer, half.layout.regions[0])
    wrong = " ".join(finding.wrong for finding in verify_capture(half.location))
    assert "were never written" in wrong and "never finished" in wrong
    assert not verify_capture(tmp_path / "nowhere")[0].ok


def test_verify_survives_a_broken_repository(made, tmp_path) -> None:
    for snapshot in (tmp_path / "catalog" / "snapshots").iterdir():
        snapshot.write_bytes(b"rubbish")
    assert any(not finding.ok for finding in verify(Catalog(tmp_path / "catalog")))


def test_hdf5_out_and_in_is_exact(made, tmp_path, memory) -> None:
    store = made[1]
    path = export_hdf5(store, tmp_path / "out.h5")
    back = import_hdf5(path, memory())
    assert back.digest == store.digest and back.capture == store.capture
    assert back.index.digest == store.index.digest
    for site in store.sites:
        assert np.array_equal(back.rows(site, dtype=None), store.rows(site, dtype=None))
    with h5py.File(path) as file:
        assert file.attrs["digest"] == store.digest
        assert file["sites/z.1"].attrs["trimtab_dtype"] == "bfloat16"
        assert file["sites/resid_post.2"].shape == (store.n_rows, 8)
    with pytest.raises(Invalid, match="never overwrite"):
        export_hdf5(store, path)


def test_hdf5_of_a_selection(made, tmp_path, memory) -> None:
    store = made[1]
    where = {"split": "report", "special": False}
    back = import_hdf5(export_hdf5(store, tmp_path / "some.h5", ["z.1"], where), memory())
    assert back.sites == ("z.1",) and set(back.index.split) == {"report"}
    assert np.array_equal(back.rows("z.1"), store.rows("z.1", where))
    assert back.capture.fields["selection"]["of"] == store.digest
    assert np.array_equal(back.contrast(["z.1"])["z.1"][0], store.contrast(["z.1"], split="report")["z.1"][0])
    with pytest.raises(NotFound):
        export_hdf5(store, tmp_path / "x.h5", ["nope"])
    with pytest.raises(Invalid, match="no row"):
        export_hdf5(store, tmp_path / "x.h5", where={"prompts": []})
    assert not list(tmp_path.glob("*x.h5*"))


def test_damaged_hdf5_is_refused(made, tmp_path, memory) -> None:
    path = export_hdf5(made[1], tmp_path / "out.h5")
    with h5py.File(path, "r+") as file:
        file["sites/resid_post.2"][3, 2] += 1
    with pytest.raises(Corrupt, match="digest"):
        import_hdf5(path, memory())
    (tmp_path / "no.h5").write_text("text")
    with pytest.raises(Corrupt):
        import_hdf5(tmp_path / "no.h5", memory())
    with pytest.raises(NotFound):
        import_hdf5(tmp_path / "none.h5", memory())

"""One capture, or a selection of it, as one HDF5 file, and back bit for bit.

/sites/<site>      [row, ...]; attribute trimtab_dtype (bfloat16 lies there as uint16 bits)
/index/<name>      offsets, token_id, position, role, special, label, pair, split (text)
/regions           prompt edges of the regions
attributes         format, capture (JSON), capture_digest, digest (of the source), arrays (JSON), source
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import h5py
import numpy as np

from trimtab.store.captures.activations import ActivationStore
from trimtab.store.captures.index import INDEX_PROMPT, INDEX_ROW, RowIndex, TokenIndex
from trimtab.store.captures.layout import CaptureLayout, specs_from_json, specs_to_json
from trimtab.store.captures.schema import REGION_BYTES, Capture, region_edges
from trimtab.store.captures.where import Where, WhereLike
from trimtab.store.digests import JSON, plain
from trimtab.store.errors import Corrupt, Invalid, NotFound
from trimtab.store.location import Location

FORMAT = 1  # of these files


def export_hdf5(
    store: ActivationStore,
    path: str | os.PathLike[str],
    sites: Sequence[str] | None = None,
    where: WhereLike = None,
) -> Path:
    """Write a finished capture, or the rows `where` of some of its sites, to one new file; returns its path.

    A selection becomes a capture of its own, whose settings name the source. At most one region is in memory.
    Raises StoreError when the capture is not complete, Invalid when the file exists or a site is stored as int8.
    """
    target = Path(path)
    if target.exists():
        raise Invalid(f"{target} exists; name a new file, exports never overwrite.")
    layout, rows = _selection(store, sites, Where.of(where))
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")  # a kill leaves no file that looks whole
    try:
        with h5py.File(partial, "w") as file:
            _write_header(file, store, layout)
            _write_rows(file, store, layout, rows)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def import_hdf5(path: str | os.PathLike[str], location: Location | str) -> ActivationStore:
    """Make a finished capture from a file that `export_hdf5` wrote; resumes an import that was interrupted.

    Raises NotFound (file), Corrupt (not such a file, or its rows do not give the recorded digest), and as
    `ActivationStore.create` (another capture lies there, a full disk).
    """
    if not Path(path).is_file():
        raise NotFound(f"there is no file {path}.")
    try:
        with h5py.File(path, "r") as file:
            layout = _read_layout(file)
            store = ActivationStore.lay_out(location, layout)
            for region in store.pending_regions():
                with store.region_writer(region) as writer:
                    for site in layout.sites:
                        values = file["sites"][site][region.row_start : region.row_stop]
                        writer.write(site, region.row_start, values)
            recorded = file.attrs["digest"]
    except (OSError, KeyError) as error:
        raise Corrupt(f"{path} is no capture exported by trimtab ({error}).") from error
    store.finish()
    if recorded and recorded != store.digest:
        raise Corrupt(f"{path}: its rows do not give the digest it records; the file was changed or damaged.")
    return store


def _selection(store: ActivationStore, sites: Sequence[str] | None, where: Where) -> tuple[CaptureLayout, np.ndarray]:
    """The layout of what is exported, and the numbers of its rows in `store`."""
    digest = store.digest  # raises while incomplete
    lossy = [spec.name for spec in store.layout.specs if spec.dtype == "int8" and spec.name in (sites or store.sites)]
    if lossy:
        raise Invalid(f"{', '.join(lossy[:4])}: int8 rows are not exported; their recorded error would be lost.")
    if sites is None and where == Where():
        return store.layout, np.arange(store.n_rows)
    if not where.row_mask(store.index).any():
        raise Invalid("the selection has no row; nothing was exported.")
    index, rows = _subset(store.index, where)
    specs = tuple(store.layout.spec(site) for site in sites or store.sites)  # chunks stay as they are
    selection = {"of": digest, "sites": [spec.name for spec in specs], "where": _where_json(where)}
    capture = Capture({**store.capture.fields, "selection": selection})
    edges = region_edges(index.offsets, sum(spec.row_bytes for spec in specs), REGION_BYTES)
    return CaptureLayout(capture, index, specs, edges), rows


def _where_json(where: Where) -> dict[str, JSON]:
    """The conditions as JSON; `plain` turns numbers of numpy into Python's."""
    conditions = {name: value for name, value in asdict(where).items() if value is not None}
    return {name: plain(list(value) if name in ("prompts", "roles") else value) for name, value in conditions.items()}


def _subset(index: RowIndex, where: Where) -> tuple[TokenIndex, np.ndarray]:
    """The index of the selected rows and prompts, and the numbers of those rows."""
    mask, prompts = where.row_mask(index), where.prompt_mask(index)
    counts = np.bincount(index.prompt[mask], minlength=index.n_prompts)[prompts]
    arrays = {name: getattr(index, name)[mask] for name in INDEX_ROW}
    arrays |= {name: getattr(index, name)[prompts] for name in INDEX_PROMPT}
    return TokenIndex(offsets=np.concatenate([[0], np.cumsum(counts)]), **arrays), np.flatnonzero(mask)


def _write_header(file: h5py.File, store: ActivationStore, layout: CaptureLayout) -> None:
    whole = layout is store.layout  # the digest of a selection is not known before it is imported
    file.attrs["format"] = FORMAT
    file.attrs["kind"] = "trimtab capture"
    file.attrs["capture"] = json.dumps(dict(layout.capture.fields))
    file.attrs["capture_digest"] = layout.capture.digest
    file.attrs["arrays"] = json.dumps(specs_to_json(layout.specs))
    file.attrs["digest"] = store.digest if whole else ""
    file.attrs["source"] = f"{store.location.url}@{store.snapshot_id}"
    file.attrs["source_digest"] = store.digest
    file["regions"] = layout.edges
    for field in fields(TokenIndex):
        values = getattr(layout.index, field.name)
        text = field.name == "split"
        file.create_dataset(
            f"index/{field.name}",
            data=values.astype(object) if text else values,
            dtype=h5py.string_dtype() if text else None,
            fletcher32=not text,  # a checksum per chunk; texts lie outside of chunks
        )


def _write_rows(file: h5py.File, store: ActivationStore, layout: CaptureLayout, rows: np.ndarray) -> None:
    for spec in layout.specs:
        shape = (len(rows), *spec.stored_shape)
        chunks = (min(len(rows), spec.chunk_rows), *spec.stored_shape)
        data = file.create_dataset(f"sites/{spec.name}", shape, spec.stored_dtype, chunks=chunks, fletcher32=True)
        data.attrs["trimtab_dtype"] = spec.dtype
        data.attrs["dims"] = ["row", *spec.dims]
        for region in layout.regions:
            here = slice(region.row_start, region.row_stop)
            data[here] = store.take(spec.name, rows[here])


def _read_layout(file: h5py.File) -> CaptureLayout:
    if file.attrs["format"] != FORMAT:
        raise Corrupt(f"{file.filename} has format {file.attrs['format']}, this trimtab reads {FORMAT}.")
    arrays = {field.name: file["index"][field.name][...] for field in fields(TokenIndex)}
    arrays["split"] = np.asarray([text.decode() for text in arrays["split"]], dtype=np.str_)
    return CaptureLayout(
        capture=Capture(json.loads(file.attrs["capture"])),
        index=TokenIndex(**arrays),
        specs=tuple(replace(spec, checksum=True) for spec in specs_from_json(json.loads(file.attrs["arrays"]))),
        edges=file["regions"][...],
    )

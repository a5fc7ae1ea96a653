"""Everything about a capture but its rows: written as a template before the first row, and read back."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import icechunk
import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from trimtab.store.captures.chunks import BLOCK_BYTES
from trimtab.store.captures.index import INDEX_PROMPT, INDEX_ROW, Index
from trimtab.store.captures.schema import ArraySpec, Capture, Region, regions_of
from trimtab.store.captures.stored_index import PIECE, StoredIndex, array_at, read_checked
from trimtab.store.digests import JSON, json_digest, plain
from trimtab.store.errors import Corrupt, Invalid, NotFound

CONTENT = 1  # version of content digests, which do not depend on how a capture lies on disk
UNCHECKED, FORMAT = 1, 2  # versions of what lies on disk; the first had no checksums
KEY = "trimtab"  # attribute of the root group
COLLECTING, COMPLETE = "collecting", "complete"


@dataclass(frozen=True)
class CaptureLayout:
    """Everything about a capture but its rows.

    edges [regions + 1]: first prompt of each region, and the number of prompts.
    state: COLLECTING or COMPLETE.
    digest: of the content, once complete.
    """

    capture: Capture
    index: Index
    specs: tuple[ArraySpec, ...]
    edges: np.ndarray
    state: str = COLLECTING
    digest: str | None = None

    @cached_property
    def row_edges(self) -> np.ndarray:
        """[regions + 1] the first row of each region."""
        return self.index.offsets_at(self.edges)

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions, in the order of their prompts."""
        return regions_of(self.edges, self.row_edges)

    @property
    def sites(self) -> tuple[str, ...]:
        """The stored sites' names."""
        return tuple(spec.name for spec in self.specs)

    @property
    def nbytes(self) -> int:
        """Bytes of all site arrays before compression."""
        return self.index.n_rows * sum(spec.row_bytes for spec in self.specs)

    @property
    def checked(self) -> bool:
        """True when every chunk has a checksum that is compared on reading; false in captures of the first format."""
        return all(spec.checksum for spec in self.specs)

    @property
    def bytes_to_write(self) -> int:
        """Bytes that a collection writes at most, uncompressed: rows, index, and the chunks that two regions share,
        which are written twice."""
        shared = sum(min(spec.chunk_rows, self.index.n_rows) * spec.row_bytes for spec in self.specs)
        return self.nbytes + (len(self.edges) - 2) * shared + 10 * self.index.n_rows + 14 * self.index.n_prompts

    def stored_as(self, other: "CaptureLayout") -> "CaptureLayout":
        """This layout with checksums only if `other` has them: a capture that was begun without goes on without."""
        return replace(self, specs=tuple(replace(spec, checksum=other.checked) for spec in self.specs))

    @property
    def lossy(self) -> bool:
        """True when a site is stored with an error, which is then recorded."""
        return any(spec.dtype == "int8" for spec in self.specs)

    def spec(self, site: str) -> ArraySpec:
        """The spec of a stored site. Raises NotFound."""
        for spec in self.specs:
            if spec.name == site:
                return spec
        raise NotFound(f"site {site!r} is not in this capture; it holds {', '.join(self.sites)}.")

    def content_digest(self, region_digests: np.ndarray) -> str:
        """sha256 (hex) over settings, index, arrays and all rows. region_digests: uint8 [region, site, 32]."""
        rows = {site: region_digests[:, i].tobytes().hex() for i, site in enumerate(self.sites)}
        arrays = [[s.name, list(s.shape), list(s.dims), s.dtype] for s in self.specs]
        return json_digest(
            {
                "format": CONTENT,
                "capture": self.capture.digest,
                "index": self.index.digest,
                "arrays": arrays,
                "regions": self.edges.tolist(),
                "rows": {site: json_digest(text) for site, text in rows.items()},
            }
        )

    def attributes(self) -> dict[str, JSON]:
        """The value of the root group's "trimtab" attribute."""
        return {
            "format": FORMAT if self.checked else UNCHECKED,
            "kind": "capture",
            "state": self.state,
            "digest": self.digest,
            "capture": dict(self.capture.fields),
            "capture_digest": self.capture.digest,
            "index_digest": self.index.digest,
            "arrays": specs_to_json(self.specs),
        }


def specs_to_json(specs: Sequence[ArraySpec]) -> list[dict[str, JSON]]:
    """The specs as JSON, for attributes."""
    return [plain(asdict(spec), "arrays") for spec in specs]


def specs_from_json(values: Sequence[dict[str, JSON]]) -> tuple[ArraySpec, ...]:
    """The inverse of `specs_to_json`."""
    return tuple(ArraySpec(**{"checksum": False, **value}) for value in values)


def write_template(store: icechunk.IcechunkStore, layout: CaptureLayout) -> None:
    """Create every array at its full size, and write the index."""
    root = zarr.create_group(store, attributes={KEY: layout.attributes()})
    for spec in layout.specs:
        _create_site(root, spec, layout.index.n_rows)
    _write_index(root, layout.index)
    regions, sites = len(layout.edges) - 1, len(layout.specs)
    _fill(_create(root, "regions/prompts", len(layout.edges), np.int64, "region_edge"), [layout.edges])
    root.create_array(
        "regions/digest",
        shape=(regions, sites, 32),
        chunks=(1, sites, 32),  # one chunk per region: present means done, and two writers never meet
        dtype="u1",
        fill_value=0,
        compressors=Crc32cCodec(),
        dimension_names=("region", "site", "byte"),
    )
    if layout.lossy:
        root.create_array(
            "regions/error",
            shape=(regions, sites, 2),
            chunks=(1, sites, 2),
            dtype="f8",
            fill_value=0,
            compressors=Crc32cCodec(),
            dimension_names=("region", "site", "squares"),
        )


def _create_site(root: zarr.Group, spec: ArraySpec, n_rows: int) -> None:
    root.create_array(
        spec.name,
        shape=(n_rows, *spec.stored_shape),
        chunks=(spec.chunk_rows, *spec.stored_shape),
        dtype=spec.stored_dtype,
        fill_value=0,
        compressors=_compressors(spec) or None,
        dimension_names=("row", *spec.dims),
        attributes={"trimtab_dtype": spec.dtype},
    )


def _compressors(spec: ArraySpec) -> list[BloscCodec | Crc32cCodec]:
    """The codecs that chunks.py applies itself, declared so that Zarr and xarray can read the chunks."""
    size = spec.stored_dtype.itemsize
    small = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=size, blocksize=BLOCK_BYTES)
    return [small] * (spec.codec == "small") + [Crc32cCodec()] * spec.checksum


def _create(root: zarr.Group, name: str, length: int, dtype: type, dim: str) -> "zarr.Array[Any]":
    return root.create_array(
        name,
        shape=(length,),
        chunks=(max(1, min(length, PIECE)),),
        dtype=dtype,
        fill_value=0,
        compressors=[ZstdCodec(), Crc32cCodec()],
        dimension_names=(dim,),
    )


def _fill(array: "zarr.Array[Any]", pieces: Iterable[np.ndarray]) -> None:
    start = 0
    for piece in pieces:
        if len(piece):
            array[start : start + len(piece)] = piece
            start += len(piece)


def _write_index(root: zarr.Group, index: Index) -> None:
    """Write the index piece by piece, as it may be larger than memory. Raises Invalid for more than 256 splits."""
    _fill(_create(root, "offsets", index.n_prompts + 1, np.int64, "prompt_edge"), index.pieces("offsets"))
    for name, dtype in INDEX_ROW.items():
        _fill(_create(root, name, index.n_rows, dtype, "row"), index.pieces(name))
    for name in ("label", "pair"):
        _fill(_create(root, name, index.n_prompts, INDEX_PROMPT[name], "prompt"), index.pieces(name))
    names = np.asarray(sorted({str(name) for piece in index.pieces("split") for name in np.unique(piece)}))
    if len(names) > 256:
        raise Invalid(f"{len(names)} different splits; a capture holds at most 256.")
    codes = _create(root, "split", index.n_prompts, np.uint8, "prompt")
    codes.attrs["names"] = names.tolist()
    _fill(codes, (np.searchsorted(names, piece).astype(np.uint8) for piece in index.pieces("split")))


def read_layout(root: zarr.Group) -> CaptureLayout:
    """The layout of the capture below a root group. Raises Corrupt when there is none, or its attributes or index are
    damaged."""
    attributes = root.attrs.asdict().get(KEY)
    if not isinstance(attributes, dict) or attributes.get("kind") != "capture":
        raise Corrupt("this store holds no capture; name the folder that a collection wrote.")
    if attributes["format"] not in (UNCHECKED, FORMAT):
        raise Corrupt(
            f"this capture has format {attributes['format']}, this trimtab reads up to {FORMAT}; upgrade trimtab."
        )
    capture = Capture(attributes["capture"])
    if capture.digest != attributes["capture_digest"]:
        raise Corrupt("the capture's fields do not give its recorded digest: the attributes were changed by hand.")
    return CaptureLayout(
        capture=capture,
        index=_open_index(root),
        specs=specs_from_json(attributes["arrays"]),
        edges=read_array(root, "regions/prompts"),
        state=attributes["state"],
        digest=attributes["digest"],
    )


def _open_index(root: zarr.Group) -> StoredIndex:
    try:
        return StoredIndex(root)
    except KeyError as error:
        raise Corrupt(f"this capture has lost an array of its index ({error}); collect again.") from error


def read_array(root: zarr.Group, path: str) -> np.ndarray:
    """All of one small array. Raises Corrupt when it is damaged."""
    return read_checked(array_at(root, path), slice(None))


def check_arrays(specs: Sequence[ArraySpec], index: Index) -> None:
    """Raises Invalid for no arrays, two of one name, or a capture without any row."""
    names = [spec.name for spec in specs]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if not names or doubled:
        raise Invalid(f"a capture needs every site once; {', '.join(doubled) or 'no site'} was given.")
    if index.n_rows == 0:
        raise Invalid("no prompt has a row to store: the span selects nothing; widen it or check the prompts.")

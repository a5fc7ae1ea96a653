"""What a capture consists of, and how it lies on disk: the settings of the collection, the arrays, the regions.

One capture is one Icechunk repository with one Zarr v3 root group:

    /<site>              [row, ...]  one array per site: "resid_post.12" ("row", "d_model"),
                                     "z.7" ("row", "head", "d_head"), "mlp_post.3" ("row", "d_mlp")
    /offsets             [prompt_edge] int64; rows of prompt i are offsets[i] .. offsets[i + 1]
    /token_id /position /role /special          [row]
    /label /pair /split                         [prompt]
    /regions/prompts     [region_edge] int64; region r has the prompts edges[r] .. edges[r + 1]
    /regions/digest      [region, site, byte] sha256 of each site's rows of the region; present = committed
    /regions/error       [region, site, squares] only where a site is int8: squared error, and squared values

Every chunk ends in its crc32c (Zarr's own codec), which is compared whenever the chunk is read; the sha256 digests are
compared by `trimtab verify`. All arrays have their full size before the first row is written. A region is a run of
whole prompts, and the unit of work, of resuming and of committing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from trimtab.store.captures.blocks import packed_width
from trimtab.store.captures.index import INDEX_PROMPT, INDEX_ROW
from trimtab.store.digests import JSON, frozen_json, json_digest
from trimtab.store.errors import Invalid

CHUNK_BYTES = 4 * 2**20
SMALLEST_CHUNK_BYTES = 2**20
REGION_BYTES = 128 * 2**20

STORED = {"float32": "float32", "float16": "float16", "bfloat16": "uint16", "int8": "uint8"}
CODECS = ("none", "small")


@dataclass(frozen=True)
class Capture:
    """The settings of one collection run, as one JSON object with any fields.

    Customary fields: model, tokenizer, template, prompts (digests or fingerprints), sites, span, pool, dtype.
    Two runs with equal digests collect the same rows, so the fields must name everything that changes a row.
    Raises Invalid when a field is not JSON.
    """

    fields: Mapping[str, JSON]

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", MappingProxyType(frozen_json(self.fields, "the capture")))

    def __reduce__(self) -> tuple[type["Capture"], tuple[dict[str, JSON]]]:
        return Capture, (dict(self.fields),)  # a mapping proxy does not pickle

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON."""
        return json_digest(dict(self.fields))

    def differences(self, other: "Capture") -> list[str]:
        """One line per differing field: "model.revision: 'a' here, 'b' there"."""
        return _differences(dict(self.fields), dict(other.fields), "")


def _differences(here: JSON, there: JSON, path: str) -> list[str]:
    if isinstance(here, dict) and isinstance(there, dict):
        lines = []
        for key in sorted(here.keys() | there.keys()):
            name = f"{path}.{key}" if path else key
            lines += _differences(here.get(key), there.get(key), name)
        return lines
    if here == there and type(here) is type(there):
        return []
    return [f"{path}: {_short(here)} here, {_short(there)} there"]


def _short(value: JSON) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True)
class ArraySpec:
    """How the rows of one site are stored.

    name: the site, "resid_post.12".
    shape, dims: sizes and dimension names of one row, ("d_model",) or ("head", "d_head").
    dtype: float32, float16, bfloat16 (exact; the bits are stored as uint16) or int8 (lossy; see blocks.py).
    chunk_rows: rows of one chunk; 0 lets `chunk_rows` compute it from the sizes.
    codec: "none" (fastest) or "small" (1.44x smaller for bfloat16, 1.15x for float16; reads 2-3x slower).
    checksum: whether every chunk ends in its crc32c; false for captures of the first format only.

    Raises Invalid for a dtype, codec, shape or name that cannot be stored.
    """

    name: str
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    dtype: str = "float32"
    chunk_rows: int = 0
    codec: str = "none"
    checksum: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "dims", tuple(self.dims))
        if self.dtype not in STORED:
            raise Invalid(f"{self.name}: dtype {self.dtype!r} cannot be stored; use one of {', '.join(STORED)}.")
        if self.codec not in CODECS:
            raise Invalid(f"{self.name}: codec {self.codec!r} is unknown; use one of {', '.join(CODECS)}.")
        if len(self.shape) != len(self.dims) or not self.shape or min(self.shape) < 1:
            raise Invalid(f"{self.name}: shape {self.shape} does not fit dimension names {self.dims}.")
        reserved = {"regions", "c", *INDEX_ROW, *INDEX_PROMPT, "offsets"}
        if not self.name or "/" in self.name or self.name.startswith((".", "__")) or self.name in reserved:
            raise Invalid(f"{self.name!r} cannot name a site; use point.block, for example resid_post.12.")

    @staticmethod
    def of(site: str, shape: Sequence[int], dtype: str = "float32", codec: str = "none") -> "ArraySpec":
        """The spec of a site with rows of this shape and the customary dimension names: ("head", "d_head") for z,
        "d_mlp" for mlp_post, "expert" for router, otherwise "d_model"."""
        point = site.split(".")[0]
        last = {"mlp_post": "d_mlp", "router": "expert"}.get(point, "d_model")
        dims = ("head", "d_head" if point == "z" else last) if len(shape) == 2 else (last,)
        return ArraySpec(site, tuple(shape), dims, dtype, 0, codec)

    @property
    def stored_dtype(self) -> "np.dtype[Any]":
        """The numpy dtype on disk (uint16 for bfloat16)."""
        return np.dtype(STORED[self.dtype])

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of one row on disk: int8 rows carry their scales behind the numbers."""
        return (*self.shape[:-1], packed_width(self.shape[-1])) if self.dtype == "int8" else self.shape

    @property
    def row_bytes(self) -> int:
        """Bytes of one stored row."""
        return math.prod(self.stored_shape) * self.stored_dtype.itemsize


@dataclass(frozen=True)
class Region:
    """A run of whole prompts that is written and committed at once.

    number: from 0.  prompt_start, prompt_stop, row_start, row_stop: its prompts and rows, stop excluded.
    """

    number: int
    prompt_start: int
    prompt_stop: int
    row_start: int
    row_stop: int

    @property
    def n_rows(self) -> int:
        """Rows of the region."""
        return self.row_stop - self.row_start


def region_edges(offsets: np.ndarray, row_bytes: int, budget: int) -> np.ndarray:
    """[regions + 1] int64: the first prompt of each region, and the number of prompts.

    Each region has at least one prompt, and as many as fit into `budget` bytes at `row_bytes` per row.
    """
    rows_allowed = max(1, budget // max(1, row_bytes))
    edges, prompts = [0], len(offsets) - 1
    while edges[-1] < prompts:
        start = edges[-1]
        stop = int(np.searchsorted(offsets, offsets[start] + rows_allowed, side="right")) - 1
        edges.append(min(prompts, max(start + 1, stop)))
    return np.asarray(edges, dtype=np.int64)


def regions_of(edges: np.ndarray, rows: np.ndarray) -> tuple[Region, ...]:
    """The regions between the prompt edges [regions + 1]. rows [regions + 1]: the first row at each edge."""
    bounds = np.stack([edges[:-1], edges[1:], rows[:-1], rows[1:]], axis=1)
    return tuple(Region(number, *map(int, bound)) for number, bound in enumerate(bounds))


def chunk_rows(spec: ArraySpec, n_rows: int, region_rows: int) -> int:
    """Rows of one chunk of a site: about 4 MB, or half a region where that is less, but at least 1 MB.

    region_rows: rows of the longest region. The chunk on the edge between two regions is written twice, so large chunks
    in small regions cost a large share of all bytes written.
    """
    if spec.chunk_rows:
        return spec.chunk_rows
    chunk_bytes = min(CHUNK_BYTES, max(SMALLEST_CHUNK_BYTES, region_rows * spec.row_bytes // 2))
    return max(1, min(n_rows, chunk_bytes // spec.row_bytes))

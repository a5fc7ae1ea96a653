"""What a capture looks like on disk: the question, the arrays, the token index, the regions.

Layout of one capture (one Icechunk repository, Zarr v3, one root group):

    /<site>              [row, ...]  one array per site: "resid_post.12" ("row", "d_model"),
                                     "z.7" ("row", "head", "d_head"), "mlp_post.3" ("row", "d_mlp")
    /offsets             [prompt_edge] int64; rows of prompt i are offsets[i] .. offsets[i + 1]
    /token_id /position /role /special          [row]
    /label /pair /split                         [prompt]
    /regions/prompts     [region_edge] int64; prompts of region r
    /regions/digest      [region, site, byte] sha256 of each site's rows of the region; present = done

Chunks end in their crc32c (the codec of Zarr), which is compared whenever one is read; sha256 is for `verify`.
Everything is sized before the first row is written. A region is a run of whole prompts: the unit of work,
of resume and of commit.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from types import MappingProxyType

import numpy as np

from trimtab.store.captures.blocks import packed_width
from trimtab.store.digests import JSON, frozen_json, json_digest, pieces_digest, texts_digest
from trimtab.store.errors import Invalid

CHUNK_BYTES = 4 * 2**20
SMALLEST_CHUNK_BYTES = 2**20
REGION_BYTES = 128 * 2**20

STORED = {"float32": "float32", "float16": "float16", "bfloat16": "uint16", "int8": "uint8"}
CODECS = ("none", "small")


class Role(IntEnum):
    """Who wrote a token."""

    SYSTEM = 0
    USER = 1
    ASSISTANT = 2
    COMPLETION = 3
    OTHER = 4


@dataclass(frozen=True)
class Capture:
    """What was asked of one collection run, as one open JSON object.

    Customary fields: model, tokenizer, template, prompts (digests or fingerprints), sites, span, pool, dtype.
    Two captures are the same run exactly when their digests are equal.
    Raises Invalid when a field is not JSON.
    """

    fields: Mapping[str, JSON]

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", MappingProxyType(frozen_json(self.fields, "the capture")))

    def __reduce__(self):  # type: ignore[no-untyped-def]
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
    """One site's array: `shape` and `dims` are those behind the row dimension.

    dtype: float32, float16, bfloat16 (kept exact as uint16), or int8 (lossy; blocks of 32, see blocks.py).
    chunk_rows: 0 = computed from the sizes.
    codec: "none" (fastest) or "small" (1.44x smaller for bfloat16, 1.15x for float16; reads 2-3x slower).
    checksum: every chunk ends in its crc32c, so that damage is an error when rows are read (all but old captures).
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
        """The spec of a site with customary dimension names: z -> head, d_head; mlp_post -> d_mlp."""
        point = site.split(".")[0]
        last = {"mlp_post": "d_mlp", "router": "expert"}.get(point, "d_model")
        dims = ("head", "d_head" if point == "z" else last) if len(shape) == 2 else (last,)
        return ArraySpec(site, tuple(shape), dims, dtype, 0, codec)

    @property
    def stored_dtype(self) -> np.dtype:
        """The numpy dtype on disk (uint16 for bfloat16)."""
        return np.dtype(STORED[self.dtype])

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of one row on disk: int8 rows carry their scales behind the numbers."""
        return (*self.shape[:-1], packed_width(self.shape[-1])) if self.dtype == "int8" else self.shape

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.stored_shape) * self.stored_dtype.itemsize


INDEX_ROW = {"token_id": np.int32, "position": np.int32, "role": np.uint8, "special": np.bool_}
INDEX_PROMPT = {"label": np.int8, "pair": np.int32, "split": np.str_}


class Index:
    """What rows and prompts are, however it is kept: in memory (TokenIndex), in a store or on disk (index.py)."""

    n_rows: int
    n_prompts: int

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """One of the arrays of TokenIndex, piece by piece."""
        raise NotImplementedError

    def offsets_at(self, prompts: np.ndarray) -> np.ndarray:
        """offsets[prompts] for ascending edges, reading piece by piece."""
        found, start = [np.empty(0, np.int64)], 0
        for piece in self.pieces("offsets"):
            low, high = np.searchsorted(prompts, (start, start + len(piece)))
            found.append(piece[prompts[low:high] - start])
            start += len(piece)
        return np.concatenate(found)

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) over every array; the same however the index is kept. Read once: an index may be larger than
        memory."""
        parts = {"offsets": pieces_digest(np.dtype(np.int64), (self.n_prompts + 1,), self.pieces("offsets"))}
        for name, dtype in INDEX_ROW.items():
            parts[name] = pieces_digest(np.dtype(dtype), (self.n_rows,), self.pieces(name))
        for name in ("label", "pair"):
            parts[name] = pieces_digest(np.dtype(INDEX_PROMPT[name]), (self.n_prompts,), self.pieces(name))
        return json_digest(parts | {"split": texts_digest(self.pieces("split"))})


class RowIndex(Index):
    """An index whose arrays can be had whole: TokenIndex, and what a store gives. See TokenIndex for the arrays."""

    offsets: np.ndarray
    token_id: np.ndarray
    position: np.ndarray
    role: np.ndarray
    special: np.ndarray
    label: np.ndarray
    pair: np.ndarray
    split: np.ndarray

    @property
    def prompt(self) -> np.ndarray:
        """[rows] the prompt each row belongs to."""
        return np.repeat(np.arange(self.n_prompts), np.diff(self.offsets))


@dataclass(frozen=True, eq=False)
class TokenIndex(RowIndex):
    """Which rows belong to which prompt, and what each row and prompt is.

    offsets [prompts + 1]: first stored row of each prompt.  position [rows]: counted in real tokens of the
    prompt, -1 for a pooled row.  role [rows]: see Role.  label [prompts]: +1 positive, -1 negative, 0 none.
    pair [prompts]: prompts with the same number >= 0 form a pair, -1 none.  split [prompts]: text, "" none.
    Raises Invalid when the lengths disagree.
    """

    offsets: np.ndarray
    token_id: np.ndarray
    position: np.ndarray
    role: np.ndarray
    special: np.ndarray
    label: np.ndarray
    pair: np.ndarray
    split: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.str_))

    def __post_init__(self) -> None:
        self._set("offsets", np.asarray(self.offsets, dtype=np.int64))
        if self.offsets.ndim != 1 or len(self.offsets) < 2 or self.offsets[0] != 0:
            raise Invalid("offsets must be [prompts + 1] and start at 0; there must be at least one prompt.")
        if (np.diff(self.offsets) < 0).any():
            raise Invalid("offsets must not decrease: a prompt cannot have a negative number of rows.")
        if self.split.size == 0:
            self._set("split", np.full(self.n_prompts, ""))
        for name, dtype in (INDEX_ROW | INDEX_PROMPT).items():
            self._set(name, np.asarray(getattr(self, name)).astype(dtype))
            wanted = self.n_rows if name in INDEX_ROW else self.n_prompts
            if getattr(self, name).shape != (wanted,):
                raise Invalid(f"{name} has shape {getattr(self, name).shape}, but the offsets need ({wanted},).")

    def _set(self, name: str, value: np.ndarray) -> None:
        value = value.copy() if value is getattr(self, name) else value
        value.flags.writeable = False
        object.__setattr__(self, name, value)

    @staticmethod
    def plain(counts: Sequence[int] | np.ndarray) -> "TokenIndex":
        """An index of prompts with `counts` rows each, nothing known about them (role OTHER, no labels)."""
        offsets = np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))])
        rows, prompts = int(offsets[-1]), len(offsets) - 1
        position = np.arange(rows) - np.repeat(offsets[:-1], np.diff(offsets))
        return TokenIndex(
            offsets=offsets,
            token_id=np.full(rows, -1),
            position=position,
            role=np.full(rows, Role.OTHER),
            special=np.zeros(rows, dtype=bool),
            label=np.zeros(prompts),
            pair=np.full(prompts, -1),
        )

    @property
    def n_rows(self) -> int:  # type: ignore[override]
        return int(self.offsets[-1])

    @property
    def n_prompts(self) -> int:  # type: ignore[override]
        return len(self.offsets) - 1

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        yield getattr(self, name)


@dataclass(frozen=True)
class Region:
    """A run of whole prompts that is written and committed at once."""

    number: int
    prompt_start: int
    prompt_stop: int
    row_start: int
    row_stop: int

    @property
    def n_rows(self) -> int:
        return self.row_stop - self.row_start


def region_edges(offsets: np.ndarray, row_bytes: int, budget: int) -> np.ndarray:
    """[regions + 1] prompt edges such that each region's rows fit `budget` bytes (at least one prompt)."""
    rows_allowed = max(1, budget // max(1, row_bytes))
    edges, prompts = [0], len(offsets) - 1
    while edges[-1] < prompts:
        start = edges[-1]
        stop = int(np.searchsorted(offsets, offsets[start] + rows_allowed, side="right")) - 1
        edges.append(min(prompts, max(start + 1, stop)))
    return np.asarray(edges, dtype=np.int64)


def regions_of(edges: np.ndarray, rows: np.ndarray) -> tuple[Region, ...]:
    """The regions between the prompt edges. rows: the first row at each edge."""
    bounds = np.stack([edges[:-1], edges[1:], rows[:-1], rows[1:]], axis=1)
    return tuple(Region(number, *map(int, bound)) for number, bound in enumerate(bounds))


def chunk_rows(spec: ArraySpec, n_rows: int, region_rows: int) -> int:
    """Rows of one chunk of a site: ~4 MB, but so small that a region holds about two of them (1 MB at least).

    Why: the chunk on a region's edge is written twice, which costs chunk / region of all bytes written.
    """
    if spec.chunk_rows:
        return spec.chunk_rows
    wanted = min(CHUNK_BYTES, max(SMALLEST_CHUNK_BYTES, region_rows * spec.row_bytes // 2))
    return max(1, min(n_rows, wanted // spec.row_bytes))

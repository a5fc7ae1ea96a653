"""int8 in blocks of 32 numbers with one scale each. A row of d numbers is stored as d int8 and then a float16 per
block.

Why blocks: activations have a few huge dimensions and a few huge tokens; with one scale per row or per column, all
other values would round to zero.
"""

import numpy as np

BLOCK = 32


def packed_width(width: int) -> int:
    """Bytes of a row of `width` numbers: the numbers, and two per block."""
    return width + 2 * -(-width // BLOCK)


def encode(values: np.ndarray) -> np.ndarray:
    """uint8 [..., packed_width(d)] of floats [..., d]. A block's largest magnitude becomes 127.

    A block whose numbers are all below 4e-6 is stored as zeros; above 8e6 the scale would be infinite.
    """
    width = values.shape[-1]
    blocks = _blocked(values)
    scale = (np.abs(blocks).max(axis=-1, keepdims=True) / 127).astype(np.float16)
    safe = np.where(scale > 0, scale, 1).astype(np.float32)
    rounded = np.clip(np.rint(blocks / safe), -127, 127).astype(np.int8) * (scale > 0)
    numbers = rounded.astype(np.int8).reshape(*values.shape[:-1], -1)[..., :width]
    scales = np.ascontiguousarray(scale[..., 0])
    return np.concatenate([np.ascontiguousarray(numbers).view(np.uint8), scales.view(np.uint8)], axis=-1)


def decode(packed: np.ndarray, width: int) -> np.ndarray:
    """float32 [..., width] of the bytes that `encode` returned, uint8 [..., packed_width(width)]."""
    numbers = np.ascontiguousarray(packed[..., :width]).view(np.int8).astype(np.float32)
    return np.asarray(numbers * np.repeat(scales_of(packed, width), BLOCK, axis=-1)[..., :width])


def scales_of(packed: np.ndarray, width: int) -> np.ndarray:
    """The scales of packed rows, float32 [..., blocks]."""
    return np.ascontiguousarray(packed[..., width:]).view(np.float16).astype(np.float32)


def errors(values: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """float64 [n, 2]: per row the sum of squared errors of `packed`, and the sum of squared `values` [n, ..., d]."""
    exact = values.astype(np.float64)
    lost = decode(packed, values.shape[-1]) - exact
    axes = tuple(range(1, values.ndim))
    return np.stack([np.square(lost).sum(axes), np.square(exact).sum(axes)], axis=1)


def _blocked(values: np.ndarray) -> np.ndarray:
    """[..., blocks, 32], the last block filled with zeros."""
    short = -values.shape[-1] % BLOCK
    wide = np.pad(values.astype(np.float32), [(0, 0)] * (values.ndim - 1) + [(0, short)])
    return wide.reshape(*values.shape[:-1], -1, BLOCK)

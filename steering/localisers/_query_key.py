"""What patching queries and keys does, with the softmax computed instead of linearised (the QK fix of AtP*).

A query's patch moves its own row of the pattern; a key's patch moves one entry of every later query's row, and the
softmax spreads that over the row. Both are exact up to the pattern; from there on the metric is linearised.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

Pattern = Float[Tensor, "b h s s"]


def query_effects(before: Pattern, after: Pattern, slope: Pattern) -> Float[Tensor, "b h s"]:
    """`I(q_i) = sum_j (A'_ij - A_ij) g_ij`: all queries patched at once are each patched alone, rows are separate.
    before, after: the pattern without and with the patched queries. slope: derivative of the metric by the pattern."""
    return ((after - before) * slope).sum(-1)


def key_effects(pattern: Pattern, shift: Pattern, slope: Pattern) -> Float[Tensor, "b h s"]:
    """`I(k_t) = sum_{i >= t} c_it (g_it - S_i) / (1 + c_it)`, `c_it = A_it (exp(D_it) - 1)`, `S_i = sum_j A_ij g_ij`:
    what patching the key of one position alone does, exact through the softmax, for all positions in O(s^2).

    shift: D, the change of each score by the patched keys (0 where masked). Derivation: moving score t of row i by D
    gives A'_it = A_it e^D / (1 + c), A'_ij = A_ij / (1 + c) elsewhere; sum_j (A'_ij - A_ij) g_ij is the term above.
    Computed as (A'_it - A_it) (g_it - mean of g over the other keys), in which nothing cancels when one key holds all
    the attention: there 1 + c is 0 within rounding.
    """
    others = _others(pattern)
    elsewhere = _others(pattern * slope) / others.clamp(min=torch.finfo(pattern.dtype).tiny)
    grown, shrunk = shift.clamp(max=0).exp(), (-shift).clamp(max=0).exp()  # e^D : 1, scaled so that neither overflows
    total = (pattern * grown + others * shrunk).clamp(min=torch.finfo(pattern.dtype).tiny)
    moved = -shift.sign() * pattern * others * torch.expm1(-shift.abs()) / total
    return (moved * (slope - elsewhere)).sum(-2)


def _others(rows: Pattern) -> Pattern:
    """Each row's sum without its own entry, from sums before and behind it: no difference of nearly equal numbers."""
    before = pad(rows.cumsum(-1)[..., :-1], (1, 0))
    behind = pad(rows.flip(-1).cumsum(-1)[..., :-1], (1, 0)).flip(-1)
    return before + behind

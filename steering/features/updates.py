"""The update rules of semi-nonnegative matrix factorisation: `X ~ G F^T`, F of any sign, G >= 0.

Source: Ding, Li and Jordan 2010 ("Convex and semi-nonnegative matrix factorizations"), with the winner-take-all step
of Shafran, Geiger and Geva 2025 (arXiv 2506.10920). Rows are tokens here: X `[n d]` is the paper's A transposed,
F `[d k]`, G `[n k]`.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

RIDGE = 1e-6  # of the paper: added to G^T G, whose diagonal is 1 after `norms`, and to the update's denominator
FLOOR = 1e-6  # of a column's root mean square: multiplication never brings an exact zero back


def solved_features(cross: Float[Tensor, "d k"], gram: Float[Tensor, "k k"]) -> Float[Tensor, "d k"]:
    """F = X^T G (G^T G + ridge I)^-1, exact least squares given G, in float64. cross: X^T G. gram: G^T G."""
    full = gram.double() + RIDGE * torch.eye(len(gram), dtype=torch.float64, device=gram.device)
    return torch.linalg.solve(full, cross.double().T).T.float().contiguous()


def winners(features: Float[Tensor, "d k"], keep: int) -> Float[Tensor, "d k"]:
    """Keep the `keep` entries of largest absolute value in each column and set the rest to 0; exactly `keep`, also with
    ties."""
    if keep >= len(features):
        return features
    largest = features.abs().topk(keep, dim=0).indices
    return torch.zeros_like(features).scatter_(0, largest, features.gather(0, largest))


def refitted(
    features: Float[Tensor, "d k"], cross: Float[Tensor, "d k"], gram: Float[Tensor, "k k"], sweeps: int
) -> Float[Tensor, "d k"]:
    """Coordinate descent on |X - G F^T|^2 over the entries that winner-take-all kept, one feature after another.
    Setting the other entries to 0 changes the optimum of the remaining ones, so these are fitted again. Lowers the
    loss."""
    support, full, square = features != 0, features.double(), gram.double() + RIDGE * torch.eye(len(gram)).to(gram)
    for _ in range(sweeps):
        for k in range(full.shape[1]):
            step = (cross[:, k] - full @ square[:, k]) / square[k, k]
            full[:, k] += torch.where(support[:, k], step, 0.0)
    return full.float()


def norms(gram: Float[Tensor, "k k"]) -> Float[Tensor, "k"]:
    """Euclidean norm of each column of G, from G^T G. A column of zeros gets norm 1, so that dividing by it is safe."""
    lengths = gram.diagonal().clamp_min(0).sqrt().float()
    return torch.where(lengths > 0, lengths, torch.ones_like(lengths))


def split(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(positive part, absolute value of the negative part)."""
    return matrix.clamp_min(0), (-matrix).clamp_min(0)


def updated_activations(
    g: Float[Tensor, "m k"], cross: Float[Tensor, "m k"], inner: Sequence[Tensor], floor: float = 0.0
) -> Float[Tensor, "m k"]:
    """G sqrt((P+ + G Q-) / (P- + G Q+ + ridge)): never negative, never a larger loss for the same F.

    cross: P = X F. inner: `split(F^T F)`, each `[k k]`.
    """
    q_plus, q_minus = inner
    above = torch.addmm(cross.clamp_min(0), g, q_minus)
    below = torch.addmm((-cross).clamp_min(0), g, q_plus).add_(RIDGE)
    return (g * above.div_(below).sqrt_()).clamp_min_(floor)

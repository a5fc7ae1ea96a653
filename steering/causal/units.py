"""Units: the parts of a model that can be ablated. Heads, groups of heads that share keys and values, MLPs, attention
layers, blocks, neurons, directions and subspaces; each is described as parts of vectors at whole sites."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadSite
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site

KINDS = "z.7.3 (head), kv.7.1 (heads that share keys), mlp_out.7, attn_out.7, block.7, mlp_post.7.12 (neuron)"


@dataclass(frozen=True, eq=False)
class SiteSlice:
    """A part of the vectors at a whole site. columns: (start, stop) of the vector's entries; None: all. basis: `[k d]`
    orthonormal rows, the part is the projection on their span; None: the entries themselves."""

    site: Site
    columns: tuple[int, int] | None = None
    basis: Float[Tensor, "k d"] | None = None


@dataclass(frozen=True, eq=False)
class Unit:
    """One unit. name: such as `z.7.3`. parts: the slices that it consists of. heads: (block, query head) of units made
    of heads; only these have an attention pattern."""

    name: str
    parts: tuple[SiteSlice, ...]
    heads: tuple[tuple[int, int], ...] = ()

    @property
    def kind(self) -> str:
        """The first word of the name: random sets are drawn among units of one kind."""
        return self.name.partition(".")[0]

    @property
    def block(self) -> int:
        """The block it is in (-1 for the embedding)."""
        block = self.parts[0].site.block
        return -1 if block is None else block


def unit_of(anatomy: Anatomy, name: "str | Site") -> Unit:
    """A unit by its name or site. Raises BadSite."""
    text = str(name)
    kind, *rest = text.split(".")
    if not rest or not all(piece.isdecimal() for piece in rest):
        raise BadSite(f"'{text}' is not a unit; units are {KINDS}")
    numbers = [int(piece) for piece in rest]
    if kind == "kv" and len(numbers) == 2:
        return _kv_group(anatomy, *numbers)
    if kind == "block" and len(numbers) == 1:
        return Unit(
            text, tuple(_checked(anatomy, SiteSlice(Site(point, numbers[0]))) for point in ("attn_out", "mlp_out"))
        )
    if kind == "mlp_post" and len(numbers) == 2:
        return _neuron(anatomy, *numbers)
    return _of_site(anatomy, Site.parse(text))


def head_units(anatomy: Anatomy) -> tuple[Unit, ...]:
    """Every query head, `z.0.0` first."""
    return tuple(
        _of_site(anatomy, Site("z", block, head))
        for block in range(anatomy.n_layers)
        for head in range(anatomy.n_heads)
    )


def subspace(site: Site, rows: Float[Tensor, "k d"], name: str = "subspace") -> Unit:
    """The unit that is the projection on the span of the given rows, at a whole site. Raises BadSite when the rows are
    not linearly independent."""
    if rows.ndim != 2 or int(torch.linalg.matrix_rank(rows.float())) < len(rows):
        raise BadSite(f"{name} at {site}: rows {list(rows.shape)} are not independent directions [k d]; drop some")
    basis = torch.linalg.qr(rows.float().T).Q.T.contiguous()
    return Unit(f"{name}.{site}", (SiteSlice(site, None, basis),))


def direction(site: Site, vector: Float[Tensor, "d"], name: str = "direction") -> Unit:
    """The unit that is the projection on one vector at a whole site; the vector's length does not matter."""
    return subspace(site, vector[None], name)


def _of_site(anatomy: Anatomy, site: Site) -> Unit:
    if site.point == "resid_mid":
        raise BadSite(f"{site}: a sum inside the block, which no edit reaches; take attn_out.{site.block} out instead")
    anatomy.check(site)
    if site.head is None:
        heads = tuple((site.block, h) for h in range(anatomy.n_heads)) if site.point in ("z", "attn_out") else ()
        return Unit(str(site), (SiteSlice(site),), heads)  # type: ignore[arg-type]
    return Unit(str(site), (_columns(anatomy, site.block or 0, (site.head,)),), ((site.block or 0, site.head),))


def _kv_group(anatomy: Anatomy, block: int, group: int) -> Unit:
    if group >= anatomy.n_kv_heads:
        raise BadSite(f"kv.{block}.{group} does not exist: the model has {anatomy.n_kv_heads} key heads a block")
    each = anatomy.n_heads // anatomy.n_kv_heads
    heads = tuple(range(group * each, (group + 1) * each))
    part = _checked(anatomy, _columns(anatomy, block, heads))
    return Unit(f"kv.{block}.{group}", (part,), tuple((block, head) for head in heads))


def _neuron(anatomy: Anatomy, block: int, number: int) -> Unit:
    site = Site("mlp_post", block)
    anatomy.check(site)
    if number >= anatomy.width(site):
        raise BadSite(f"mlp_post.{block}.{number} does not exist: the MLP has {anatomy.width(site)} neurons")
    return Unit(f"mlp_post.{block}.{number}", (SiteSlice(site, (number, number + 1)),))


def _columns(anatomy: Anatomy, block: int, heads: Sequence[int]) -> SiteSlice:
    d = anatomy.d_head
    return SiteSlice(Site("z", block), (heads[0] * d, (heads[-1] + 1) * d))


def _checked(anatomy: Anatomy, part: SiteSlice) -> SiteSlice:
    anatomy.check(part.site)
    return part

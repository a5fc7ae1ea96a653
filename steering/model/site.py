"""Site: a named place in the computation. `resid_post.12`, `z.7` (all heads), `z.7.3` (one head), `embed`.

Points are named as in TransformerLens, blocks and heads count from 0. Which module of a model holds a site is looked up
in the Anatomy (`anatomy.py`), which proves its answer on the loaded model.
"""

from dataclasses import dataclass
from typing import Literal, cast, get_args

from trimtab.steering.errors import BadSite, UnknownName

Point = Literal["embed", "resid_pre", "resid_mid", "resid_post", "z", "attn_out", "mlp_out", "mlp_post"]
POINTS: tuple[str, ...] = get_args(Point)
PER_HEAD = ("z",)
WITHOUT_BLOCK = ("embed",)


@dataclass(frozen=True, order=True)
class Site:
    """A place in every forward pass, where activations `[b s d]` are read or changed.

    point: `embed` (token embeddings), `resid_pre`, `resid_mid` and `resid_post` (the residual stream before the block,
    between attention and MLP, and after it), `z` (each head's output before the output projection), `attn_out` and
    `mlp_out` (what attention and MLP add to the residual stream) or `mlp_post` (neurons, the input of the MLP's last
    projection). block: from 0; None only for `embed`. head: a query head, only for `z`; None means all heads, side by
    side in `d = n_heads * d_head`.

    Raises UnknownName for another point, BadSite for a block or head that the point cannot have.
    """

    point: Point
    block: int | None = None
    head: int | None = None

    def __post_init__(self) -> None:
        if self.point not in POINTS:
            raise UnknownName("point", str(self.point), POINTS)
        if (self.block is None) != (self.point in WITHOUT_BLOCK):
            need = "takes no block" if self.point in WITHOUT_BLOCK else f"needs a block, for example {self.point}.12"
            raise BadSite(f"site '{self}': {self.point} {need}")
        if self.head is not None and self.point not in PER_HEAD:
            raise BadSite(f"site '{self}': {self.point} has no heads; only {', '.join(PER_HEAD)} has")
        if (self.block or 0) < 0 or (self.head or 0) < 0:
            raise BadSite(f"site '{self}': blocks and heads count from 0; negative indices are refused in stored names")

    def __str__(self) -> str:
        return ".".join(str(part) for part in (self.point, self.block, self.head) if part is not None)

    @property
    def whole(self) -> "Site":
        """The site with all heads: `z.7.3` -> `z.7`; any other site is itself."""
        return Site(self.point, self.block)

    @classmethod
    def parse(cls, text: "str | Site") -> "Site":
        """A Site from its name, such as `resid_post.12` or `z.7.3`; a Site stays as it is.

        Raises BadSite for text that is no name of a site, UnknownName for an unknown point.
        """
        if isinstance(text, Site):
            return text
        point, *rest = str(text).split(".")
        if not point or len(rest) > 2 or not all(part.isdecimal() for part in rest):
            raise BadSite(f"site '{text}' is not point.block or point.block.head, for example resid_post.12 or z.7.3")
        numbers = [int(part) for part in rest]
        return cls(cast(Point, point), *numbers)

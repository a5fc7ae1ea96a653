"""Layout: from a Site to the module and side where it can be read and written, as one family's row claims.

The claim is proved by `prove` (proof.py); an Anatomy (anatomy.py) is a Layout that was.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from trimtab.steering.errors import BadSite, UnsupportedModel
from trimtab.steering.model.families import Family
from trimtab.steering.model.fingerprint import Fingerprint, weights_digest
from trimtab.steering.model.projection import in_features
from trimtab.steering.model.site import Point, Site


@dataclass(frozen=True)
class Place:
    """A module and the side of it where a site's tensor passes: what goes `in`, or what comes `out`. factor: by which
    the module's tensor is multiplied to give the site's (1 but for what granite adds to the residual)."""

    module: nn.Module
    side: Literal["in", "out"]
    factor: float = 1.0


@dataclass(frozen=True, eq=False)
class Layout:
    """The model and its family's row."""

    model: PreTrainedModel
    family: Family

    def parts(self) -> list[nn.Module]:
        """Every module that the row names, in every block. Raises UnsupportedModel when one is not there."""
        row = self.family
        names = ("attn", "out_proj", "attn_added", "mlp_added", "down_proj", "mid_input")
        paths = [getattr(row, name) for name in names if getattr(row, name) is not None]
        whole = [self.base, self._get(self.model, row.embed)]
        return whole + [self._get(block, path) for block in self.blocks for path in paths]

    @property
    def base(self) -> nn.Module:
        """The model without its head: gets the tokens, runs the blocks and the final norm."""
        return self.model.base_model if self.family.entry is None else self._get(self.model, self.family.entry)

    @cached_property
    def blocks(self) -> Sequence[nn.Module]:
        return list(self._get(self.model, self.family.blocks).children())

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    @property
    def text_config(self) -> Any:
        return self.model.config.get_text_config()

    @property
    def d_model(self) -> int:
        return int(self.text_config.hidden_size)

    @property
    def n_heads(self) -> int:
        return int(self.text_config.num_attention_heads)

    @property
    def n_kv_heads(self) -> int:
        return int(getattr(self.text_config, "num_key_value_heads", None) or self.n_heads)

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return next(self._get(self.model, self.family.embed).parameters()).device

    @cached_property
    def d_head(self) -> int:
        """What the output projection takes, per query head: `d_model / n_heads` is wrong for many models.

        Raises UnsupportedModel when that is no whole number, or not what the configuration says.
        """
        width = in_features(self._part(0, "out_proj"))
        config = self.text_config
        said = getattr(config, "v_head_dim", None) or getattr(config, "head_dim", None)
        if width % self.n_heads or said not in (None, width // self.n_heads):
            raise UnsupportedModel(
                f"{config.model_type}: '{self.family.out_proj}' takes {width} numbers, which are not {self.n_heads} "
                f"heads of {said or 'equal'} width, so no head can be told from its neighbours; the layer's layout is "
                f"not supported, or the row in steering/model/families.py is wrong"
            )
        return width // self.n_heads

    @cached_property
    def d_mlp(self) -> int | None:
        return None if self.family.down_proj is None else in_features(self._part(0, "down_proj"))

    @property
    def multiplier(self) -> float:
        """What a sublayer's output is multiplied by when it is added to the residual: 1, but in granite."""
        return 1.0 if self.family.multiplier is None else float(getattr(self.text_config, self.family.multiplier))

    @property
    def d_vocab(self) -> int:
        return int(self.text_config.vocab_size)

    def width(self, site: Site) -> int:
        """Width of the vectors at a site: d_model; d_mlp; d_head for one head; n_heads * d_head for all heads."""
        if site.point == "z":
            return self.d_head if site.head is not None else self.n_heads * self.d_head
        if site.point == "mlp_post":
            self.check(site)
            return int(self.d_mlp or 0)
        return self.d_model

    def check(self, site: Site) -> None:
        """Raises BadSite when the site does not exist in this model, saying why and what to use instead."""
        name = self.text_config.model_type
        if site.block is not None and site.block >= self.n_layers:
            raise BadSite(f"{site} does not exist: {name} has {self.n_layers} blocks, 0 to {self.n_layers - 1}")
        if site.head is not None and site.head >= self.n_heads:
            raise BadSite(f"{site} does not exist: {name} has {self.n_heads} query heads, 0 to {self.n_heads - 1}")
        if site.point == "resid_mid" and self.family.mid_input is None:
            raise BadSite(
                f"{site} does not exist: {name} adds attention and MLP in parallel; use resid_pre, resid_post"
            )
        if site.point == "mlp_post" and self.family.down_proj is None:
            raise BadSite(f"{site} does not exist: {name} routes tokens to experts with their own neurons; use mlp_out")

    def place(self, site: Site) -> Place:
        """Where the site's tensor passes. Writing at resid_mid is done by `hooks.py` at attn_out."""
        self.check(site)
        if site.block is None:
            return Place(self._get(self.model, self.family.embed), "out")
        block = self.blocks[site.block]
        part = {
            "resid_pre": lambda: Place(block, "in"),
            "resid_post": lambda: Place(block, "out"),
            "resid_mid": lambda: Place(self._part(site.block, "mid_input"), "in"),
            "z": lambda: Place(self._part(site.block, "out_proj"), "in"),
            "attn_out": lambda: Place(self._part(site.block, "attn_added"), "out", self.multiplier),
            "mlp_out": lambda: Place(self._part(site.block, "mlp_added"), "out", self.multiplier),
            "mlp_post": lambda: Place(self._part(site.block, "down_proj"), "in"),
        }
        return part[site.point]()

    def sites(self, points: Iterable[str], blocks: Iterable[int] | None = None) -> tuple[Site, ...]:
        """Every site of these points in these blocks (all by default), in the order of the computation's blocks."""
        numbers = range(self.n_layers) if blocks is None else list(blocks)
        named = [cast(Point, point) for point in points]
        sites = tuple(Site(point, None if point == "embed" else b) for b in numbers for point in named)
        for site in sites:
            self.check(site)
        return tuple(dict.fromkeys(sites))

    def depth(self, site: Site) -> int:
        """The block that must have run for the site to exist; -1 for embed. Capture stops after the deepest."""
        return -1 if site.block is None else site.block

    def blocks_before(self, site: Site) -> int:
        """How many blocks, from the first, end before a change at the site can reach them."""
        if site.block is None:
            return 0
        return site.block + (site.point == "resid_post")

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the weights as they are now: trained on, or with an adapter merged, the same object has another."""
        shape = (str(self.text_config.model_type), self.n_layers, self.d_model, self.n_heads, self.d_head)
        return Fingerprint(*shape, weights=weights_digest(self.model))

    def _part(self, block: int | None, name: str) -> nn.Module:
        return self._get(self.blocks[block or 0], getattr(self.family, name))

    def _get(self, root: nn.Module, path: str) -> nn.Module:
        try:
            return root.get_submodule(path)
        except AttributeError:
            raise UnsupportedModel(
                f"the row of family '{self.model.config.model_type}' names '{path}', which this model does not have; "
                f"correct its row in steering/model/families.py"
            ) from None

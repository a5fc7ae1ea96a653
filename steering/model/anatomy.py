"""Anatomy: from a Site to the module and side where it can be read and written, for one loaded model.

One data row per family (families.py) says where things are; `prove` (proof.py) shows on load that the row is true.
"""

import hashlib
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.steering.errors import BadSite, UnsupportedModel
from trimtab.steering.model.families import Family, family_of
from trimtab.steering.model.site import Point, Site


@dataclass(frozen=True)
class Place:
    """A module and the side of it where a site's tensor passes: what goes `in`, or what comes `out`."""

    module: nn.Module
    side: Literal["in", "out"]


@dataclass(frozen=True)
class Fingerprint:
    """What a plan or a capture was made on. weights: digest of a sample of every parameter, the same for float32
    and bfloat16 loads of one checkpoint."""

    model_type: str
    n_layers: int
    d_model: int
    n_heads: int
    d_head: int
    weights: str

    @property
    def shape(self) -> tuple[str, int, int, int, int]:
        """All but the weights: what must agree for a plan to fit at all."""
        return (self.model_type, self.n_layers, self.d_model, self.n_heads, self.d_head)

    def to_json(self) -> dict[str, str | int]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The model and its family row. Make it with `Anatomy.of(model)`, which caches it per model."""

    model: PreTrainedModel
    family: Family

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Anatomy":
        """The anatomy of a model, made once. Raises UnsupportedModel when the family or a module is missing."""
        known = _KNOWN.get(model)
        if known is None:
            config = model.config
            family = family_of(config)
            known = _KNOWN[model] = cls(model, family)
            known.check_modules()
        return known

    def check_modules(self) -> None:
        """Every path of the row leads somewhere in every block."""
        for block in range(self.n_layers):
            for name in ("attn", "out_proj", "attn_added", "mlp_added"):
                self._part(block, name)

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
    def text_config(self):
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

    @cached_property
    def d_head(self) -> int:
        """Read off the output projection: `d_model / n_heads` is wrong for many models."""
        return in_features(self._part(0, "out_proj")) // self.n_heads

    @cached_property
    def d_mlp(self) -> int | None:
        return None if self.family.down_proj is None else in_features(self._part(0, "down_proj"))

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
            "attn_out": lambda: Place(self._part(site.block, "attn_added"), "out"),
            "mlp_out": lambda: Place(self._part(site.block, "mlp_added"), "out"),
            "mlp_post": lambda: Place(self._part(site.block, "down_proj"), "in"),
        }
        return part[site.point]()

    def sites(self, points: Iterable[str], blocks: Iterable[int] | None = None) -> tuple[Site, ...]:
        """Every site of these points in these blocks (all by default), in the order of the computation's blocks."""
        chosen = range(self.n_layers) if blocks is None else list(blocks)
        named = [cast(Point, point) for point in points]
        found = tuple(Site(point, None if point == "embed" else b) for b in chosen for point in named)
        for site in found:
            self.check(site)
        return tuple(dict.fromkeys(found))

    def depth(self, site: Site) -> int:
        """The block that must have run for the site to exist; -1 for embed. Capture stops after the deepest."""
        return -1 if site.block is None else site.block

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """See Fingerprint. Reads 16 numbers of every parameter."""
        digest = hashlib.sha256()
        for name, parameter in self.model.named_parameters():
            flat = parameter.detach().reshape(-1)
            step = max(1, flat.numel() // 16)
            sample = flat[::step][:16].to(torch.bfloat16).float().cpu().numpy()
            digest.update(f"{name}{tuple(parameter.shape)}".encode() + sample.tobytes())
        shape = (str(self.text_config.model_type), self.n_layers, self.d_model, self.n_heads, self.d_head)
        return Fingerprint(*shape, weights=digest.hexdigest()[:16])

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


_KNOWN: "weakref.WeakKeyDictionary[PreTrainedModel, Anatomy]" = weakref.WeakKeyDictionary()


def in_features(projection: nn.Module) -> int:
    """Input width of a Linear, or of a Conv1D (GPT-2), whose weight is transposed."""
    weight: Tensor = projection.weight  # type: ignore[assignment]
    return int(weight.shape[1] if isinstance(projection, nn.Linear) else weight.shape[0])


def out_weight(projection: nn.Module) -> Tensor:
    """Weight as `[d_in d_out]`, so that `y = x @ W`, for Linear and Conv1D alike."""
    weight: Tensor = projection.weight  # type: ignore[assignment]
    return weight.T if isinstance(projection, nn.Linear) else weight

"""Outline: what a configuration says about the sites of its model, for a process that does not hold the model."""

from dataclasses import dataclass
from typing import Protocol

from transformers import PretrainedConfig

from trimtab.steering.errors import BadSite
from trimtab.steering.model.families import Family, family_of
from trimtab.steering.model.site import Site


class HasSites(Protocol):
    """What says which sites there are and how wide their vectors are: an Anatomy, or an Outline."""

    def check(self, site: Site) -> None: ...

    def width(self, site: Site) -> int: ...


@dataclass(frozen=True)
class Outline:
    """family: its row, which nothing has proved on a model here. d_head: width of one head's part of `z`."""

    family: Family
    model_type: str
    n_layers: int
    d_model: int
    n_heads: int
    d_head: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> "Outline":
        """Raises UnsupportedModel when the family has no row."""
        family, text = family_of(config), config.get_text_config()
        d_model, n_heads = int(text.hidden_size), int(text.num_attention_heads)
        d_head = getattr(text, "v_head_dim", None) or getattr(text, "head_dim", None) or d_model // n_heads
        return cls(family, str(text.model_type), int(text.num_hidden_layers), d_model, n_heads, int(d_head))

    @property
    def shape(self) -> tuple[str, int, int, int, int]:
        """What must agree with the shape in a plan's fingerprint."""
        return (self.model_type, self.n_layers, self.d_model, self.n_heads, self.d_head)

    def width(self, site: Site) -> int:
        """Width of the vectors at a residual site or at `z`."""
        if site.point != "z":
            return self.d_model
        return self.d_head if site.head is not None else self.n_heads * self.d_head

    def check(self, site: Site) -> None:
        """Raises BadSite when the model has no such block or head."""
        for name, number, most in (("blocks", site.block, self.n_layers), ("query heads", site.head, self.n_heads)):
            if number is not None and number >= most:
                raise BadSite(f"{site} does not exist: {self.model_type} has {most} {name}, 0 to {most - 1}")

"""Labelled prompts (is the plan wanted on this prompt?), their splits, and the activations that a gate reads of
them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import LAST, PROMPT
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.running.reading import Rows, capture


@dataclass(frozen=True, eq=False)
class Labelled:
    """prompts, and for each whether the plan is wanted there. Raises SteeringError when one side is missing."""

    prompts: Sequence[Tokens]
    wanted: Bool[np.ndarray, "n"]

    def __post_init__(self) -> None:
        yes = int(self.wanted.sum())
        if len(self.prompts) != len(self.wanted) or min(yes, len(self.wanted) - yes) < 2:
            raise SteeringError(
                f"{yes} of {len(self.wanted)} prompts want the plan; a condition needs at least 2 that do and 2 that "
                f"do not, in each split"
            )

    def side(self, wanted: bool) -> list[Tokens]:
        """The prompts of one label."""
        return [prompt for prompt, label in zip(self.prompts, self.wanted, strict=True) if bool(label) == wanted]


@dataclass(frozen=True)
class Splits:
    """Disjoint sets of labelled prompts. fit: a gate's direction and site, or a controller's weights. validation: its
    threshold. report: the reported results."""

    fit: Labelled
    validation: Labelled
    report: Labelled


def readings(
    anatomy: Anatomy, prompts: Sequence[Tokens], sites: Sequence[Site], pool: str = "last"
) -> Mapping[Site, Float[Tensor, "n d"]]:
    """By site, `[prompts d]` float32 activations of each prompt: at its last token, or the mean over the prompt."""
    selection = Rows(LAST) if pool == "last" else Rows(PROMPT, "mean")
    rows = capture(anatomy, prompts, sites, selection).rows
    return {site: torch.cat(rows[site]).float() for site in sites}

"""The two contracts of a method that makes plans. A `Fitter` looks at rows of activations; a `ModelFitter` learns
through the frozen model. Either way the fields are the method's hyper-parameters, and nothing else."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from trimtab.steering.errors import BadRows
from trimtab.steering.fitters._leading import MassiveCoordinate, leads_of, warning_of
from trimtab.steering.learning.examples import Examples
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.moves.base import Move
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.contrast import Contrast, Pair, named_sites
from trimtab.steering.running.progress import Progress, silent


class Method(ABC):
    """Abstract base of both contracts; methods are frozen dataclasses, one per file, whose docstring is the method's
    page: equation, source, assumptions, and the special case in which it becomes another method.

    source: where the method was published.
    """

    source: ClassVar[str]


class Fitter(Method):
    """A method that looks at rows of activations: abstract base.

    rotates: True when rotating all rows rotates the move (a law tests it).
    """

    rotates: ClassVar[bool]

    @abstractmethod
    def fit_site(self, positive: Float[Tensor, "n d"], negative: Float[Tensor, "m d"]) -> Move:
        """The move at one site, from float32 rows. Deterministic; the inputs are not changed. Raises BadRows when
        nothing can be fitted. For methods that use pairs: when both have as many rows, rows i belong together."""

    def fit(self, contrast: Contrast) -> SteeringPlan:
        """One intervention per site of the contrast, in its order. Warns (MassiveCoordinate, once) where one coordinate
        leads that does not tell the classes apart. Raises BadRows naming the site."""
        steps = self.interventions(contrast)
        leads = leads_of(steps, contrast)
        if leads:
            warnings.warn(warning_of(type(self).__name__, leads), MassiveCoordinate, stacklevel=2)
        return SteeringPlan(steps, contrast.model)

    def interventions(self, contrast: Contrast) -> tuple[Intervention, ...]:
        """The same without the warning, for callers who give it themselves (see `leads_of`)."""
        return tuple(self._intervention(site, pair, contrast.paired) for site, pair in contrast.sites.items())

    @abstractmethod
    def fit_unpaired(self, positive: Float[Tensor, "n d"], negative: Float[Tensor, "m d"]) -> Move:
        """The same for two sets of rows that are not pairs."""

    def _intervention(self, site: Site, pair: Pair, paired: bool) -> Intervention:
        fit = self.fit_site if paired else self.fit_unpaired
        try:
            return Intervention(site, fit(pair.positive, pair.negative))
        except BadRows as error:
            raise BadRows(f"{type(self).__name__} at {site}: {error}") from None


class ModelFitter(Method):
    """A method that learns through the frozen model, by gradients or generations: abstract base.

    acts_on_heads: True when its plans act at `z` of the sites' blocks, whatever the sites' point.
    """

    acts_on_heads: ClassVar[bool]

    @abstractmethod
    def fit(
        self, anatomy: Anatomy, examples: Examples, sites: Sequence[Site], progress: Progress = silent
    ) -> dict[str, SteeringPlan]:
        """Candidate plans by name, each of one site or of many, at most at these sites. Deterministic; the model is
        not changed. Strength 1 is meant to spend the examples' budget, where the method knows what it costs. Raises
        SteeringError when nothing can be fitted."""

    @final
    def learn(
        self, model: PreTrainedModel, examples: Examples, sites: str | Site | Sequence[str | Site] = "resid_post"
    ) -> dict[str, SteeringPlan]:
        """`fit` for scripts. sites: points such as "resid_post", which stand for that point in every block, or single
        sites. Plans of one site are named by it: `resid_post.12`. Raises BadSite besides."""
        anatomy = Anatomy.of(model)
        return self.fit(anatomy, examples, named_sites(anatomy, sites))


class TwoSets(Fitter):
    """A method that looks at two sets of rows, whether they are pairs or not: abstract base."""

    @final
    def fit_unpaired(self, positive: Float[Tensor, "n d"], negative: Float[Tensor, "m d"]) -> Move:
        return self.fit_site(positive, negative)


def mean_gap(positive: Float[Tensor, "n d"], negative: Float[Tensor, "m d"]) -> Float[Tensor, "d"]:
    """Mean of the positive rows minus that of the negative ones, in float64: massive activations of sink tokens would
    eat a float32 sum's last digits. Raises BadRows when the means are the same or not finite."""
    high, low = positive.double().mean(0), negative.double().mean(0)
    gap = high - low
    if not bool(torch.isfinite(gap).all()):
        raise BadRows(f"rows of width {len(gap)} hold values that are not finite; capture in float32 or bfloat16")
    scale = max(high.norm().item(), low.norm().item())
    if gap.norm().item() <= 1e-9 * scale:
        raise BadRows(
            f"positive and negative rows have the same mean ({len(positive)} and {len(negative)} rows), so there is "
            f"no direction to fit; read a later token or site, where the two classes differ"
        )
    return gap


def along(direction: Float[Tensor, "d"], gap: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
    """The projection of the mean difference on a direction, float32: strength 1 then moves the negative mean's
    coordinate to the positive mean's, whatever method found the direction. Raises BadRows when it is not above 0."""
    norm = direction.norm()
    unit = direction / norm
    length = unit @ gap
    if not bool(torch.isfinite(norm)) or not length.item() > 1e-6 * gap.norm().item():
        raise BadRows(
            f"the direction found is orthogonal to the mean difference (length {gap.norm():.3g}, projection "
            f"{length:.3g}), so it does not tell the classes apart; use mean_difference or more rows"
        )
    return (unit * length).float()

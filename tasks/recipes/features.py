"""FeaturesRecipe: from sentences to a published set of features, found by factorising the activations of one site."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from trimtab.steering.errors import SteeringError
from trimtab.steering.features.snmf import SNMF
from trimtab.steering.model.site import Site
from trimtab.steering.model.tokens import PromptFormat
from trimtab.tasks.data.prompts import form_of
from trimtab.tasks.data.sections import Part, Seed, Sentences, Share
from trimtab.tasks.data.sentences import sentences_of
from trimtab.tasks.recipes.base import ModelRecipe
from trimtab.tasks.recipes.sections import Blocks, CaptureSpec, SpanText

Whole = Annotated[int, Field(ge=1, le=100_000)]


class Choose(Part):
    """The grid on which rank and sparsity are chosen, by held-out reconstruction times stability across seeds."""

    ranks: tuple[Whole, ...] = (25, 50, 100)
    """Numbers of features to try."""
    sparsities: tuple[Share | None, ...] = (0.01, 0.05)
    """Shares of a feature's entries that are kept, to try; null keeps all."""
    seeds: int = Field(default=2, ge=2, le=20)
    """Fits per point of the grid, each from another seed, whose agreement is the stability."""
    max_iterations: Whole = 100
    """Iterations of each of these fits, at most."""

    @model_validator(mode="after")
    def _grid(self) -> "Choose":
        if not self.ranks or not self.sparsities:
            raise ValueError("ranks and sparsities name at least one each")
        return self


class FeaturesSpec(Part):
    """What is factorised, and into how many features."""

    site: str = "mlp_post.15"
    """Site whose activations are factorised, best the MLP's neurons of a block: `mlp_post.15`."""
    span: SpanText = "after:1"
    """Which tokens; the first of a text attracts attention for itself in models without a start token."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float32"
    """Type in which the activations are stored."""
    rank: Whole | None = None
    """Number of features; null chooses it on the grid of `choose`."""
    sparsity: Share | None = 0.01
    """Share of a feature's entries that are kept, with a given `rank`; null keeps all."""
    start: Literal["random", "svd", "kmeans"] = "random"
    """What the factorisation starts from."""
    restarts: Whole = 1
    """Fits from different seeds, of which the one with the lowest loss is published."""
    max_iterations: Whole = 300
    """Iterations of the fit that is published, at most."""
    seed: Seed = 0
    """Seed of the start."""
    choose: Choose = Choose()
    """The grid on which rank and sparsity are chosen."""
    levels: tuple[Whole, ...] = ()
    """Falling numbers of coarser features above these, each level factorising the one below."""

    @field_validator("site")
    @classmethod
    def _site(cls, value: str) -> str:
        try:
            return str(Site.parse(value))
        except SteeringError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _falling(self) -> "FeaturesSpec":
        ranks = [self.rank or min(self.choose.ranks), *self.levels]
        if any(b >= a for a, b in zip(ranks, ranks[1:], strict=False)):
            raise ValueError(f"levels {list(self.levels)} must fall, and begin below every rank ({ranks[0]})")
        return self

    def settings(self, rank: int, sparsity: float | None) -> SNMF:
        """How the set that is published is fitted."""
        return SNMF(rank, sparsity, self.start, self.seed, self.restarts, self.max_iterations)


class FeaturesRecipe(ModelRecipe):
    """Collect activations of sentences, choose rank and sparsity, factorise, publish the features."""

    FORMAT: ClassVar[int] = 1
    STAGES: ClassVar[tuple[str, ...]] = ("capture", "choose", "features")

    kind: Literal["features"] = "features"
    """Always `features` here; may be left out where the file has a `features` section."""
    data: Sentences
    """The sentences whose activations are factorised."""
    features: FeaturesSpec = FeaturesSpec()
    """The site that is factorised, and the settings of the factorisation."""

    @property
    def site(self) -> Site:
        """The site whose activations are factorised."""
        return Site.parse(self.features.site)

    @property
    def capture(self) -> CaptureSpec:
        """What is collected, as the same section of a behaviour recipe would say it."""
        blocks: Blocks = "all" if self.site.block is None else (self.site.block,)
        spec = self.features
        return CaptureSpec(points=(self.site.point,), blocks=blocks, span=spec.span, dtype=spec.dtype)

    @property
    def form(self) -> PromptFormat:
        """How prompts are put to the model."""
        return form_of(self.data)

    def check_files(self, judged: bool = True) -> None:
        """Raises DataError for a wrong line, a repeated sentence, or a concept that is missing from a split."""
        sentences_of(self.data)

    def parts_of(self, stage: str, parents: Sequence[str]) -> dict[str, Any]:
        """capture: model, site, span, dtype and sentences. choose: also the start and the grid. features: all of it."""
        values = self.canonical()
        spec, data = dict(values["features"]), dict(values["data"])
        parts: dict[str, Any] = {"stage": f"features/{stage}", "model": values["model"]}
        parts |= {key: spec.pop(key) for key in ("site", "span", "dtype")}
        parts |= {"data": {key: data[key] for key in ("concepts", "texts", "split")}}
        if stage == "choose":
            parts |= {key: spec[key] for key in ("start", "restarts", "seed", "choose")}
        if stage == "features":
            parts |= {"asked": spec, "prompts": {key: data[key] for key in ("chat", "system")}}
        return parts

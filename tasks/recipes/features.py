"""FeaturesRecipe: what was asked of a feature set, frozen, closed to unknown keys, hashed. A recipe file with a
`features` section is one of these."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from trimtab.steering.errors import SteeringError
from trimtab.steering.features.snmf import SNMF
from trimtab.steering.model.site import Site
from trimtab.store.catalog.refs import check_name
from trimtab.store.errors import StoreError
from trimtab.tasks.data.jsonl import canonical
from trimtab.tasks.data.sections import Part, Seed, Sentences, Share
from trimtab.tasks.recipes.file import read_recipe, validated
from trimtab.tasks.recipes.recipe import canonical_form
from trimtab.tasks.recipes.sections import CaptureSpec, ModelSpec, SpanText
from trimtab.tasks.recipes.yaml import Document

SECTION = "features"  # the key that tells these recipes from others
FORMAT = 1
MAX_NAME = 40
Stage = Literal["capture", "choose", "features"]
Whole = Annotated[int, Field(ge=1, le=100_000)]


class Choose(Part):
    """The grid on which rank and sparsity are chosen by held-out reconstruction times stability across seeds."""

    ranks: tuple[Whole, ...] = (25, 50, 100)
    sparsities: tuple[Share | None, ...] = (0.01, 0.05)
    seeds: int = Field(default=2, ge=2, le=20)
    max_iterations: Whole = 100

    @model_validator(mode="after")
    def _grid(self) -> "Choose":
        if not self.ranks or not self.sparsities:
            raise ValueError("ranks and sparsities name at least one each")
        return self


class FeaturesSpec(Part):
    """site: what is decomposed, best `mlp_post.N`. span: which tokens; the first of a text is an attention sink in
    models without a start token. dtype: as stored. choose: the grid, or one `rank` and `sparsity`. levels: ranks of the
    hierarchy above."""

    site: str = "mlp_post.15"
    span: SpanText = "after:1"
    dtype: Literal["float16", "bfloat16", "float32"] = "float32"
    rank: Whole | None = None
    sparsity: Share | None = 0.01
    start: Literal["random", "svd", "kmeans"] = "random"
    restarts: Whole = 1
    max_iterations: Whole = 300
    seed: Seed = 0
    choose: Choose = Choose()
    levels: tuple[Whole, ...] = ()

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


class FeaturesRecipe(Part):
    """name: under which the set is published."""

    name: str
    model: Annotated[
        ModelSpec, BeforeValidator(lambda v: {"id": v} if isinstance(v, str) else v, json_schema_input_type=str)
    ] = ModelSpec()
    data: Sentences
    features: FeaturesSpec = FeaturesSpec()

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        try:
            check_name(value)
        except StoreError as error:
            raise ValueError(str(error)) from None
        if len(value) > MAX_NAME or "." in value:
            raise ValueError(f"'{value}' cannot be a recipe's name: at most {MAX_NAME} of a-z, 0-9, '-' and '_'")
        return value

    @property
    def site(self) -> Site:
        return Site.parse(self.features.site)

    @property
    def capture(self) -> CaptureSpec:
        """What is collected, in the words of any other recipe."""
        asked, blocks = self.features, () if self.site.block is None else (self.site.block,)
        point = (self.site.point,)
        return CaptureSpec(points=point, blocks=blocks or "all", span=asked.span, dtype=asked.dtype)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, every default written out. `make_features_recipe` reads it back."""
        return self.model_dump(mode="json")

    def stage(self, stage: Stage) -> str:
        """sha256 of what matters for a stage and those before it; the name matters to none."""
        whole = canonical_form(self.to_json(), self.model)
        asked, data = dict(whole["features"]), dict(whole["data"])
        parts: dict[str, Any] = {"model": whole["model"], "site": asked.pop("site"), "span": asked.pop("span")}
        parts |= {"dtype": asked.pop("dtype"), "data": {k: data[k] for k in ("concepts", "texts", "split")}}
        if stage == "choose":
            parts |= {k: asked[k] for k in ("start", "restarts", "seed", "choose")}
        if stage == "features":
            parts |= {"asked": asked, "prompts": {k: data[k] for k in ("chat", "system")}}
        return hashlib.sha256(canonical({"format": FORMAT, "stage": f"features/{stage}", **parts}).encode()).hexdigest()


def load_features_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> FeaturesRecipe:
    """A recipe file, with `key=value` overrides. Raises RecipeError: one line per mistake."""
    return read_recipe(FeaturesRecipe, path, overrides)


def make_features_recipe(values: Mapping[str, Any]) -> FeaturesRecipe:
    """From values such as `recipe.to_json()`. Raises RecipeError."""
    return validated(FeaturesRecipe, Document(dict(values), "recipe"), Path("."))

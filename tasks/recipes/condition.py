"""ConditionRecipe: when a published plan should act. A recipe file with a `condition` section is one of these."""

import hashlib
from typing import Annotated, Literal

from pydantic import Field, field_validator

from trimtab.store.catalog.refs import Ref, check_name
from trimtab.store.errors import StoreError
from trimtab.tasks.data.jsonl import canonical
from trimtab.tasks.data.sections import MarkedPrompts, Part, Seed, Share
from trimtab.tasks.recipes.sections import Blocks

SECTION = "condition"  # the key that tells these recipes from others
FORMAT = 3  # part of every key: raise it when a condition is made or measured otherwise
Whole = Annotated[int, Field(ge=1, le=100_000)]
Above = Annotated[float, Field(gt=0)]


class ConditionSpec(Part):
    """kind: a gate's score, or `controller`. point, blocks, pool: what is read of the clean prompt; a gate takes the
    block that separates best, a controller reads all of them. false_positive_rate: share of the prompts that do not
    want the plan on which it may act."""

    kind: Literal["linear", "cosine", "cast", "controller"] = "linear"
    point: Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"] = "resid_post"
    blocks: Blocks = "all"
    pool: Literal["last", "mean"] = "last"
    false_positive_rate: Share = 0.1


class ControllerSpec(Part):
    """patch: candidates whose interventions it weighs (`french.mean_difference@latest`), at `blocks`; None is the plan
    itself. The rest are the training's settings, as in `steering/conditions/controller.py`."""

    patch: str | None = None
    blocks: Blocks = "all"
    hidden: Whole = 32
    steps: Whole = 60
    batch: Annotated[int, Field(ge=2, le=1000)] = 8
    learning_rate: Above = 0.01
    tokens: Whole = 16
    seed: Seed = 0


class Reporting(Part):
    """prompts: held-out prompts of each side that every contender answers with `tokens` tokens."""

    prompts: Annotated[int, Field(ge=2, le=10_000)] = 24
    tokens: Whole = 24


class ConditionRecipe(Part):
    """name: under which the conditional plan is published. plan: the published plan that it conditions."""

    name: str
    plan: str
    data: MarkedPrompts
    condition: ConditionSpec
    controller: ControllerSpec = ControllerSpec()
    judge: Reporting = Reporting()

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        try:
            check_name(value)
        except StoreError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("plan")
    @classmethod
    def _plan(cls, value: str) -> str:
        try:
            Ref.parse(value)
        except StoreError as error:
            raise ValueError(str(error)) from None
        return value

    def stage(self, plan_digest: str, patch_digest: str) -> str:
        """sha256 of what was asked, of the plans by content and the prompts by content. The name does not matter."""
        whole = self.model_dump(mode="json")
        asked = {key: whole[key] for key in ("condition", "judge")} | {"split": whole["data"]["split"]}
        if self.condition.kind == "controller":
            asked["controller"] = {k: v for k, v in whole["controller"].items() if k != "patch"}
        content = {"plan": plan_digest, "patch": patch_digest, "prompts": self.data.prompts.sha256}
        return hashlib.sha256(canonical({"format": FORMAT, "stage": SECTION, **asked, **content}).encode()).hexdigest()

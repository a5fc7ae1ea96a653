"""ConditionRecipe: from a published plan to one that acts only on the prompts that want it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from trimtab.steering.gates import GATES
from trimtab.store.catalog.refs import Ref
from trimtab.store.errors import StoreError
from trimtab.tasks.data.marked_prompts import marked_prompts
from trimtab.tasks.data.sections import MarkedPrompts, Part, Seed, Share
from trimtab.tasks.recipes.base import Recipe, refuse
from trimtab.tasks.recipes.methods import method_problems
from trimtab.tasks.recipes.problems import Problem
from trimtab.tasks.recipes.sections import Blocks

Whole = Annotated[int, Field(ge=1, le=100_000)]
Above = Annotated[float, Field(gt=0)]
FREE = ("hold", "slack")  # the fields of a gate with a score that are not fitted
SAMPLE = {"site": "resid_post.0", "threshold": 0.0, "weight": [1.0]}  # what is fitted, for a check of the others


class ScheduleSpec(Part):
    """A gate that multiplies the fitted one, for a course within the answer."""

    gate: str
    """Name of a gate that is not fitted: `first`, `ramp` or `decay`, or `all_of` and `any_of` of such gates."""
    fields: Mapping[str, Any] = Field(default_factory=dict)
    """Fields of this gate, by name, such as `{tokens: 8}`."""


class ConditionSpec(Part):
    """When the plan acts: a gate that is fitted on the prompts, or a trained controller."""

    kind: Literal["linear", "cosine", "cast", "controller"] = "linear"
    """The gate's score, or `controller`: a small network that weighs every intervention of the plan."""
    point: Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"] = "resid_post"
    """Where the prompt is read."""
    blocks: Blocks = "all"
    """Blocks where it is read: a gate takes the one that separates best, a controller reads all of them."""
    pool: Literal["last", "mean"] = "last"
    """What is read of a prompt: its last token, or the mean over its tokens."""
    false_positive_rate: Share = 0.1
    """Share of the prompts that do not want the plan on which it may act all the same."""
    fields: Mapping[str, Any] = Field(default_factory=dict)
    """Fields of the gate that are not fitted: `hold` (`answer` or `token`) and `slack`."""
    schedule: ScheduleSpec | None = None
    """A course within the answer for the gated plan; null lets it act from beginning to end."""


class ControllerSpec(Part):
    """How a controller is trained, for `condition.kind: controller` (steering/conditions/controller.py)."""

    patch: str | None = None
    """Published candidates whose interventions it weighs, such as `french.mean_difference@latest`; null: the plan's."""
    blocks: Blocks = "all"
    """Blocks whose interventions it weighs."""
    hidden: Whole = 32
    """Width of the network's hidden layer."""
    steps: Whole = 60
    """Training steps."""
    batch: Annotated[int, Field(ge=2, le=1000)] = 8
    """Prompts per step."""
    learning_rate: Above = 0.01
    """Learning rate of Adam."""
    tokens: Whole = 16
    """Tokens of each answer that it is trained on."""
    seed: Seed = 0
    """Seed of the network's start and of the batches."""


class Reporting(Part):
    """How the conditional plan is compared with the plan itself on held-out prompts."""

    prompts: Annotated[int, Field(ge=2, le=10_000)] = 24
    """Held-out prompts of each side, wanted and unwanted, at most."""
    tokens: Whole = 24
    """Tokens of each answer, at most."""


class ConditionRecipe(Recipe):
    """Fit a gate or train a controller for a published plan, compare, publish the conditional plan."""

    FORMAT: ClassVar[int] = 3
    STAGES: ClassVar[tuple[str, ...]] = ("condition",)
    ADDED: ClassVar[tuple[tuple[str, str], ...]] = (("condition", "fields"), ("condition", "schedule"))

    kind: Literal["condition"] = "condition"
    """Always `condition` here; may be left out where the file has a `condition` section."""
    plan: str
    """The published plan, such as `french@latest`."""
    data: MarkedPrompts
    """Prompts that want the plan, and prompts that do not."""
    condition: ConditionSpec
    """When the plan acts."""
    controller: ControllerSpec = ControllerSpec()
    """How a controller is trained; unused by gates."""
    judge: Reporting = Reporting()
    """How the conditional plan is compared with the plan itself."""

    @field_validator("plan")
    @classmethod
    def _reference(cls, value: str) -> str:
        try:
            Ref.parse(value)
        except StoreError as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _gates_exist(self) -> "ConditionRecipe":
        refuse(list(_gate_problems(self.condition)))
        return self

    def check_files(self, judged: bool = True) -> None:
        """Raises DataError for a wrong line or a repeated prompt."""
        marked_prompts(self.data)

    def parts_of(self, stage: str, parents: Sequence[str]) -> dict[str, Any]:
        """The plan and the patch by content (parents: their digests, in this order), the prompts, and all settings."""
        plan, patch = parents
        values = self.canonical()
        parts = {key: values[key] for key in ("condition", "judge")} | {"split": values["data"]["split"]}
        if self.condition.kind == "controller":
            parts["controller"] = {key: value for key, value in values["controller"].items() if key != "patch"}
        return {**parts, "plan": plan, "patch": patch, "prompts": values["data"]["prompts"]}


def _gate_problems(spec: ConditionSpec) -> Iterator[Problem]:
    fitted = [name for name in spec.fields if name not in FREE]
    for name in fitted:
        yield ("condition", "fields", name), f"cannot be given; the fields that are not fitted are {' and '.join(FREE)}"
    if not fitted:
        for key, message in method_problems(GATES, "gate", "linear", {**SAMPLE, **spec.fields}):
            yield ("condition", *key), message
    if spec.schedule is not None:
        for key, message in method_problems(GATES, "gate", spec.schedule.gate, spec.schedule.fields, "gate"):
            yield ("condition", "schedule", *key), message

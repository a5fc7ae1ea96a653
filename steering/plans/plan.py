"""SteeringPlan: the interventions for one model, in order. Attached to a model, scaled, composed; who made it is
nobody's business."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from trimtab.steering.errors import BadPlan
from trimtab.steering.governing.governor import Governor
from trimtab.steering.model.anatomy import Anatomy, Fingerprint
from trimtab.steering.model.span import Span
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.pack import Holding, Packed, pack_plan, unpack_interventions
from trimtab.steering.plans.session import Session


@dataclass(frozen=True, eq=False)
class SteeringPlan:
    """interventions in order of application; model: the fingerprint they were made on (None: any that fits)."""

    interventions: tuple[Intervention, ...]
    model: Fingerprint | None = None

    @contextmanager
    def on(
        self,
        model: PreTrainedModel,
        strength: float = 1.0,
        prompt_lengths: Sequence[int] | None = None,
        govern: "float | Governor | None" = None,
    ) -> Iterator[Session]:
        """Steer `model` while the block runs; it is unmodified afterwards.

        strength multiplies that of every intervention; 0 leaves logits bit-identical. prompt_lengths: real tokens of
        each row's prompt, when prompt and completion are run at once; `model.generate` needs none. govern: nats that
        the next-token distribution may move at any token (or a Governor, which can bound the whole answer); costs a
        second row per row. Raises BadPlan when the plan does not fit the model, SilentNoOp when a hook did not fire
        on every forward pass.
        """
        governor = Governor(govern) if isinstance(govern, int | float) else govern
        with Session(Anatomy.of(model), [self.scaled(strength)], prompt_lengths, governor).attached() as session:
            yield session

    @property
    def limit(self) -> float:
        """By what the plan may be multiplied while every move still means what it says; inf when by anything."""
        return min((step.limit for step in self.interventions), default=math.inf)

    def scaled(self, factor: float) -> "SteeringPlan":
        """Every strength multiplied by `factor`."""
        return replace(self, interventions=tuple(i.scaled(factor) for i in self.interventions))

    def spanning(self, span: Span) -> "SteeringPlan":
        """The same on the tokens of another span."""
        return replace(self, interventions=tuple(replace(i, span=span) for i in self.interventions))

    def __mul__(self, factor: float) -> "SteeringPlan":
        return self.scaled(factor)

    __rmul__ = __mul__

    def __add__(self, other: "SteeringPlan") -> "SteeringPlan":
        """This plan's interventions, then the other's. Raises BadPlan when they were made on different models."""
        if self.model and other.model and self.model != other.model:
            raise BadPlan(f"plans of different models cannot be composed: {self.model} and {other.model}")
        return SteeringPlan(self.interventions + other.interventions, self.model or other.model)

    def pack(self) -> Packed:
        """Arrays and a JSON header: what a file or the catalog keeps."""
        return pack_plan(self.interventions, self.model)

    @classmethod
    def unpack(cls, packed: Holding) -> "SteeringPlan":
        """From anything with `.arrays` and `.header`: a Packed, or an Artifact of the catalog. Raises BadPlan."""
        interventions, model = unpack_interventions(packed.arrays, packed.header)
        return cls(interventions, model)


@contextmanager
def steer_rows(
    model: PreTrainedModel, plans: Sequence[SteeringPlan | None], prompt_lengths: Sequence[int] | None = None
) -> Iterator[Session]:
    """Each batch row under its own plan (None: unsteered) in one forward pass."""
    with Session(Anatomy.of(model), list(plans), prompt_lengths).attached() as session:
        yield session

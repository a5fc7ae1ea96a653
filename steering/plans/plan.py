"""SteeringPlan: the interventions for one model, in order. It is attached to a model, scaled, composed and saved, and
does not say which method made it."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedModel

from trimtab.steering.errors import BadPlan, BadSite
from trimtab.steering.governing.governor import Governor
from trimtab.steering.model.anatomy import Anatomy, Fingerprint
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.moves.gated import Gated
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.pack import HasArrays, Packed, pack_plan, unpack_interventions
from trimtab.steering.plans.repository import About, push_repository, read_repository
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
        govern: float | Governor | None = None,
    ) -> Iterator[Session]:
        """Steer `model` while the block runs; it is unmodified afterwards.

        strength multiplies that of every intervention; 0 leaves logits bit-identical. prompt_lengths: real tokens of
        each row's prompt, when prompt and completion are run at once; `model.generate` needs none. govern: nats that
        the next-token distribution may move at any token (or a Governor, which can bound the whole answer); costs a
        second row per row. Raises BadPlan when the plan does not fit the model, SilentNoOp when a hook did not fire
        on every forward pass.
        """
        governor = Governor(govern) if isinstance(govern, int | float) else govern
        anatomy = Anatomy.of(model)
        self.check(anatomy)
        session = Session(anatomy, [self.scaled(strength).interventions], prompt_lengths, governor)
        with session.attached():
            yield session

    def check(self, anatomy: Anatomy) -> None:
        """Raises BadPlan or BadSite when the plan does not fit the model; warns when only the weights differ."""
        for step in self.interventions:
            step.check(anatomy)
        if self.model is None:
            return
        here = anatomy.fingerprint
        if self.model.shape != here.shape:
            raise BadPlan(
                f"the plan was made on {self.model.shape} but this model is {here.shape}; steer the model it was made "
                f"on"
            )
        if self.model != here:
            warnings.warn(
                "the plan was made on other weights of the same shape; its price and verdict do not hold here",
                stacklevel=4,
            )

    def at(self, *sites: Site | str) -> "SteeringPlan":
        """The interventions at these sites alone, in the plan's order. Raises BadSite naming the sites it has."""
        places = [Site.parse(site) for site in sites]
        there = {step.site for step in self.interventions}
        for place in places:
            if place not in there:
                raise BadSite(f"the plan does nothing at {place}; it acts at {_listed(sorted(there)) or 'no site'}")
        return replace(self, interventions=tuple(step for step in self.interventions if step.site in places))

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where it acts, in its order, each once."""
        return tuple(dict.fromkeys(step.site for step in self.interventions))

    @property
    def gated(self) -> bool:
        """True when a gate decides in it: prompt and answer must then run under one `plan.on`."""
        return any(isinstance(step.move, Gated) for step in self.interventions)

    @property
    def limit(self) -> float:
        """By what the plan may be multiplied while every move still means what it says; inf when by anything."""
        return min((step.limit for step in self.interventions), default=math.inf)

    def scaled(self, factor: float) -> "SteeringPlan":
        """Every strength multiplied by `factor`."""
        return replace(self, interventions=tuple(step.scaled(factor) for step in self.interventions))

    def spanning(self, span: Span | str) -> "SteeringPlan":
        """The same on the tokens of another span."""
        return replace(self, interventions=tuple(replace(step, span=Span.parse(span)) for step in self.interventions))

    def __mul__(self, factor: float) -> "SteeringPlan":
        return self.scaled(factor)

    __rmul__ = __mul__

    def __add__(self, other: "SteeringPlan") -> "SteeringPlan":
        """This plan's interventions, then the other's. Raises BadPlan when they were made on different models."""
        if self.model and other.model and self.model != other.model:
            raise BadPlan(f"plans of different models cannot be composed: {self.model} and {other.model}")
        return SteeringPlan(self.interventions + other.interventions, self.model or other.model)

    def pack(self) -> Packed:
        """Arrays and a JSON header: what a file or the catalog holds."""
        return pack_plan(self.interventions, self.model)

    @classmethod
    def unpack(cls, packed: HasArrays) -> "SteeringPlan":
        """From anything with `.arrays` and `.header`: a Packed, or an Artifact of the catalog. Raises BadPlan."""
        interventions, model = unpack_interventions(packed.arrays, packed.header)
        return cls(interventions, model)

    def save(self, path: str | Path) -> None:
        """One safetensors file, whole or not at all."""
        self.pack().save(path)

    @classmethod
    def load(cls, path: str | Path) -> "SteeringPlan":
        """A plan from a file of `save`. Raises BadPlan when it is not one."""
        return cls.unpack(Packed.load(path))

    @classmethod
    def from_pretrained(cls, folder_or_repo: str | Path, revision: str | None = None) -> "SteeringPlan":
        """A plan from a folder of `trimtab export --to hf`, or from a repository of the Hugging Face Hub
        (`owner/name`; revision: branch, tag or commit). Only data are read, nothing is executed. Raises BadFile when it
        cannot be had, BadPlan when it is no plan."""
        return cls.unpack(read_repository(folder_or_repo, revision))

    def push_to_hub(
        self, repo_id: str, about: About | None = None, revision: str | None = None, private: bool | None = None
    ) -> str:
        """Upload it with a model card to a repository of the Hub, which is made when it is not there; returns the
        commit's address. about: name, base model, licence and what the card says (`trimtab export NAME --push` writes
        the card from the verdict). The token is that of `hf auth login` or $HF_TOKEN. Raises CannotExport."""
        return push_repository(self.pack(), repo_id, about or About(), revision, private)


@contextmanager
def steer_rows(
    model: PreTrainedModel, plans: Sequence[SteeringPlan | None], prompt_lengths: Sequence[int] | None = None
) -> Iterator[Session]:
    """Each batch row under its own plan (None: unsteered) in one forward pass."""
    anatomy = Anatomy.of(model)
    for plan in plans:
        if plan is not None:
            plan.check(anatomy)
    rows = [() if plan is None else plan.interventions for plan in plans]
    with Session(anatomy, rows, prompt_lengths).attached() as session:
        yield session


def _listed(sites: Sequence[Site], most: int = 8) -> str:
    names = [str(site) for site in sites]
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[: most - 1])} ... {names[-1]}"

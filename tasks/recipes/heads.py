"""HeadRecipe: which attention heads do a task. Questions are split by hashing their prompts: heads are ranked on one
half and tested on the other, always."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from trimtab.steering.ablation.operators import Operator
from trimtab.steering.ablation.sets import FEWEST as FEWEST_SETS
from trimtab.steering.errors import SteeringError
from trimtab.steering.localisers import LOCALISERS
from trimtab.steering.model.tokens import PromptFormat
from trimtab.store.digests import canonical
from trimtab.tasks.data.questions import QuestionRow, read_questions
from trimtab.tasks.data.sections import FileField, Part, Seed, split_of
from trimtab.tasks.errors import DataError
from trimtab.tasks.recipes.base import ModelRecipe, refuse
from trimtab.tasks.recipes.methods import method_problems

HALVES = (0.5, 1e-9, 0.5 - 1e-9)  # shares of fit and report; nothing is selected
FEWEST = 4  # questions of one half


class RankSpec(Part):
    """How heads are ranked, on one half of the questions."""

    method: str = "attribution_patching"
    """Name of a localiser; `trimtab methods` lists them."""
    fields: Mapping[str, Any] = Field(default_factory=dict)
    """Hyper-parameters of the localiser, by name."""
    questions: int = Field(default=24, ge=FEWEST, le=10_000)
    """Questions of this half, at most."""


class AblateSpec(Part):
    """How the top heads are tested on the other half of the questions; `trimtab ablate` has the same options."""

    top: int = Field(default=10, ge=1, le=100_000)
    """Heads that are taken out, best first."""
    operator: str = "mean"
    """What is put in their place: zero, mean, resample, corrupted, uniform, or `scale:0.5`."""
    random: int = Field(default=99, ge=0, le=100_000)
    """Random sets of as many heads of the same blocks: 19 reach p = 0.05, 99 reach p = 0.01; 0 for none."""
    questions: int = Field(default=24, ge=2, le=10_000)
    """Questions of this half, at most."""
    heads: bool = False
    """Also test every head alone, with Holm's and Benjamini and Hochberg's corrections."""

    @field_validator("operator")
    @classmethod
    def _operator(cls, value: str) -> str:
        try:
            Operator.parse(value)
        except SteeringError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("random")
    @classmethod
    def _enough(cls, value: int) -> int:
        if 0 < value < FEWEST_SETS:
            raise ValueError(f"no rank among {value} sets can reach p = 0.05; give {FEWEST_SETS} at least, or 0")
        return value


class HeadRecipe(ModelRecipe):
    """Rank the heads of a model by what they do for a task; test the top ones where `ablate` says so."""

    FORMAT: ClassVar[int] = 1
    STAGES: ClassVar[tuple[str, ...]] = ("rank",)

    kind: Literal["heads"] = "heads"
    """Always `heads` here; may be left out where the file has a `task`."""
    task: FileField
    """JSONL file of questions: `prompt` and `answer`, and `corrupted` and `wrong` where the method needs them."""
    others: tuple[FileField, ...] = ()
    """Files of other tasks, which the heads should not serve."""
    rank: RankSpec = RankSpec()
    """How heads are ranked."""
    ablate: AblateSpec | None = None
    """How the top heads are tested by `trimtab run`; null only ranks them."""
    neutral: FileField | None = None
    """JSONL file of `{text}` rows on which the cost of taking heads out is measured; null for the packaged ones."""
    seed: Seed = 0
    """Seed of the split of the questions."""

    @model_validator(mode="after")
    def _method_exists(self) -> "HeadRecipe":
        problems = method_problems(LOCALISERS, "localiser", self.rank.method, self.rank.fields)
        refuse([(("rank", *key), message) for key, message in problems])
        return self

    @property
    def form(self) -> PromptFormat:
        """How prompts are put to the model."""
        return PromptFormat(chat=False)  # as the questions were put

    def check_files(self, judged: bool = True) -> None:
        """Raises DataError for a wrong question, and for a task whose halves are too small."""
        for task in (self.task, *self.others):
            self.halves(task.path)

    def parts_of(self, stage: str, parents: Sequence[str]) -> dict[str, Any]:
        """rank: the model, the task's content, the localiser with its fields, and the seed of the split."""
        values = self.canonical()
        return {key: values[key] for key in ("model", "task", "rank", "seed")}

    def halves(self, path: str | None = None) -> tuple[list[QuestionRow], list[QuestionRow]]:
        """(to rank on, to test on) of the task, or of another file. Raises DataError when a half is too small, or the
        file is not the one that the recipe was read with."""
        files = {file.path: file for file in (self.task, *self.others)}
        name = path or self.task.path
        questions = read_questions(files[name].unchanged())
        sides = [[row for row in questions if self._side(row) == side] for side in ("fit", "report")]
        if min(map(len, sides)) < FEWEST:
            raise DataError(f"{name}: its halves have {len(sides[0])} and {len(sides[1])} questions; give more rows")
        prompts = [len({row.prompt for row in side}) for side in sides]
        if min(prompts) < 2:
            raise DataError(f"{name}: its halves have questions on {prompts[0]} and {prompts[1]} prompts; an interval "
                            f"needs 2 in each, give more prompts")  # fmt: skip
        return sides[0], sides[1]

    def _side(self, row: QuestionRow) -> str:
        return split_of(canonical(row.prompt).decode(), HALVES, self.seed)

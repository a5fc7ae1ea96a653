"""BehaviourRecipe: from pairs of texts to a judged and published steering plan."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from trimtab.steering.model.tokens import PromptFormat
from trimtab.tasks.data.checks import check_data
from trimtab.tasks.data.files import packaged_digest
from trimtab.tasks.data.judging import capability_pairs, known_questions, neutral_texts, read_lexicon
from trimtab.tasks.data.prompts import form_of
from trimtab.tasks.data.sections import Data, Seed
from trimtab.tasks.recipes.base import ModelRecipe, digest_of, refuse
from trimtab.tasks.recipes.checks import check_sections
from trimtab.tasks.recipes.sections import Budget, CaptureSpec, FitSpec, JudgeSpec, Require

JUDGE = 6  # of the validate stage alone: raise it when judging computes something else; captures and vectors are kept
ROWS = ("point", "pool", "span")  # of the fit section: what it says apart from the methods


class BehaviourRecipe(ModelRecipe):
    """Collect activations of a contrast, fit vectors, dose and judge them, publish the plan."""

    FORMAT: ClassVar[int] = 1
    STAGES: ClassVar[tuple[str, ...]] = ("capture", "fit", "placebos", "validate")
    ADDED: ClassVar[tuple[tuple[str, str], ...]] = (
        ("data", "columns"),
        ("capture", "pool"),
        ("capture", "region_mb"),
        ("judge", "questions"),
    )
    OPTIONAL: ClassVar[tuple[str, ...]] = ("require",)

    kind: Literal["behaviour"] = "behaviour"
    """Always `behaviour` here; may be left out."""
    data: Data
    """The contrast that vectors are fitted on."""
    capture: CaptureSpec = CaptureSpec()
    """Which activations are collected."""
    fit: FitSpec = FitSpec()
    """The fitter with its fields, and where the plan acts."""
    budget: Budget = Budget()
    """What the plan may cost."""
    judge: JudgeSpec = JudgeSpec()
    """How the plan's effect is measured, and beside which placebos."""
    seed: Seed = 0
    """Seed of fitting and of every draw of the judge."""
    require: Require | None = None
    """What a version must show before an alias may name it; null for nothing."""

    @model_validator(mode="after")
    def _sections_agree(self) -> "BehaviourRecipe":
        refuse(list(check_sections(self.capture, self.fit)))
        return self

    @property
    def form(self) -> PromptFormat:
        """How prompts are put to the model."""
        return form_of(self.data)

    def check_files(self, judged: bool = True) -> None:
        """Raises DataError. judged: rows without a completion are refused too, since a judgement compares them."""
        check_data(self.data, self.capture.span, judged)
        _check_judge(self.judge)

    def parts_of(self, stage: str, parents: Sequence[str]) -> dict[str, Any]:
        """capture: model, data (its split too: which rows are kept may depend on it) and what is read. fit: also the
        fitters, pooling, span and seed. validate: also the budget, the judge and the packaged files it reads.
        placebos: what validate sees but the methods; parents say where their candidates act."""
        values = self.canonical()
        parts = {key: values[key] for key in ("model", "data", "capture")}
        if stage != "capture":
            parts |= {"fit": values["fit"], "seed": values["seed"]}
        if stage in ("placebos", "validate"):
            parts |= {"budget": values["budget"], "judge": values["judge"], "packaged": _packaged(self.judge)}
            parts |= {"judged_by": JUDGE}
        if stage == "placebos":
            parts |= {"fit": {key: values["fit"][key] for key in ROWS}, "acting": list(parents)}
        return parts

    @property
    def publish_key(self) -> str:
        """Key of the published plan: that of its verdict, the name, and what is required, where something is."""
        required = "" if self.require is None else f"/require/{digest_of(self.require.model_dump(mode='json'))}"
        return f"{self.stage('validate')}/publish/{self.name}{required}"


def _check_judge(judge: JudgeSpec) -> None:
    """Raises DataError when a file that the recipe names for the judge is wrong."""
    if judge.neutral is not None:
        neutral_texts(judge.neutral)
    if judge.capability is not None:
        capability_pairs(judge.capability)
    known_questions(judge.questions)
    if judge.behaviour is not None and judge.behaviour.lexicon is not None:
        read_lexicon(judge.behaviour.lexicon)


def _packaged(judge: JudgeSpec) -> dict[str, str]:
    """Digests of the packaged files that the judge reads."""
    reads = {"neutral.jsonl": judge.neutral is None, "capability.jsonl": judge.capability is None}
    reads["function_words.json"] = judge.behaviour is not None and judge.behaviour.metric == "language"
    return {name: packaged_digest(name) for name, needed in reads.items() if needed}

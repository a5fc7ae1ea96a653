"""JudgeInput: everything that a judgement needs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedModel

from trimtab.steering.errors import SteeringError
from trimtab.steering.judge.answering import ExamQuestion
from trimtab.steering.judge.behaviour import BehaviourScorer
from trimtab.steering.judge.candidates import Candidates, Refit
from trimtab.steering.judge.nulls import NoShelf, NullShelf
from trimtab.steering.judge.settings import JudgeSettings
from trimtab.steering.judge.verdict import Generation
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.calibration import check_budget
from trimtab.steering.price.response import Responses
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.contrast import Contrast


@dataclass(frozen=True, eq=False)
class Texts:
    """The texts of a judgement. select: pairs on which candidate and strength are chosen. report: pairs never seen
    before. requesting: the report pairs behind a prompt that requests the behaviour, in the same order (empty: no
    prompt baseline and no ablation). neutral: plain texts. capability: A/B items (may be empty). exam: questions with
    right answers (may be empty: then nothing is said of tokens against accuracy). fit: the pairs that the plan was
    fitted on (empty: no rival by token bias)."""

    select: Sequence[AnswerPair]
    report: Sequence[AnswerPair]
    neutral: Sequence[Tokens]
    requesting: Sequence[AnswerPair] = ()
    capability: Sequence[AnswerPair] = ()
    exam: Sequence[ExamQuestion] = ()
    fit: Sequence[AnswerPair] = ()

    def __post_init__(self) -> None:
        sizes = {"selection pairs": self.select, "report pairs": self.report, "neutral texts": self.neutral}
        for name, texts in sizes.items():
            if len(texts) < 2:
                raise SteeringError(f"a judgement with {len(texts)} {name} has no interval; give at least 2")
        if self.requesting and len(self.requesting) != len(self.report):
            raise SteeringError(
                f"{len(self.requesting)} pairs request the behaviour but {len(self.report)} report pairs do not; each "
                f"report pair needs its partner with the same completions"
            )


@dataclass(frozen=True, eq=False)
class JudgeInput:
    """What is judged. name: of the plan. candidates: plans by name, each of one site or of many; the best is chosen.
    refit: what made them, on shuffled labels; fitter_name: its name. contrast: rows at the candidates' sites, for
    placebos with their covariance. budget: nats per generated token. behaviour, decode: scorer of written text, and
    token ids to text. rivals: plans of other methods, by name, judged at the same price. request: the words that
    request the behaviour. tell: called with the first answers as soon as the dose is there, long before the verdict.
    nulls, responses: placebos and linear responses that were measured for other methods, and where this judgement's own
    are kept."""

    name: str
    model: PreTrainedModel
    candidates: Candidates
    refit: Refit
    fitter_name: str
    contrast: Contrast
    texts: Texts
    budget: float
    decode: Callable[[Sequence[int]], str]
    behaviour: BehaviourScorer | None = None
    rivals: Mapping[str, SteeringPlan] = field(default_factory=dict)
    request: str = "a system prompt that asks for the behaviour"
    settings: JudgeSettings = JudgeSettings()
    tell: Callable[[Sequence[Generation]], None] = lambda generations: None
    nulls: NullShelf = field(default_factory=NoShelf)
    responses: Responses = field(default_factory=Responses)

    def __post_init__(self) -> None:
        check_budget(self.budget)
        if not self.candidates:
            raise SteeringError(f"{self.name}: nothing to judge; give at least one candidate plan")

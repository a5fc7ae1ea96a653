"""Train a controller: a small network that reads the prompt and weighs the interventions of a plan, through the frozen
model.

    loss = -log p_steered(target)                    on prompts that want the plan, mean per token
         + KL(steered || base)                       on prompts that do not, mean per token, times `leave_alone`
         + overspent * relu(KL(steered || base) - budget)^2        on prompts that want it

The targets are what a teacher, usually the published fixed plan, answers to the wanted prompts: so the controller
learns to do what the plan does, where it is wanted, within a budget, by the cheapest mixture of blocks. Guiding Giants
(arXiv 2505.20309) trains its released controller only to tell prompts apart, and its block weights get no task signal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from trimtab.steering.conditions.fit_gate import Rates, rates_of, threshold_for
from trimtab.steering.conditions.prompts import Labelled, Splits, readings
from trimtab.steering.errors import SteeringError
from trimtab.steering.gates.base import Gate, Schedule, Seen
from trimtab.steering.gates.controlled import Controlled, Network
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.batching import pad_left
from trimtab.steering.model.divergence import kl_of_logprobs
from trimtab.steering.model.frozen import frozen
from trimtab.steering.model.site import Site
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.moves.gated import Gated
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.rollouts import roll_out
from trimtab.steering.running.progress import Progress, silent
from trimtab.steering.running.writing import Decoding

START = 0.25  # a new controller's factor for every intervention: the patch should cost the budget there


@dataclass(frozen=True)
class ControllerSettings:
    """hidden: width of the network. steps, batch, learning_rate: of Adam; half of each batch wants the plan. tokens: of
    the answers trained on. budget: nats per token on wanted prompts. leave_alone, overspent: weights of the loss.
    false_positive_rate: share of unwanted prompts that may be touched at all. pool: what is read of the prompt."""

    hidden: int = 32
    steps: int = 60
    batch: int = 8
    learning_rate: float = 0.01
    tokens: int = 16
    budget: float = 0.3
    leave_alone: float = 2.0
    overspent: float = 10.0
    false_positive_rate: float = 0.05
    pool: str = "last"
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.hidden, self.steps, self.tokens) < 1 or self.batch < 2 or not self.budget > 0:
            raise SteeringError(
                f"a controller with {self.hidden} hidden units, {self.steps} steps of {self.batch} prompts and a "
                f"budget of {self.budget} nats cannot be trained; all must be above 0, a batch at least 2"
            )


@dataclass(frozen=True)
class Step:
    """One step of the training: the loss and its parts, nats per token."""

    loss: float
    target_nll: float
    kl_wanted: float
    kl_unwanted: float


@dataclass(frozen=True, eq=False)
class ControllerFit:
    """plan: every intervention under the controller. history: of the training. rates: of prompts touched at all, on the
    report split. weights: mean weight of each intervention on wanted report prompts."""

    plan: SteeringPlan
    history: tuple[Step, ...]
    rates: Rates
    weights: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Taught:
    """patch: the plan whose interventions the controller weighs. teacher: the plan whose answers are the targets."""

    patch: SteeringPlan
    teacher: SteeringPlan


@dataclass(frozen=True, eq=False)
class _Given(Schedule):
    """A factor per row, handed in: how gradients reach the network."""

    rows: Float[Tensor, "b"]

    def factor(self, seen: Seen) -> Float[Tensor, "b s"]:
        return self.rows[:, None].expand(seen.age.shape)


def train_controller(
    model: PreTrainedModel,
    plans: Taught,
    splits: Splits,
    sites: Sequence[Site],
    settings: ControllerSettings = ControllerSettings(),
    progress: Progress = silent,
) -> ControllerFit:
    """sites: read of the clean prompt.

    Deterministic by seed on one machine. Raises SteeringError (BadRows when the validation prompts cannot promise the
    false-positive rate).
    """
    anatomy, patch = Anatomy.of(model), plans.patch
    texts = _texts(model, plans.teacher, splits.fit, settings)
    rows = _joined(anatomy, splits.fit.prompts, sites, settings.pool)
    span = _Span.of(rows)
    course = _Course(model, patch, texts, splits.fit.wanted, span.coordinates(rows))
    with frozen(model):
        learnt, history = course.run(_initial(span, len(patch.interventions), settings), settings, progress)
    network = span.unfolded(learnt)
    closed = _cut(anatomy, network, splits.validation, sites, settings)
    gates = [Controlled(network, tuple(sites), k, closed, settings.pool) for k in range(len(patch.interventions))]
    rates, weights = _held_out(anatomy, network, splits.report, gates)
    named = {str(step.site): weight for step, weight in zip(patch.interventions, weights, strict=True)}
    return ControllerFit(gated_by(patch, gates), history, rates, named)


def gated_by(plan: SteeringPlan, gates: Sequence[Gate]) -> SteeringPlan:
    """Each intervention under its own gate."""
    steps = zip(plan.interventions, gates, strict=True)
    return replace(plan, interventions=tuple(replace(step, move=Gated(step.move, gate)) for step, gate in steps))


@dataclass(frozen=True, eq=False)
class _Course:
    """texts: prompt and answer to train on. wanted: `[n]`. rows: `[n r]` coordinates of the prompts' readings."""

    model: PreTrainedModel
    patch: SteeringPlan
    texts: Sequence[Tokens]
    wanted: np.ndarray
    rows: Float[Tensor, "n r"]

    def run(self, network: Network, how: ControllerSettings, progress: Progress) -> tuple[Network, tuple[Step, ...]]:
        taught = [name for name in (f.name for f in fields(Network)) if name not in ("mean", "scale")]
        leaves = {name: getattr(network, name).clone().requires_grad_(True) for name in taught}
        learning = replace(network, **leaves)
        adam = torch.optim.Adam(list(leaves.values()), lr=how.learning_rate)
        draw, history = np.random.default_rng(how.seed), []
        for k in range(how.steps):
            progress("controller", k, how.steps)
            adam.zero_grad()
            loss, step = self._loss(learning, self._drawn(draw, how.batch), how)
            loss.backward()
            adam.step()
            history.append(step)
        progress("controller", how.steps, how.steps)
        return replace(network, **{name: leaf.detach().clone() for name, leaf in leaves.items()}), tuple(history)

    def _drawn(self, draw: np.random.Generator, batch: int) -> np.ndarray:
        yes, no = np.flatnonzero(self.wanted), np.flatnonzero(~self.wanted)
        half = batch // 2
        return np.concatenate([draw.choice(yes, half, len(yes) < half), draw.choice(no, half, len(no) < half)])

    def _loss(self, network: Network, numbers: np.ndarray, how: ControllerSettings) -> tuple[Tensor, Step]:
        scale, weights = network.scale_and_weights(self.rows[numbers])
        gates = [_Given(scale * weights[:, k]) for k in range(weights.shape[1])]
        texts, half = [self.texts[i] for i in numbers], len(numbers) // 2
        with torch.no_grad():
            base = [logits.log_softmax(-1) for logits in _answers(self.model, texts, None)]
        steered = [logits.log_softmax(-1) for logits in _answers(self.model, texts, gated_by(self.patch, gates))]
        spent = torch.stack([kl_of_logprobs(p, q).mean() for p, q in zip(steered, base, strict=True)])
        target_nll = torch.stack([_nll(p, text) for p, text in zip(steered[:half], texts, strict=False)]).mean()
        kl_wanted, kl_unwanted = spent[:half].mean(), spent[half:].mean()
        over = torch.relu(kl_wanted - how.budget) ** 2
        loss = target_nll + how.leave_alone * kl_unwanted + how.overspent * over
        return loss, Step(*(float(x.detach()) for x in (loss, target_nll, kl_wanted, kl_unwanted)))


def _answers(model: PreTrainedModel, texts: Sequence[Tokens], plan: SteeringPlan | None) -> list[Tensor]:
    """Logits that write each answer, `[n_i v]`, with gradients to whatever the plan's gates hold."""
    padded = pad_left([text.ids for text in texts], Anatomy.of(model).device)
    counts = [len(text) - text.prompt_length for text in texts]
    inputs = {"input_ids": padded.ids, "attention_mask": padded.mask, "position_ids": padded.positions}
    attached = (plan or SteeringPlan(())).on(model, prompt_lengths=[text.prompt_length for text in texts])
    with attached:
        logits = model(**inputs, use_cache=False, logits_to_keep=max(counts) + 1).logits
    return [logits[k, logits.shape[1] - 1 - n : -1].float() for k, n in enumerate(counts)]


def _nll(logprobs: Float[Tensor, "n v"], text: Tokens) -> Tensor:
    answer = torch.from_numpy(text.ids[text.prompt_length :]).to(logprobs.device)
    return -logprobs.gather(-1, answer[:, None]).mean()


def _texts(model: PreTrainedModel, teacher: SteeringPlan, fit: Labelled, settings: ControllerSettings) -> list[Tokens]:
    """The teacher's answers where the plan is wanted, the base model's own where it is not."""
    decoding = Decoding(settings.tokens, seed=settings.seed)
    plans = {True: teacher, False: None}
    written = {label: iter(roll_out(model, plan, fit.side(label), decoding)) for label, plan in plans.items()}
    return [next(written[bool(label)]) for label in fit.wanted]


def _joined(anatomy: Anatomy, prompts: Sequence[Tokens], sites: Sequence[Site], pool: str) -> Float[Tensor, "n m"]:
    rows = readings(anatomy, prompts, sites, pool)
    return torch.cat([rows[site] for site in sites], dim=-1)


@dataclass(frozen=True, eq=False)
class _Span:
    """The plane in which the readings of the training prompts lie: n prompts span at most n - 1 of m directions.

    The network is trained in coordinates of that plane. Adam moves every weight by about its rate whatever the
    gradient: over m weights, most of them about directions that no prompt shows, a step saturates the units and adds
    noise where other prompts will differ. mean, scale: `[m]`. basis: `[r m]`, orthonormal. size: of a coordinate.
    """

    mean: Float[Tensor, "m"]
    scale: Float[Tensor, "m"]
    basis: Float[Tensor, "r m"]
    size: float

    @classmethod
    def of(cls, rows: Float[Tensor, "n m"]) -> "_Span":
        mean, scale = rows.double().mean(0), rows.double().std(0).clamp(min=1e-6)
        _, singular, basis = torch.linalg.svd((rows - mean) / scale, full_matrices=False)
        spanned = singular > 1e-6 * singular[0]
        size = float((singular[spanned] ** 2).sum() / (len(rows) * int(spanned.sum()))) ** 0.5
        return cls(mean.float(), scale.float(), basis[spanned].float(), size)

    def coordinates(self, rows: Float[Tensor, "n m"]) -> Float[Tensor, "n r"]:
        """Of readings; their mean square over all training prompts and coordinates is 1."""
        return (rows - self.mean) / self.scale @ self.basis.T / self.size

    def unfolded(self, network: Network) -> Network:
        """The network over coordinates as one over readings."""
        return replace(network, mean=self.mean, scale=self.scale, hidden=network.hidden @ self.basis / self.size)


def _initial(span: _Span, outputs: int, settings: ControllerSettings) -> Network:
    """Over coordinates: near a scale and weights of one half, whatever is read: a product of START."""
    stream = torch.Generator().manual_seed(settings.seed)
    r, k = len(span.basis), settings.hidden
    return Network(
        mean=torch.zeros(r),
        scale=torch.ones(r),
        hidden=torch.randn(k, r, generator=stream) / r**0.5,
        hidden_bias=torch.zeros(k),
        out=0.1 * torch.randn(1 + outputs, k, generator=stream) / k**0.5,
        out_bias=torch.zeros(1 + outputs),
    )


def _cut(
    anatomy: Anatomy, network: Network, validation: Labelled, sites: Sequence[Site], settings: ControllerSettings
) -> float:
    """The scale at or below which the controller does nothing at all."""
    rows = _joined(anatomy, validation.prompts, sites, settings.pool)
    scale = network.scale_and_weights(rows)[0].double().numpy()
    return threshold_for(scale[~validation.wanted], settings.false_positive_rate)


def _held_out(
    anatomy: Anatomy, network: Network, report: Labelled, gates: Sequence[Controlled]
) -> tuple[Rates, list[float]]:
    rows = _joined(anatomy, report.prompts, gates[0].sites, gates[0].pool)
    scale, weights = network.scale_and_weights(rows)
    rates = rates_of(scale.double().numpy(), report.wanted, gates[0].closed)
    return rates, weights[torch.from_numpy(report.wanted)].mean(0).tolist()

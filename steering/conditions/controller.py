"""Train a controller: a small network that reads activations of the prompt and gives each intervention of a plan a
factor between 0 and 1. Only the network is trained; the gradient passes through the frozen language model.

    loss = -log p_steered(target)                    on prompts that want the plan, mean per token
         + KL(steered || base)                       on prompts that do not, mean per token, times `leave_alone`
         + overspent * relu(KL(steered || base) - budget)^2        on prompts that want it

The targets are the answers of a teacher, usually the published fixed plan, to the wanted prompts. So the controller
learns to have the plan's effect on wanted prompts, within a KL budget, and to leave other prompts unchanged. The
released controller of Guiding Giants (arXiv 2505.20309) is trained only to classify prompts, so the weights that it
gives to blocks are not trained for the behaviour.
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
from trimtab.steering.gates.base import Gate, GateInput, Schedule
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

# The factor of every intervention before training: sigmoid(0) for the scale times sigmoid(0) for the weight. Callers
# scale the patch so that it costs the budget at this factor.
START = 0.25


@dataclass(frozen=True)
class ControllerSettings:
    """Settings of the network and its training. Raises SteeringError for values that cannot be trained with.

    hidden: width of the network. steps, batch, learning_rate: of Adam; half of each batch are wanted prompts. tokens:
    length of the answers trained on. budget: KL divergence on wanted prompts, nats per token. leave_alone, overspent:
    weights in the loss (see the module). false_positive_rate: share of unwanted prompts that may be steered at all.
    pool: which tokens of the prompt are read ("last" or "mean").
    """

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
class TrainingStep:
    """One step of the training: the loss and its parts, nats per token."""

    loss: float
    target_nll: float
    kl_wanted: float
    kl_unwanted: float


@dataclass(frozen=True, eq=False)
class ControllerFit:
    """plan: every intervention under the controller. history: losses of the training, one entry per step. rates: shares
    of the report split's prompts that are steered at all. weights: by site, the mean weight of each intervention on
    wanted prompts of the report split."""

    plan: SteeringPlan
    history: tuple[TrainingStep, ...]
    rates: Rates
    weights: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Taught:
    """patch: the plan whose interventions the controller weighs. teacher: the plan whose answers are the targets."""

    patch: SteeringPlan
    teacher: SteeringPlan


@dataclass(frozen=True, eq=False)
class _Given(Schedule):
    """A schedule with the given factor per row, `[b]`; gradients flow through it to the network."""

    rows: Float[Tensor, "b"]

    def factor(self, inputs: GateInput) -> Float[Tensor, "b s"]:
        return self.rows[:, None].expand(inputs.age.shape)


def train_controller(
    model: PreTrainedModel,
    plans: Taught,
    splits: Splits,
    sites: Sequence[Site],
    settings: ControllerSettings = ControllerSettings(),
    progress: Progress = silent,
) -> ControllerFit:
    """Train a controller for `plans.patch` on the fit split, and set its threshold on the validation split.

    sites: the sites of the unsteered prompt that the controller reads. Deterministic by seed on one machine. Raises
    SteeringError, and BadRows when there are too few validation prompts to guarantee the false-positive rate.
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
    """The training loop. texts: prompt and target answer, n of them. wanted: `[n]` bool, prompts that want the plan.
    rows: `[n r]`, the prompts' activations in the coordinates of `_Span`."""

    model: PreTrainedModel
    patch: SteeringPlan
    texts: Sequence[Tokens]
    wanted: np.ndarray
    rows: Float[Tensor, "n r"]

    def run(
        self, network: Network, how: ControllerSettings, progress: Progress
    ) -> tuple[Network, tuple[TrainingStep, ...]]:
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

    def _loss(self, network: Network, numbers: np.ndarray, how: ControllerSettings) -> tuple[Tensor, TrainingStep]:
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
        return loss, TrainingStep(*(float(x.detach()) for x in (loss, target_nll, kl_wanted, kl_unwanted)))


def _answers(model: PreTrainedModel, texts: Sequence[Tokens], plan: SteeringPlan | None) -> list[Tensor]:
    """Per text, the logits `[answer tokens, v]` that predict its answer, with gradients to the plan's gates."""
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
    """The subspace spanned by the training prompts' standardised activations (principal components), of r directions:
    n prompts span at most n - 1 of the m dimensions.

    The network is trained on coordinates in this subspace. Adam moves every weight by about its learning rate, however
    small its gradient. With all m inputs, most weights would belong to directions in which the training prompts do not
    differ: a step would saturate the hidden units, and add noise for prompts that do differ there.

    mean, scale: `[m]`, for standardising. basis: `[r m]`, orthonormal rows. size: root mean square of a coordinate.
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
        """Coordinates of activations `[n m]` in the subspace, scaled to mean square 1 over the training prompts."""
        return (rows - self.mean) / self.scale @ self.basis.T / self.size

    def unfolded(self, network: Network) -> Network:
        """The same network with activations `[m]` as input in place of coordinates `[r]`."""
        return replace(network, mean=self.mean, scale=self.scale, hidden=network.hidden @ self.basis / self.size)


def _initial(span: _Span, outputs: int, settings: ControllerSettings) -> Network:
    """An untrained network over coordinates. Its scale and weights are near one half for every input, so that their
    product, the factor of an intervention, is near START."""
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
    """The threshold: a prompt whose scale is at or below it is not steered at all."""
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

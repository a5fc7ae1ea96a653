"""Relevance rules: change the backward pass and keep the forward pass, so that gradients become layer-wise relevance
propagation.

Each rule replaces the derivative of a non-linear step by a slope for which output = slope x input. Relevance that
arrives at the output is then divided among the inputs (and biases):

    norm        x / rms(x): the scale is treated as a constant (centring, where there is one, stays)
    activation  act(x): the slope is act(x) / x (ReLU needs no rule: its derivative is that already)
    half        act(gate) * up: half of the relevance goes to each factor
    attention   the pattern is treated as a constant: relevance flows through the values only

Forward values are bit-identical, except that `attention` computes attention without a fused kernel (see
model/attention.py). Source: Jafari et al. 2025 (RelP), rules LN, Identity, Half and AH there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.steering.errors import SilentNoOp, UnknownName, UnsupportedModel
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.attention import Look, attending
from trimtab.steering.model.hooks import hooked, rewired
from trimtab.steering.model.norms import NormForm, scaled_form
from trimtab.steering.model.site import Site

RULES = ("norm", "activation", "half", "attention")
STABLE = 1e-6  # smallest |x| an activation is divided by


@contextmanager
def relevance_rules(anatomy: Anatomy, rules: Sequence[str]) -> Iterator[None]:
    """While the block runs, backward passes follow the rules. Raises UnknownName, UnsupportedModel when this family has
    no step that a rule applies to, SilentNoOp when a rule's step never ran."""
    for name in rules:
        if name not in RULES:
            raise UnknownName("relevance rule", name, RULES)
    fired = dict.fromkeys(rules, 0)

    def counted(name: str, rule: Callable[..., Any]) -> Callable[..., Any]:
        def run(*tensors: Any) -> Any:
            fired[name] += 1
            return rule(*tensors)

        return run

    expected = [name for name in rules if _places(anatomy, name)]
    with ExitStack() as stack:
        for name in expected:
            stack.enter_context(_acting(anatomy, name, counted))
        yield
    idle = [name for name in expected if not fired[name]]
    if idle:
        raise SilentNoOp(f"relevance rules {', '.join(idle)} never acted: no pass of the model ran under them")


def _places(anatomy: Anatomy, rule: str) -> Sequence[object]:
    """The modules that a rule applies to in this family; none where all activations are ReLU, or where the MLP has no
    product of gate and up."""
    if rule == "norm":
        return anatomy.norms
    if rule == "activation":
        return _activations(anatomy)
    return anatomy.blocks if rule == "attention" else _neurons(anatomy)


def _acting(
    anatomy: Anatomy, rule: str, counted: Callable[[str, Callable[..., Any]], Callable[..., Any]]
) -> AbstractContextManager[None]:
    if rule == "norm":
        return rewired([(module, counted(rule, _NormRule(module))) for module in anatomy.norms])
    if rule == "activation":
        return rewired([(module, counted(rule, _as_product)) for module in _activations(anatomy)])
    if rule == "half":
        return hooked(anatomy, edits=[(site, counted(rule, _half)) for site in _neurons(anatomy)])
    return attending(anatomy, counted(rule, _constant))


def _activations(anatomy: Anatomy) -> list[nn.Module]:
    """The activation functions other than ReLU, whose derivative is act(x) / x already."""
    if not anatomy.activation_functions:
        raise UnsupportedModel(
            f"{anatomy.text_config.model_type} has no activation modules in its blocks, so the activation rule cannot "
            f"act; leave it out of the rules"
        )
    return [module for module in anatomy.activation_functions if not isinstance(module, nn.ReLU)]


def _neurons(anatomy: Anatomy) -> tuple[Site, ...]:
    """The MLP sites whose neurons are a product act(gate) * up: those of every block, or none."""
    if anatomy.gated_mlp is None:
        raise UnsupportedModel(
            f"{anatomy.text_config.model_type} routes tokens to experts, whose products pass no module: the half rule "
            f"cannot act; leave it out of the rules"
        )
    return anatomy.sites(["mlp_post"]) if anatomy.gated_mlp else ()


class _NormRule:
    """The norm's value with the slope of its scaled form, which the first pass shows."""

    def __init__(self, norm: nn.Module):
        self._norm = norm
        self._form: NormForm | None = None

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        if self._form is None:
            self._form = scaled_form(self._norm, x, y)
        return _with_slope_of(self._form(x, y), y)


def _as_product(x: Tensor, y: Tensor) -> Tensor:
    safe = torch.where(x.abs() < STABLE, torch.where(x < 0, -STABLE, STABLE).to(x.dtype), x)
    return _with_slope_of(x * (y / safe).detach(), y)


def _with_slope_of(slope: Tensor, y: Tensor) -> Tensor:
    """A tensor with the value of y, bit for bit, and the gradient of `slope`."""
    return y.detach() + (slope - slope.detach())


def _half(neurons: Tensor) -> Tensor:
    half = neurons / 2
    return half + half.detach()


def _constant(look: Look) -> Tensor:
    return look.pattern.detach()

"""Relevance rules: another backward pass for the same forward pass (layer-wise relevance propagation as gradients).

Each rule replaces the slope of a non-linear step by what makes the step's output equal slope x input, so that what
arrives at the output is shared out among the inputs:
    norm        x / rms(x): the scale is a constant (centring, where there is one, stays)
    activation  act(x): the slope is act(x) / x (not for ReLU, where it is that already)
    half        act(gate) * up: half of the relevance to each factor
    attention   the pattern is a constant: relevance flows through the values alone
Values are unchanged to the bit; only `attention` computes attention in the open (see model/attention.py).
Source: Jafari et al. 2025 (RelP), rules LN, Identity, Half and AH there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from torch import Tensor, nn

from trimtab.steering.errors import SilentNoOp, UnknownName, UnsupportedModel
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.attention import Look, attending
from trimtab.steering.model.hooks import Rewire, hooked, rewired

RULES = ("norm", "activation", "half", "attention")
STABLE = 1e-6  # smallest |x| an activation is divided by


@contextmanager
def relevance_rules(anatomy: Anatomy, rules: Sequence[str]) -> Iterator[None]:
    """While the block runs, backward passes follow the rules. Raises UnknownName, UnsupportedModel when a rule has
    nothing to act on in this family, SilentNoOp when a rule's step never ran."""
    for name in rules:
        if name not in RULES:
            raise UnknownName("relevance rule", name, RULES)
    fired = dict.fromkeys(rules, 0)

    def counted(name: str, rule: Callable) -> Callable:
        def run(*given):
            fired[name] += 1
            return rule(*given)

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
    """What a rule acts on in this family: nothing where all activations are ReLU, or the neurons are no product."""
    if rule == "norm":
        return norms(anatomy)
    if rule == "activation":
        return activations_of(anatomy)
    return anatomy.blocks if rule == "attention" or gated_mlp(anatomy) else ()


def _acting(anatomy: Anatomy, rule: str, counted: Callable[[str, Callable], Callable]) -> AbstractContextManager:
    if rule == "norm":
        return rewired([(module, counted(rule, _NormRule(module))) for module in norms(anatomy)])
    if rule == "activation":
        return rewired([(module, counted(rule, _as_product)) for module in activations_of(anatomy)])
    if rule == "half":
        return hooked(anatomy, edits=[(site, counted(rule, _half)) for site in anatomy.sites(["mlp_post"])])
    return attending(anatomy, counted(rule, _constant))


def norms(anatomy: Anatomy) -> list[nn.Module]:
    """Every norm of the model: before and behind the parts of a block, inside attention, and the final one."""
    return [m for m in anatomy.base.modules() if type(m).__name__.endswith("Norm") and not list(m.children())]


def activations_of(anatomy: Anatomy) -> list[nn.Module]:
    """The MLPs' activation modules, ReLU left out. Raises UnsupportedModel when there are none at all."""
    kinds = (nn.ReLU, nn.SiLU, nn.GELU, nn.Tanh, nn.Sigmoid)
    found = [
        m
        for block in anatomy.blocks
        for m in block.modules()
        if isinstance(m, kinds) or type(m).__module__ == "transformers.activations"
    ]
    if not found:
        raise UnsupportedModel(
            f"{anatomy.text_config.model_type} has no activation modules in its blocks, so the activation rule cannot "
            f"act; leave it out of the rules"
        )
    return [m for m in dict.fromkeys(found) if not isinstance(m, nn.ReLU)]


def gated_mlp(anatomy: Anatomy) -> bool:
    """Whether the neurons are a product act(gate) * up. Raises UnsupportedModel for experts, which have no one place
    where the product passes."""
    path = anatomy.family.down_proj
    if path is None:
        raise UnsupportedModel(
            f"{anatomy.text_config.model_type} routes tokens to experts, whose products pass no module: the half rule "
            f"cannot act; leave it out of the rules"
        )
    mlp = anatomy.blocks[0].get_submodule(path.rpartition(".")[0])
    return any("gate" in name for name, _ in mlp.named_children())


class _NormRule:
    """`y = scale(x) w (x - mean)`: found by trying the forms that exist, and proved on the first pass."""

    def __init__(self, module: nn.Module):
        self._module = module
        self._form: Rewire | None = None

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        if self._form is None:
            self._form = self._proved(x, y)
        return _with_slope_of(self._form(x, y), y)

    def _proved(self, x: Tensor, y: Tensor) -> Rewire:
        bias = getattr(self._module, "bias", None)
        want = (y if bias is None else y - bias).detach().float()
        for form in self._forms():
            got = form(x, y).detach().float()
            if (got - want).abs().max() <= _tolerance(y.dtype) * want.abs().max():
                return form
        raise UnsupportedModel(
            f"{type(self._module).__name__} is neither of the norms the rule knows (root mean square or layer norm, "
            f"with weight w, 1 + w or none); leave 'norm' out of the rules"
        )

    def _forms(self) -> Iterator[Rewire]:
        weight = getattr(self._module, "weight", None)
        weights = [None] if weight is None else [weight, 1.0 + weight]
        named = ("variance_epsilon", "eps")
        eps = next((float(getattr(self._module, name)) for name in named if hasattr(self._module, name)), 1e-5)
        for centred in (False, True):
            for w in weights:
                yield _scaled(w, eps, centred)


def _scaled(weight: Tensor | None, eps: float, centred: bool) -> Rewire:
    def form(x: Tensor, y: Tensor) -> Tensor:
        wide = x.float()
        wide = wide - wide.mean(-1, keepdim=True) if centred else wide
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps).detach()
        return (wide * scale * (1.0 if weight is None else weight.detach().float())).to(y.dtype)

    return form


def _as_product(x: Tensor, y: Tensor) -> Tensor:
    safe = torch.where(x.abs() < STABLE, torch.where(x < 0, -STABLE, STABLE).to(x.dtype), x)
    return _with_slope_of(x * (y / safe).detach(), y)


def _with_slope_of(slope: Tensor, y: Tensor) -> Tensor:
    """The value of y to the bit, the gradient of `slope`."""
    return y.detach() + (slope - slope.detach())


def _half(neurons: Tensor) -> Tensor:
    half = neurons / 2
    return half + half.detach()


def _constant(look: Look) -> Tensor:
    return look.pattern.detach()


def _tolerance(dtype: torch.dtype) -> float:
    return {torch.bfloat16: 2e-2, torch.float16: 3e-3}.get(dtype, 1e-4)

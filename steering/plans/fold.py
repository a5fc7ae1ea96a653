"""Fold: a plan as weights. Exact, from `affine()` and the family's row alone, or a refusal that says why.

A projection computes `y = x W + c`. An affine displacement `M h + b` at strength s, on its input (`z`, `mlp_post`),
makes `W <- (1 + s M)^T W` and `c <- c + s b W`; on its output (`attn_out`, `mlp_out`), `W <- W (1 + s M)^T` and
`c <- c (1 + s M)^T + s b`. A constant at `resid_mid`/`resid_post` is the same constant at `attn_out`/`mlp_out`,
since the skip path adds the rest; anything else at the residual is not: the skip path carries what it would change.

What is folded can be saved: where a constant needs a bias, the configuration's switch for biases is turned on, so that
every loader makes the place for it; families without such a switch fold in memory alone, when asked to.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.steering.errors import CannotFold
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.bias_places import BiasPlaces, bias_places
from trimtab.steering.model.projection import is_plain, out_weight
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import ALL
from trimtab.steering.moves.base import AffineMap
from trimtab.steering.moves.gated import Gated
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan


@dataclass(frozen=True, eq=False)
class Change:
    """One projection with its new weights, in the layout and dtype of the module.

    path: dotted, from the causal-LM model. new_bias: the module had none; `bias_places` says whether a checkpoint can
    hold one.
    """

    path: str
    weight: Tensor
    bias: Tensor | None
    new_bias: bool


@dataclass(frozen=True, eq=False)
class _Linear:
    """`y = x weight + bias` in float64, so that many folds round once. weight `[d_in d_out]`, bias `[d_out]`."""

    weight: Float[Tensor, "i o"]
    bias: Float[Tensor, "o"]


def fold(plan: SteeringPlan, model: PreTrainedModel, in_memory: bool = False) -> PreTrainedModel:
    """A copy of the model with the plan in its weights: it answers as the model does under the plan, within the
    rounding of its dtype, without hooks; also once saved, and loaded by anyone.

    in_memory: fold constants also where checkpoints of this family have no place for a bias (mistral, qwen2, phi3);
    saving such a copy is an error. Raises CannotFold, and BadPlan or BadSite when the plan does not fit.
    """
    changes = fold_changes(plan, model)
    places = None if in_memory else _places(plan, model, changes)
    folded = copy.deepcopy(model)
    for change in changes:
        module = folded.get_submodule(change.path)
        learns = bool(module.weight.requires_grad)
        module.weight = nn.Parameter(change.weight, requires_grad=learns)
        if change.bias is not None:
            module.bias = nn.Parameter(change.bias, requires_grad=learns)
    return _saveable(folded, places)


def fold_changes(plan: SteeringPlan, model: PreTrainedModel) -> tuple[Change, ...]:
    """What `fold` changes, without changing it. Raises like `fold`, but for biases that no checkpoint holds."""
    if "generate" in vars(model):
        raise CannotFold("a plan is attached to this model, and a copy would keep its hooks; fold outside the `with`")
    anatomy = Anatomy.of(model)
    if anatomy.model is not model:
        raise CannotFold(
            f"{type(model).__name__} wraps the {type(anatomy.model).__name__} that would be folded, and saves "
            f"something else; fold the model inside it (an adapter is merged into it first: `merge_and_unload()`)"
        )
    plan.check(anatomy)
    work: dict[str, _Linear] = {}
    for step in [_as_sublayer(step, anatomy) for step in _in_order(plan)]:
        path = _projection(step.site, anatomy)
        before = work[path] if path in work else _read(path, model)
        work[path] = _applied(before, step, anatomy)
    return tuple(_written(path, linear, model) for path, linear in work.items())


def _places(plan: SteeringPlan, model: PreTrainedModel, changes: Sequence[Change]) -> BiasPlaces:
    try:
        return bias_places(model, [f"{change.path}.bias" for change in changes if change.new_bias])
    except CannotFold as error:
        sites = ", ".join(str(step.site) for step in plan.interventions if step.strength)
        raise CannotFold(
            f"{sites}: {error}. Keep the plan beside the model, or `fold(plan, model, in_memory=True)` for a copy that "
            f"is never saved"
        ) from None


def _saveable(folded: PreTrainedModel, places: BiasPlaces | None) -> PreTrainedModel:
    """With places for its biases, or else with a `save_pretrained` that refuses."""
    vars(folded).pop("save_pretrained", None)
    try:
        (places or bias_places(folded)).give(folded)
    except CannotFold as error:
        vars(folded)["save_pretrained"] = partial(_refuse_to_save, f"this model was folded in memory: {error}")
    return folded


def _refuse_to_save(why: str, *args: object, **options: object) -> None:
    """Stands in for `save_pretrained`, whatever it is called with."""
    raise CannotFold(f"{why}. Save the model and the plan apart")


def _as_sublayer(step: Intervention, anatomy: Anatomy) -> Intervention:
    """The same intervention at the sublayer that can hold it. Raises CannotFold when there is none."""
    _check_everywhere(step)
    site, family = step.site, anatomy.family
    if site.point in ("embed", "resid_pre") and not site.block:
        raise CannotFold(f"{site}: no projection writes there, only the embedding, which is often also the unembedding")
    if site.point.startswith("resid"):
        step = _constant_in_sublayer(step)
    if step.site.point in ("attn_out", "mlp_out") and family.post_norm:
        raise CannotFold(
            f"{site}: {anatomy.text_config.model_type} normalises between the projection and the residual, so no "
            f"weight holds it; z and mlp_post fold"
        )
    if step.site.point == "mlp_out" and family.down_proj is None:
        raise CannotFold(f"{site}: the MLP is a mixture of experts, no one projection writes it; z and attn_out fold")
    return step


def _check_everywhere(step: Intervention) -> None:
    if step.span != ALL:
        raise CannotFold(f"{step.site}: weights act on every token, this intervention only on span '{step.span}'")
    if isinstance(step.move, Gated):
        raise CannotFold(
            f"{step.site}: Gated is not an affine map of its input, a weight is; a gate decides on each prompt. Fold "
            f"the plan without its gate"
        )
    if step.move.affine() is None:
        raise CannotFold(f"{step.site}: {type(step.move).__name__} is not an affine map of its input, a weight is")


def _constant_in_sublayer(step: Intervention) -> Intervention:
    """resid_mid.b -> attn_out.b, resid_post.b -> mlp_out.b, resid_pre.b -> mlp_out.(b-1)."""
    affine, site = step.move.affine(), step.site
    if affine is None or not affine.constant:
        raise CannotFold(
            f"{site}: {type(step.move).__name__} depends on the residual, which the skip path carries past every "
            f"projection; only a constant (Add) folds there. For a map, intervene at attn_out and mlp_out"
        )
    block = int(site.block or 0)
    if site.point == "resid_mid":
        return replace(step, site=Site("attn_out", block))
    return replace(step, site=Site("mlp_out", block - (site.point == "resid_pre")))


def _in_order(plan: SteeringPlan) -> list[Intervention]:
    """Order in which weights must change to act as hooks do. Hooks on one input run in the plan's order, so the last
    is nearest to the weight and folds first. The residual is added to behind its sublayers, so constants at resid_mid
    come after every map at attn_out, those at resid_pre and resid_post after every map at mlp_out."""
    active = [step for step in plan.interventions if step.strength]
    inputs = [step for step in active if step.site.point in ("z", "mlp_post")]
    outputs = [step for step in active if step.site.point not in ("z", "mlp_post")]
    return inputs[::-1] + sorted(outputs, key=lambda step: step.site.point.startswith("resid"))


def _projection(site: Site, anatomy: Anatomy) -> str:
    part = anatomy.family.out_proj if site.point in ("z", "attn_out") else anatomy.family.down_proj
    return f"{anatomy.family.blocks}.{site.block}.{part}"


def _read(path: str, model: PreTrainedModel) -> _Linear:
    module = model.get_submodule(path)
    if not is_plain(module):
        raise CannotFold(
            f"{path} is a {type(module).__name__}: only plain Linear and Conv1D weights are edited (merge an "
            f"adapter first, load quantised weights in full)"
        )
    weight = out_weight(module).detach().double()
    stored: Tensor | None = module.bias  # type: ignore[assignment]
    bias = torch.zeros_like(weight[0]) if stored is None else stored.detach().double()
    return _Linear(weight, bias)


def _applied(linear: _Linear, step: Intervention, anatomy: Anatomy) -> _Linear:
    move = step.move.affine()
    assert move is not None, "checked in _check_everywhere"
    rows = slice(None)
    if step.site.head is not None:
        rows = slice(step.site.head * anatomy.d_head, (step.site.head + 1) * anatomy.d_head)
    step_map = _on(move.widened(anatomy.width(step.site)), linear.weight)
    if step.site.point in ("z", "mlp_post"):
        return _on_input(linear, step_map, step.strength, rows)
    weight = linear.weight + step.strength * _times(linear.weight, step_map)
    constant = step_map.bias / anatomy.place(step.site).factor  # the projection's output is multiplied behind it
    bias = linear.bias + step.strength * (_times(linear.bias, step_map) + constant)
    return _Linear(weight, bias)


def _on_input(linear: _Linear, move: AffineMap, strength: float, rows: slice) -> _Linear:
    weight = linear.weight.clone()
    old = linear.weight[rows]
    change = torch.zeros_like(old) if move.diagonal is None else move.diagonal[:, None] * old
    if move.left is not None and move.right is not None:
        change = change + move.right @ (move.left.T @ old)
    weight[rows] = old + strength * change
    return _Linear(weight, linear.bias + strength * move.bias @ old)


def _times(y: Float[Tensor, "... o"], move: AffineMap) -> Float[Tensor, "... o"]:
    """The linear part of the displacement of rows y."""
    moved = torch.zeros_like(y) if move.diagonal is None else y * move.diagonal
    return moved if move.left is None or move.right is None else moved + (y @ move.right) @ move.left.T


def _on(move: AffineMap, like: Tensor) -> AffineMap:
    def cast(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.to(like)

    return AffineMap(move.bias.to(like), cast(move.left), cast(move.right), cast(move.diagonal))


def _written(path: str, linear: _Linear, model: PreTrainedModel) -> Change:
    module = model.get_submodule(path)
    old: Tensor = module.weight  # type: ignore[assignment]
    weight = linear.weight.T if isinstance(module, nn.Linear) else linear.weight
    bias = None if module.bias is None and not linear.bias.any() else linear.bias.to(old.dtype)
    return Change(path, weight.to(old.dtype).contiguous(), bias, module.bias is None and bias is not None)

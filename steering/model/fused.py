"""Sites of a model that an inference engine has built itself, in place of transformers.

vLLM's blocks do not add up the residual stream: each hands on a pair `(hidden, residual)` whose sum it is, and the next
norm adds them. Tokens of all requests stand in one axis, `[t d]`. vLLM can also run transformers' own blocks, which
return one tensor `[1 t d]`; both are read here.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.steering.errors import UnsupportedModel
from trimtab.steering.model.hooks import Edit, changed, on_head
from trimtab.steering.model.outline import Outline
from trimtab.steering.model.proof import TOLERANCE
from trimtab.steering.model.site import Site

POINTS = ("resid_pre", "resid_post", "z")  # where edits can act


@dataclass(frozen=True, eq=False)
class FusedLayout:
    """The engine's module tree, and the outline of the model that it runs."""

    model: nn.Module
    outline: Outline

    @cached_property
    def blocks(self) -> Sequence[nn.Module]:
        """Raises UnsupportedModel when the blocks are not where the family's row says, or not as many."""
        row = self.outline.family.blocks
        for path in (row, f"model.{row.partition('.')[2]}"):  # without the name of transformers' own outer class
            try:
                blocks = list(self.model.get_submodule(path).children())
            except AttributeError:
                continue
            if len(blocks) == self.outline.n_layers:
                return blocks
        raise UnsupportedModel(
            f"{type(self.model).__name__} has no {self.outline.n_layers} blocks at '{row}', so its sites are unknown"
        )

    @contextmanager
    def edited(self, site: Site, edit: Edit) -> Iterator[None]:
        """While the block runs, what passes at the site is edited. edit: from `[1 t d]` to the same shape."""
        with self._hooked(site, edit):
            yield

    def passes_ended(self, ended: Callable[[], None]) -> AbstractContextManager[None]:
        """While the block runs, `ended` after every pass."""
        return changed(self.model, after=lambda output: ended())

    def passes_begin(self, began: Callable[[], None]) -> AbstractContextManager[None]:
        """While the block runs, `began` before every pass."""
        return changed(self.model, before=lambda args, named: began())

    def prove(self, run: Callable[[], object]) -> None:
        """That every block adds to the stream what its attention and its MLP give, and that `z` has the width of all
        heads. run: a pass of any tokens. Raises UnsupportedModel naming what does not hold."""
        sums_by_block = [_Sums() for _ in self.blocks]
        with ExitStack() as stack:
            for block, sums in enumerate(sums_by_block):
                self._read(block, sums, stack)
            run()
        for block, sums in enumerate(sums_by_block):
            self._check_sums(block, sums)

    def _hooked(self, site: Site, edit: Edit) -> AbstractContextManager[None]:
        block = self.blocks[site.block or 0]
        if site.point == "resid_pre":
            return changed(block, before=_entering(block, edit))
        if site.point == "resid_post":
            return changed(block, after=lambda output: _leaving(output, edit))
        head = on_head(edit, site, self.outline.d_head)
        return changed(self._part(block, "out_proj"), before=lambda args, named: _first(args, named, head))

    def _part(self, block: nn.Module, name: str) -> nn.Module:
        path = getattr(self.outline.family, name)
        try:
            return block.get_submodule(path)
        except AttributeError:
            raise UnsupportedModel(
                f"{type(block).__name__} has no '{path}', which the row of '{self.outline.model_type}' names"
            ) from None

    def _read(self, block: int, sums: "_Sums", stack: ExitStack) -> None:
        def keep(name: str) -> Edit:
            def read(h: Tensor) -> Tensor:
                setattr(sums, name, h.detach().clone())
                return h

            return read

        for point in POINTS:
            stack.enter_context(self._hooked(Site(point, block), keep(point)))  # type: ignore[arg-type]
        for name in ("attn_added", "mlp_added"):
            part = self._part(self.blocks[block], name)
            stack.enter_context(changed(part, after=partial(_read_first, keep(name))))

    def _check_sums(self, block: int, sums: "_Sums") -> None:
        missing = [name for name, tensor in vars(sums).items() if tensor is None]
        width = self.outline.width(Site("z", block))
        if missing:
            raise UnsupportedModel(f"{', '.join(missing)} of block {block} did not run")
        if sums.z.shape[-1] != width:  # type: ignore[union-attr]
            raise UnsupportedModel(f"z.{block} is {sums.z.shape[-1]} wide where {width} are claimed")  # type: ignore
        want = sums.resid_pre + sums.attn_added + sums.mlp_added  # type: ignore[operator]
        off = (sums.resid_post.float() - want.float()).abs().max().item()  # type: ignore[union-attr]
        if not off <= TOLERANCE[want.dtype] * max(want.abs().max().item(), 1e-6):
            raise UnsupportedModel(f"resid_post.{block} is not resid_pre + attn_out + mlp_out: off by {off:.3g}")


@dataclass
class _Sums:
    """What one block read, gave and added, `[1 t d]` each."""

    resid_pre: Tensor | None = None
    resid_post: Tensor | None = None
    z: Tensor | None = None
    attn_added: Tensor | None = None
    mlp_added: Tensor | None = None


def _entering(block: nn.Module, edit: Edit) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
    signature = inspect.signature(block.forward)

    def before(args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        call = signature.bind(*args, **named)
        stream = (call.arguments["hidden_states"], call.arguments.get("residual"))
        edited = _edited(*stream, edit)
        if edited is None:
            return None
        call.arguments["hidden_states"] = edited[0]
        if stream[1] is not None:
            call.arguments["residual"] = edited[1]
        return call.args, call.kwargs

    return before


def _leaving(output: Any, edit: Edit) -> Any:
    if not isinstance(output, tuple):
        edited = _edited(output, None, edit)
        return None if edited is None else edited[0]
    fused = len(output) > 1 and isinstance(output[1], Tensor) and output[1].shape == output[0].shape
    edited = _edited(output[0], output[1] if fused else None, edit)
    if edited is None:
        return None
    return (*edited, *output[2:]) if fused else (edited[0], *output[1:])


def _edited(hidden: Tensor, residual: Tensor | None, edit: Edit) -> tuple[Tensor, Tensor | None] | None:
    """Where the stream was edited, the pair is (edited, 0), whose sum is exact; elsewhere it is what it was, to the
    bit. None when nothing was."""
    stream = hidden if residual is None else hidden + residual
    flat = stream.reshape(1, -1, stream.shape[-1])
    edited = edit(flat)
    if edited is flat:
        return None
    edited = edited.reshape(stream.shape)
    if residual is None:
        return edited, None
    same = (edited == stream).all(-1, keepdim=True)
    return torch.where(same, hidden, edited), torch.where(same, residual, 0)


def _first(args: tuple[Any, ...], named: dict[str, Any], edit: Edit) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Of a projection, which takes one tensor, by place or by name."""
    name = None if args else next(iter(named))
    x = args[0] if name is None else named[name]
    edited = _edited(x, None, edit)
    if edited is None:
        return None
    return ((edited[0], *args[1:]), named) if name is None else (args, {**named, name: edited[0]})


def _read_first(read: Edit, output: Any) -> None:
    first = output[0] if isinstance(output, tuple) else output
    read(first.reshape(1, -1, first.shape[-1]))

"""The only file that registers hooks on a model. Every hook is removed when its `with` block ends, also after an error.

Edits and reads are given per Site; an edit returns the new tensor, a read returns nothing. Tensors arrive as
`[b s d]` (z with all heads concatenated, `[b s n_heads*d_head]`; a single head as its slice `[b s d_head]`), whatever
shape the family uses inside.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trimtab.steering.model.doubling import Combine, Doubling
from trimtab.steering.model.layout import Layout
from trimtab.steering.model.site import Site

Edit = Callable[[Tensor], Tensor]
Read = Callable[[Tensor], None]
Watch = Callable[[Mapping[str, Any]], None]
AddHandle = Callable[[RemovableHandle], None]
Rewire = Callable[[Tensor, Tensor], Tensor]
Before = Callable[[tuple[Any, ...], dict[str, Any]], Any]
After = Callable[[Any], Any]


class StopForward(Exception):
    """Raised by a read to end a forward pass after the deepest site asked for."""


@contextmanager
def hooked(
    anatomy: Layout,
    edits: Sequence[tuple[Site, Edit]] = (),
    reads: Sequence[tuple[Site, Read]] = (),
    watch: Watch | None = None,
) -> Iterator[None]:
    """Edit and read at sites while the block runs; `watch` sees the keyword arguments of each forward pass first.

    Edits at one site run in the order given, sites in the order of the computation, reads after the edits. All hooks
    are removed afterwards, also when registering one fails.
    """
    with ExitStack() as stack:
        shape = _Shape()

        def add(handle: RemovableHandle) -> None:
            stack.callback(handle.remove)

        add(anatomy.base.register_forward_pre_hook(_watcher(shape, watch), with_kwargs=True))
        for site, edit in sorted(edits, key=lambda entry: entry[0].point == "resid_mid"):
            _register_edit(anatomy, site, edit, shape, add)
        for site, read in reads:
            _register_edit(anatomy, site, _reading(read), shape, add, reading=True)
        yield


@contextmanager
def calls_watched(
    anatomy: Layout, began: Callable[[], None], passed: Callable[[Any], None], ended: Callable[[], None]
) -> Iterator[None]:
    """While the block runs, `began` before and `ended` after every call of the whole model, and `passed` with the
    output of its base model when that has run. A model that was compiled before these hooks were registered calls only
    hooks on the outermost modules, which is why this one uses no others."""
    with ExitStack() as stack:
        stack.callback(anatomy.model.register_forward_pre_hook(lambda module, args: began()).remove)
        stack.callback(anatomy.base.register_forward_hook(lambda module, args, output: passed(output)).remove)
        stack.callback(anatomy.model.register_forward_hook(lambda module, args, output: ended()).remove)
        yield


@contextmanager
def passes_watched(anatomy: Layout, began: Watch) -> Iterator[None]:
    """While the block runs, `began` sees the keyword arguments of every pass of the base model before it runs."""
    handle = anatomy.base.register_forward_pre_hook(_watcher(_Shape(), began), with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def changed(module: nn.Module, before: Before | None = None, after: After | None = None) -> Iterator[None]:
    """While the block runs, `before` sees a module's positional and named arguments and returns others in their place,
    and `after` does so with its output; None leaves them."""
    with ExitStack() as stack:
        if before is not None:
            hook = _before(before)
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        if after is not None:
            stack.callback(module.register_forward_hook(lambda module, args, output: after(output)).remove)
        yield


@contextmanager
def doubled(model: nn.Module, combine: Combine) -> Iterator[None]:
    """While the block runs, every forward pass of `model` carries each row twice: `model/doubling.py`."""
    rows = Doubling(model, combine)
    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(rows.twice, with_kwargs=True).remove)
        stack.callback(model.register_forward_hook(rows.once).remove)
        yield


@contextmanager
def rewired(rules: Sequence[tuple[nn.Module, Rewire]]) -> Iterator[None]:
    """While the block runs, each module returns `rewire(x, y)`, x its first input and y its output. For rules that keep
    the forward values and change only the gradients."""
    with ExitStack() as stack:
        for module, rewire in rules:
            stack.callback(module.register_forward_hook(_rewiring(rewire)).remove)
        yield


def _before(change: Before) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return change(args, kwargs)

    return hook


def _rewiring(rewire: Rewire) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return rewire(args[0], output)

    return hook


class _Shape(threading.local):
    """Batch and token count of the forward pass that this thread runs: OPT flattens both into one axis in a block."""

    batch, tokens = 0, 0

    def restore(self, h: Tensor) -> Tensor:
        return h if h.ndim == 3 else h.reshape(self.batch, self.tokens, -1)


def _watcher(shape: _Shape, watch: Watch | None) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = ("input_ids",)
        arguments = {**dict(zip(names, args, strict=False)), **kwargs}
        inputs = arguments["input_ids"] if arguments.get("input_ids") is not None else arguments["inputs_embeds"]
        shape.batch, shape.tokens = inputs.shape[:2]
        if watch is not None:
            watch(arguments)

    return hook


def _reading(read: Read) -> Edit:
    def edit(h: Tensor) -> Tensor:
        read(h)
        return h

    return edit


def _handing_on_a_copy(edit: Edit) -> Edit:
    """So that the block may add to what it gets, and what was read stays as it was read."""
    return lambda h: edit(h).clone()


def _register_edit(
    anatomy: Layout, site: Site, edit: Edit, shape: _Shape, add: AddHandle, reading: bool = False
) -> None:
    if site.point == "resid_mid" and not reading:
        _register_mid_edit(anatomy, site, edit, shape, add)
        return
    place = anatomy.place(site)
    change = _shaped(on_head(edit, site, anatomy.d_head), shape)
    if anatomy.family.in_place:
        change = _handing_on_a_copy(change)
    if place.side == "in":
        add(place.module.register_forward_pre_hook(_input_hook(change), with_kwargs=True))
    else:
        add(place.module.register_forward_hook(_output_hook(_multiplied(change, place.factor))))


def _register_mid_edit(anatomy: Layout, site: Site, edit: Edit, shape: _Shape, add: AddHandle) -> None:
    """Edit resid_mid = resid_pre + attn_out, a sum that no module outputs.

    The change that the edit makes is added to attn_out, so that the MLP and the skip path both see it. Editing the
    input of the next norm instead would change only what the MLP reads. This hook is registered after all other edits:
    the resid_pre and attn_out that it adds up are the edited ones.
    """
    here = threading.local()

    def keep(h: Tensor) -> Tensor:
        here.resid_pre = h
        return h

    def change(attn_out: Tensor) -> Tensor:
        mid = here.resid_pre + attn_out
        edited = edit(mid)
        return attn_out if edited is mid else attn_out + (edited - mid)

    anatomy.check(site)
    block = anatomy.blocks[site.block or 0]
    add(block.register_forward_pre_hook(_input_hook(keep), with_kwargs=True))
    attn_out = anatomy.place(Site("attn_out", site.block))
    add(attn_out.module.register_forward_hook(_output_hook(_multiplied(_shaped(change, shape), attn_out.factor))))


def on_head(edit: Edit, site: Site, d_head: int) -> Edit:
    """The edit on one head's slice of `z`, when the site names a head."""
    if site.head is None:
        return edit
    start = site.head * d_head

    def one_head(z: Tensor) -> Tensor:
        head = z[..., start : start + d_head]
        edited = edit(head)
        if edited is head:
            return z
        return torch.cat([z[..., :start], edited, z[..., start + d_head :]], dim=-1)

    return one_head


def _shaped(edit: Edit, shape: _Shape) -> Edit:
    def change(h: Tensor) -> Tensor:
        full = shape.restore(h)
        edited = edit(full)
        return h if edited is full else edited.reshape(h.shape)

    return change


def _multiplied(edit: Edit, factor: float) -> Edit:
    """The edit of `factor` times a module's output. Where it changes nothing, the output stays as it was to the bit."""
    if factor == 1.0:
        return edit

    def change(output: Tensor) -> Tensor:
        site = factor * output
        edited = edit(site)
        return output if edited is site else output + (edited - site) / factor

    return change


def _input_hook(edit: Edit) -> Callable[..., Any]:
    """Blocks get hidden_states as the first positional argument or by name, depending on the family."""

    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if args:
            edited = edit(args[0])
            return None if edited is args[0] else ((edited, *args[1:]), kwargs)
        h = kwargs["hidden_states"]
        edited = edit(h)
        return None if edited is h else (args, {**kwargs, "hidden_states": edited})

    return hook


def _output_hook(edit: Edit) -> Callable[..., Any]:
    """Blocks return a tensor in transformers 5, attention modules a tuple whose first entry is the tensor."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        edited = edit(first)
        if edited is first:
            return None
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    return hook

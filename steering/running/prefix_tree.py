"""Shared prefixes, paid for once: texts that begin alike run their common beginning one time and continue from its
keys and values. Contrastive data are made of this: one chat scaffold, one question with two answers, few-shot headers.

A radix tree over token ids says what is shared; its nodes run level by level, many in one pass, children continuing
rows of their parents' cache. Results equal those of whole passes within the dtype's tolerance.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from trimtab.steering.model.batching import TOKEN_BUDGET, batches
from trimtab.steering.model.tokens import Tokens

MIN_SHARED = 8  # tokens: a shorter common beginning costs more in small passes than it saves


@dataclass(eq=False)
class Node:
    """A run of tokens `start..stop` that the texts with numbers `texts` have in common; children continue it."""

    start: int
    stop: int
    texts: list[int]
    children: "list[Node]" = field(default_factory=list)

    def walk(self) -> "Iterator[Node]":
        yield self
        for child in self.children:
            yield from child.walk()


def prefix_tree(texts: Sequence[Tokens]) -> list[Node]:
    """The roots of the radix tree. Every token of every text lies in exactly one node on the text's path."""
    order = sorted(range(len(texts)), key=lambda i: texts[i].ids.tolist())
    return _branch(texts, order, 0)


def tokens_in(roots: Sequence[Node]) -> int:
    """How many tokens running the tree computes."""
    return sum(node.stop - node.start for root in roots for node in root.walk())


def _branch(texts: Sequence[Tokens], order: list[int], start: int) -> list[Node]:
    """Nodes for texts (in sorted order) that agree up to `start`."""
    nodes = []
    for group in _alike(texts, order, start):
        if len(group) == 1:
            nodes.append(Node(start, len(texts[group[0]]), group))
            continue
        stop = start + _common(texts[group[0]].ids[start:], texts[group[-1]].ids[start:])
        node = Node(start, stop, group)
        node.children = _branch(texts, [i for i in group if len(texts[i]) > stop], stop)
        nodes.append(node)
    return nodes


def _alike(texts: Sequence[Tokens], order: list[int], start: int) -> Iterator[list[int]]:
    """Neighbours in sorted order whose next MIN_SHARED tokens are the same; texts that end sooner stand alone."""
    group: list[int] = []
    for i in order:
        if group and _common(texts[group[0]].ids[start:], texts[i].ids[start:]) < MIN_SHARED:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def _common(a: np.ndarray, b: np.ndarray) -> int:
    n = min(len(a), len(b))
    differing = np.flatnonzero(a[:n] != b[:n])
    return int(differing[0]) if len(differing) else n


@dataclass(frozen=True, eq=False)
class Past:
    """What a pass continues. cache: keys and values, a row per node of `nodes`. mask: `[b s]`, 1 for real tokens."""

    nodes: list[Node]
    cache: DynamicCache
    mask: Tensor


Pass = Callable[[list[Node], dict[str, object]], None]


def run_tree(roots: Sequence[Node], texts: Sequence[Tokens], device: torch.device, run: Pass) -> None:
    """Call `run(nodes, arguments)` for every pass that the tree needs: the arguments of the base model's forward for
    these nodes' tokens, `[len(nodes), longest]`, padded behind. `run` must let the cache in the arguments fill."""
    _descend(None, list(roots), (texts, device, run))


def _descend(past: Past | None, nodes: list[Node], how: tuple[Sequence[Tokens], torch.device, Pass]) -> None:
    texts, device, run = how
    for numbers in batches([node.stop - node.start for node in nodes], TOKEN_BUDGET):
        batch = [nodes[k] for k in numbers]
        arguments, mask = _arguments(past, batch, texts, device)
        run(batch, arguments)
        parents = [node for node in batch if node.children]
        if parents:
            here = Past(batch, arguments["past_key_values"], mask)  # type: ignore[arg-type]
            _descend(here, [child for node in parents for child in node.children], how)


def _arguments(
    past: Past | None, batch: list[Node], texts: Sequence[Tokens], device: torch.device
) -> tuple[dict[str, object], Tensor]:
    width = max(node.stop - node.start for node in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    new = torch.zeros(len(batch), width, dtype=torch.long)
    for k, node in enumerate(batch):
        ids[k, : node.stop - node.start] = torch.from_numpy(texts[node.texts[0]].ids[node.start : node.stop])
        new[k, : node.stop - node.start] = 1
    start = torch.tensor([[node.start] for node in batch])
    arguments = {"input_ids": ids, "position_ids": start + torch.arange(width)}
    cache, mask = (DynamicCache(), new) if past is None else _continued(past, batch, new, device)
    if past is not None:
        arguments["attention_mask"] = mask
    on_device = {name: value.to(device) for name, value in arguments.items()}
    leaf = past is None and not any(node.children for node in batch)
    return {**on_device, "past_key_values": None if leaf else cache, "use_cache": not leaf}, mask


def _continued(past: Past, batch: list[Node], new: Tensor, device: torch.device) -> tuple[DynamicCache, Tensor]:
    parent_of = {id(child): row for row, node in enumerate(past.nodes) for child in node.children}
    rows = torch.tensor([parent_of[id(node)] for node in batch])
    cache = copy.deepcopy(past.cache)
    cache.batch_select_indices(rows.to(device))
    return cache, torch.cat([past.mask[rows], new], dim=1)

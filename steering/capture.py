"""Capture: rows of activations at chosen sites and tokens, from forward passes that stop after the deepest site.

The head never runs, blocks behind the deepest site never run, texts are batched by length, and padding is dropped
before anything is kept. A read that did not fire raises: a silent gap would be a wrong row.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trimtab.steering.batching import batches, pad_right
from trimtab.steering.errors import BadSpan, SilentNoOp
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.hooks import StopForward, hooked
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import ALL, Positions, Span
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.sharing import Node, can_share, prefix_tree, run_tree, tokens_in

WORTH_SHARING = 0.9  # of the tokens given: continuing a cache needs a mask, which costs a little


@dataclass(frozen=True)
class Selection:
    """Which rows of a text are kept: the tokens of `span`, or their mean as one row (pool="mean")."""

    span: Span = ALL
    pool: str | None = None

    def tokens(self, text: Tokens) -> Tensor:
        """Indices of the kept tokens of one text. Raises BadSpan when there are none."""
        index = torch.arange(len(text))[None]
        mask = self.span.mask(Positions(index, torch.tensor([text.prompt_length])))[0]
        kept = mask.nonzero()[:, 0]
        if len(kept) == 0:
            raise BadSpan(
                f"span '{self.span}' selects no token of a text with {text.prompt_length} prompt and "
                f"{len(text) - text.prompt_length} further tokens; give completions, or another span"
            )
        return kept

    def rows(self, text: Tokens) -> int:
        """How many rows the text gives."""
        return 1 if self.pool else len(self.tokens(text))


@dataclass(frozen=True, eq=False)
class Captured:
    """rows: per site and text `[rows d]` in the forward's dtype, on the CPU, in the order of the texts; the z of all
    heads is `[rows n_heads*d_head]`. computed, given: tokens run through the model, and tokens of the texts."""

    rows: Mapping[Site, list[Tensor]]
    computed: int
    given: int


def capture(
    anatomy: Anatomy,
    texts: Sequence[Tokens],
    sites: Sequence[Site],
    selection: Selection = Selection(),
    share: bool = True,
) -> Captured:
    """Rows of every text. share: run common beginnings once (results equal within the dtype's tolerance).

    Raises BadSite, BadSpan, SilentNoOp.
    """
    given = sum(len(text) for text in texts)
    roots = prefix_tree(texts) if share and can_share(anatomy) else []
    computed = tokens_in(roots) if roots else given
    if computed > WORTH_SHARING * given:
        roots, computed = [], given
    kept = [selection.tokens(text).numpy() for text in texts]
    pieces: dict[Site, list[list[Tensor]]] = {site: [[] for _ in texts] for site in sites}
    reading = Reading(anatomy, tuple(sites), kept, pieces)
    if roots:
        run_tree(roots, texts, reading.device, reading.run)
    for batch in [] if roots else batches([len(text) for text in texts]):
        whole = [Node(0, len(texts[i]), [i]) for i in batch]
        ids = pad_right([texts[i] for i in batch], reading.device)
        reading.run(whole, {"input_ids": ids, "use_cache": False})
    rows = {site: [_pooled(_joined(p), selection.pool) for p in per_text] for site, per_text in pieces.items()}
    return Captured(rows, computed, given)


@dataclass(frozen=True, eq=False)
class Reading:
    """Forward passes over nodes of texts that put the kept tokens' rows where they belong.

    kept: per text, the token indices to keep. pieces: per site and text, runs of rows in the order of the tokens.
    """

    anatomy: Anatomy
    sites: tuple[Site, ...]
    kept: Sequence[np.ndarray]
    pieces: Mapping[Site, list[list[Tensor]]]

    @property
    def device(self) -> torch.device:
        return next(self.anatomy.model.parameters()).device

    @property
    def in_order(self) -> list[Site]:
        """The site that exists last comes last: nothing needs to run after it."""
        deepest = max(self.sites, key=lambda site: (self.anatomy.depth(site), site.point == "resid_post"))
        return [site for site in self.sites if site != deepest] + [deepest]

    def run(self, nodes: Sequence[Node], arguments: Mapping[str, object]) -> None:
        """One pass over the nodes' tokens `[len(nodes), longest]`; stops after the deepest site."""
        wanted = self._wanted(nodes)
        taken: set[Site] = set()

        def reader(site: Site):
            def read(h: Tensor) -> None:
                kept = h[wanted.rows, wanted.columns].cpu()  # one gather a site: a copy per text would wait for each
                for text, rows in zip(wanted.texts, kept.split(wanted.counts), strict=True):
                    self.pieces[site][text].append(rows)
                taken.add(site)
                if len(taken) == len(self.sites):
                    raise StopForward

            return read

        reads = [(site, reader(site)) for site in self.in_order]
        with torch.inference_mode(), hooked(self.anatomy, reads=reads), contextlib.suppress(StopForward):
            self.anatomy.base(**arguments)
        missing = [str(site) for site in self.sites if site not in taken]
        if missing:
            raise SilentNoOp(f"nothing was read at {', '.join(missing)}: the model skipped it or was compiled before")

    def _wanted(self, nodes: Sequence[Node]) -> "Wanted":
        """Where a pass over these nodes holds kept tokens, text after text."""
        found = [(row, text, self._local(node, text)) for row, node in enumerate(nodes) for text in node.texts]
        found = [entry for entry in found if len(entry[2])]
        rows = [np.full(len(columns), row) for row, _, columns in found]
        columns = [columns for _, _, columns in found]
        return Wanted(
            [text for _, text, _ in found],
            [len(c) for c in columns],
            self._index(rows),
            self._index(columns),
        )

    def _local(self, node: Node, text: int) -> np.ndarray:
        """Columns of a node that hold kept tokens of one of its texts."""
        kept = self.kept[text]
        return kept[(kept >= node.start) & (kept < node.stop)] - node.start

    def _index(self, parts: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate([np.empty(0, np.int64), *parts])).to(self.device)


@dataclass(frozen=True, eq=False)
class Wanted:
    """texts, counts: which texts, and how many tokens of each. rows, columns: `[n]`, where those tokens stand in the
    pass."""

    texts: list[int]
    counts: list[int]
    rows: Tensor
    columns: Tensor


def _joined(pieces: list[Tensor]) -> Tensor:
    """A text in one piece is not copied again: fresh memory is what capture costs besides the forward pass."""
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _pooled(rows: Tensor, pool: str | None) -> Tensor:
    """The mean is taken in float64: massive activations of sink tokens would eat a float32 sum's last digits."""
    if pool is None:
        return rows
    return rows.double().mean(0, keepdim=True).to(rows.dtype)

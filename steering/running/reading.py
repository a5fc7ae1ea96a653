"""capture: rows of activations at chosen sites and tokens, from forward passes that stop after the deepest site.

The output head and the blocks behind the deepest site never run. Texts are batched by length, and rows of padding are
dropped before anything is stored. A site whose hook did not fire raises SilentNoOp: its rows would be missing.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from trimtab.steering.errors import BadSpan, SilentNoOp, UnknownName
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.batching import batches, pad_right
from trimtab.steering.model.hooks import StopForward, hooked
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import ALL, Positions, Span
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.running._copies import Copies
from trimtab.steering.running.prefix_tree import Node, prefix_tree, run_tree, tokens_in

WORTH_SHARING = 0.9  # of the texts' tokens: continuing a cache needs a mask, which costs a little
POOLS = (None, "mean")


@dataclass(frozen=True, init=False)
class Rows:
    """Which rows of a text are captured: one per token of `span`, or their mean as one row (pool="mean").

    span: a Span or its name, such as "last" or "first:4". special: False leaves special tokens out. Raises BadSpan or
    UnknownName.
    """

    span: Span = ALL
    pool: str | None = None
    special: bool = True

    def __init__(self, span: Span | str = ALL, pool: str | None = None, special: bool = True):
        if pool not in POOLS:
            raise UnknownName("pool", str(pool), ["mean"])
        for name, value in {"span": Span.parse(span), "pool": pool, "special": special}.items():
            object.__setattr__(self, name, value)

    def tokens(self, text: Tokens) -> Tensor:
        """Indices `[n]` of the text's tokens that are read. Raises BadSpan when there are none."""
        index = torch.arange(len(text))[None]
        mask = self.span.mask(Positions(index, torch.tensor([text.prompt_length])))[0]
        if not self.special:
            mask = mask & ~torch.from_numpy(text.special)
        tokens = mask.nonzero()[:, 0]
        if len(tokens) == 0:
            raise BadSpan(
                f"span '{self.span}' selects no token of a text with {text.prompt_length} prompt and "
                f"{len(text) - text.prompt_length} further tokens; give completions, or another span"
            )
        return tokens


@dataclass(frozen=True, eq=False)
class PassRows:
    """Which captured rows one forward pass gives, as runs: a run is several consecutive rows of one text.

    Run i holds `counts[i]` rows of text `texts[i]`, beginning with row number `firsts[i]` of that text. rows, columns:
    `[sum(counts)]`, position of each row's token in the pass `[b s]` (batch row, column), all of run 0 first.
    """

    texts: list[int]
    firsts: list[int]
    counts: list[int]
    rows: Tensor
    columns: Tensor


Sink = Callable[[Site, PassRows, Tensor], None]  # a site, which rows, and the rows `[sum(counts) d]` on the CPU


@dataclass(frozen=True)
class TokenCounts:
    """computed: tokens run through the model. total: tokens of the texts; shared beginnings make the first smaller."""

    computed: int
    total: int


@dataclass(frozen=True, eq=False)
class Captured(TokenCounts):
    """rows: per site and text `[rows d]` in the forward's dtype, on the CPU, in the order of the texts; the z of all
    heads is `[rows n_heads*d_head]`."""

    rows: Mapping[Site, list[Tensor]]


def capture(
    anatomy: Anatomy,
    texts: Sequence[Tokens],
    sites: Sequence[Site | str],
    rows: Rows = Rows(),
    share: bool = True,
) -> Captured:
    """Rows of every text, in memory. sites: Sites or their names. share: run common beginnings of texts once (results
    equal within the dtype's tolerance).

    Raises BadSite, BadSpan, SilentNoOp.
    """
    places = tuple(Site.parse(site) for site in sites)
    pieces: dict[Site, list[list[Tensor]]] = {site: [[] for _ in texts] for site in places}

    def collect(site: Site, which: PassRows, values: Tensor) -> None:
        for text, part in zip(which.texts, values.split(which.counts), strict=True):
            pieces[site][text].append(part)

    counts = stream(anatomy, texts, places, rows, collect, share)
    per_text = {site: [_joined(parts) for parts in texts_of_site] for site, texts_of_site in pieces.items()}
    return Captured(counts.computed, counts.total, per_text)


def stream(
    anatomy: Anatomy,
    texts: Sequence[Tokens],
    sites: Sequence[Site],
    rows: Rows,
    sink: Sink,
    share: bool = True,
) -> TokenCounts:
    """Give every row to `sink` as soon as its pass is over; nothing is stored here. A text's runs come in order.

    Raises BadSite, BadSpan, SilentNoOp, and what the sink raises.
    """
    for site in sites:
        anatomy.check(site)
    total = sum(len(text) for text in texts)
    roots = prefix_tree(texts) if share and anatomy.can_share_prefixes else []
    computed = tokens_in(roots) if roots else total
    if computed > WORTH_SHARING * total:
        roots, computed = [], total
    tokens = [rows.tokens(text).numpy() for text in texts]
    sink = sink if rows.pool is None else Pooling(sink, [len(index) for index in tokens])
    reader = Reader(anatomy, tuple(sites), tokens, sink, Copies(anatomy.device))
    if roots:
        run_tree(roots, texts, anatomy.device, reader.run)
    for batch in [] if roots else batches([len(text) for text in texts]):
        whole = [Node(0, len(texts[i]), [i]) for i in batch]
        ids = pad_right([texts[i] for i in batch], anatomy.device)
        reader.run(whole, {"input_ids": ids, "use_cache": False})
    reader.hand_over(behind=0)
    return TokenCounts(computed, total)


@dataclass(frozen=True, eq=False)
class Reader:
    """Runs forward passes over nodes of texts and hands their rows to the sink; on CUDA one pass behind the forward.

    tokens: per text, the indices of the tokens that are read.
    """

    anatomy: Anatomy
    sites: tuple[Site, ...]
    tokens: Sequence[np.ndarray]
    sink: Sink
    copies: Copies
    _passes: deque[tuple[PassRows, dict[Site, Tensor], torch.cuda.Event | None]] = field(default_factory=deque)

    @property
    def in_order(self) -> list[Site]:
        """The sites with the one that is computed last at the end: the pass stops there."""
        deepest = max(self.sites, key=lambda site: (self.anatomy.depth(site), site.point == "resid_post"))
        return [site for site in self.sites if site != deepest] + [deepest]

    def run(self, nodes: Sequence[Node], arguments: Mapping[str, object]) -> None:
        """One pass over the nodes' tokens `[len(nodes), longest]`; stops after the deepest site."""
        which = self._rows_in(nodes)
        values: dict[Site, Tensor] = {}

        def reader(site: Site) -> Callable[[Tensor], None]:
            def read(h: Tensor) -> None:
                values[site] = self.copies.take(h[which.rows, which.columns])  # one gather a site
                if len(values) == len(self.sites):
                    raise StopForward

            return read

        reads = [(site, reader(site)) for site in self.in_order]
        with torch.inference_mode(), hooked(self.anatomy, reads=reads), contextlib.suppress(StopForward):
            self.anatomy.base(**arguments)
        missing = [str(site) for site in self.sites if site not in values]
        if missing:
            raise SilentNoOp(f"nothing was read at {', '.join(missing)}: the model skipped it or was compiled before")
        self._passes.append((which, values, self.copies.mark()))
        self.hand_over(behind=self.copies.ahead)

    def hand_over(self, behind: int) -> None:
        """Give the oldest passes' rows to the sink until `behind` are left."""
        while len(self._passes) > behind:
            which, values, mark = self._passes.popleft()
            self.copies.done(mark)
            for site in self.sites:
                self.sink(site, which, values[site])

    def _rows_in(self, nodes: Sequence[Node]) -> PassRows:
        """The rows that a pass over these nodes gives, text after text."""
        runs = [(row, text, *self._local(node, text)) for row, node in enumerate(nodes) for text in node.texts]
        runs = [run for run in runs if len(run[3])]
        return PassRows(
            [text for _, text, _, _ in runs],
            [first for _, _, first, _ in runs],
            [len(columns) for _, _, _, columns in runs],
            self._index([np.full(len(columns), row) for row, _, _, columns in runs]),
            self._index([columns for _, _, _, columns in runs]),
        )

    def _local(self, node: Node, text: int) -> tuple[int, np.ndarray]:
        """Which of a text's rows a node holds: the number of the first one, and the columns of their tokens."""
        first, last = np.searchsorted(self.tokens[text], (node.start, node.stop))
        return int(first), self.tokens[text][first:last] - node.start

    def _index(self, parts: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate([np.empty(0, np.int64), *parts])).to(self.copies.device)


@dataclass(frozen=True, eq=False)
class Pooling:
    """A sink that hands on one row per text: the mean of its rows, once all of them have come. counts: per text.

    The sum is taken in float64: massive activations of sink tokens would eat a float32 sum's last digits.
    """

    sink: Sink
    counts: Sequence[int]
    _sums: dict[tuple[Site, int], tuple[int, Tensor]] = field(default_factory=dict)

    def __call__(self, site: Site, which: PassRows, values: Tensor) -> None:
        complete, means = [], []
        for text, part in zip(which.texts, values.split(which.counts), strict=True):
            before, total = self._sums.pop((site, text), (0, torch.zeros((), dtype=torch.float64)))
            count, total = before + len(part), total + part.double().sum(0)
            if count < self.counts[text]:
                self._sums[site, text] = (count, total)
            else:
                complete.append(text)
                means.append((total / count).to(values.dtype))
        if complete:
            ones = [1] * len(complete)
            pooled = PassRows(complete, [0] * len(complete), ones, which.rows, which.columns)
            self.sink(site, pooled, torch.stack(means))


def _joined(pieces: list[Tensor]) -> Tensor:
    """A text in one piece is not copied again: fresh memory is what capture costs besides the forward pass."""
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

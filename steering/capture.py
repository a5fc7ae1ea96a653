"""Capture: rows of activations at chosen sites and tokens, from forward passes that stop after the deepest site.

The head never runs, blocks behind the deepest site never run, texts are batched by length, and padding is dropped
before anything is kept. A read that did not fire raises: a silent gap would be a wrong row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.steering.batching import batches, pad_right
from trimtab.steering.errors import BadSpan, SilentNoOp
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.hooks import StopForward, hooked
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import ALL, Positions, Span
from trimtab.steering.model.tokens import Tokens


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


def capture(
    anatomy: Anatomy, texts: Sequence[Tokens], sites: Sequence[Site], selection: Selection = Selection()  # noqa: B008
) -> dict[Site, list[Tensor]]:
    """Rows per site and text: `[rows d]` in the forward's dtype, on the CPU, in the order of `texts`.

    The z of all heads is `[rows n_heads*d_head]`. Raises BadSite, BadSpan, SilentNoOp.
    """
    found: dict[Site, list[Tensor]] = {site: [torch.empty(0)] * len(texts) for site in sites}
    for batch in batches([len(text) for text in texts]):
        for site, rows in capture_batch(anatomy, [texts[i] for i in batch], sites, selection).items():
            for i, row in zip(batch, rows, strict=True):
                found[site][i] = row
    return found


def capture_batch(
    anatomy: Anatomy, texts: Sequence[Tokens], sites: Sequence[Site], selection: Selection
) -> dict[Site, list[Tensor]]:
    """The same for one padded forward pass."""
    kept = [selection.tokens(text) for text in texts]
    taken: dict[Site, list[Tensor]] = {}
    device = next(anatomy.model.parameters()).device
    deepest = max(sites, key=lambda site: (anatomy.depth(site), site.point == "resid_post"))
    in_order = [site for site in sites if site != deepest] + [deepest]

    def reader(site: Site):
        def read(h: Tensor) -> None:
            taken[site] = [_pooled(h[k, index.to(h.device)], selection.pool) for k, index in enumerate(kept)]
            if len(taken) == len(in_order):
                raise StopForward

        return read

    with torch.inference_mode(), hooked(anatomy, reads=[(site, reader(site)) for site in in_order]):
        try:
            anatomy.base(input_ids=pad_right(texts, device), use_cache=False)
        except StopForward:
            pass
    missing = [str(site) for site in sites if site not in taken]
    if missing:
        raise SilentNoOp(f"nothing was read at {', '.join(missing)}: the model skipped it or was compiled before")
    return taken


def _pooled(rows: Tensor, pool: str | None) -> Tensor:
    """The mean is taken in float64: massive activations of sink tokens would eat a float32 sum's last digits."""
    if pool is None:
        return rows.cpu()
    return rows.double().mean(0, keepdim=True).to(rows.dtype).cpu()

"""Contrast: positive and negative rows of activations at sites. All that a Fitter of activations needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.anatomy import Anatomy, Fingerprint
from trimtab.steering.model.site import POINTS, Site
from trimtab.steering.model.span import ALL, GENERATED
from trimtab.steering.model.tokens import CHAT, Message, PromptFormat, Tokens, tokenize
from trimtab.steering.running.reading import Rows, capture

TextPair = tuple[str | Sequence[Message], str, str] | tuple[str, str]  # (prompt, positive, negative) or two texts


@dataclass(frozen=True, eq=False)
class Pair:
    """Rows at one site. positive `[n d]`, negative `[m d]`, float32; row i is of one prompt in a paired contrast."""

    positive: Float[Tensor, "n d"]
    negative: Float[Tensor, "m d"]


@dataclass(frozen=True, eq=False)
class Contrast:
    """sites: rows per site. paired: row i of both classes belong to one prompt. model: whose activations they are, when
    it is known; a plan that is fitted on them then says so."""

    sites: Mapping[Site, Pair]
    paired: bool = True
    model: Fingerprint | None = None

    def __post_init__(self) -> None:
        for site, pair in self.sites.items():
            (n, d), (m, e) = pair.positive.shape, pair.negative.shape
            if d != e:
                raise SteeringError(f"contrast at {site}: positive rows have width {d}, negative {e}; they must agree")
            if min(n, m) < 2:
                raise SteeringError(f"contrast at {site}: {n} positive and {m} negative rows; a fit needs 2 of each")
            if self.paired and n != m:
                raise SteeringError(f"contrast at {site}: paired, but {n} positive and {m} negative rows")

    @classmethod
    def from_pairs(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        pairs: Sequence[TextPair],
        sites: str | Site | Sequence[str | Site] = "resid_post",
        rows: Rows | None = None,
        form: PromptFormat = CHAT,
    ) -> "Contrast":
        """Run pairs of texts through a model and collect their activations.

        pairs: (prompt, positive answer, negative answer), or (positive text, negative text). sites: points such as
        "resid_post", which stand for that point in every block, or single sites such as "resid_post.12". rows: which
        tokens of a text count; by default the mean over the answer, or over the whole of a text without a prompt
        (`Rows("last")` reads its last token, a `pool` of None gives every token's row). Special tokens never count.
        form: how prompts become text; by default through the tokenizer's chat template.

        Raises SteeringError for pairs of neither form, BadSite, BadSpan, SilentNoOp.
        """
        if len(pairs) < 2:
            raise SteeringError(f"{len(pairs)} pairs of texts are no contrast: a fit needs 2 or more")
        anatomy = Anatomy.of(model)
        texts = [text for pair in pairs for text in _tokens(tokenizer, pair, form)]
        if rows is None:
            rows = Rows(GENERATED if len(pairs[0]) == 3 else ALL, "mean")
        captured = capture(anatomy, texts, named_sites(anatomy, sites), Rows(rows.span, rows.pool, special=False))
        per_site = {
            site: Pair(torch.cat(of_texts[::2]).float(), torch.cat(of_texts[1::2]).float())
            for site, of_texts in captured.rows.items()
        }
        return cls(per_site, paired=rows.pool is not None or rows.span.kind == "last", model=anatomy.fingerprint)


def _tokens(tokenizer: PreTrainedTokenizerBase, pair: TextPair, form: PromptFormat) -> tuple[Tokens, Tokens]:
    """The positive text, then the negative one."""
    if len(pair) == 3:
        prompt, positive, negative = pair
        return tokenize(tokenizer, prompt, positive, form), tokenize(tokenizer, prompt, negative, form)
    if len(pair) != 2:
        raise SteeringError(
            f"a pair of {len(pair)} texts is none: give (prompt, positive, negative) or (positive, negative)"
        )
    return tokenize(tokenizer, pair[0], form=form), tokenize(tokenizer, pair[1], form=form)


def named_sites(anatomy: Anatomy, names: str | Site | Sequence[str | Site]) -> tuple[Site, ...]:
    """Sites by name; the name of a point alone stands for it in every block."""
    each = [names] if isinstance(names, str | Site) else list(names)
    sites: list[Site] = []
    for name in each:
        sites += anatomy.sites([name]) if isinstance(name, str) and name in POINTS else [Site.parse(name)]
    return tuple(dict.fromkeys(sites))

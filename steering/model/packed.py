"""Packed passes: forward passes that hold the tokens of many texts in one row, one segment after another, as inference
engines run them.

A segment says which text its tokens belong to, where in this text they stand, and how long the text's prompt is. Spans
need no more, so "prompt", "generated" or "first:8" select the same tokens in a packed pass as in a padded batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trimtab.steering.errors import BadSpan
from trimtab.steering.model.span import Positions


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of one text in a packed pass.

    text: names the text, for example by the id of a request. length: number of tokens in this pass. first: index of
    the first of them in the text, from 0 (above 0 when earlier tokens are cached). prompt: number of tokens of the
    text's prompt.
    """

    text: str
    length: int
    first: int
    prompt: int


def packed_positions(segments: Sequence[Segment], tokens: int, device: torch.device | str = "cpu") -> Positions:
    """Positions of a packed pass: index and prompt_length `[1 tokens]`. Tokens behind the last segment are padding.

    Raises BadSpan when the segments hold more tokens than the pass.
    """
    covered = sum(segment.length for segment in segments)
    if covered > tokens:
        raise BadSpan(f"the segments of a packed pass hold {covered} tokens, but the pass has {tokens}")
    index = torch.full((1, tokens), -1, dtype=torch.long)
    prompt = torch.zeros(1, tokens, dtype=torch.long)
    for segment, start in zip(segments, starts(segments), strict=True):
        here = slice(start, start + segment.length)
        index[0, here] = torch.arange(segment.first, segment.first + segment.length)
        prompt[0, here] = segment.prompt
    return Positions(index.to(device), prompt.to(device))


def starts(segments: Sequence[Segment]) -> list[int]:
    """Column of the pass, from 0, at which each segment begins."""
    ends, total = [], 0
    for segment in segments:
        ends.append(total)
        total += segment.length
    return ends

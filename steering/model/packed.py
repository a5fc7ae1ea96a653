"""Packed passes: the tokens of many texts in one row, one segment after another, as inference engines run them.

A segment says whose tokens it holds, where in its text they stand and how long the prompt of that text is. That is all
a span needs to know, so "prompt", "generated" or "first:8" mean the same in a packed pass as in a padded batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trimtab.steering.errors import BadSpan
from trimtab.steering.model.span import Positions


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of one text in a packed pass.

    text: whose they are, for example the id of a request. length: tokens of this pass. first: place of the first of
    them among the text's tokens, from 0 (more than 0 when the rest is cached or came in an earlier chunk). prompt:
    tokens of the text's prompt.
    """

    text: str
    length: int
    first: int
    prompt: int


def packed_positions(segments: Sequence[Segment], tokens: int, device: torch.device | str = "cpu") -> Positions:
    """Positions `[1 tokens]` of a packed pass; tokens behind the last segment are padding.

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
    """Column of each segment's first token."""
    ends, total = [], 0
    for segment in segments:
        ends.append(total)
        total += segment.length
    return ends

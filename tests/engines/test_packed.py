"""A packed pass means what a padded one means: the same spans, for any cut of the texts into segments."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.steering.errors import BadSpan
from trimtab.steering.model.packed import Segment, packed_positions
from trimtab.steering.model.span import Positions, Span

SPANS = ("all", "prompt", "generated", "answer", "last", "first:3", "after:2")
lengths = st.tuples(st.integers(1, 6), st.integers(0, 6))  # of prompt and answer


@given(
    st.lists(lengths, min_size=1, max_size=4), st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 3)
)
def test_spans_are_those_of_each_text_alone(texts, cuts, padding):
    """Texts run in chunks of any size, interleaved; every token is chosen as it would be in a row of its own."""
    done = [0] * len(texts)
    chosen: dict[tuple[int, str], list[bool]] = {(k, span): [] for k in range(len(texts)) for span in SPANS}
    turn = 0
    while any(done[k] < p + a for k, (p, a) in enumerate(texts)):
        segments, owners = [], []
        for k, (prompt, answer) in enumerate(texts):
            length = min(cuts[(turn + k) % len(cuts)], prompt + answer - done[k])
            if length:
                segments.append(Segment(str(k), length, done[k], prompt))
                owners.append(k)
                done[k] += length
        tokens = sum(s.length for s in segments) + padding
        positions = packed_positions(segments, tokens)
        for span in SPANS:
            mask = Span.parse(span).mask(positions)[0].tolist()
            assert not any(mask[tokens - padding :]), "padding was chosen"
            start = 0
            for k, segment in zip(owners, segments, strict=True):
                chosen[k, span] += mask[start : start + segment.length]
                start += segment.length
        turn += 1
    for (k, span), mask in chosen.items():
        prompt, answer = texts[k]
        alone = Positions(torch.arange(prompt + answer)[None], torch.tensor([prompt]))
        assert mask == Span.parse(span).mask(alone)[0].tolist(), (k, span)


def test_more_tokens_than_the_pass_has_is_an_error():
    with pytest.raises(BadSpan, match="hold 5 tokens, but the pass has 4"):
        packed_positions([Segment("a", 5, 0, 3)], 4)

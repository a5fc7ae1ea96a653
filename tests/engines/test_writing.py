"""Writers: each request draws its own tokens and ends itself; what one does wrong stays with it."""

import threading

import torch

from tests.engines.test_huggingface import GREEDY, PROMPTS, SMALL, alone, plan
from trimtab.steering.engines.bodies import another_body
from trimtab.steering.engines.huggingface import SteeredBatching


class Greedy:
    """Writes the likeliest tokens; `after`: ends after so many, `breaks`: raises there."""

    def __init__(self, after: int = 8, breaks: bool = False):
        self.ids, self.reason, self.done = [], None, threading.Event()
        self._after, self._breaks = after, breaks

    def write(self, logits):
        if len(self.ids) == self._after:
            if self._breaks:
                raise RuntimeError("broken")
            self.done.set()
            return None
        self.ids.append(int(logits.argmax()))
        return self.ids[-1]

    def fail(self, reason):
        self.reason = reason
        self.done.set()


def test_what_one_request_does_wrong_stays_with_it(build_tiny):
    """A writer that raises, a plan that overflows, one that is cancelled: the batchmates answer as alone."""
    model = build_tiny("llama")
    body, steering = another_body(model), plan(model, 1)
    expected = [alone(body, prompt, steering if k % 2 else None) for k, prompt in enumerate(PROMPTS)]
    with SteeredBatching(model, SMALL).running(GREEDY) as engine:
        broken, overflown, gone = Greedy(2, breaks=True), Greedy(), Greedy()
        engine.add(PROMPTS[2], steering, 100, broken)
        engine.add(PROMPTS[2], steering * 1e38, 100, overflown)
        cancelled = engine.add(PROMPTS[0], plan(model, 2), 400, gone)
        writers = [Greedy(8) for _ in PROMPTS]
        for k, (prompt, writer) in enumerate(zip(PROMPTS, writers, strict=True)):
            engine.add(prompt, steering if k % 2 else None, 100, writer)
        engine.cancel(cancelled)
        assert all(writer.done.wait(60) for writer in (*writers, broken, overflown))
    assert [writer.ids for writer in writers] == expected
    assert "broken" in broken.reason and "too strong" in overflown.reason and not gone.done.is_set()


def test_a_second_body_shares_the_weights_and_no_hooks(build_tiny):
    model = build_tiny("llama")
    body, ids = another_body(model), torch.tensor([PROMPTS[0]])
    assert all(a is b for a, b in zip(model.parameters(), body.parameters(), strict=True))
    with torch.inference_mode():
        before = model(ids).logits
        with plan(model, 1).on(body):
            assert torch.equal(model(ids).logits, before) and not torch.equal(body(ids).logits, before)

"""What steering costs while a model writes: steered generation over unsteered, the same number of tokens each time.

    python benchmarks/steer.py [--rounds 5] [--tokens 24] [--batch 4] [--threads 1]

Tokens per second against unsteered are one over the ratio. A governed plan runs every row twice (as steered and as it
would have been), so a ratio near 2 is its floor where the forward pass is all that counts.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from ratio import Case, arguments, measure, setting, table
from torch import Tensor
from transformers import BatchEncoding, PreTrainedModel

from trimtab.steering import Add, Anatomy, Intervention, Site, Span, SteeringPlan, load_model
from trimtab.steering.conditions.controller import gated_by
from trimtab.steering.gates.controlled import Controlled, Network
from trimtab.steering.gates.linear import Linear

PROMPTS = (
    "Tell me about your day.",
    "What should I cook tonight?",
    "Why do leaves fall in autumn?",
    "Write a short note to a friend who moved away.",
)
BUDGET = 0.2
Context = Callable[[], AbstractContextManager]


def main() -> None:
    extra = [("tokens", 24, "tokens written per row"), ("batch", 4, "rows")]
    args = arguments("steered against unsteered generation", 5, extra)
    torch.set_num_threads(args.threads)
    model, tokenizer = load_model()
    prompts = [PROMPTS[k % len(PROMPTS)] for k in range(args.batch)]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    print(setting(args.threads), end="\n\n")
    title = f"{args.batch} rows, {args.tokens} greedy tokens each, KV cache"
    print(table(title, measure(cases(model, inputs, args.tokens), args.rounds)))


def cases(model: PreTrainedModel, inputs: BatchEncoding, tokens: int) -> list[Case]:
    """Unsteered first; then one vector by hand and by trimtab, one at every block, and governed."""
    n = Anatomy.of(model).n_layers
    one, every = plan(model, [n // 2]), plan(model, range(n))
    generated, weighed = every.spanning(Span("generated")), controlled(model, every)

    def case(name: str, context: Context) -> Case:
        return Case(name, lambda: written(model, inputs, tokens, context()))

    return [
        case("unsteered", nullcontext),
        case("plain hook, one vector", lambda: plain_hook(model, n // 2, one.interventions[0].move.vector)),
        case("plan of one vector", lambda: one.on(model)),
        case(f"plan of {n} vectors, one per block", lambda: every.on(model)),
        case(f"plan of {n} vectors, generated tokens only", lambda: generated.on(model)),
        case("plan of one vector behind an open gate", lambda: gated(model, one).on(model)),
        case(f"plan of {n} vectors, weighed by a controller", lambda: weighed.on(model)),
        case(f"controller, governed to {BUDGET} nats a token", lambda: weighed.on(model, govern=BUDGET)),
        case(f"plan of one vector, governed to {BUDGET} nats a token", lambda: one.on(model, govern=BUDGET)),
    ]


def plan(model: PreTrainedModel, blocks) -> SteeringPlan:
    """A random vector of a plausible length at each block."""
    draw, width = torch.Generator().manual_seed(0), Anatomy.of(model).d_model
    steps = (Intervention(Site("resid_post", b), Add(torch.randn(width, generator=draw) / len(blocks))) for b in blocks)
    return SteeringPlan(tuple(steps))


def gated(model: PreTrainedModel, made: SteeringPlan) -> SteeringPlan:
    """Behind a gate that reads the middle block and always opens: what asking it costs."""
    gate = Linear(weight=torch.ones(Anatomy.of(model).d_model), site=Site("resid_post", 15), threshold=float("-inf"))
    return gated_by(made, [gate] * len(made.interventions))


def controlled(model: PreTrainedModel, made: SteeringPlan) -> SteeringPlan:
    """Weighed by a random network that reads two blocks."""
    draw, sites = torch.Generator().manual_seed(1), (Site("resid_post", 10), Site("resid_post", 15))
    width, n = 2 * Anatomy.of(model).d_model, len(made.interventions)
    hidden, out = torch.randn(32, width, generator=draw) / width**0.5, torch.randn(1 + n, 32, generator=draw)
    network = Network(torch.zeros(width), torch.ones(width), hidden, torch.zeros(32), out, torch.zeros(1 + n))
    return gated_by(made, [Controlled(network, sites, k) for k in range(n)])


@contextmanager
def plain_hook(model: PreTrainedModel, block: int, vector: Tensor):
    """The least that any library can do: no span, no check, padding steered as well."""
    handle = model.model.layers[block].register_forward_hook(lambda module, args, output: output + vector)
    try:
        yield
    finally:
        handle.remove()


def written(model: PreTrainedModel, inputs: BatchEncoding, tokens: int, context: AbstractContextManager) -> Tensor:
    """Exactly `tokens` greedy tokens per row, whatever the model would rather do."""
    with context, torch.inference_mode():
        return model.generate(**inputs, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False)


if __name__ == "__main__":
    main()

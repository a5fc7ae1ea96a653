"""A plan in the weights against the same plan on hooks: are the logits equal, and what do tokens cost?

    python benchmarks/fold.py [--rounds 7] [--tokens 24] [--batch 4] [--threads 1]

SmolLM2 with one vector behind the middle block, and with one behind every block. Each is folded, saved, and loaded
again by plain transformers; its logits are compared with those of the hooks. Tokens per second over unsteered are one
over the ratio. A fold into llama adds a bias to the down projection, and zero ones to its sisters in every block.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from ratio import Case, arguments, measure, setting, table
from steer import PROMPTS, plan, written
from torch import Tensor
from transformers import AutoModelForCausalLM, BatchEncoding, PreTrainedModel

from trimtab.steering import Anatomy, SteeringPlan, fold, load_model


def main() -> None:
    extra = [("tokens", 24, "tokens written per row"), ("batch", 4, "rows")]
    args = arguments("folded against hooked and unsteered generation", 7, extra)
    torch.set_num_threads(args.threads)
    model, tokenizer = load_model()
    inputs = tokenizer([PROMPTS[k % len(PROMPTS)] for k in range(args.batch)], return_tensors="pt", padding=True)
    n = Anatomy.of(model).n_layers
    plans = {"one vector": plan(model, [n // 2]), f"{n} vectors, one per block": plan(model, range(n))}
    checkpoints = {name: reloaded(model, one) for name, one in plans.items()}
    print(setting(args.threads), end="\n\n")
    for name, one in plans.items():
        print(f"{name}: {agreement(model, one, checkpoints[name], inputs)}")
    title = f"{args.batch} rows, {args.tokens} greedy tokens each, KV cache"
    print()
    print(table(title, measure(cases(model, plans, checkpoints, inputs, args.tokens), args.rounds)))


def reloaded(model: PreTrainedModel, one: SteeringPlan) -> PreTrainedModel:
    """Folded, saved, and loaded by transformers, which knows nothing of trimtab."""
    with TemporaryDirectory() as folder:
        fold(one, model).save_pretrained(Path(folder))
        return AutoModelForCausalLM.from_pretrained(Path(folder), dtype=torch.float32).eval()


def agreement(model: PreTrainedModel, one: SteeringPlan, checkpoint: PreTrainedModel, inputs: BatchEncoding) -> str:
    """The largest differences of logits at real tokens: from the hooks, and of the hooks from the base."""
    real = inputs["attention_mask"].bool()
    base, folded = logits(model, inputs)[real], logits(checkpoint, inputs)[real]
    hooked = logits(model, inputs, one.on(model))[real]
    return (
        f"logits of the loaded checkpoint and of the hooks differ by at most {(folded - hooked).abs().max():.1e}, "
        f"steered and unsteered ones by up to {(hooked - base).abs().max():.1f}"
    )


def logits(model: PreTrainedModel, inputs: BatchEncoding, context: AbstractContextManager | None = None) -> Tensor:
    with context or nullcontext(), torch.inference_mode():
        return model(**inputs).logits


def cases(
    model: PreTrainedModel,
    plans: dict[str, SteeringPlan],
    checkpoints: dict[str, PreTrainedModel],
    inputs: BatchEncoding,
    tokens: int,
) -> list[Case]:
    """Unsteered first, then each plan on hooks and in the weights."""

    def hooked(one: SteeringPlan) -> Tensor:
        return written(model, inputs, tokens, one.on(model))

    def folded(checkpoint: PreTrainedModel) -> Tensor:
        return written(checkpoint, inputs, tokens, nullcontext())

    rows = [Case("unsteered", lambda: written(model, inputs, tokens, nullcontext()))]
    for name, one in plans.items():
        rows.append(Case(f"hooked, {name}", lambda one=one: hooked(one)))
        rows.append(Case(f"folded, {name}", lambda name=name: folded(checkpoints[name])))
    return rows


if __name__ == "__main__":
    main()

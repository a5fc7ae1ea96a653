"""What a plan per request costs under continuous batching, over the same requests unsteered, and over other ways.

    python benchmarks/engine.py [--rounds 5] [--tokens 24] [--batch 8] [--threads 1]

All requests come at once; in "mixed", each has a plan of its own or none. The engine is started once, untimed.
"""

import itertools

import torch
from ratio import Case, arguments, measure, setting, table
from steer import PROMPTS, plan
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from trimtab.steering import SteeringPlan, load_model, steer_rows
from trimtab.steering.engines.huggingface import SteeredBatching


def main() -> None:
    extra = [("tokens", 24, "tokens written per request"), ("batch", 8, "requests")]
    args = arguments("a plan per request under continuous batching", 5, extra)
    torch.set_num_threads(args.threads)
    model, tokenizer = load_model()
    prompts = list(itertools.islice(itertools.cycle(PROMPTS), args.batch))
    plans = [None if k % 4 == 3 else plan(model, [8 + k % 3 * 6]) for k in range(args.batch)]
    greedy = GenerationConfig(max_new_tokens=args.tokens, do_sample=False, eos_token_id=None, pad_token_id=2)
    print(setting(args.threads), end="\n\n")
    rows = measure(by_hand(model, tokenizer, prompts, plans, greedy), args.rounds)
    print(table(f"{args.batch} requests, {args.tokens} greedy tokens each: without the engine", rows))
    with SteeredBatching(model).running(greedy) as engine:
        cases = in_engine(engine, [tokenizer(p)["input_ids"] for p in prompts], plans, args.tokens)
        print(table("the same requests in the engine", measure(cases, args.rounds)))


def by_hand(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    plans: list[SteeringPlan | None],
    greedy: GenerationConfig,
) -> list[Case]:
    """One padded batch, unsteered and with a plan per row; and one request after another."""
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    single = [tokenizer(prompt, return_tensors="pt") for prompt in prompts]

    def mixed() -> None:
        with steer_rows(model, plans):
            model.generate(**batch, generation_config=greedy)

    def one_by_one() -> None:
        for inputs in single:
            model.generate(**inputs, generation_config=greedy)

    return [
        Case("one padded batch, unsteered", lambda: model.generate(**batch, generation_config=greedy)),
        Case("one padded batch, mixed plans", mixed),
        Case("one by one, unsteered", one_by_one),
    ]


def in_engine(
    engine: SteeredBatching, prompts: list[list[int]], plans: list[SteeringPlan | None], tokens: int
) -> list[Case]:
    """Unsteered, one plan for all, and mixed plans."""

    def run(steering: list[SteeringPlan | None]) -> None:
        requests = [engine.add(ids, one, tokens) for ids, one in zip(prompts, steering, strict=True)]
        engine.answers(requests)

    none: list[SteeringPlan | None] = [None] * len(prompts)
    return [
        Case("unsteered", lambda: run(none)),
        Case("one plan for all", lambda: run([plans[0]] * len(prompts))),
        Case("mixed plans", lambda: run(plans)),
    ]


if __name__ == "__main__":
    main()

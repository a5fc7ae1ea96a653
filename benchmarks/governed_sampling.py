"""The governor under nine ways of sampling: what the sampled distribution is away from the base, and what it costs.

    python benchmarks/governed_sampling.py [--budget 0.2] [--tokens 24] [--prompts 4] [--threads 1]

A mean difference of `recipes/cheerful.jsonl`, fitted here on the embedded model. For every sampling `model.generate`
answers under `govern`; then the unsteered model is given the same text, its logits go through transformers' own
processors, and KL(sampled from || base sampled alike) is taken at every token. The ledger is not read for it. The text
is replayed in the shapes of the governed passes, because other shapes round otherwise; "over" begins 1e-5 nats beyond
the budget. CPU: process time over that of the same plan ungoverned, per token.
"""

import argparse
import time
from pathlib import Path

import torch
from ratio import setting
from torch import Tensor
from transformers import GenerationConfig

from trimtab.steering.fitters.mean_difference import MeanDifference
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.hooks import hooked
from trimtab.steering.model.load import load_model
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.tasks.data.prompts import texts_of
from trimtab.tasks.recipes.kinds import load_recipe

SITE, STRENGTH, PAIRS, SLACK = Site("resid_post", 15), 2.0, 40, 1e-5
RECIPE = Path(__file__).resolve().parents[1] / "recipes/cheerful.yaml"
SAMPLINGS = {
    "temperature 1": {},
    "temperature 0.7": {"temperature": 0.7},
    "temperature 0.2": {"temperature": 0.2},
    "temperature 1.5": {"temperature": 1.5},
    "top-k 20": {"top_k": 20},
    "temperature 0.6, top-k 20, top-p 0.95": {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
    "min-p 0.1": {"min_p": 0.1},
    "repetition penalty 1.2": {"repetition_penalty": 1.2},
    "greedy": {"do_sample": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, kind, default in (("budget", float, 0.2), ("tokens", int, 24), ("prompts", int, 4), ("threads", int, 1)):
        parser.add_argument(f"--{name}", type=kind, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, tokenizer = load_model("smollm2")
    texts = texts_of(load_recipe(RECIPE).data, tokenizer)
    plan = fitted(model, texts)
    inputs = batch([tokens for example, tokens in texts if example.split == "report"][: 2 * args.prompts : 2])
    print(setting(args.threads), end="\n\n")
    print("| sampling | mean KL | largest | over the budget | acted at | without it: mean, largest | CPU |")
    print("|---|---|---|---|---|---|---|")
    for name, options in SAMPLINGS.items():
        options = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, **options}
        kls, acted, seconds = measured(model, plan, inputs, options, args.budget, args.tokens)
        free, _, unbound = measured(model, plan, inputs, options, None, args.tokens)
        over = float((kls > args.budget + SLACK).double().mean())
        print(
            f"| {name} | {kls.mean():.3f} | {kls.max():.4f} | {over:.0%} | {acted:.0%} "
            f"| {shown(free)} | {seconds / unbound:.2f} |",
            flush=True,
        )


def fitted(model, texts) -> SteeringPlan:
    """Mean difference of the answers' tokens at SITE."""
    rows: dict[int, list[Tensor]] = {-1: [], 1: []}
    for example, tokens in [text for text in texts if text[0].split == "fit"][: 2 * PAIRS]:
        seen: list[Tensor] = []
        with torch.inference_mode(), hooked(Anatomy.of(model), reads=[(SITE, seen.append)]):
            model(torch.from_numpy(tokens.ids)[None])
        rows[example.label].append(seen[0][0, tokens.prompt_length :].float().mean(0))
    move = MeanDifference().fit_site(torch.stack(rows[1]), torch.stack(rows[-1]))
    return SteeringPlan((Intervention(SITE, move, Span.parse("answer"), STRENGTH),))


def batch(rows) -> dict[str, Tensor]:
    """Prompts, padded on the left."""
    prompts = [row.ids[: row.prompt_length].tolist() for row in rows]
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    return {"input_ids": ids, "attention_mask": mask}


def measured(model, plan: SteeringPlan, inputs, options: dict, budget: float | None, tokens: int):
    """KL(sampled from || base sampled alike) `[tokens written]`, share of tokens acted at, CPU seconds per pass."""
    torch.manual_seed(0)
    with torch.no_grad(), plan.on(model, govern=budget) as session:
        start = time.process_time()
        out = model.generate(
            **inputs, **options, max_new_tokens=tokens, output_scores=True, return_dict_in_generate=True
        )
        seconds = time.process_time() - start
    written = open_rows(out.sequences[:, inputs["input_ids"].shape[1] :], model.generation_config.eos_token_id)
    kls = torch.stack(
        [divergence(*both) for both in zip(out.scores, base_scores(model, out, inputs, options), strict=True)]
    )
    held = 0.0 if session.ledger is None else session.ledger.held_back()
    return kls.T[written], held, seconds / len(out.scores)


def base_scores(model, out, inputs, options: dict):
    """The unsteered model's processed logits `[b v]` on the same text, token by token."""
    prompt, mask = inputs["input_ids"].shape[1], inputs["attention_mask"]
    config = GenerationConfig(**options)
    processors = model._get_logits_processor(config, prompt, model_kwargs={"attention_mask": mask})
    mask = torch.cat([mask, mask.new_ones(len(mask), out.sequences.shape[1] - prompt)], 1)
    positions, scores, cache = (mask.cumsum(1) - 1).clamp(min=0), [], None
    for columns in range(prompt, out.sequences.shape[1]):
        new = slice(0 if cache is None else columns - 1, columns)
        rows = out.sequences[:, new], mask[:, :columns], positions[:, new]
        ids, seen, places = (torch.cat([row, row]) for row in rows)
        with torch.no_grad():
            step = model(
                ids, attention_mask=seen, position_ids=places, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
        cache = step.past_key_values
        scores.append(processors(out.sequences[:, :columns], step.logits[: len(mask), -1].float()))
    return scores


def open_rows(tokens: Tensor, end: int) -> Tensor:
    """Which tokens `[b t]` belong to an answer: up to the one that ends it."""
    ended = (tokens == end).long().cumsum(1)
    return (ended == 0) | ((ended == 1) & (tokens == end))


def divergence(p: Tensor, q: Tensor) -> Tensor:
    p, q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    return torch.where(p.exp() > 0, p.exp() * (p - q), 0.0).sum(-1)


def shown(kls: Tensor) -> str:
    """Mean and largest, and how often they are infinite."""
    finite = kls[kls.isfinite()]
    if not len(finite):
        return "infinite at 100%"
    endless = f", infinite at {float(kls.isinf().double().mean()):.0%}" if len(finite) < len(kls) else ""
    return f"{finite.mean():.3f}, {finite.max():.2f}{endless}"


if __name__ == "__main__":
    main()

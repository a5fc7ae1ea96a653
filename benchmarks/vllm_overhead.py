"""What steering costs in vLLM: seconds of a batch with plans over the same batch without the plugin.

    .venv-vllm/bin/python benchmarks/vllm_overhead.py [--rounds 3] [--tokens 32] [--requests 8]

Runs where vLLM is installed (`make test-vllm` makes that environment). SmolLM2 in float32, eager, prefix cache off, two
engines in this process: one made before the plugin was registered, and one after.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {
    "VLLM_PLUGINS": "none",  # the first engine goes without
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
}

import torch
from ratio import Case, arguments, measure, processor, table
from transformers import AutoTokenizer
from vllm import LLM, SamplingParams, __version__

from trimtab.steering.model.embedded import embedded_folder
from trimtab.steering.model.load import load_model
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.tasks.home import Home
from trimtab.tasks.vllm.plugin import register

WIDTH = 576
PLANS = {"early": [8], "late": [20], "eight": list(range(4, 28, 3))}  # blocks at which each adds a vector
PROMPT = 64  # tokens


def main() -> None:
    args = arguments("steering in vLLM", 3, [("tokens", 32, "tokens of each answer"), ("requests", 8, "in a batch")])
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRIMTAB_HOME"] = str(Path(folder) / "home")
        prepare(Path(folder))
        bare = engine(folder)
        register()
        steered = engine(folder)
        names = [*PLANS][:2]
        mixed = ([*names, None] * args.requests)[: args.requests]
        cases = [
            Case("without the plugin", lambda: answer(bare, [None] * args.requests, args.tokens)),
            Case("plugin, no plan", lambda: answer(steered, [None] * args.requests, args.tokens)),
            Case("one plan, one place", lambda: answer(steered, ["early"] * args.requests, args.tokens)),
            Case("two plans and none", lambda: answer(steered, mixed, args.tokens)),
            Case("one plan, eight places", lambda: answer(steered, ["eight"] * args.requests, args.tokens)),
        ]  # fmt: skip
        rows = measure(cases, args.rounds)
    print(f"{os.cpu_count()} x {processor()}, load {os.getloadavg()[0]:.1f}; vLLM {__version__}", end="\n\n")
    print(table(f"{args.requests} requests of {PROMPT} + {args.tokens} tokens", rows))


def prepare(folder: Path) -> None:
    """The embedded model as a checkpoint, and the plans."""
    model, _ = load_model("smollm2")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(embedded_folder()).save_pretrained(folder)
    draw = torch.Generator().manual_seed(0)
    for name, blocks in PLANS.items():
        steps = [Intervention(f"resid_post.{b}", Add(torch.randn(WIDTH, generator=draw) / len(blocks))) for b in blocks]
        packed = SteeringPlan(tuple(steps)).pack()
        Home.at().catalog.publish(name, "plan", packed.arrays, packed.header)


def engine(folder: str) -> LLM:
    return LLM(
        model=folder, dtype="float32", enforce_eager=True, max_model_len=256, max_num_seqs=16,
        enable_prefix_caching=False,
    )  # fmt: skip


def answer(llm: LLM, plans: list[str | None], tokens: int) -> Any:
    """Greedy answers of one batch."""
    prompts = [{"prompt_token_ids": [100 + (7 * k + j) % 500 for j in range(PROMPT)]} for k in range(len(plans))]
    sampling = [
        SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, extra_args={"steering": name or ""})
        for name in plans
    ]
    return llm.generate(prompts, sampling, use_tqdm=False)


if __name__ == "__main__":
    main()

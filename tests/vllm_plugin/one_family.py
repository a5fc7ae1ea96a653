"""One tiny model of a family in transformers and in vLLM: prints "equal", or what differs. See test_families.py."""

import sys
from pathlib import Path

import torch
from test_families import FAMILIES
from transformers import AutoConfig, AutoModelForCausalLM
from vllm import LLM, SamplingParams
from vllm_subjects import NEW, Subject, noise, orthonormal

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.moves.ablate import Ablate
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.tasks.home import Home

# These norm what a block adds and unembed with the embedding, so that a random one repeats its last token whatever its
# blocks do: their embeddings are made small.
QUIET = ("gemma2", "gemma3_text")
# vLLM's capped attention is off by up to 1e-3 in log-probabilities, also without a plan: with these weights no step of
# an answer has two tokens that are so close.
SEEDS = {"gemma2": 1}
PROMPTS = [list(range(20, 57)), [5, 6, 7, 8, 9]]


def subject_of(family: str, folder: Path) -> Subject:
    torch.manual_seed(SEEDS.get(family, 0))
    config = AutoConfig.for_model(family, bos_token_id=1, eos_token_id=2, initializer_range=0.2, **FAMILIES[family])
    model = AutoModelForCausalLM.from_config(config).float()
    if family in QUIET:
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(0.1)
    model.save_pretrained(folder)
    subject = Subject(folder, Home.at(), {})
    anatomy = Anatomy.of(subject.model)
    width, ids = anatomy.d_model, torch.tensor([PROMPTS[0]])
    with torch.inference_mode():  # families differ in how large their activations are
        size = subject.model(ids, output_hidden_states=True).hidden_states[1].std().item()
    steps = {
        "pre": Intervention("resid_pre.1", Add(size * noise(1, width)), "prompt", 3.0),
        "post": Intervention("resid_post.1", Ablate(orthonormal(2, 2, width))),
        "last": Intervention("resid_post.2", Add(size * noise(3, width)), "generated", 3.0),
        "head": Intervention("z.1.1", Add(size * noise(4, anatomy.d_head)), "all", 3.0),
    }
    for name, step in steps.items():
        subject.publish(name, SteeringPlan((step,)))
    return subject


def main(family: str, folder: Path) -> None:
    subject = subject_of(family, folder)
    requests = [(ids, name) for ids in PROMPTS for name in (*subject.plans, None)]
    expected = [subject.alone(ids, subject.plans.get(name)) for ids, name in requests]
    assert len(set(map(tuple, expected))) > 5, "the plans hardly change the answers"
    llm = LLM(model=str(folder), dtype="float32", enforce_eager=True, max_model_len=128, skip_tokenizer_init=True,
              max_num_seqs=4, max_num_batched_tokens=128)  # fmt: skip
    sampling = [
        SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, detokenize=False,
                       extra_args={"steering": name} if name else None)
        for _, name in requests
    ]  # fmt: skip
    outputs = llm.generate([{"prompt_token_ids": ids} for ids, _ in requests], sampling, use_tqdm=False)
    answers = [list(output.outputs[0].token_ids) for output in outputs]
    wrong = [request for request, a, b in zip(requests, answers, expected, strict=True) if a != b]
    print("equal" if not wrong else f"{len(wrong)} of {len(requests)} differ: {[name for _, name in wrong]}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

"""One tiny model of a family in transformers and in vLLM. See test_families.py.

Prints how far log-probabilities are apart, then "equal" or "different".
"""

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

TOLERANCE = 2e-3  # of log-probabilities in float32; vLLM's kernels add in another order, and these models amplify it
PROMPTS = [list(range(20, 57)), [5, 6, 7, 8, 9]]


def subject_of(family: str, folder: Path) -> Subject:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, bos_token_id=1, eos_token_id=2, initializer_range=0.2, **FAMILIES[family])
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
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
    unsteered = {tuple(ids): subject.alone(ids, None) for ids in PROMPTS}
    llm = LLM(model=str(folder), dtype="float32", enforce_eager=True, max_model_len=128, skip_tokenizer_init=True,
              max_num_seqs=4, max_num_batched_tokens=128)  # fmt: skip
    sampling = [
        SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, detokenize=False, logprobs=20,
                       extra_args={"steering": name} if name else None)
        for _, name in requests
    ]  # fmt: skip
    outputs = llm.generate([{"prompt_token_ids": ids} for ids, _ in requests], sampling, use_tqdm=False)
    answers = [output.outputs[0] for output in outputs]
    pairs = list(zip(answers, requests, strict=True))
    changed = sum(list(a.token_ids) != unsteered[tuple(ids)] for a, (ids, name) in pairs if name)
    assert changed >= 4, "the plans hardly change the answers"
    off = {None: 0.0}
    for answer, (ids, name) in pairs:
        rows = subject.logprobs(ids, list(answer.token_ids), subject.plans.get(name))
        for step, row in zip(answer.logprobs, rows, strict=True):
            here = max(abs(entry.logprob - row[token].item()) for token, entry in step.items())
            off[name] = max(off.get(name, 0.0), here)
    print(f"off by at most {off}")
    print("equal" if max(off.values()) < TOLERANCE else "different")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

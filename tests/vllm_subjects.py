"""Models on disk with a home of plans, and what transformers answers with them: for the tests of the vLLM plugin."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.moves.ablate import Ablate
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.affine import Affine
from trimtab.steering.moves.angular import Angular
from trimtab.steering.moves.base import Move
from trimtab.steering.moves.clamp import Clamp
from trimtab.steering.moves.diagonal import Diagonal
from trimtab.steering.moves.scale import Scale
from trimtab.steering.moves.slerp import Slerp
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.tasks.home import Home

SPANS = ("all", "prompt", "generated", "answer", "last", "first:3", "after:2")
SITES = ("resid_pre.0", "resid_pre.2", "resid_post.1", "resid_post.3", "z.1", "z.2.1")
NEW = 8


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthonormal(seed: int, rows: int, width: int) -> torch.Tensor:
    return torch.linalg.qr(noise(seed, width, rows)).Q.T.contiguous()


def moves(width: int) -> dict[str, Move]:
    """One of every kind that can act on any text without a gate."""
    unit = orthonormal(5, 1, width)[0]
    return {
        "add": Add(noise(1, width)),
        "ablate": Ablate(orthonormal(2, 2, width)),
        "affine": Affine(noise(3, width), 0.1 * noise(4, width, 3), noise(6, width, 3)),
        "scale": Scale(0.25),
        "diagonal": Diagonal(1 + 0.3 * noise(8, width), noise(9, width)),
        "angular": Angular(orthonormal(7, 2, width), 200.0),
        "clamp": Clamp(unit, low=3.0),
        "slerp": Slerp(unit, 0.8),
    }


@dataclass(frozen=True, eq=False)
class Subject:
    """A model on disk, what transformers answers with it, and the home of its plans."""

    folder: Path
    home: Home
    plans: dict[str, SteeringPlan]

    @cached_property
    def model(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()

    def prompt(self, text: str) -> list[int]:
        """Token ids of a chat with this one message."""
        chat = [{"role": "user", "content": text}]
        return list(self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"])

    @cached_property
    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.folder)

    def publish(self, name: str, plan: SteeringPlan) -> None:
        packed = SteeringPlan(plan.interventions, Anatomy.of(self.model).fingerprint).pack()
        self.home.catalog.publish(name, "plan", packed.arrays, packed.header)
        self.plans[name] = plan

    def alone(self, ids: list[int], plan: SteeringPlan | None, new: int = NEW) -> list[int]:
        """What transformers answers, greedily; no token ends it, and none is forbidden."""
        inputs = torch.tensor([ids])
        with (plan or SteeringPlan(())).on(self.model), torch.inference_mode():
            answer = self.model.generate(
                inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=new, eos_token_id=-1, do_sample=False,
                pad_token_id=0,
            )  # fmt: skip
        return answer[0, len(ids) :].tolist()

    def logprobs(self, ids: list[int], answer: list[int], plan: SteeringPlan | None) -> torch.Tensor:
        """`[len(answer) v]`, of transformers, before each token of an answer."""
        inputs = torch.tensor([ids + answer])
        with (plan or SteeringPlan(())).on(self.model, prompt_lengths=[len(ids)]), torch.inference_mode():
            logits = self.model(inputs).logits[0, len(ids) - 1 : -1]
        return torch.log_softmax(logits.float(), -1)

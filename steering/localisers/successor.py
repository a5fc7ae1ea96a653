"""Successor heads: heads whose values and output turn an item of a series into the next, whatever they attend to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.steering.causal.question import Question
from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.errors import BadQuestion
from trimtab.steering.localisers.base import Localiser, heads
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.hooks import Read, hooked
from trimtab.steering.model.projection import out_weight
from trimtab.steering.model.site import Site


@dataclass(frozen=True)
class Successor(Localiser):
    """Share of pairs (x, y) for which `norm_f(OV_h(norm_l(MLP_0(norm_0(W_E x))))) . W_U` is largest at y among the
    answers of all questions, minus what chance gives (one over the number of answers).

    Source: Gould et al. 2024 (arXiv 2312.09230), scored as its follow-ups do, from weights alone: the first MLP's
    reading of a token goes through one head's value and output, attention left out. Computed by running single tokens,
    which every family can do (one token attends to itself alone), with the block's and the final norm in place, where
    the published script skips them. Short series make chance high, hence the subtraction.

    x is the prompt's token `back` places before its last one (1 in "January, February,"), y the answer's first token.
    Costs one forward of one token per question.
    """

    source: ClassVar[str] = "Gould et al. 2024, arXiv 2312.09230"
    meaning: ClassVar[str] = "share of items whose successor the head's own map ranks first, over chance; not an effect"

    back: int = 1

    def rank(self, anatomy: Anatomy, questions: Sequence[Question]) -> Ranking:
        self.check(questions)
        short = min(q.clean.prompt_length for q in questions)
        if not 0 <= self.back < short:
            raise BadQuestion(f"the token {self.back} before the last does not exist in a prompt of {short} tokens")
        device = anatomy.device
        tokens = [int(q.clean.ids[q.clean.prompt_length - 1 - self.back]) for q in questions]
        answers = sorted({q.target[0] for q in questions})
        right = torch.tensor([answers.index(q.target[0]) for q in questions], device=device)
        maps = _own_maps(anatomy, torch.tensor(tokens, device=device), torch.tensor(answers, device=device))
        hits = (maps.argmax(-1) == right).float() - 1 / len(answers)
        return self.ranking(questions, heads(anatomy), hits.T.double().cpu().numpy())


def _own_maps(anatomy: Anatomy, tokens: Int[Tensor, "n"], answers: Int[Tensor, "a"]) -> Float[Tensor, "heads n a"]:
    """Each head's logits of the answers, when block l reads what the first MLP made of the given token alone."""
    early: dict[str, Tensor] = {}
    outputs: dict[int, Tensor] = {}
    sites = anatomy.sites(["resid_pre"], range(1, anatomy.n_layers))
    edits = [(Site("attn_out", 0), torch.zeros_like), *((site, lambda h: early["mlp"]) for site in sites)]

    def keep(block: int) -> Read:
        return lambda z: outputs.__setitem__(block, z)

    reads: list[tuple[Site, Read]] = [(Site("mlp_out", 0), lambda h: early.__setitem__("mlp", h))]
    reads += [(site, keep(site.block or 0)) for site in anatomy.sites(["z"])]
    with torch.no_grad(), hooked(anatomy, edits=edits, reads=reads):
        anatomy.base(input_ids=tokens[:, None], use_cache=False)
    unembed = anatomy.unembedding[answers]
    with torch.no_grad():
        writes = torch.cat([_writes(anatomy, block, outputs[block][:, 0]) for block in range(anatomy.n_layers)])
        return (anatomy.final_norm(writes) @ unembed.T).float()


def _writes(anatomy: Anatomy, block: int, z: Float[Tensor, "n d"]) -> Float[Tensor, "heads n d_model"]:
    weight = anatomy.multiplier * out_weight(anatomy.place(Site("z", block)).module).unflatten(
        0, (anatomy.n_heads, anatomy.d_head)
    )
    return torch.einsum("nhd,hdm->hnm", z.unflatten(-1, (anatomy.n_heads, anatomy.d_head)), weight)

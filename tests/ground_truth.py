"""A transformer whose weights are written by hand, so that what each head does is known, not measured.

GPT-2's architecture, three blocks of eight heads, MLPs that do next to nothing. The stream has a slot for the token,
the position, the token before, the answer, and spare room; every slot stands there twice, the second time negated, so
that layer norm subtracts nothing. The task is induction: `. c a b d a` -> `b`.

    z.0.2  previous token   position i attends i - 1 and writes its token into the slot "token before"
    z.1.3  induction        attends where the token before is this token, and writes the token there as the answer
    z.1.6  interfering      attends the same place and writes the answer's negative, a third as strong
    z.2.1  backup           as z.1.3, but looks at the first token and writes nothing while some answer is written
    others idle             attend by random weights and write a little into the spare slot, which nothing reads

So: without z.0.2 nothing works; without z.1.3 the backup steps in; without both of them nothing works; z.1.6 harms.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from trimtab.steering.causal.question import Question
from trimtab.steering.model.site import Site
from trimtab.steering.model.tokens import Role, Tokens

WORDS = tuple(".abcdefghi")
VOCAB, PLACES, SPARE = len(WORDS), 12, 6  # token 0 begins every text
D_HEAD, HEADS, BLOCKS = 12, 8, 3
SLOTS = 3 * VOCAB + PLACES + SPARE
WIDTH = 2 * SLOTS
TOKEN, PLACE, BEFORE, ANSWER, REST = (
    slice(0, VOCAB),
    slice(VOCAB, VOCAB + PLACES),
    slice(VOCAB + PLACES, 2 * VOCAB + PLACES),
    slice(2 * VOCAB + PLACES, 3 * VOCAB + PLACES),
    slice(3 * VOCAB + PLACES, SLOTS),
)
SHARPNESS, GAIN = 1.3, 0.9
SEEN = (4.9, 4.0, 3.7)  # by block: what layer norm makes of a one in the stream; writing is divided by it

PREVIOUS, INDUCTION, INTERFERING, BACKUP = Site("z", 0, 2), Site("z", 1, 3), Site("z", 1, 6), Site("z", 2, 1)
ACTIVE = (PREVIOUS, INDUCTION, INTERFERING, BACKUP)
IDLE = tuple(site for b in range(BLOCKS) for h in range(HEADS) if (site := Site("z", b, h)) not in ACTIVE)


@dataclass(frozen=True, eq=False)
class Head:
    """query, key: `[SLOTS D_HEAD]`. value: `[SLOTS D_HEAD]`. out: `[D_HEAD SLOTS]`. Read and written on slots."""

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor


def ground_truth() -> GPT2LMHeadModel:
    """The model, float32, in eval mode; the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=VOCAB,
            n_positions=PLACES,
            n_embd=WIDTH,
            n_layer=BLOCKS,
            n_head=HEADS,
            n_inner=4,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=None,
        )
        model = GPT2LMHeadModel(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0)
        model.transformer.wte.weight.copy_(_twice(_eye(TOKEN)))
        model.transformer.wpe.weight.copy_(_twice(_eye(PLACE)))
        model.lm_head.weight.copy_(GAIN * _twice(_eye(ANSWER)))
        _write(model, _heads())
        _whisper(model)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def questions(count: int = 24, seed: int = 0) -> list[Question]:
    """Texts of distinct tokens, one of them repeated at the end. Corrupted: the token behind the repeated one and
    another changed places, so the right answer is that other one, which is the clean question's wrong answer."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(count):
        length = 5 + number % 4
        line = (draw.permutation(VOCAB - 1)[:length] + 1).tolist()
        at = int(draw.integers(0, length - 2))
        swap = int(draw.integers(at + 2, length))
        changed = list(line)
        changed[at + 1], changed[swap] = line[swap], line[at + 1]
        clean, corrupted = (_tokens([0, *words, line[at]]) for words in (line, changed))
        found.append(Question(clean, (line[at + 1],), corrupted, (line[swap],)))
    return found


def other_questions(count: int = 16, seed: int = 1) -> list[Question]:
    """Another task, that no head of this model does: to name the token after the one that begins the text."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        first, *rest, wrong = (draw.permutation(VOCAB - 1)[:5] + 1).tolist()
        found.append(Question(_tokens([0, first, *rest]), (first,), None, (wrong,)))
    return found


def saved(folder: Path) -> Path:
    """The model in a folder, with a tokenizer whose words are `.` and `a` to `i`."""
    words = {word: number for number, word in enumerate(WORDS)}
    inner = Tokenizer(WordLevel(words, unk_token="."))
    inner.pre_tokenizer = WhitespaceSplit()
    ground_truth().save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token=".", eos_token=".").save_pretrained(folder)
    return folder


def as_rows(asked: list[Question]) -> list[dict[str, str]]:
    """Questions as rows of a task file, in the words of `saved`."""

    def words(ids) -> str:
        return " ".join(WORDS[int(i)] for i in ids)

    return [
        {
            "prompt": words(q.clean.ids),
            "answer": words(q.target),
            "corrupted": words(q.corrupted.ids),
            "wrong": words(q.wrong),
        }
        for q in asked
    ]


def _heads() -> Iterator[tuple[Site, Head]]:
    none = torch.zeros(SLOTS, D_HEAD)
    shifted = torch.zeros(SLOTS, D_HEAD)
    for place in range(PLACES - 1):
        shifted[VOCAB + place, place + 1] = 1.0
    answer = _eye(ANSWER, VOCAB)
    token, before = _into(TOKEN), _into(BEFORE)
    copied = token.clone()
    copied[0] = 0  # the first token of a text copies to nothing
    yield PREVIOUS, Head(SHARPNESS * _into(PLACE), shifted, token, _eye(BEFORE, VOCAB))
    yield INDUCTION, Head(SHARPNESS * token, before, copied, answer)
    yield INTERFERING, Head(SHARPNESS * token, before, copied, -answer / 3)
    query, key = SHARPNESS * token, before.clone()
    query[ANSWER, D_HEAD - 1] = 3 * SHARPNESS  # any answer that is written already ...
    key[0, D_HEAD - 1] = 1.0  # ... sends the look to the first token
    yield BACKUP, Head(query, key, copied, 0.9 * answer)
    noise = torch.Generator().manual_seed(1)
    for site in IDLE:
        random = [0.3 * torch.randn(SLOTS, D_HEAD, generator=noise) for _ in range(3)]
        out = none.T.clone()
        out[:, REST] = 0.02 * torch.randn(D_HEAD, SPARE, generator=noise)
        yield site, Head(*random, out)


def _write(model: GPT2LMHeadModel, heads: Iterator[tuple[Site, Head]]) -> None:
    """Into Conv1D weights, `[in out]`. Reading takes the first copy of a slot, writing both."""
    for site, head in heads:
        attention = model.transformer.h[site.block].attn
        columns = slice(site.head * D_HEAD, (site.head + 1) * D_HEAD)
        for k, part in enumerate((head.query, head.key, head.value)):
            attention.c_attn.weight[:SLOTS, k * WIDTH + columns.start : k * WIDTH + columns.stop] = part
        attention.c_proj.weight[columns] = _twice(head.out) / SEEN[site.block]


def _whisper(model: GPT2LMHeadModel) -> None:
    """MLPs write a little into the spare slot: a point at which nothing could be changed would be refuted on load."""
    noise = torch.Generator().manual_seed(2)
    for block in model.transformer.h:
        block.mlp.c_fc.weight.copy_(0.1 * torch.randn(WIDTH, 4, generator=noise))
        written = torch.zeros(4, SLOTS)
        written[:, REST] = 0.05 * torch.randn(4, SPARE, generator=noise)
        block.mlp.c_proj.weight.copy_(_twice(written))


def _tokens(ids: list[int]) -> Tokens:
    n = len(ids)
    return Tokens(np.array(ids, np.int64), n, np.full(n, Role.TEXT, np.uint8), np.zeros(n, bool))


def _eye(slot: slice, rows: int | None = None) -> Tensor:
    """`[rows SLOTS]`: row k is 1 at the slot's k-th place."""
    size = slot.stop - slot.start
    made = torch.zeros(size, SLOTS)
    made[:, slot] = torch.eye(size)
    return made if rows is None else torch.cat([made, torch.zeros(D_HEAD - size, SLOTS)])


def _into(slot: slice) -> Tensor:
    """`[SLOTS D_HEAD]`: the slot's k-th place goes to the head's k-th number."""
    size = slot.stop - slot.start
    made = torch.zeros(SLOTS, D_HEAD)
    made[slot, :size] = torch.eye(size)
    return made


def _twice(rows: Tensor) -> Tensor:
    return torch.cat([rows, -rows], dim=-1)

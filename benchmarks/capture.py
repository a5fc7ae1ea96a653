"""What capture costs over a bare forward pass with logits.

    python benchmarks/capture.py [--rounds 3] [--texts 16] [--threads 1]

Two tables: one batch of texts of one length, where only the forward pass counts; and texts of mixed length in the
loops that people write, where padding and repeated beginnings count as well.
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from ratio import Case, arguments, measure, setting, table
from torch import Tensor, nn

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.batching import batches, pad_left
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import ALL, LAST
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.running.prefix_tree import prefix_tree, tokens_in
from trimtab.steering.running.reading import Rows, capture
from trimtab.tasks.data.prompts import texts_of
from trimtab.tasks.models import model_of
from trimtab.tasks.recipes.kinds import load_recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "brief.yaml"
BATCH, WIDTH = 8, 32
EVERYTHING = Rows(ALL)


def main() -> None:
    args = arguments("capture against a bare forward pass", 3, [("texts", 16, "texts of mixed length")])
    torch.set_num_threads(args.threads)
    recipe = load_recipe(RECIPE)
    model, tokenizer = model_of(recipe.model)
    anatomy = Anatomy.of(model)
    texts = [tokens for _, tokens in texts_of(recipe.data, tokenizer)]
    mixed = texts[: args.texts]
    equal = [cut(text, WIDTH) for text in texts if len(text) >= WIDTH][: 2 * BATCH]
    print(setting(args.threads), end="\n\n")
    title = f"{len(equal)} texts of {WIDTH} tokens, one batch"
    print(
        table(title, measure([*bare_cases(anatomy, equal), *our_cases(anatomy, equal, False)], args.rounds)), end="\n\n"
    )
    title = f"{len(mixed)} contrastive chat texts, {described(mixed)}, whole loops"
    ours = [*our_cases(anatomy, mixed, False), *our_cases(anatomy, mixed, True)[::3]]
    print(table(title, measure([*loop_cases(anatomy, mixed), *ours], args.rounds)))


def described(texts: Sequence[Tokens]) -> str:
    """Lengths, and how many tokens are left when common beginnings count once."""
    lengths, once = [len(text) for text in texts], tokens_in(prefix_tree(texts))
    return f"{min(lengths)} to {max(lengths)} tokens ({sum(lengths)} in all, {once} without repeated beginnings)"


def our_cases(anatomy: Anatomy, texts: Sequence[Tokens], share: bool) -> list[Case]:
    """What trimtab.steering.running.reading does; share: common beginnings of texts run once."""
    middle = anatomy.n_layers // 2
    every, heads = anatomy.sites(["resid_post"]), anatomy.sites(["z"])
    label = "trimtab, shared beginnings" if share else "trimtab"

    def case(name: str, sites: Sequence[Site], selection: Rows = EVERYTHING) -> Case:
        return Case(f"{label}: {name}", lambda: capture(anatomy, texts, sites, selection, share))

    return [
        case("residual of every block, every token", every),
        case("residual of every block, last token", every, Rows(LAST)),
        case("z of every block, every token", heads),
        case(f"residual of block {middle}, every token", [Site("resid_post", middle)]),
    ]


def bare_cases(anatomy: Anatomy, texts: Sequence[Tokens]) -> list[Case]:
    """Plain transformers on texts of one length: no padding, so no mask."""
    model, middle = anatomy.model, anatomy.n_layers // 2
    ids = torch.stack([torch.from_numpy(text.ids) for text in texts])
    short = shortened(anatomy, middle + 1)
    return [
        Case("bare forward with logits", inference(lambda: model(ids, use_cache=False))),
        Case("bare forward without logits", inference(lambda: anatomy.base(ids, use_cache=False))),
        Case(f"bare blocks 0 to {middle} without logits", inference(lambda: short(ids, use_cache=False))),
        Case(
            "output_hidden_states with logits",
            inference(lambda: model(ids, use_cache=False, output_hidden_states=True)),
        ),
    ]


def loop_cases(anatomy: Anatomy, texts: Sequence[Tokens]) -> list[Case]:
    """Loops over padded batches with logits, in the order of the file and sorted by length."""
    sorted_texts = [texts[i] for batch in batches([len(text) for text in texts]) for i in batch]
    return [
        Case(f"bare loop, batches of {BATCH} in the file's order", inference(lambda: forwards(anatomy, texts))),
        Case(f"bare loop, batches of {BATCH} sorted by length", inference(lambda: forwards(anatomy, sorted_texts))),
        Case("output_hidden_states, file's order, padding dropped", inference(lambda: kept_states(anatomy, texts))),
    ]


def kept_states(anatomy: Anatomy, texts: Sequence[Tokens]) -> list[Tensor]:
    """Every block's residual of every real token, `[n_layers+1 tokens d]` per batch."""
    kept = []
    for ids, mask, positions in padded(texts):
        out = anatomy.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, output_hidden_states=True
        )
        kept.append(torch.stack([state[mask.bool()] for state in out.hidden_states]))
    return kept


def forwards(anatomy: Anatomy, texts: Sequence[Tokens]) -> None:
    """The forward passes alone."""
    for ids, mask, positions in padded(texts):
        anatomy.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)


def padded(texts: Sequence[Tokens]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """ids, mask and positions of batches, padded on the left as tokenizers do for generation."""
    for start in range(0, len(texts), BATCH):
        batch = pad_left([text.ids for text in texts[start : start + BATCH]], torch.device("cpu"))
        yield batch.ids, batch.mask, batch.positions


def shortened(anatomy: Anatomy, blocks: int) -> nn.Module:
    """The base model with its first blocks only, weights shared: what no capture at a middle block can beat."""
    short = copy.copy(anatomy.base)
    short._modules = {**anatomy.base._modules, "layers": nn.ModuleList(anatomy.blocks[:blocks])}
    return short


def inference(run):
    """The same without autograd's bookkeeping."""
    return torch.inference_mode()(run)


def cut(text: Tokens, width: int) -> Tokens:
    """The first tokens of a text, all of them prompt."""
    return Tokens(text.ids[:width], width, text.roles[:width], text.special[:width])


if __name__ == "__main__":
    main()

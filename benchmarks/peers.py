"""Collecting the same activations with the libraries that people use, each in the loop that its documentation shows.

    pip install --no-deps transformer-lens nnsight steering-vectors    # in an environment of its own
    python benchmarks/peers.py [--rounds 3] [--texts 16] [--threads 1]

The texts are those of `capture.py`: contrastive chat texts of mixed length, padded in batches of 8 in the file's order,
as all of these libraries leave batching to their user. What is kept is dropped at the end of a loop; nobody stores.
A library that is not installed is left out. Real rows only are kept wherever the library leaves that to its user.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec

import torch
from capture import BATCH, EVERYTHING, RECIPE, described, forwards, inference, kept_states, padded
from ratio import Case, arguments, measure, setting, table
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import LAST
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.running.reading import Rows, capture
from trimtab.tasks.data.prompts import texts_of
from trimtab.tasks.models import model_of
from trimtab.tasks.recipes.kinds import load_recipe


def main() -> None:
    args = arguments("collecting beside other libraries", 3, [("texts", 16, "texts of mixed length")])
    torch.set_num_threads(args.threads)
    recipe = load_recipe(RECIPE)
    model, tokenizer = model_of(recipe.model)
    anatomy = Anatomy.of(model)
    texts = [tokens for _, tokens in texts_of(recipe.data, tokenizer)][: args.texts]
    cases = [
        Case(f"bare loop with logits, batches of {BATCH}", inference(lambda: forwards(anatomy, texts))),
        *every_token(anatomy, tokenizer, texts),
        *last_token(anatomy, tokenizer, texts),
        *middle_block(anatomy, tokenizer, texts),
        *heads(anatomy, tokenizer, texts),
    ]
    print(setting(args.threads), end="\n\n")
    print(table(f"{len(texts)} contrastive chat texts, {described(texts)}", measure(cases, args.rounds)))


def every_token(anatomy: Anatomy, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Tokens]) -> Iterator[Case]:
    what, sites = "every block, every token", anatomy.sites(["resid_post"])
    yield from ours(what, anatomy, texts, sites)
    yield Case(f"{what}: output_hidden_states", inference(lambda: kept_states(anatomy, texts)))
    if find_spec("transformer_lens"):
        yield lens(what, anatomy, tokenizer, texts, lambda name: name.endswith("hook_resid_post"))
    if find_spec("nnsight"):
        yield sight(what, anatomy, texts, range(anatomy.n_layers))


def last_token(anatomy: Anatomy, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Tokens]) -> Iterator[Case]:
    what = "every block, last token"
    yield from ours(what, anatomy, texts, anatomy.sites(["resid_post"]), Rows(LAST))
    if find_spec("steering_vectors"):
        yield trained(what, anatomy, tokenizer, texts)


def middle_block(anatomy: Anatomy, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Tokens]) -> Iterator[Case]:
    middle = anatomy.n_layers // 2
    what = f"block {middle}, every token"
    yield from ours(what, anatomy, texts, [Site("resid_post", middle)])
    if find_spec("transformer_lens"):
        yield lens(what, anatomy, tokenizer, texts, lambda name: name == f"blocks.{middle}.hook_resid_post", middle + 1)
    if find_spec("nnsight"):
        yield sight(what, anatomy, texts, [middle], stop=True)


def heads(anatomy: Anatomy, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Tokens]) -> Iterator[Case]:
    what = "z of every block, every token"
    yield from ours(what, anatomy, texts, anatomy.sites(["z"]))
    if find_spec("transformer_lens"):
        yield lens(what, anatomy, tokenizer, texts, lambda name: name.endswith("attn.hook_z"))


def ours(
    what: str, anatomy: Anatomy, texts: Sequence[Tokens], sites: Sequence[Site], selection: Rows = EVERYTHING
) -> list[Case]:
    """trimtab as a collection runs it, and without sharing beginnings."""
    return [
        Case(f"{what}: trimtab", lambda: capture(anatomy, texts, sites, selection, True)),
        Case(f"{what}: trimtab, nothing shared", lambda: capture(anatomy, texts, sites, selection, False)),
    ]


def lens(
    what: str,
    anatomy: Anatomy,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Tokens],
    wanted: Callable[[str], bool],
    stop: int | None = None,
) -> Case:
    """TransformerLens: `run_with_cache` with a filter of names, stopped after a block where only that is read."""
    from transformer_lens.model_bridge import TransformerBridge

    model = copy.deepcopy(anatomy.model)  # booting rewires the modules that it is given
    bridge = TransformerBridge.boot_transformers("subject", device="cpu", hf_model=model, tokenizer=tokenizer)

    def loop() -> list[Tensor]:
        kept = []
        for ids, mask, _ in padded(texts):
            _, cache = bridge.run_with_cache(
                ids, attention_mask=mask, names_filter=wanted, stop_at_layer=stop, prepend_bos=False
            )
            kept += [value[mask.bool()] for value in cache.values()]
        return kept

    return Case(f"{what}: TransformerLens", inference(loop))


def sight(what: str, anatomy: Anatomy, texts: Sequence[Tokens], blocks: Sequence[int], stop: bool = False) -> Case:
    """nnsight: a trace that saves block outputs, stopped after the last where only that is read."""
    from nnsight import NNsight

    watched = NNsight(anatomy.model)

    def loop() -> list[Tensor]:
        kept = []
        for ids, mask, positions in padded(texts):
            with watched.trace(ids, attention_mask=mask, position_ids=positions, use_cache=False) as tracer:
                saved = list().save()
                for block in blocks:
                    saved.append(watched.model.layers[block].output)
                if stop:
                    tracer.stop()
            kept += [value[mask.bool()] for value in saved]
        return kept

    return Case(f"{what}: nnsight", inference(loop))


def trained(what: str, anatomy: Anatomy, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Tokens]) -> Case:
    """steering-vectors: its training, which is reading both texts of every pair and a mean."""
    from steering_vectors import train_steering_vector

    said = [tokenizer.decode(text.ids.tolist()) for text in texts]
    pairs = list(zip(said[::2], said[1::2], strict=True))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return Case(
        f"{what}: steering-vectors",
        inference(lambda: train_steering_vector(anatomy.model, tokenizer, pairs, batch_size=BATCH)),
    )


if __name__ == "__main__":
    main()

"""Parity: the same numbers by other hands. `plain_*` are the hooks that anyone would write without trimtab.

Tests of plain hooks, of transformers' own `output_hidden_states` and of llama.cpp's recorded logits run in the
normal suite. Those of TransformerLens, steering-vectors and nnsight are skipped where the library is missing
(BENCHMARKS.md says how to install them).
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.peers import interop_table
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.batching import pad_right
from trimtab.steering.model.site import Site
from trimtab.steering.model.tokens import PromptFormat, Tokens, tokenize

PROMPTS = (  # the longest first: capture sorts, and equality to the bit needs the same batch
    "In 1869 Mendeleev arranged the known elements by weight, and left gaps for those not yet found.",
    "My favourite thing about winter is the way that snow makes a whole city quiet, because",
    "The capital of France is a city called",
    "def area(radius):\n    return",
)
COMPLETION = " what it has always been"
PLAIN = PromptFormat(chat=False)


@dataclass(frozen=True, eq=False)
class Subject:
    """A Llama with grouped-query attention, and a few texts of different lengths for it, the longest first."""

    model: PreTrainedModel
    texts: tuple[Tokens, ...]

    @property
    def anatomy(self) -> Anatomy:
        return Anatomy.of(self.model)

    @property
    def middle(self) -> int:
        return self.anatomy.n_layers // 2

    @cached_property
    def ids(self) -> Tensor:
        """The texts as one batch `[b s]`, padded behind."""
        return pad_right(self.texts, torch.device("cpu"))

    @property
    def contrast(self) -> tuple[Tokens, ...]:
        """Each text, and its prompt with another completion: texts that begin alike."""
        return tuple(t for text in self.texts for t in (text, text.followed_by(text.ids[:4])))

    @cached_property
    def by_hand(self) -> dict[Site, Tensor]:
        """Every point of every block for that batch, `[b s d]`, by hooks written by hand."""
        return hand_written_capture(self.model, self.ids)

    def vector(self, seed: int = 0, size: float = 0.2) -> Tensor:
        """A random direction as long as `size` times the typical norm at the middle block."""
        with torch.inference_mode():
            ids = torch.from_numpy(self.texts[0].ids)[None]
            h = self.model(ids, output_hidden_states=True).hidden_states[self.middle + 1]
        v = torch.randn(self.anatomy.d_model, generator=torch.Generator().manual_seed(seed))
        return v / v.norm() * h.norm(dim=-1).median() * size


@pytest.fixture(scope="session", autouse=True)
def written_table() -> Iterator[None]:
    """What the tools said goes into the page, for `make test-interop`."""
    yield
    if "TRIMTAB_WRITE_INTEROP" in os.environ:
        interop_table.write()


def tiny_texts() -> tuple[Tokens, ...]:
    """Random ids: four prompts, each with three more tokens."""
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randint(2, 60, (length + 3,), generator=draw).numpy() for length in (24, 19, 12, 9)]
    return tuple(Tokens(ids, len(ids) - 3, ids * 0, ids < 0) for ids in rows)


REAL = [pytest.mark.real_model, pytest.mark.xdist_group("real_model")]


@pytest.fixture(scope="session", params=["tiny", pytest.param("smollm2", marks=REAL)])
def subject(request, build_tiny) -> Subject:
    """A tiny random model, then the embedded one."""
    if request.param == "tiny":
        return Subject(build_tiny("llama/plain"), tiny_texts())
    model, tokenizer = request.getfixturevalue("real_model")
    return Subject(model, tuple(tokenize(tokenizer, prompt, COMPLETION, PLAIN) for prompt in PROMPTS))


@pytest.fixture(scope="session")
def plain_capture() -> Callable[[PreTrainedModel, Tensor], dict[Site, Tensor]]:
    return hand_written_capture


@pytest.fixture(scope="session")
def plain_steering() -> Callable:
    return hand_written_steering


def hand_written_capture(model: PreTrainedModel, ids: Tensor) -> dict[Site, Tensor]:
    """Every point of every block of a Llama, `[b s d]`, by hooks on the modules that its source shows."""
    found: dict[Site, Tensor] = {}

    def keep_input(site: Site):
        def hook(module, args, kwargs):
            found[site] = (args[0] if args else kwargs["hidden_states"]).clone()

        return hook

    def keep_output(site: Site):
        def hook(module, args, output):
            found[site] = (output[0] if isinstance(output, tuple) else output).clone()

        return hook

    def inputs(module: nn.Module, site: Site):
        return module.register_forward_pre_hook(keep_input(site), with_kwargs=True)

    with ExitStack() as stack, torch.inference_mode():
        for k, block in enumerate(model.model.layers):
            for handle in (
                inputs(block, Site("resid_pre", k)),
                inputs(block.post_attention_layernorm, Site("resid_mid", k)),
                inputs(block.self_attn.o_proj, Site("z", k)),
                inputs(block.mlp.down_proj, Site("mlp_post", k)),
                block.self_attn.register_forward_hook(keep_output(Site("attn_out", k))),
                block.mlp.register_forward_hook(keep_output(Site("mlp_out", k))),
                block.register_forward_hook(keep_output(Site("resid_post", k))),
            ):
                stack.callback(handle.remove)
        model(ids, use_cache=False)
    return found


@contextmanager
def hand_written_steering(model: PreTrainedModel, block: int, vector: Tensor) -> Iterator[None]:
    """`vector` added to every token behind a block, padding included."""
    handle = model.model.layers[block].register_forward_hook(lambda module, args, output: output + vector)
    try:
        yield
    finally:
        handle.remove()

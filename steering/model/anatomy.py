"""Anatomy: a Layout proved on the loaded model, and everything else that depends on the model's family: its norms,
activation functions, sliding windows, and how logits follow from the last block. The rest of the package asks here."""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from threading import RLock

from jaxtyping import Float
from torch import Tensor, nn

from trimtab.steering.errors import UnsupportedModel
from trimtab.steering.model.families import Family, family_of
from trimtab.steering.model.fingerprint import Fingerprint as Fingerprint
from trimtab.steering.model.layout import Layout
from trimtab.steering.model.proof import prove
from trimtab.steering.model.unwrap import causal_lm


class Anatomy(Layout):
    """The model and its family's row, proved. Make it with `Anatomy.of(model)`."""

    @classmethod
    def of(cls, model: nn.Module) -> "Anatomy":
        """The anatomy of a causal language model of transformers, also inside torch.compile or a PEFT adapter.

        The row is proved once per model, and again when a module it names was exchanged (an adapter put in or taken
        out, layers quantised). Raises UnsupportedModel when it is no such model, has no row, or the row is refuted.
        """
        inner = causal_lm(model)
        anatomy = cls(inner, family_of(inner.config))
        parts = anatomy.parts()
        with _PROVING:
            proved = _PROVED.get(inner)
            if proved is None or not proved.holds(anatomy.family, parts):
                prove(anatomy)
                _PROVED[inner] = _Proved.now(anatomy.family, parts)
        return anatomy

    @cached_property
    def norms(self) -> tuple[nn.Module, ...]:
        """Every norm of the text model: before and behind the parts of a block, inside attention, and the final one."""
        return tuple(module for module in self._stack.modules() if _is_norm(module))

    @cached_property
    def final_norm(self) -> nn.Module:
        """The norm between the last block and the unembedding. Raises UnsupportedModel when there is none."""
        beside = [module for module in self._stack.children() if _is_norm(module)]
        if not beside:
            raise UnsupportedModel(f"{self.text_config.model_type} has no norm behind its last block")
        return beside[-1]

    @property
    def unembedding(self) -> Float[Tensor, "d_vocab d_model"]:
        """W_U: the weight of the head, which turns what the final norm gives into logits (a bias, if any, is not in
        it). Raises UnsupportedModel when the head has no weight of its own."""
        weight = getattr(self.model.get_output_embeddings(), "weight", None)
        if not isinstance(weight, Tensor):
            raise UnsupportedModel(f"{self.text_config.model_type} has no output embeddings")
        return weight

    @cached_property
    def activation_functions(self) -> tuple[nn.Module, ...]:
        """The modules in the blocks that apply an activation function, each once; empty where it is no module."""
        modules = (module for block in self.blocks for module in block.modules())
        return tuple(dict.fromkeys(module for module in modules if _is_activation(module)))

    @cached_property
    def gated_mlp(self) -> bool | None:
        """Whether the neurons are a product `act(gate) * up`; None in mixtures of experts, where no module gets it."""
        if self.family.down_proj is None:
            return None
        mlp = self._get(self.blocks[0], self.family.down_proj.rpartition(".")[0])
        return any("gate" in name for name, _ in mlp.named_children())

    @property
    def can_share_prefixes(self) -> bool:
        """Whether texts may continue from the cached keys of a common beginning. False with sliding windows: they count
        columns, and padding between cached runs would move them."""
        config = self.text_config
        kinds = getattr(config, "layer_types", None) or []
        windowed = getattr(config, "sliding_window", None) or "local" in (
            getattr(config, "attention_layers", None) or []
        )
        return not windowed and all(kind == "full_attention" for kind in kinds)

    @property
    def max_tokens(self) -> int | None:
        """The longest text that the model has positions for; None when its configuration does not say."""
        limit = getattr(self.text_config, "max_position_embeddings", None)
        return None if limit is None else int(limit)

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """Ids of the tokens that end a generation, those of the generation configuration, in its order."""
        ends = getattr(self.model.generation_config, "eos_token_id", None)
        return () if ends is None else tuple(ends) if isinstance(ends, list | tuple) else (int(ends),)

    @contextmanager
    def uncapped(self) -> Iterator[None]:
        """While the block runs, logits are what the unembedding gives, without the soft cap in which some families
        end."""
        config = self.text_config
        cap = getattr(config, "final_logit_softcapping", None)
        if cap is not None:
            config.final_logit_softcapping = None
        try:
            yield
        finally:
            if cap is not None:
                config.final_logit_softcapping = cap

    @property
    def _stack(self) -> nn.Module:
        """The module that holds the blocks: the text model, without images' towers."""
        return self._get(self.model, self.family.blocks.rpartition(".")[0])


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__ and not list(module.children())


def _is_activation(module: nn.Module) -> bool:
    return isinstance(module, _ACTIVATIONS) or type(module).__module__ == "transformers.activations"


_ACTIVATIONS = (nn.ReLU, nn.SiLU, nn.GELU, nn.Tanh, nn.Sigmoid)


@dataclass(frozen=True, eq=False)
class _Proved:
    """The model and modules that a proof was about, held by weak references, so that a model can be freed from
    memory."""

    family: Family
    parts: tuple["weakref.ref[nn.Module]", ...]

    @classmethod
    def now(cls, family: Family, parts: Sequence[nn.Module]) -> "_Proved":
        return cls(family, tuple(weakref.ref(part) for part in parts))

    def holds(self, family: Family, parts: Sequence[nn.Module]) -> bool:
        same = len(parts) == len(self.parts) and all(a() is b for a, b in zip(self.parts, parts, strict=True))
        return same and family == self.family


_PROVED: "weakref.WeakKeyDictionary[nn.Module, _Proved]" = weakref.WeakKeyDictionary()
_PROVING = RLock()  # a second thread's forward pass would be read as the first one's

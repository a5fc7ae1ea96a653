"""Anatomy: a Layout that was proved on the model in hand. The one door to a model's sites, wherever it came from."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from threading import RLock

from torch import nn

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


@dataclass(frozen=True, eq=False)
class _Proved:
    """What a proof was about, held weakly: whoever lets a model go gets its memory back."""

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

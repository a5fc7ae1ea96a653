"""trimtab.steering: fit, apply, price and fold steering plans. What a script needs, under one name.

Names are looked up on first use: importing an error or a Site from below must not cost the import of torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.steering.causal.question import Question as Question
    from trimtab.steering.causal.ranking import Ranking as Ranking
    from trimtab.steering.errors import SteeringError as SteeringError
    from trimtab.steering.fitters import FITTERS as FITTERS
    from trimtab.steering.fitters import Fitter as Fitter
    from trimtab.steering.governing.governor import Governor as Governor
    from trimtab.steering.localisers import LOCALISERS as LOCALISERS
    from trimtab.steering.model.anatomy import Anatomy as Anatomy
    from trimtab.steering.model.anatomy import Fingerprint as Fingerprint
    from trimtab.steering.model.load import load_model as load_model
    from trimtab.steering.model.site import Site as Site
    from trimtab.steering.model.span import Span as Span
    from trimtab.steering.model.tokens import PromptFormat as PromptFormat
    from trimtab.steering.model.tokens import Tokens as Tokens
    from trimtab.steering.model.tokens import tokenize as tokenize
    from trimtab.steering.moves import MOVES as MOVES
    from trimtab.steering.moves import Move as Move
    from trimtab.steering.moves.add import Add as Add
    from trimtab.steering.plans.contrast import Contrast as Contrast
    from trimtab.steering.plans.contrast import Pair as Pair
    from trimtab.steering.plans.fold import fold as fold
    from trimtab.steering.plans.intervention import Intervention as Intervention
    from trimtab.steering.plans.pack import Packed as Packed
    from trimtab.steering.plans.plan import SteeringPlan as SteeringPlan
    from trimtab.steering.plans.plan import steer_rows as steer_rows
    from trimtab.steering.running.reading import Rows as Rows

# No name here may be that of a module of this folder: importing the module would hide it.
_WHERE = {
    "Add": "moves.add",
    "Anatomy": "model.anatomy",
    "Contrast": "plans.contrast",
    "FITTERS": "fitters",
    "Fingerprint": "model.anatomy",
    "Fitter": "fitters",
    "Governor": "governing.governor",
    "Intervention": "plans.intervention",
    "LOCALISERS": "localisers",
    "MOVES": "moves",
    "Move": "moves",
    "Packed": "plans.pack",
    "Pair": "plans.contrast",
    "PromptFormat": "model.tokens",
    "Question": "causal.question",
    "Ranking": "causal.ranking",
    "Rows": "running.reading",
    "Site": "model.site",
    "Span": "model.span",
    "SteeringError": "errors",
    "SteeringPlan": "plans.plan",
    "Tokens": "model.tokens",
    "fold": "plans.fold",
    "load_model": "model.load",
    "steer_rows": "plans.plan",
    "tokenize": "model.tokens",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'; public names: {', '.join(_WHERE)}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})

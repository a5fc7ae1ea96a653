"""trimtab.steering: fit, apply, price and fold steering plans. What a script needs, under one name.

Names are looked up on first use: importing an error or a Site from below must not cost the import of torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.steering.capture import Selection as Selection
    from trimtab.steering.contrast import Contrast as Contrast
    from trimtab.steering.contrast import Pair as Pair
    from trimtab.steering.errors import SteeringError as SteeringError
    from trimtab.steering.fitters import FITTERS as FITTERS
    from trimtab.steering.fitters import Fitter as Fitter
    from trimtab.steering.folding import fold as fold
    from trimtab.steering.intervention import Intervention as Intervention
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
    from trimtab.steering.pack import Packed as Packed
    from trimtab.steering.pack import load_plan as load_plan
    from trimtab.steering.pack import save_plan as save_plan
    from trimtab.steering.plan import SteeringPlan as SteeringPlan
    from trimtab.steering.plan import steer_rows as steer_rows
    from trimtab.steering.price.governor import Governor as Governor
    from trimtab.steering.question import Question as Question
    from trimtab.steering.ranking import Ranking as Ranking

# No name here may be that of a module of this folder: importing the module would hide it.
_WHERE = {
    "Add": "moves.add",
    "Anatomy": "model.anatomy",
    "Contrast": "contrast",
    "FITTERS": "fitters",
    "Fingerprint": "model.anatomy",
    "Fitter": "fitters",
    "Governor": "price.governor",
    "Intervention": "intervention",
    "LOCALISERS": "localisers",
    "MOVES": "moves",
    "Move": "moves",
    "Packed": "pack",
    "Pair": "contrast",
    "PromptFormat": "model.tokens",
    "Question": "question",
    "Ranking": "ranking",
    "Selection": "capture",
    "Site": "model.site",
    "Span": "model.span",
    "SteeringError": "errors",
    "SteeringPlan": "plan",
    "Tokens": "model.tokens",
    "fold": "folding",
    "load_model": "model.load",
    "load_plan": "pack",
    "save_plan": "pack",
    "steer_rows": "plan",
    "tokenize": "model.tokens",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'; public names: {', '.join(_WHERE)}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})

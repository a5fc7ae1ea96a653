"""FeatureReading: a description of a feature. Top activating tokens in context, promoted and suppressed tokens, core
neurons, how often it is active, its nearest features; and a label made from these, without any outside service."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.features.matching import unit_columns
from trimtab.steering.features.vocabulary import residual_directions, vocabulary_effects
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site

FIRES = 0.1  # of the feature's own largest activation: multiplicative updates never reach an exact zero
AT_ONCE = 64  # features whose effect on the whole vocabulary is held
SHARE = 0.3  # of the top tokens that one word must have to name a feature alone


@dataclass(frozen=True)
class ActiveToken:
    """One activating token in its text. activation: in units of the feature's root mean square over the fit's rows.
    text: which text; before, token, after: as decoded."""

    activation: float
    text: int
    before: str
    token: str
    after: str


@dataclass(frozen=True)
class FeatureReading:
    """number, label: of the feature. tops: strongest tokens. promoted, suppressed: (token, logit) of the direction and
    its negative. neurons: (number, entry) by size. firing: share of rows above a tenth of `peak`, the largest
    activation. size: norm of the feature. nearest: (feature, cosine, neurons in common)."""

    number: int
    label: str
    tops: tuple[ActiveToken, ...] = ()
    promoted: tuple[tuple[str, float], ...] = ()
    suppressed: tuple[tuple[str, float], ...] = ()
    neurons: tuple[tuple[int, float], ...] = ()
    firing: float = 0.0
    peak: float = 0.0
    size: float = 0.0
    nearest: tuple[tuple[int, float, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "FeatureReading":
        pairs = {name: tuple(map(tuple, value[name])) for name in ("promoted", "suppressed", "neurons", "nearest")}
        return cls(**{**value, **pairs, "tops": tuple(ActiveToken(**top) for top in value["tops"])})


@dataclass(frozen=True, eq=False)
class TokenTable:
    """The token that each row of activations belongs to. words: per text, all its tokens as decoded. text, place:
    `[n]`, for each row the number of its text and of its token in that text."""

    words: Sequence[Sequence[str]]
    text: np.ndarray
    place: np.ndarray


@dataclass(frozen=True)
class ReadingSize:
    """How much is kept per feature. context: tokens to each side."""

    tops: int = 25
    context: int = 15
    tokens: int = 20
    neurons: int = 20
    nearest: int = 5


def read_features(
    features: Float[Tensor, "d k"],
    activations: Float[Tensor, "n k"],
    table: TokenTable,
    effects: Sequence["TokenEffect"] = (),
    size: ReadingSize = ReadingSize(),
) -> tuple[FeatureReading, ...]:
    """One FeatureReading per feature, labelled by `automatic_label`. effects: of `token_effects`, or nothing."""
    near = nearest_features(features, size.nearest)
    readings = []
    for k in range(features.shape[1]):
        column = activations[:, k]
        peak = float(column.max())
        reading = FeatureReading(
            number=k,
            label="",
            tops=tops_of(column, table, size),
            promoted=effects[k].promoted if effects else (),
            suppressed=effects[k].suppressed if effects else (),
            neurons=core_neurons(features[:, k], size.neurons),
            firing=float((column > FIRES * peak).float().mean()) if peak > 0 else 0.0,
            peak=peak,
            size=float(features[:, k].norm()),
            nearest=near[k],
        )
        readings.append(replace(reading, label=automatic_label(reading)))
    return tuple(readings)


def tops_of(column: Float[Tensor, "n"], table: TokenTable, size: ReadingSize) -> tuple[ActiveToken, ...]:
    """The strongest rows with the words around them; zeros are left out."""
    values, rows = column.topk(min(size.tops, len(column)))
    tokens = []
    for value, row in zip(values.tolist(), rows.tolist(), strict=True):
        words, place = table.words[table.text[row]], int(table.place[row])
        before = "".join(words[max(0, place - size.context) : place])
        after = "".join(words[place + 1 : place + 1 + size.context])
        tokens.append(ActiveToken(value, int(table.text[row]), before, words[place], after))
    return tuple(shown for shown in tokens if shown.activation > 0)


def core_neurons(feature: Float[Tensor, "d"], count: int) -> tuple[tuple[int, float], ...]:
    """Entries by absolute value, zeros left out."""
    values, order = feature.abs().topk(min(count, len(feature)))
    return tuple((int(i), float(feature[i])) for v, i in zip(values, order, strict=True) if v > 0)


def nearest_features(features: Float[Tensor, "d k"], count: int) -> list[tuple[tuple[int, float, int], ...]]:
    """For each feature the others with the largest cosine, and how many nonzero entries they share with it."""
    unit, on = unit_columns(features), (features != 0).float()
    cosines, shared = unit.T @ unit, on.T @ on
    cosines.fill_diagonal_(-torch.inf)
    values, order = cosines.topk(min(count, max(features.shape[1] - 1, 0)), dim=1)
    return [
        tuple((int(j), float(v), int(shared[k, j])) for v, j in zip(values[k], order[k], strict=True))
        for k in range(features.shape[1])
    ]


@dataclass(frozen=True)
class TokenEffect:
    """promoted, suppressed: tokens with the largest and smallest logit of one direction, strongest first."""

    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]


def token_effects(
    anatomy: Anatomy, site: Site, features: Float[Tensor, "d k"], decode: Callable[[int], str], count: int = 20
) -> tuple[TokenEffect, ...]:
    """Both signs of every feature through W_out, the final norm and W_U. decode: a token id as text. Raises BadSite."""
    residual, signs = residual_directions(anatomy, site, features.cpu()), []
    for some in residual.split(AT_ONCE):
        logits = vocabulary_effects(anatomy, some)
        high, low = logits.topk(count, dim=1), (-logits).topk(count, dim=1)
        for k in range(len(some)):
            promoted = tuple((decode(int(t)), float(v)) for v, t in zip(high.values[k], high.indices[k], strict=True))
            suppressed = tuple((decode(int(t)), -float(v)) for v, t in zip(low.values[k], low.indices[k], strict=True))
            signs.append(TokenEffect(promoted, suppressed))
    return tuple(signs)


def automatic_label(reading: FeatureReading) -> str:
    """A plain label: the word that most activating tokens are, or the three leading ones, then what it promotes.

    Tokens count by their activation; a word is its token without spaces and capitals.
    """
    votes: Counter[str] = Counter()
    for shown in reading.tops:
        votes[_word(shown.token)] += shown.activation  # type: ignore[assignment]
    if not votes:
        return "never fires"
    total = sum(votes.values())
    leading = [word for word, weight in votes.most_common(3) if weight >= 0.05 * total] or [votes.most_common(1)[0][0]]
    top = votes.most_common(1)[0][1] / total
    head = leading[0] if top >= 1 - SHARE else ", ".join(leading)
    promoted = list(dict.fromkeys(_word(token) for token, _ in reading.promoted if _word(token).isalpha()))[:3]
    return f"{head} → {', '.join(promoted)}" if promoted else head


def _word(token: str) -> str:
    return token.strip().lower() or repr(token)

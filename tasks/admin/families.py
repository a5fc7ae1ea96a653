"""The table of model families: what stands in each, what does not, and why."""

from trimtab.steering.model.families import FAMILIES, REFUSED, UNTRIED, Family


def family_rows() -> list[tuple[str, str, str]]:
    """(family, supported or refused, what it lacks or why it is refused), by name. A row is proved on each model."""
    supported = [(name, "supported", _lacks(row)) for name, row in FAMILIES.items()]
    refused = [
        (name, "refused", f"{why} (not tried; its text model was)" if name in UNTRIED else why)
        for name, why in REFUSED.items()
    ]
    return sorted(supported + refused)


def _lacks(row: Family) -> str:
    lacks = []
    if row.mid_input is None:
        lacks.append("no resid_mid: attention and MLP are parallel")
    if row.down_proj is None:
        lacks.append("no mlp_post: experts have their own neurons; z and attn_out fold")
    if row.post_norm:
        lacks.append("folds at z and mlp_post alone: a norm follows the projections")
    return "; ".join(lacks)

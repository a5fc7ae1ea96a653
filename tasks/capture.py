"""Capture: the recipe's texts through the model into an activation store. Resumes where it was stopped; a finished
capture is recognised by the digest of what was asked, and costs no forward pass."""

from collections.abc import Sequence

import numpy as np
import torch
from prefect import task

from trimtab.steering.capture import Selection, capture
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.model.tokens import Role
from trimtab.store import ActivationStore, ArraySpec, Capture, TokenIndex
from trimtab.store.schema import Region
from trimtab.store.schema import Role as StoredRole
from trimtab.store.writing import RegionBuffer
from trimtab.tasks.home import Home
from trimtab.tasks.models import fingerprints, model_of
from trimtab.tasks.progress import report
from trimtab.tasks.prompts import Text, digest_of, texts_of
from trimtab.tasks.recipe import Recipe
from trimtab.tasks.references import CaptureReference

STAGE = "capturing activations"
STORED_ROLE = {
    Role.SYSTEM: StoredRole.SYSTEM,
    Role.USER: StoredRole.USER,
    Role.ASSISTANT: StoredRole.ASSISTANT,
    Role.COMPLETION: StoredRole.COMPLETION,
}


@task(name="capture")
def capture_task(recipe: Recipe, home: str) -> CaptureReference:
    """See `capture_recipe`."""
    return capture_recipe(recipe, Home.at(home))


def capture_recipe(recipe: Recipe, home: Home) -> CaptureReference:
    """Collect what the recipe asks for and publish it as `<name>.capture`.

    A capture that was published under this stage key is returned as it is, without loading a model. Raises
    SteeringError (sites, spans), StoreError (another capture in the way, a full disk, values the dtype cannot hold).
    """
    key = recipe.stage("capture")
    known = home.catalog.find(key)
    if known is not None:
        return CaptureReference(known.ref, known.digest, True, known.header["location"], known.header["snapshot"])
    model, tokenizer = model_of(recipe.model)
    anatomy, texts = Anatomy.of(model), texts_of(recipe, tokenizer)
    sites = anatomy.sites(recipe.capture.points, recipe.capture.block_numbers(anatomy.n_layers))
    asked = asked_of(recipe, texts, sites)
    store = ActivationStore.create(
        home.capture(asked.digest),
        asked,
        index_of(texts, selection_of(recipe)),
        specs_of(anatomy, sites, recipe),
    )
    computed = fill(store, anatomy, texts, selection_of(recipe))
    given = sum(len(text.tokens) for text in texts)
    return publish_capture(recipe, home, store.finish(), (computed, given))


def selection_of(recipe: Recipe) -> Selection:
    """Which rows of a text the recipe keeps."""
    return Selection(Span.parse(recipe.capture.span))


def asked_of(recipe: Recipe, texts: Sequence[Text], sites: Sequence[Site]) -> Capture:
    """What was asked, complete enough that two runs with one digest give the same rows."""
    return Capture(
        {
            **fingerprints(recipe.model),
            "prompts": digest_of(texts),
            "sites": [str(site) for site in sites],
            "span": recipe.capture.span,
            "dtype": recipe.capture.dtype,
            "threads": torch.get_num_threads(),
        }
    )


def specs_of(anatomy: Anatomy, sites: Sequence[Site], recipe: Recipe) -> list[ArraySpec]:
    """One array per site: `z` as head x d_head, everything else as one vector."""

    def shape(site: Site) -> tuple[int, ...]:
        return (anatomy.n_heads, anatomy.d_head) if site.point == "z" else (anatomy.width(site),)

    return [ArraySpec.of(str(site), shape(site), recipe.capture.dtype) for site in sites]


def index_of(texts: Sequence[Text], selection: Selection) -> TokenIndex:
    """What every row and text of the capture is."""
    kept = [selection.tokens(text.tokens).numpy() for text in texts]
    roles = [text.tokens.roles[k] for text, k in zip(texts, kept, strict=True)]
    return TokenIndex(
        offsets=np.cumsum([0] + [len(k) for k in kept]),
        token_id=np.concatenate([t.tokens.ids[k] for t, k in zip(texts, kept, strict=True)]),
        position=np.concatenate(kept),
        role=np.array([STORED_ROLE.get(Role(r), StoredRole.OTHER) for r in np.concatenate(roles)]),
        special=np.concatenate([t.tokens.special[k] for t, k in zip(texts, kept, strict=True)]),
        label=np.array([text.example.label for text in texts]),
        pair=np.array([text.example.pair for text in texts]),
        split=np.array([text.example.split for text in texts]),
    )


def fill(store: ActivationStore, anatomy: Anatomy, texts: Sequence[Text], selection: Selection) -> int:
    """Write every region that is still missing; returns how many tokens went through the model."""
    sites = [Site.parse(name) for name in store.sites]
    pending, computed = store.pending_regions(), 0
    done = len(texts) - sum(region.prompt_stop - region.prompt_start for region in pending)
    for region in pending:
        report(STAGE, done, len(texts))
        mine = [text.tokens for text in texts[region.prompt_start : region.prompt_stop]]
        captured = capture(anatomy, mine, sites, selection)
        with store.region_writer(region) as buffer:
            for site in sites:
                _write(buffer, site, region, captured.rows[site])
        computed += captured.computed
        done += len(mine)
    report(STAGE, len(texts), len(texts))
    return computed


def _write(buffer: RegionBuffer, site: Site, region: Region, rows: list[torch.Tensor]) -> None:
    joined = torch.cat(rows)
    spec = buffer.specs[str(site)]
    bits = joined.view(torch.uint16) if joined.dtype == torch.bfloat16 and spec.dtype == "bfloat16" else joined.float()
    buffer.write(str(site), region.row_start, bits.numpy().reshape(len(joined), *spec.shape))


def publish_capture(recipe: Recipe, home: Home, store: ActivationStore, tokens: tuple[int, int]) -> CaptureReference:
    """Make the capture a version of `<name>.capture`; its rows stay where they are. The header's keys are those of
    `Catalog.publish_capture`, which `verify` and `lineage` read."""
    header = {
        "location": store.location.url,
        "snapshot": store.snapshot_id,
        "digest": store.digest,
        "capture": dict(store.capture.fields),
        "capture_digest": store.capture.digest,
        "sites": list(store.sites),
        "n_rows": store.n_rows,
        "n_prompts": store.n_prompts,
        "nbytes": store.nbytes,
    }
    artifact = home.catalog.publish(
        f"{recipe.name}.capture", "capture", {}, header, recipe=recipe.to_json(), key=recipe.stage("capture")
    )
    return CaptureReference(artifact.ref, artifact.digest, False, store.location.url, store.snapshot_id, *tokens)

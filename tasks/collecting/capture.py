"""Capture: run the recipe's texts through the model and write activations to a store. Continues an interrupted capture;
a finished one is recognised by the digest of its request and costs no forward pass."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.running.reading import Rows
from trimtab.store import ActivationStore, ArraySpec, Artifact, Capture
from trimtab.store.errors import Mismatch, NotFound
from trimtab.tasks.announcing import announce_version
from trimtab.tasks.collecting.filling import Collection, fill
from trimtab.tasks.collecting.reuse import copy_known
from trimtab.tasks.collecting.spool import Spool
from trimtab.tasks.data.prompts import Text, each_text
from trimtab.tasks.data.sentences import texts_of_sentences
from trimtab.tasks.home import Home
from trimtab.tasks.models import fingerprints, model_of
from trimtab.tasks.recipes.features import FeaturesRecipe
from trimtab.tasks.recipes.kinds import Collectable
from trimtab.tasks.references import CaptureReference
from trimtab.tasks.step import as_task


def capture_recipe(recipe: Collectable, home: Home, region_bytes: int | None = None) -> CaptureReference:
    """Collect what the recipe asks for and publish it as `<name>.capture`. Memory does not grow with the data.

    A capture that was published under this stage key is returned as it is, without loading a model. Raises
    SteeringError (sites, spans), StoreError (another capture in the way, a full disk, values the dtype cannot hold).
    """
    reference = published(recipe, home)
    if reference is not None:
        return reference
    work = collection_of(recipe, home, region_bytes)
    copy_known(work, home)
    counted = fill(work, work.store.pending_regions())
    return publish_capture(recipe, home, work.store.finish(), (counted.computed, work.texts.tokens))


capture_task = as_task("capture", capture_recipe)


def published(recipe: Collectable, home: Home) -> CaptureReference | None:
    """The capture that was published for this recipe before; None when there is none, or when its rows are lost.

    Raises Corrupt when its rows are there but cannot be used.
    """
    artifact = home.catalog.find(recipe.stage("capture"))
    if artifact is None:
        return None
    try:
        store = home.captures.open(artifact)
    except NotFound:
        return None  # collected again, under the same version
    return CaptureReference(artifact.ref, artifact.digest, True, store.location.url, store.snapshot_id)


def collection_of(recipe: Collectable, home: Home, region_bytes: int | None = None) -> Collection:
    """The collection of a recipe: model loaded, texts tokenised, store created (or opened, when this capture was begun
    before).

    Raises StoreError when the disk cannot hold the capture.
    """
    anatomy, texts, capture = _prepared(recipe, home)
    specs = specs_of(anatomy, _sites(anatomy, recipe), recipe)
    store = ActivationStore.create(
        home.capture(capture.digest), capture, texts.index, specs, region_bytes or recipe.capture.region_bytes
    )
    return Collection(store, anatomy, texts, selection_of(recipe))


def collection_at(recipe: Collectable, home: Home, url: str) -> Collection:
    """The same for a worker, whose store was created by `plan_task` in another process.

    Raises Mismatch when the model, texts or settings of this process differ from those that the store was created for.
    """
    anatomy, texts, capture = _prepared(recipe, home)
    store = ActivationStore.open(url)
    if store.capture.digest != capture.digest:
        lines = "; ".join(store.capture.differences(capture))
        raise Mismatch(
            f"{url} was laid out for another capture than this worker sees ({lines}; 'here' is what is stored): "
            f"give every worker the same model, data files, versions and threads"
        )
    return Collection(store, anatomy, texts, selection_of(recipe))


def _prepared(recipe: Collectable, home: Home) -> tuple[Anatomy, Spool, Capture]:
    model, tokenizer = model_of(recipe.model)
    anatomy = Anatomy.of(model)
    texts = Spool(_texts(recipe, tokenizer), selection_of(recipe), spool_folder(home))
    capture = asked_of(recipe, texts.digest, _sites(anatomy, recipe))
    artifact = home.catalog.find(recipe.stage("capture"))
    return anatomy, texts, capture if artifact is None else asked_again(artifact, capture)


def _texts(recipe: Collectable, tokenizer: PreTrainedTokenizerBase) -> Iterator[Text]:
    if isinstance(recipe, FeaturesRecipe):
        return texts_of_sentences(recipe.data, tokenizer)
    return each_text(recipe.data, tokenizer)


def _sites(anatomy: Anatomy, recipe: Collectable) -> tuple[Site, ...]:
    if isinstance(recipe, FeaturesRecipe):
        anatomy.check(recipe.site)
        return (recipe.site,)
    return anatomy.sites(recipe.capture.points, recipe.capture.block_numbers(anatomy.n_layers))


def spool_folder(home: Home) -> Path | None:
    """Texts lie beside the home while they are used: the system's temporary folder is often memory, and small."""
    if home.root.scheme != "file":
        return None
    folder = Path(home.root.root)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def selection_of(recipe: Collectable) -> Rows:
    """Which rows of a text the recipe keeps."""
    return Rows(Span.parse(recipe.capture.span), recipe.capture.pool)


def asked_of(recipe: Collectable, prompts: str, sites: Sequence[Site]) -> Capture:
    """The full description of a capture: two captures with the same digest have the same rows. prompts: the texts'
    digest."""
    pool = {} if recipe.capture.pool is None else {"pool": recipe.capture.pool}  # older captures know no such field
    return Capture(
        {
            **fingerprints(recipe.model),
            "prompts": prompts,
            "sites": [str(site) for site in sites],
            "span": recipe.capture.span,
            "dtype": recipe.capture.dtype,
            "threads": torch.get_num_threads(),
            **pool,
        }
    )


def specs_of(anatomy: Anatomy, sites: Sequence[Site], recipe: Collectable) -> list[ArraySpec]:
    """One array per site: `z` as head x d_head, everything else as one vector."""

    def shape(site: Site) -> tuple[int, ...]:
        return (anatomy.n_heads, anatomy.d_head) if site.point == "z" else (anatomy.width(site),)

    return [ArraySpec.of(str(site), shape(site), recipe.capture.dtype) for site in sites]


def publish_capture(
    recipe: Collectable, home: Home, store: ActivationStore, tokens: tuple[int, int]
) -> CaptureReference:
    """Make the capture a version of `<name>.capture`; its rows stay where they are. Rows that were lost and collected
    again keep the version they had. Raises Mismatch when they are others than those, RecipeError when the weights were
    changed."""
    recipe.model.check_unchanged()
    key = recipe.stage("capture")
    artifact = home.catalog.find(key)
    if artifact is None:
        artifact = home.catalog.publish_capture(f"{recipe.name}.capture", store, recipe.to_json(), key=key)
        announce_version(home, artifact.ref)
    same_rows(artifact, store)
    return CaptureReference(artifact.ref, artifact.digest, False, store.location.url, store.snapshot_id, *tokens)


def asked_again(artifact: Artifact, capture: Capture) -> Capture:
    """The description that a published capture is stored under, for collecting it again. Fields that later versions of
    trimtab added are left out.

    Raises Mismatch naming what differs.
    """
    before = Capture(artifact.header["capture"])
    lines = before.differences(Capture({name: capture.fields.get(name) for name in before.fields}))
    if lines:
        raise Mismatch(
            f"{artifact.ref} cannot be collected again as it was ({'; '.join(lines)}; 'here' is what was published): "
            f"bring back what differs, or collect under another name"
        )
    return before


def same_rows(artifact: Artifact, store: ActivationStore) -> None:
    """Raises Mismatch when a store does not hold the rows of a published capture."""
    if artifact.header["digest"] == store.digest:
        return
    raise Mismatch(
        f"the rows at {store.location.url} are not those that {artifact.ref} was published with, although the same was "
        f"asked: this machine or its libraries compute otherwise; collect where it was collected, or under another name"
    )

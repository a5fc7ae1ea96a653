"""Copies regions from an earlier capture in place of computing them. When rows are added to the end of a data file, the
capture is a new version of the name whose first regions equal those of the version before, bit for bit."""

import numpy as np

from trimtab.store import ActivationStore, Artifact
from trimtab.store.captures.schema import Region
from trimtab.store.errors import StoreError
from trimtab.tasks.collecting.filling import Collection
from trimtab.tasks.home import Home


def copy_known(work: Collection, home: Home) -> int:
    """Copy every missing region that a published capture of the same model, sites and settings holds, when its texts
    are the first ones of this collection; returns how many regions were copied."""
    copied = 0
    for artifact in _candidates(work, home):
        try:
            copied += _copy(home.captures.open(artifact), work)
        except StoreError:
            continue  # gone, or damaged: its rows are computed instead
    return copied


def _candidates(work: Collection, home: Home) -> list[Artifact]:
    """Published captures that differ in their prompts only, the largest first."""
    fields = dict(work.store.capture.fields)
    fitting = [
        artifact
        for artifact in home.catalog.list("capture")
        if {**artifact.header.get("capture", {}), "prompts": fields["prompts"]} == fields
        and artifact.header["n_prompts"] < len(work.texts)
    ]
    fitting.sort(key=lambda artifact: -artifact.header["n_prompts"])
    return [artifact for artifact in fitting if _begins(work, artifact.header)]


def _begins(work: Collection, header) -> bool:
    return work.texts.digest_of_first(header["n_prompts"]) == header["capture"]["prompts"]


def _copy(old: ActivationStore, work: Collection) -> int:
    store, copied = work.store, 0
    if store.layout.lossy:  # the recorded error is of the values before they were rounded
        return 0
    old_regions = {(region.prompt_start, region.prompt_stop): region for region in old.layout.regions}
    digests = old.region_digests()
    for region in store.pending_regions():
        same = old_regions.get((region.prompt_start, region.prompt_stop))
        if same is not None and same.row_stop == region.row_stop:
            copied += _copied(old, store, region, digests[same.number])
    return copied


def _copied(old: ActivationStore, store: ActivationStore, region: Region, digest: np.ndarray) -> bool:
    """Copy one region, if the digest of the rows that are read equals the recorded one."""
    fork = store.fork()
    with fork.region_writer(region) as writer:
        for site in store.sites:
            writer.write(site, region.row_start, old.stored_rows(site, region.row_start, region.row_stop))
    if not np.array_equal(fork.results[0].digests, digest):
        return False
    store.merge([fork])
    return True

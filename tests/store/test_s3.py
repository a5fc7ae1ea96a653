"""The same laws on S3: a local server (moto), addressed by the usual environment variables."""

import threading
import uuid

import pytest

from trimtab.store import ActivationStore, Catalog, Location
from trimtab.store.errors import Corrupt, NotFound, StoreError

boto3 = pytest.importorskip("boto3", reason="pip install 'moto[server]' to test S3")


def test_a_capture_on_s3_has_the_same_digest(bucket, sample, store) -> None:
    place = Location.parse(bucket).child("captures", "one")
    assert not place.exists()
    with pytest.raises(NotFound):
        ActivationStore.open(place)
    other = sample.create(place)
    regions = other.pending_regions()
    handle = other.fork()
    for region in regions[1::2]:
        with handle.region_writer(region) as writer:
            sample.fill(writer, region)
    for region in regions[0::2]:
        with other.region_writer(region) as writer:
            sample.fill(writer, region)
    other.merge([handle])
    assert other.finish().digest == store.digest
    assert (ActivationStore.open(place).rows("z.1.1") == store.rows("z.1.1")).all()


def test_ten_first_publishers_on_s3_lose_nothing(bucket) -> None:
    """No lock there, and nobody has made the catalog: the numbers come from Icechunk's conflict detection alone."""
    place, errors, barrier = f"{bucket}/{uuid.uuid4().hex}", [], threading.Barrier(10)

    def publish(who: int) -> None:
        try:
            catalog = Catalog(place)
            barrier.wait()
            for i in range(2):
                catalog.publish("shared", "plan", {}, {"who": who, "i": i})
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=publish, args=(who,)) for who in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert Catalog(place).versions("shared") == list(range(1, 21))


def test_a_catalog_on_s3_that_lost_its_branch_is_not_empty(bucket) -> None:
    catalog = Catalog(f"{bucket}/{uuid.uuid4().hex}")
    catalog.publish("a", "plan", {}, {})
    branch = f"{catalog.location.root.removeprefix('bucket/')}/refs/branch.main/ref.json"
    boto3.client("s3").delete_object(Bucket="bucket", Key=branch)
    for use in (lambda c: c.list(), lambda c: c.publish("a", "plan", {}, {"new": 1})):
        with pytest.raises(Corrupt, match="lost its branch"):
            use(Catalog(catalog.location))


def test_a_bucket_that_is_not_there(bucket) -> None:
    with pytest.raises(StoreError, match="s3://nobody/x"):
        Location.parse("s3://nobody/x").repository(create=True)

"""The same laws on S3: a local server (moto), addressed by the usual environment variables."""

import threading
import urllib.request

import pytest

from trimtab.store import ActivationStore, Catalog, Location
from trimtab.store.errors import NotFound, StoreError

moto = pytest.importorskip("moto.server", reason="pip install 'moto[server]' to test S3")


@pytest.fixture
def bucket(monkeypatch):
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/bucket", method="PUT"))
    yield "s3://bucket"
    server.stop()


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


def test_publishers_on_s3_lose_nothing(bucket) -> None:
    """No lock there: the numbers come from Icechunk's conflict detection alone."""
    place, errors = f"{bucket}/catalog", []

    def publish(who: int) -> None:
        try:
            catalog = Catalog(place)
            for i in range(4):
                catalog.publish("shared", "plan", {}, {"who": who, "i": i})
        except BaseException as error:
            errors.append(error)

    Catalog(place).publish("shared", "plan", {}, {"first": True})
    threads = [threading.Thread(target=publish, args=(who,)) for who in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert Catalog(place).versions("shared") == list(range(1, 14))


def test_a_bucket_that_is_not_there(bucket) -> None:
    with pytest.raises(StoreError, match="s3://nobody/x"):
        Location.parse("s3://nobody/x").repository(create=True)

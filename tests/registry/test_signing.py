"""Signatures of versions: of this record, by this key, and by nobody else."""

import json
import os
import stat

import pytest

import trimtab
from tests.registry.conftest import publish
from trimtab.flows.cli import main
from trimtab.store import Artifact, Catalog
from trimtab.store.transfer import copy_version
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.registry.signing import Untrusted, make_keys, sign, signatures_of


@pytest.fixture
def keys(tmp_path):
    """Two private keys; the public one of the first is in the folder `trusted`."""
    for name in ("ann", "bob"):
        make_keys(tmp_path / name)
    (tmp_path / "trusted").mkdir()
    (tmp_path / "ann.pub").rename(tmp_path / "trusted" / "ann.pub")
    return tmp_path


def test_a_version_is_trusted_when_a_trusted_key_signed_exactly_it(home, keys):
    first, second = publish(home), publish(home)
    trusted = str(keys / "trusted")
    sign(home, first.ref, keys / "bob")
    assert [(one.valid, one.signer) for one in signatures_of(home, first.ref, trusted)] == [(True, "")]
    signature = sign(home, first.ref, keys / "ann")
    assert signatures_of(home, first.ref, trusted)[-1].trusted and signatures_of(home, second.ref, trusted) == []
    forged = {**signature.as_json(), "version": second.version}
    home.catalog.adopt_signatures("warm", [type(signature)(**forged)])
    assert not signatures_of(home, second.ref, trusted)[0].valid, "a signature of another version"
    home.catalog.adopt_signatures("warm", [type(signature)(**{**signature.as_json(), "value": "AAAA"})])
    assert [one.valid for one in signatures_of(home, first.ref)] == [True, True, False]


def test_where_trust_is_asked_for_nothing_else_is_loaded(home, keys, monkeypatch):
    version = publish(home)
    assert isinstance(trimtab.load("warm.verdict", home=home.url), object)
    monkeypatch.setenv("TRIMTAB_TRUST", str(keys / "trusted"))
    with pytest.raises(Untrusted, match="warm.verdict@1 has 0 signatures"):
        trimtab.load("warm.verdict", home=home.url)
    sign(home, "warm.verdict@1", keys / "ann")
    trimtab.load("warm.verdict", home=home.url)
    away = Home.at(keys / "away")
    copy_version(home.catalog, Catalog(away.catalog.location), version.ref)
    trimtab.load("warm.verdict", home=away.url)
    monkeypatch.setenv("TRIMTAB_TRUST", str(keys / "away"))
    with pytest.raises(RecipeError, match="no public key"):
        trimtab.load("warm.verdict", home=home.url, expect=Artifact)


def test_keys_are_private_and_never_overwritten(keys):
    assert stat.S_IMODE(os.stat(keys / "ann").st_mode) == 0o600
    with pytest.raises(RecipeError, match="never overwritten"):
        make_keys(keys / "ann")
    (keys / "nonsense").write_text("hello")
    with pytest.raises(RecipeError, match="no private key"):
        sign(Home.at(keys / "home"), "warm", keys / "nonsense")


def test_the_commands(home, keys, capsys, monkeypatch):
    publish(home)
    monkeypatch.setenv("TRIMTAB_HOME", home.url)
    assert main(["keygen", str(keys / "eve")]) == 0 and "PUBLIC KEY" in capsys.readouterr().out
    assert main(["sign", "warm@1", "--key", str(keys / "ann")]) == 0
    assert capsys.readouterr().out.startswith("warm@1 is signed")
    assert main(["signatures", "warm@1", "--trust", str(keys / "trusted"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["signer"] == "ann"
    assert main(["signatures", "warm@1", "--trust", str(keys / "bob.pub")]) == 1
    assert main(["signatures", "warm@1"]) == 0

"""Signing versions with Ed25519 keys (the extra `sign`, that is, the library cryptography).

A signature covers a version's reference, content digest and seal, that is, its whole record, and through the digests of
its parents everything that it was made from. It says that the holder of the key vouches for that, and nothing else.
"""

import os
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
except ImportError as error:
    from trimtab.tasks.errors import RecipeError as _Missing

    raise _Missing("signatures need the library cryptography; install it with: pip install 'trimtab[sign]'") from error

from trimtab.store.catalog.catalog import who_am_i
from trimtab.store.catalog.draft import now
from trimtab.store.catalog.signatures import Signature, message_of
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home

PUBLIC, PRIVATE_MODE = ".pub", 0o600


class Untrusted(RecipeError):
    """A version that no trusted key has signed."""


@dataclass(frozen=True)
class Signed:
    """A signature of a version that was checked. valid: whether it is one of this record by this key. signer: the name
    of the trusted key, "" for a key that is not trusted."""

    signature: Signature
    valid: bool
    signer: str

    @property
    def trusted(self) -> bool:
        return self.valid and bool(self.signer)


def make_keys(path: Path) -> str:
    """A new private key at `path`, readable by its owner alone, and the public one beside it at `path`.pub, which is
    returned as text. Raises RecipeError when either file is there already."""
    public = path.with_name(path.name + PUBLIC)
    if path.exists() or public.exists():
        raise RecipeError(f"{path} or {public} is there already, and a key is never overwritten; name another file")
    key = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    text = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
    with os.fdopen(handle, "wb") as file:
        file.write(private)
    public.write_bytes(text)
    return text.decode()


def sign(home: Home, ref: str, private: Path) -> Signature:
    """Sign the version that `ref` names, and record the signature. Raises StoreError, RecipeError (the key)."""
    key = _private(private)
    view = home.catalog.view()
    name, version = view.resolve(ref)
    message = message_of(view.record(name, version).attributes)
    raw = key.public_key().public_bytes_raw()
    value = key.sign(bytes.fromhex(message))
    signature = Signature(version, message, _text(raw), _text(value), who_am_i(), now())
    home.catalog.adopt_signatures(name, [signature])
    return signature


def signatures_of(home: Home, ref: str, trusted: str | None = None) -> list[Signed]:
    """Every signature of a version, checked. trusted: a public key file, or a folder of them."""
    view = home.catalog.view()
    name, version = view.resolve(ref)
    message = message_of(view.record(name, version).attributes)
    signers = trusted_keys(trusted) if trusted else {}
    own = (signature for signature in view.signatures(name) if signature.version == version)
    return [Signed(one, _is_valid(one, message), signers.get(one.key, "")) for one in own]


def check_signed(home: Home, ref: str, trusted: str) -> Signed:
    """The first signature of a trusted key. Raises Untrusted when there is none."""
    results = signatures_of(home, ref, trusted)
    signed = next((one for one in results if one.trusted), None)
    if signed is None:
        raise Untrusted(
            f"{ref} has {len(results)} signatures, none of them by a key in {trusted} (TRIMTAB_TRUST), so it is not "
            f"loaded; `trimtab sign {ref} --key FILE` signs it"
        )
    return signed


def trusted_keys(place: str) -> Mapping[str, str]:
    """Public key (base64) -> its name, of a file or of every `*.pub` in a folder. Raises RecipeError for none."""
    path = Path(place)
    files = sorted(path.glob(f"*{PUBLIC}")) if path.is_dir() else [path]
    keys = dict(_public(file) for file in files)
    if not keys:
        raise RecipeError(f"{place} holds no public key (*{PUBLIC}), so nothing could be trusted")
    return keys


def _is_valid(signature: Signature, message: str) -> bool:
    try:
        key = Ed25519PublicKey.from_public_bytes(b64decode(signature.key, validate=True))
        key.verify(b64decode(signature.value, validate=True), bytes.fromhex(message))
    except (InvalidSignature, ValueError):
        return False
    return signature.message == message


def _private(path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise RecipeError(f"{path} holds no private key without a password; `trimtab keygen` makes one") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise RecipeError(f"{path} is not an Ed25519 key; `trimtab keygen` makes one")
    return key


def _public(path: Path) -> tuple[str, str]:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm):
        raise RecipeError(f"{path} holds no public key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise RecipeError(f"{path} is not an Ed25519 key")
    return _text(key.public_bytes_raw()), path.stem


def _text(raw: bytes) -> str:
    return b64encode(raw).decode()

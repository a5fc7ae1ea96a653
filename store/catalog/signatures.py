"""Signatures of versions: who vouches for exactly this record. They lie outside the sealed content, like remarks. What
is signed is the reference, the content digest and the seal over the whole record; keys are the caller's."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from trimtab.store.digests import JSON, json_digest


@dataclass(frozen=True)
class Signature:
    """version: its number. message: sha256 (hex) of what was signed, `message_of` then. key, value: the public key and
    the signature, base64. who: user@host. when: ISO time, UTC."""

    version: int
    message: str
    key: str
    value: str
    who: str
    when: str

    def as_json(self) -> dict[str, JSON]:
        return asdict(self)

    @staticmethod
    def from_json(value: JSON) -> "Signature | None":
        """None for a record that is no signature: it proves nothing."""
        names = [field.name for field in fields(Signature)]
        if not isinstance(value, dict) or set(names) != set(value) or not isinstance(value["version"], int):
            return None
        if not all(isinstance(value[name], str) for name in names[1:]):
            return None
        return Signature(**value)


def message_of(record: JSON) -> str:
    """sha256 (hex) that a signature of a version's record covers."""
    parts = {name: record[name] for name in ("name", "version", "digest", "seal")}
    return json_digest({"trimtab": "version", **parts})


def read_signatures(records: Sequence[JSON]) -> list[Signature]:
    """Those that can be read."""
    return [signature for signature in map(Signature.from_json, records) if signature is not None]

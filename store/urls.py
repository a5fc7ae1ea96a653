"""URLs of places, as text. Nothing is opened here, and messages never repeat a password."""

import os
from urllib.parse import SplitResult, unquote, urlsplit

from trimtab.store.errors import Invalid

SCHEMES = ("file", "memory", "s3")


def split_url(text: str) -> tuple[str, str]:
    """(scheme, root) of a URL or a folder path; root: an absolute folder, a memory name, or "bucket/prefix".

    Raises Invalid for an unknown scheme, an empty place, and for credentials, ?query or #fragment: Prefect and reports
    store URLs, and credentials with them.
    """
    if "://" not in text:
        return "file", _folder(text)
    parts = _parts(text)
    if parts.scheme not in SCHEMES:
        raise Invalid(f"cannot open {text!r}: scheme {parts.scheme!r} is none of {', '.join(SCHEMES)}.")
    if parts.scheme == "file":
        return "file", _folder(unquote(parts.path))
    root = "/".join(piece for piece in f"{parts.netloc}{parts.path}".split("/") if piece)
    if not root:
        raise Invalid(f"{text!r} names no place; write {parts.scheme}://name or {parts.scheme}://name/prefix.")
    return parts.scheme, root


def _parts(text: str) -> SplitResult:
    if "@" in text.partition("://")[2].partition("/")[0]:
        raise Invalid(
            "the URL holds a user name or password before '@' (not shown); take it out and set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        )
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise Invalid(f"{text!r} is not a URL ({error}); write s3://bucket/prefix or a folder.") from None
    if parts.query or parts.fragment or text.endswith(("?", "#")):
        place = text.partition("?")[0].partition("#")[0]
        raise Invalid(
            f"{place!r} is followed by ? or # (not shown), which a place cannot have; write s3://bucket/prefix and set "
            "an endpoint or region by AWS_ENDPOINT_URL and AWS_REGION."
        )
    return parts


def _folder(text: str) -> str:
    if not text or "\0" in text:
        raise Invalid(f"{text!r} is not a folder; give a path or a URL.")
    return os.path.abspath(os.path.expanduser(text))

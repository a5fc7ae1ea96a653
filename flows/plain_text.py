"""Text for a terminal: what a model wrote, a file is called or a user typed may hold escapes that move the cursor,
rename the window or turn the line around. Everything that is printed passes here."""

import re

# control characters but for line feed and tab, delete and C1 controls, bidirectional overrides, half surrogates
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """The same text with such characters written out: `\\x1b` for an escape."""
    return UNSEEN.sub(lambda match: repr(match[0])[1:-1] if match[0] < "\xa0" else f"\\u{ord(match[0]):04x}", text)


def visible_json(text: str) -> str:
    """JSON whose strings hold such characters, as JSON escapes: the same value. C0 controls are escapes already."""
    return UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)

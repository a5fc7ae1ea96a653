"""Words of a lexicon, highlighted in a text."""

import re
from collections.abc import Sequence

from trimtab.tasks.reporting.drawing.html import NO_ATTRIBUTES, Child, el


def marked(text: str, lexicon: Sequence[str]) -> Child:
    """The text with every whole word of the lexicon in a mark, in any case. An empty text says so."""
    if not text.strip():
        return el("i", NO_ATTRIBUTES, "(empty)")
    words = sorted(filter(None, lexicon), key=len, reverse=True)
    if not words:
        return text
    pattern = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
    # split with one group alternates: outside, inside, outside, …
    parts = pattern.split(text)
    return [el("mark", NO_ATTRIBUTES, part) if n % 2 else part for n, part in enumerate(parts)]

"""Failures that are nobody's mistake and no bug: a full disk, a server that went away. Libraries tell of them in errors
of their own, deep under what was called; here each is one line, known by what the error or one of its causes says.
"""

import os
import re
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

STAYS = "what was committed stays, and the same command goes on where it stopped"
FAILURES = {
    r"No space left on device|[Dd]isk quota exceeded|database or disk is full|os error 28\b": (
        f"the disk is full: free some space; {STAYS}"
    ),
    r"File too large|os error 27\b": f"a file would be larger than this shell allows (`ulimit -f`): raise it; {STAYS}",
    r"Permission denied|os error 13\b|Read-only file system|os error 30\b|readonly database|unable to open database": (
        "something cannot be written here: give the folders of trimtab (--home) and Prefect (PREFECT_HOME) to this "
        f"user, or choose others; {STAYS}"
    ),
    r"ephemeral server|temporary server": (
        "Prefect's embedded server did not start: is there room in its home (PREFECT_HOME) and in the folder for "
        "temporary files (TMPDIR)? `trimtab doctor` looks"
    ),
    r"httpx\.|httpcore\.|Failed to reach API|Connection refused|Server disconnected|PrefectHTTPStatusError": (
        "the Prefect server {server} does not answer: start it (`trimtab server`) or unset PREFECT_API_URL; " + STAYS
    ),
    r"^MemoryError|can't allocate memory|out of memory": (
        "there is not enough memory: give a smaller model, `dtype: bfloat16` or shorter texts"
    ),
    r"surrogates not allowed": "an argument or file name is not UTF-8: write it in UTF-8",
}  # fmt: skip


def failure(error: BaseException) -> str | None:
    """One line about a known failure, or None."""
    for text in _texts(error):
        for sign, line in FAILURES.items():
            if re.search(sign, text):
                return line.format(
                    server=os.environ.get("PREFECT_API_URL", "(embedded: is there room in PREFECT_HOME?)")
                )
    return None


def bug(error: BaseException) -> str:
    """One line about any other error; its traceback goes to a file, where one can be written."""
    name, said = type(error).__name__, " ".join(str(error).split())[:200]
    return f"unexpected {name}: {said}; this is a bug of trimtab. {_reported(error)}"


def _reported(error: BaseException) -> str:
    try:
        handle, path = tempfile.mkstemp(prefix="trimtab-error-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(traceback.format_exception(error))
        return f"The traceback is in {Path(path)}"
    except OSError:
        return "TRIMTAB_DEBUG=1 shows the traceback"


def _texts(error: BaseException | None) -> Iterator[str]:
    """The error and what it came from, outermost first: `module.Class: message`."""
    causes: set[int] = set()
    while error is not None and id(error) not in causes:
        causes.add(id(error))
        module = type(error).__module__
        yield f"{'' if module == 'builtins' else module + '.'}{type(error).__name__}: {error}"
        error = error.__cause__ or error.__context__

"""The address of a home as it is given, checked before Prefect sees it: it keeps the parameters of every flow. Imports
nothing heavy."""

from trimtab.store.urls import split_url


def checked_address(home: str) -> str:
    """`home`, a folder or URL. Raises Invalid, which repeats no password, for what can be neither."""
    split_url(home)
    return home

"""What Inspect loads when it looks for providers (group `inspect_ai`)."""

from inspect_ai.model import ModelAPI, modelapi

from trimtab.tasks.inspect.provider import Provider


@modelapi(name="trimtab")
def trimtab() -> type[ModelAPI]:
    """Models of `trimtab/MODEL` or `trimtab/MODEL@STEERING`."""
    return Provider

"""collect: only the activations. Interrupt it when you like; the same command goes on where it stopped."""

from prefect import flow

from trimtab.tasks.capture import capture_task
from trimtab.tasks.recipe import load_recipe
from trimtab.tasks.references import CaptureReference


@flow(name="collect", flow_run_name="collect-{recipe}")
def collect(recipe: str, home: str = ".trimtab", overrides: list[str] | None = None) -> CaptureReference:
    """Capture what a recipe file asks for."""
    return capture_task(load_recipe(recipe, overrides or []), home)

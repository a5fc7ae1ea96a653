"""features: sentences -> activations -> rank and sparsity -> features, read and published -> the browser's page."""

from dataclasses import dataclass

from trimtab.flows.job import job
from trimtab.tasks.collecting.features_capture import capture_sentences_task
from trimtab.tasks.features.choose import choose_features_task
from trimtab.tasks.features.fit import fit_features_task
from trimtab.tasks.recipes.features import load_features_recipe
from trimtab.tasks.references import CaptureReference, Reference
from trimtab.tasks.reporting.features_report import features_report_task


@dataclass(frozen=True)
class Decomposed:
    """Everything one run made or found. curve: None when the recipe names its rank. page: the browser's path."""

    capture: CaptureReference
    curve: Reference | None
    features: Reference
    page: str

    @property
    def reused(self) -> bool:
        """True when every product was there already."""
        return all(made is None or made.reused for made in (self.capture, self.curve, self.features))


@job("features", "features-{recipe}")
def features(recipe: str, home: str = ".trimtab", overrides: list[str] | None = None) -> Decomposed:
    """Run a features recipe end to end. What the catalog already holds is not computed again."""
    asked = load_features_recipe(recipe, overrides or [])
    capture = capture_sentences_task(asked, home)
    curve = choose_features_task(asked, home, capture)
    made = fit_features_task(asked, home, capture, curve)
    return Decomposed(capture, curve, made, features_report_task(home, made))

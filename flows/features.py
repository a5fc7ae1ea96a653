"""features: sentences -> activations -> rank and sparsity -> features, read and published -> the browser's page."""

from dataclasses import dataclass

from trimtab.flows.job import job
from trimtab.tasks.collecting.capture import capture_task
from trimtab.tasks.features.choose import choose_features_task
from trimtab.tasks.features.fit import fit_features_task
from trimtab.tasks.recipes.features import FeaturesRecipe
from trimtab.tasks.recipes.kinds import RecipeFile
from trimtab.tasks.references import CaptureReference, Reference
from trimtab.tasks.reporting.features_report import features_report_task


@dataclass(frozen=True)
class Decomposed:
    """Everything one run computed or found. curve: None when the recipe names its rank. page: the browser's path."""

    capture: CaptureReference
    curve: Reference | None
    features: Reference
    page: str

    @property
    def reused(self) -> bool:
        """True when every product was there already."""
        return all(product is None or product.reused for product in (self.capture, self.curve, self.features))


@job("features", "features-{recipe}")
def features(recipe: str | RecipeFile, home: str = ".trimtab", overrides: list[str] | None = None) -> Decomposed:
    """Run a features recipe end to end. What the catalog already holds is not computed again."""
    sentences = RecipeFile.of(recipe, overrides).expect(FeaturesRecipe)
    capture = capture_task(sentences, home)
    curve = choose_features_task(sentences, home, capture)
    published = fit_features_task(sentences, home, capture, curve)
    return Decomposed(capture, curve, published, features_report_task(home, published))

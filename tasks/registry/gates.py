"""Gates: whether a version may be what an alias names. A recipe's `require` section says what it must show."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trimtab.steering.statistics import Interval
from trimtab.store import Artifact
from trimtab.store.catalog.aliases import AliasMove
from trimtab.tasks.announcing import announce_decision, announce_move
from trimtab.tasks.errors import NegativeOutcome
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.behaviour import BehaviourRecipe
from trimtab.tasks.recipes.sections import Require
from trimtab.tasks.references import Reference
from trimtab.tasks.registry.claims import Claims, claims_of, is_worse, told
from trimtab.tasks.step import as_task


@dataclass(frozen=True)
class RequirementCheck:
    """One thing that is required. requirement: its key in the recipe. text: the number beside its bound."""

    requirement: str
    holds: bool
    text: str


@dataclass(frozen=True)
class Decision:
    """Whether an alias was moved to a version. before: the version it named until then. checks: everything that was
    required. moved: whether the alias moved. text: why it did or did not, in one sentence."""

    ref: str
    alias: str
    before: int | None
    checks: tuple[RequirementCheck, ...]
    moved: bool
    text: str

    @property
    def refused(self) -> bool:
        """True when something that is required does not hold."""
        return not all(check.holds for check in self.checks)


class GateRefusal(NegativeOutcome):
    """A version fails what its recipe requires of it, so the alias stays."""


def require_of(artifact: Artifact) -> Require | None:
    """What the recipe of a published version requires; None for nothing, and for kinds that cannot require."""
    values = artifact.recipe.get("require") if isinstance(artifact.recipe, dict) else None
    return None if values is None else Require.model_validate(values)


def promote(home: Home, ref: str, alias: str, force: bool = False, note: str = "") -> AliasMove:
    """Let `name@alias` name a version that shows what its recipe requires.

    force: move it even so; the move records what did not hold. Raises GateRefusal, NotFound, Invalid.
    """

    def approve(artifact: Artifact, named: int | None) -> str:
        failures = [check for check in checks(home, artifact, alias, named) if not check.holds]
        if failures and not force:
            raise GateRefusal(
                f"{refusal(artifact.ref, failures)}; {stays(artifact.name, alias, named)}; `--force` moves it even so, "
                f"and is recorded"
            )
        return f"forced: {'; '.join(check.text for check in failures)}" if failures else ""

    name = home.catalog.view().get(ref).name
    move = home.catalog.promote(ref, alias, note=note, approve=approve)
    announce_move(home, name, move)
    return move


def roll_back(home: Home, name: str, alias: str, note: str = "") -> AliasMove:
    """Let an alias name again what it named before. Raises NotFound when that is nothing."""
    move = home.catalog.rollback(name, alias, note=note)
    announce_move(home, name, move)
    return move


def decide(recipe: BehaviourRecipe, home: Home, plan: Reference) -> Decision | None:
    """Move the alias that the recipe names to the version that a run published, when it shows what is required.

    None when the recipe names no alias. A version that the alias named before, and was moved away from, is left to
    people: a schedule would undo every rollback.
    """
    alias = recipe.require.alias if recipe.require else None
    if alias is None:
        return None
    artifact = home.catalog.get(plan.ref)
    named = home.catalog.aliases(artifact.name).get(alias)
    results, target = checks(home, artifact, alias, named), f"{artifact.name}@{alias}"
    failures = [check for check in results if not check.holds]
    if failures:
        text = f"{refusal(plan.ref, failures)}; {stays(artifact.name, alias, named)}"
        return Decision(plan.ref, alias, named, results, False, text)
    if named == artifact.version:
        return Decision(plan.ref, alias, named, results, False, f"{target} is {plan.ref} already")
    if any((move.alias, move.after) == (alias, artifact.version) for move in home.catalog.history(artifact.name)):
        text = f"{target} named {plan.ref} before and was moved; `trimtab promote {plan.ref} {alias}` moves it back"
        return Decision(plan.ref, alias, named, results, False, text)
    promote(home, plan.ref, alias, note="by its run")
    return Decision(plan.ref, alias, named, results, True, f"{target} is {plan.ref} now")


def decide_and_tell(recipe: BehaviourRecipe, home: Home, plan: Reference) -> Decision | None:
    """`decide`, and Prefect is told why."""
    decision = decide(recipe, home, plan)
    if decision is not None:
        rows = [(check.requirement, check.holds, check.text) for check in decision.checks]
        announce_decision(decision.ref, decision.text, rows)
    return decision


decide_task = as_task("gate", decide_and_tell, model=False)


def checks(home: Home, artifact: Artifact, alias: str, named: int | None) -> tuple[RequirementCheck, ...]:
    """What the version's recipe requires, each with whether it holds. named: the version that the alias names."""
    require = require_of(artifact)
    if require is None:
        return ()
    claims = claims_of(home, artifact)
    if claims is None:
        return (RequirementCheck("require", False, "it has no verdict to read"),)
    results = list(bounds(require, claims))
    if require.beats_placebos:
        says = "beats" if claims.beats_random else "does not beat"
        results.append(RequirementCheck("beats_placebos", claims.beats_random, f"it {says} its random placebos"))
    if require.no_worse and named not in (None, artifact.version):
        incumbent = home.catalog.get(f"{artifact.name}@{named}")
        results += _comparisons(claims, claims_of(home, incumbent), incumbent.ref)
    return tuple(results)


def refusal(ref: str, failures: Sequence[RequirementCheck]) -> str:
    """`cheerful@3 fails what its recipe requires: ...`."""
    return f"{ref} fails what its recipe requires: {'; '.join(check.text for check in failures)}"


def stays(name: str, alias: str, named: int | None) -> str:
    """What the alias names after a refusal."""
    return f"{name}@{alias} still names nothing" if named is None else f"{name}@{alias} stays {name}@{named}"


def bounds(require: Require, claims: Claims) -> Iterator[RequirementCheck]:
    """The required numbers of one version, each beside its bound."""
    if require.effect is not None:
        yield _bound("effect", claims.effect, claims.effect.low >= require.effect, f"at least {require.effect:g}")
    if require.kl is not None:
        yield _bound("kl", claims.kl, claims.kl.high <= require.kl, f"at most {require.kl:g}")
    if require.damage is not None:
        yield _bound("damage", claims.damage, claims.damage.high <= require.damage, f"at most {require.damage:g}")


def _bound(name: str, interval: Interval, holds: bool, bound: str) -> RequirementCheck:
    end = "lower" if bound.startswith("at least") else "upper"
    return RequirementCheck(
        name, holds, f"{name} {told(interval)} nats per token, {bound} is required of its {end} end"
    )


def _comparisons(claims: Claims, incumbent: Claims | None, ref: str) -> list[RequirementCheck]:
    if incumbent is None:
        return [RequirementCheck("no_worse", True, f"{ref} has no verdict to compare with")]
    return [
        RequirementCheck(
            "no_worse", not is_worse(name, change), f"{name} differs from {ref}'s by {told(change)} nats per token"
        )
        for name, change in claims.changes(incumbent).items()
    ]

"""What the laws are tested with: every point of a model, a sample of every move, readings and forward passes.

Subjects are discovered: a new family, point or move is tested without a change here, except that a move with fields
of its own kind needs a sample.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from trimtab.steering.gates.first import First
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.hooks import hooked
from trimtab.steering.model.proof import readable_points
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.moves import MOVES, Move
from trimtab.steering.moves.ablate import Ablate
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.affine import Affine
from trimtab.steering.moves.angular import Angular
from trimtab.steering.moves.clamp import Clamp
from trimtab.steering.moves.diagonal import Diagonal
from trimtab.steering.moves.gated import Gated
from trimtab.steering.moves.scale import Scale
from trimtab.steering.moves.slerp import Slerp
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan

BLOCK = 1
IDS = torch.tensor([[7, 3, 52, 11, 30, 3, 18, 44, 9]])


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SAMPLES = {
    "ablate": lambda d: Ablate(torch.linalg.qr(noise(1, d, 2)).Q.T.contiguous(), noise(2, d)),
    "add": lambda d: Add(noise(3, d)),
    "affine": lambda d: Affine(noise(4, d), 0.3 * noise(5, d, 3), 0.3 * noise(6, d, 3)),
    "angular": lambda d: Angular(
        torch.linalg.qr(noise(8, d, 2)).Q.T.contiguous(), 60.0
    ),  # far from where any token stands
    "clamp": lambda d: Clamp(noise(7, d) / noise(7, d).norm(), low=3.0, high=3.001),
    "diagonal": lambda d: Diagonal(1 + 0.3 * noise(10, d), noise(11, d)),
    "gated": lambda d: Gated(Add(noise(3, d)), First(10**6)),
    "scale": lambda d: Scale(1.6),
    "slerp": lambda d: Slerp(noise(9, d) / noise(9, d).norm(), 0.5),
}


class Bench:
    """Helpers shared by the law tests."""

    ids = IDS
    moves = tuple(MOVES)

    @staticmethod
    def move(name: str, width: int) -> Move:
        """A sample of a move of this width; always the same."""
        if name not in SAMPLES:
            pytest.fail(f"move '{name}' has no sample in tests/laws/conftest.py: add one, every law then tests it")
        return SAMPLES[name](width)

    @staticmethod
    def sites(model: PreTrainedModel) -> list[Site]:
        """Every point in the middle block, and one head."""
        points = readable_points(Anatomy.of(model))
        whole = [Site(point, None if point == "embed" else BLOCK) for point in points]
        return [*whole, Site("z", BLOCK, 2)]

    def step(self, model, site: Site, move: str = "add", span: str = "all", strength: float = 1.0) -> Intervention:
        return Intervention(site, self.move(move, Anatomy.of(model).width(site)), Span.parse(span), strength)

    def plan(self, model, site: Site, move: str = "add", span: str = "all", strength: float = 1.0) -> SteeringPlan:
        return SteeringPlan((self.step(model, site, move, span, strength),))

    @staticmethod
    def forgets(model: PreTrainedModel, site: Site, move: str) -> bool:
        """A norm right behind a projection without bias forgets the scale of the projection's whole input."""
        family, behind = Anatomy.of(model).family, {"z": "out_proj", "mlp_post": "down_proj"}
        if move != "scale" or not family.post_norm or site.point not in behind or site.head is not None:
            return False
        projection = Anatomy.of(model).blocks[BLOCK].get_submodule(getattr(family, behind[site.point]))
        return projection.bias is None

    @staticmethod
    def logits(model: PreTrainedModel, ids: Tensor = IDS, **inputs: object) -> Tensor:
        with torch.inference_mode():
            return model(input_ids=ids, **inputs).logits

    @staticmethod
    def read(model: PreTrainedModel, sites: Sequence[Site], ids: Tensor = IDS) -> dict[Site | str, Tensor]:
        """What passes at the sites, and the "logits"; inside `plan.on` it is what the plan left there."""
        seen: dict[Site | str, Tensor] = {}
        reads = [(site, lambda h, site=site: seen.__setitem__(site, h.clone())) for site in sites]
        with torch.inference_mode(), hooked(Anatomy.of(model), reads=reads):
            seen["logits"] = model(input_ids=ids, use_cache=False).logits
        return seen

    @staticmethod
    def decode(model: PreTrainedModel, ids: Tensor = IDS, prompt: int = 6) -> Tensor:
        """Logits of all tokens by hand: the prompt at once, then each given token with the cache."""
        with torch.inference_mode():
            out = model(input_ids=ids[:, :prompt], use_cache=True)
            found = [out.logits]
            for k in range(prompt, ids.shape[1]):
                out = model(input_ids=ids[:, k : k + 1], past_key_values=out.past_key_values, use_cache=True)
                found.append(out.logits)
        return torch.cat(found, dim=1)

    @staticmethod
    def generate(model: PreTrainedModel, ids: Tensor = IDS, n: int = 4, **options: object) -> tuple[Tensor, Tensor]:
        """Greedy tokens `[b n]` and their logits `[b n v]`."""
        out = model.generate(
            input_ids=ids,
            max_new_tokens=n,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **options,
        )
        return out.sequences[:, ids.shape[1] :], torch.stack(out.logits, dim=1)


@pytest.fixture(scope="session")
def bench() -> Bench:
    return Bench()


def same(got: Tensor, want: Tensor) -> None:
    """Equal within the rounding of float32 sums in another order."""
    torch.testing.assert_close(got, want, rtol=2e-4, atol=2e-4)


@pytest.fixture(scope="session")
def assert_same():
    return same


@pytest.fixture(scope="session")
def folder_of() -> Callable[[PreTrainedModel, Path], Path]:
    """`folder_of(model, path)`: the model saved with a tokenizer of its 61 words, as `load_model` reads it."""

    def save(model: PreTrainedModel, folder: Path) -> Path:
        model.save_pretrained(folder)
        words = Tokenizer(WordLevel({f"w{number}": number for number in range(61)}, unk_token="w0"))
        PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="w1").save_pretrained(folder)
        return folder

    return save

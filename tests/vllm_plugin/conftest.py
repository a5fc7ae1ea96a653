"""Fixtures of the vLLM plugin: models on disk, a home with plans, engines in this process, and what `plan.on` answers.

These tests need vLLM, which has an environment of its own: `make test-vllm`. Elsewhere they are skipped. The folder is
not called vllm, since `tests` is on the path and would then hide whether vLLM is installed.
"""

import os

for _name, _value in {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}.items():
    os.environ.setdefault(_name, _value)

from collections.abc import Callable, Iterator  # noqa: E402
from contextlib import AbstractContextManager, contextmanager  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM  # noqa: E402
from vllm_subjects import SITES, SPANS, Subject, moves, noise  # noqa: E402

from trimtab.steering.gates.first import First  # noqa: E402
from trimtab.steering.model.anatomy import Anatomy  # noqa: E402
from trimtab.steering.model.embedded import embedded_folder  # noqa: E402
from trimtab.steering.model.load import load_model  # noqa: E402
from trimtab.steering.moves.add import Add  # noqa: E402
from trimtab.steering.moves.gated import Gated  # noqa: E402
from trimtab.steering.moves.scale import Scale  # noqa: E402
from trimtab.steering.plans.intervention import Intervention  # noqa: E402
from trimtab.steering.plans.plan import SteeringPlan  # noqa: E402
from trimtab.tasks.home import Home  # noqa: E402


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Subject:
    """A random Llama of 4 blocks with heads of a width that vLLM has kernels for, and a plan of every kind."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(embedded_folder())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=160, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, head_dim=64, max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
        pad_token_id=2, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    subject = Subject(folder, Home.at(tmp_path_factory.mktemp("home")), {})
    anatomy = Anatomy.of(subject.model)
    for k, (name, move) in enumerate(moves(anatomy.d_model).items()):
        site = [site for site in SITES if site.startswith("resid")][k % 4]
        subject.publish(name, SteeringPlan((Intervention(site, move, "all", 1.0),)))
    for name, span in [(span.replace(":", "-"), span) for span in SPANS]:
        subject.publish(f"span-{name}", SteeringPlan((Intervention("resid_post.1", Add(noise(9, 96)), span, 4.0),)))
    for k, site in enumerate(SITES):
        width = anatomy.width(Intervention(site, Scale(2)).site)
        subject.publish(f"at-{site}", SteeringPlan((Intervention(site, Add(3 * noise(k, width))),)))
    subject.publish("gated", SteeringPlan((Intervention("resid_post.1", Gated(Add(noise(1, 96)), First(4))),)))
    subject.publish("mlp", SteeringPlan((Intervention("mlp_out.1", Add(noise(1, 96))),)))
    subject.home.catalog.promote("add@1", "prod")
    return subject


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory) -> Subject:
    """The embedded model as a checkpoint that vLLM can load, with two plans."""
    folder = tmp_path_factory.mktemp("smollm2")
    load_model("smollm2", dtype="float32")[0].save_pretrained(folder)
    AutoTokenizer.from_pretrained(embedded_folder()).save_pretrained(folder)
    subject = Subject(folder, Home.at(tmp_path_factory.mktemp("home")), {})
    width = Anatomy.of(subject.model).d_model
    subject.publish("cheerful", SteeringPlan((Intervention("resid_post.12", Add(0.4 * noise(1, width)), "answer"),)))
    subject.publish("brief", SteeringPlan((Intervention("resid_post.20", Add(0.8 * noise(2, width))),)))
    subject.home.catalog.promote("cheerful@1", "prod")
    return subject


@pytest.fixture(scope="session")
def home_of() -> Callable[[Subject], AbstractContextManager[None]]:
    """While the block runs, engines that start find this subject's plans, as they find $TRIMTAB_HOME."""

    @contextmanager
    def naming(subject: Subject) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRIMTAB_HOME", subject.home.url)
            yield

    return naming

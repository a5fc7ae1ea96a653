"""Every way to call a model, under a plan, a gate and the governor: it gives what step-by-step steering without a cache
gives, or the stated error. What is measured here is docs/ways-to-call.md; `make ways-to-call` writes it anew."""

import copy
import os
import tempfile
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import cpu_offload, dispatch_model
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import AutoModelForSequenceClassification, DynamicCache, PreTrainedTokenizerFast, pipeline

from tests.laws.test_any_origin import packed
from trimtab.steering.errors import SteeringError
from trimtab.steering.gates.linear import Linear
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.gated import Gated
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan

DOC = Path(__file__).parents[2] / "docs" / "ways-to-call.md"
SCRATCH = tempfile.TemporaryDirectory()  # of weights on a disk; removed when the tests end
IDS, N = torch.tensor([[7, 3, 52, 11, 30, 3]]), 4
GREEDY = {"max_new_tokens": N, "do_sample": False}
PROMPT = [IDS.shape[1]]


def noise(seed: int, d: int) -> Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(seed))


def attachments(model) -> dict[str, Callable]:
    d = Anatomy.of(model).d_model
    gate = Linear(weight=noise(1, d), site=Site("resid_post", 2), threshold=-1e9)
    move, span = Add(3 * noise(0, d)), Span("answer")
    plan = SteeringPlan((Intervention(Site("resid_post", 1), move, span),))
    gated = SteeringPlan((Intervention(Site("resid_post", 1), Gated(move, gate), span),))
    return {
        "plan": lambda m, **how: plan.on(m, **how),
        "gate": lambda m, **how: gated.on(m, **how),
        "governor": lambda m, **how: plan.on(m, govern=0.5, **how),
    }


def generated(model, **options) -> Tensor:
    return model.generate(**{"input_ids": IDS, **GREEDY, **options})


def steps(model) -> Tensor:
    """The reference: greedy by hand, the whole text at every step."""
    ids = IDS
    for _ in range(N):
        ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return ids


def kept(model, new_only: bool) -> Tensor:
    """A cache that holds all but the last two tokens of the prompt."""
    cache = DynamicCache(config=model.config)
    model(input_ids=IDS[:, :4], past_key_values=cache)
    ids = IDS[:, 4:] if new_only else IDS
    out = generated(model, input_ids=ids, past_key_values=cache, attention_mask=torch.ones_like(IDS))
    return torch.cat([IDS[:, :4], out], dim=1) if new_only else out


def threaded(model) -> Tensor:
    answers: list[Tensor | Exception] = []

    def run() -> None:
        try:
            with torch.no_grad():
                answers.append(generated(model))
        except SteeringError as error:
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(answers[0], Exception):
        raise answers[0]
    return answers[0]


def by_hand(model, cut: int = 0, **options) -> Tensor:
    """Greedy by hand with a cache; the prompt at once or in two chunks."""
    ids, cache = IDS, DynamicCache(config=model.config)
    parts = [IDS[:, :cut], IDS[:, cut:]] if cut else [IDS]
    for _ in range(N):
        for part in parts:
            out = model(input_ids=part, past_key_values=cache, **options)
        logits = out.logits if hasattr(out, "logits") else out[0]
        parts = [logits[:, -1:].argmax(-1)]
        ids = torch.cat([ids, parts[0]], dim=1)
    return ids


class Streamer:
    def put(self, value) -> None:
        pass

    def end(self) -> None:
        pass


@dataclass(frozen=True)
class Way:
    """call: gives token ids inside the block. reference: the same where step-by-step greedy decoding is not the answer.
    wrap: what the plan is attached to and called. own: the wrapped model is another one (adapted, quantised), so the
    reference is its own. lengths: with prompt_lengths."""

    call: Callable
    reference: Callable = steps
    wrap: Callable = lambda model: model
    own: bool = False
    lengths: bool = False


def uncached(**options) -> Callable:
    return lambda model: seeded(model, use_cache=False, **options)


def seeded(model, **options) -> Tensor:
    torch.manual_seed(0)
    return generated(model, **options)


def way(**options) -> Way:
    return Way(lambda model: seeded(model, **options))


def alike(**options) -> Way:
    return Way(lambda model: seeded(model, **options), uncached(**options))


def classifier(model):
    return AutoModelForSequenceClassification.from_config(model.config)


def assisted(model) -> Tensor:
    return generated(model, assistant_model=copy.deepcopy(model))


def piped(model) -> Tensor:
    """transformers' pipeline, given words whose ids are those of the prompt."""
    words = Tokenizer(WordLevel({f"w{number}": number for number in range(61)}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", pad_token="w0")
    write = pipeline("text-generation", model=model, tokenizer=tokenizer)
    text = " ".join(f"w{number}" for number in IDS[0].tolist())
    return torch.tensor([write(text, return_tensors=True, **GREEDY)[0]["generated_token_ids"]])


def adapted(model):
    """A LoRA with random weights on attention and MLP."""
    torch.manual_seed(0)
    projections = ["q_proj", "o_proj", "down_proj"]
    return get_peft_model(
        copy.deepcopy(model), LoraConfig(r=2, target_modules=projections, init_lora_weights=False)
    ).eval()


def quantised(model):
    """torch's own 8-bit layers: weights are packed, activations are quantised on the fly."""
    return torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear}, dtype=torch.qint8)


def mapped(where: str) -> Callable:
    """`device_map` with the middle block elsewhere; accelerate's hooks move inputs and outputs."""

    def dispatched(model):
        parts = ("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head")
        parts += tuple(f"model.layers.{k}" for k in range(model.config.num_hidden_layers))
        places = dict.fromkeys(parts, "cpu") | {"model.layers.1": where}
        folder = SCRATCH.name if where == "disk" else None
        return dispatch_model(copy.deepcopy(model), places, main_device="cpu", offload_dir=folder, force_hooks=True)

    return dispatched


WAYS: dict[str, Way] = {
    "model(ids), the whole text at each step, prompt_lengths": Way(steps, lengths=True),
    "model(ids, past_key_values=…) by hand": Way(by_hand),
    "the same, return_dict=False": Way(lambda model: by_hand(model, return_dict=False)),
    "the same, output_hidden_states=True": Way(lambda model: by_hand(model, output_hidden_states=True)),
    "the same, prompt in chunks, prompt_lengths": Way(lambda model: by_hand(model, cut=4), lengths=True),
    "generate, greedy": way(),
    "generate, sampled": alike(do_sample=True),
    "generate, use_cache=False": way(use_cache=False),
    "generate, num_beams": alike(num_beams=2),
    "generate, num_return_sequences": alike(do_sample=True, num_return_sequences=2),
    "generate, prompt_lookup_num_tokens": way(prompt_lookup_num_tokens=2),
    "generate, assistant_model": Way(assisted),
    "generate, prefill_chunk_size": way(prefill_chunk_size=2),
    'generate, cache_implementation="static"': way(cache_implementation="static"),
    "generate, a kept cache and the ids of the whole text": Way(lambda model: kept(model, False)),
    "generate, a kept cache and only the new ids": Way(lambda model: kept(model, True)),
    "generate(inputs_embeds=…)": Way(
        lambda model: torch.cat([IDS, model.generate(inputs_embeds=model.get_input_embeddings()(IDS), **GREEDY)], dim=1)
    ),
    "generate(None, generation_config, input_ids=…)": Way(
        lambda model: model.generate(None, model.generation_config, input_ids=IDS, **GREEDY)
    ),
    "generate with a streamer": way(streamer=Streamer()),
    "generate in another thread": Way(threaded),
    "generate_batch": Way(lambda model: model.generate_batch(inputs=IDS.tolist())),
    "DataParallel(model)": Way(generated, wrap=torch.nn.DataParallel),
    "a sequence classifier": Way(generated, wrap=classifier),
    "pipeline(model=…)": Way(piped),
    "a PEFT model (LoRA)": Way(generated, wrap=adapted, own=True),
    "a PEFT model, merged": Way(generated, wrap=lambda model: adapted(model).merge_and_unload(), own=True),
    "8-bit layers (torch quantize_dynamic)": Way(generated, wrap=quantised, own=True),
    "4-bit packed layers (the layout of bitsandbytes)": Way(
        generated, wrap=lambda model: packed(copy.deepcopy(model)), own=True
    ),
    "device_map, all parts in memory": Way(generated, wrap=mapped("cpu")),
    "device_map, a block on disk": Way(generated, wrap=mapped("disk")),
    "device_map, offloaded to the CPU": Way(
        generated, wrap=lambda model: cpu_offload(copy.deepcopy(model), torch.device("cpu"))
    ),
    "a model on the meta device": Way(generated, wrap=lambda model: copy.deepcopy(model).to("meta")),
}


def cell(model, attach: Callable, how: Way) -> str:
    """What a way of calling does under an attachment."""
    known = {"prompt_lengths": PROMPT}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        called = how.wrap(model)
        plain = called if how.own else model
        try:
            with attach(called, **(known if how.lengths else {})):
                got = how.call(called)
        except SteeringError as error:
            return "refused: " + str(error).split(":")[0].split(", so")[0]
        base = how.reference(plain)
        with attach(plain, **(known if how.reference is steps else {})):
            want = how.reference(plain)
    assert not torch.equal(want, base), "this test would not see steering"
    return "steers" if torch.equal(got, want) else f"WRONG: {got.tolist()} for {want.tolist()}"


def page(cells: dict[str, dict[str, str]]) -> str:
    columns = list(next(iter(cells.values())))
    lines = [
        "# Ways to call a model under a plan",
        "",
        "Measured by `tests/laws/test_ways_to_call.py`, written by `make ways-to-call`. *steers*: the same tokens as",
        "decoding by hand, the whole text at every step, without a cache. *refused*: a `SteeringError` that begins so.",
        "",
        f"| call | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
        *(f"| {name} | {' | '.join(row.values())} |" for name, row in cells.items()),
        "",
        "`generate_batch` has an engine of its own, in which each request has its plan: `SteeredBatching`",
        "([how](how-to/export.md#one-plan-per-request-in-a-running-batch)).",
        "",
        "Compiled models (`torch.compile(model)`, `model.compile()`, a compiled `model.forward`): compiled inside the",
        "block they are steered; compiled and run before it, or under another plan, they are steered or `SilentNoOp`",
        "is raised (`torch.compiler.reset()` before the block is the cure). Nested blocks add up; a caller's own",
        "`model.generate` is called and stays. A plan belongs to the model, so it steers every thread; two threads",
        "cannot attach at once. A block stays open until every generation that began in it has ended.",
        "",
    ]
    return "\n".join(lines)


def test_every_way_to_call_steers_or_refuses_and_the_page_says_which(tiny_llama):
    attached = attachments(tiny_llama)
    cells = {name: {k: cell(tiny_llama, on, how) for k, on in attached.items()} for name, how in WAYS.items()}
    wrong = {name: row for name, row in cells.items() if any(text.startswith("WRONG") for text in row.values())}
    assert not wrong
    if os.environ.get("TRIMTAB_WRITE_DOCS"):
        DOC.write_text(page(cells))
    assert DOC.read_text() == page(cells), "run `make ways-to-call`"

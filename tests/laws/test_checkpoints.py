"""A checkpoint is loaded whole or not at all, in every family: transformers would fill what is missing at random."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.load import load_model


@pytest.fixture
def saved(tiny: PreTrainedModel, tmp_path, folder_of) -> Path:
    return folder_of(tiny, tmp_path / "model")


def edited(folder: Path, edit) -> Path:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def configured(folder: Path, **values: object) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return folder


def test_whole_is_loaded_and_a_missing_or_misshapen_tensor_is_refused(tiny, saved):
    model, _ = load_model(str(saved))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), tiny.state_dict().values(), strict=True))
    name = next(name for name in load_file(saved / "model.safetensors") if ".1." in name and "experts" not in name)
    edited(saved, lambda t: t.update({name: t[name][:-1].clone()}))
    with pytest.raises(SteeringError, match="another shape"):
        load_model(str(saved))
    edited(saved, lambda t: t.pop(name))
    with pytest.raises(SteeringError, match="lack 1 tensors"):
        load_model(str(saved))


def test_tied_heads_are_not_missing_and_other_numbers_of_blocks_are(tiny_llama, tmp_path, folder_of):
    folder = folder_of(tiny_llama, tmp_path / "model")
    for layers, message in ((2, "further blocks"), (4, "lack .* tensors")):
        with pytest.raises(SteeringError, match=message):
            load_model(str(configured(folder, num_hidden_layers=layers)))
    configured(folder, num_hidden_layers=3, tie_word_embeddings=True)
    model, _ = load_model(str(edited(folder, lambda t: t.pop("lm_head.weight"))))
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def outside(folder: Path) -> None:
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../outside.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


HOSTILE = {
    "names the weights file '../outside.safetensors'": outside,
    "attention kernel 'kernels-community/evil'": lambda f: configured(f, _attn_implementation="kernels-community/evil"),
    "could not be loaded": lambda f: (f / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{" + b"\0" * 64),
    "quant": lambda f: configured(f, quantization_config={"quant_method": "gptq", "bits": 4}),
    "model .* could not be loaded": lambda f: configured(f, hidden_size="forty"),
}


def test_hostile_folders_are_one_line(tiny_llama, tmp_path, folder_of):
    whole = folder_of(tiny_llama, tmp_path / "whole")
    for number, (message, spoil) in enumerate(HOSTILE.items()):
        folder = shutil.copytree(whole, tmp_path / str(number) / "model")
        spoil(folder)
        with pytest.raises(SteeringError, match=message) as refused:
            load_model(str(folder))
        assert "\n" not in str(refused.value)


def test_what_a_configuration_wishes_is_not_obeyed(tiny_llama, tmp_path, folder_of):
    """Flash attention is not installed here: obeying would fail."""
    folder = configured(folder_of(tiny_llama, tmp_path / "model"), _attn_implementation="flash_attention_2")
    assert load_model(str(folder))[0].config._attn_implementation == "sdpa"


def test_a_weight_that_a_layer_has_no_place_for_is_refused_and_others_are_told_of(build_tiny, tmp_path, folder_of):
    """Steering folded into a bias would be dropped in silence where the configuration switches biases off."""
    folder = folder_of(build_tiny("llama/plain"), tmp_path / "model")
    edited(folder, lambda t: t.update({"score.weight": torch.ones(2, 40)}))
    with pytest.warns(UserWarning, match="not used: score.weight"):
        load_model(str(folder))
    edited(folder, lambda t: t.update({"model.layers.1.mlp.down_proj.bias": torch.ones(40)}))
    with pytest.raises(SteeringError, match=r"makes no place \(model.layers.1.mlp.down_proj.bias\)"):
        load_model(str(folder))

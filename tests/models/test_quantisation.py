"""Weights in 8 and 4 bits: quantised on loading, saved and loaded again, and what they refuse."""

import importlib.util

import pytest
import torch

from liveedit.errors import BadInput, UnsupportedModel
from liveedit.models.patch import Patch
from liveedit.models.quantisation import quantization
from liveedit.models.tiny import tiny
from liveedit.models.vlm import EMBEDDINGS, VLM

installed = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes"
)
FAMILIES = ("llava", "blip2", "minigpt4", "mplug_owl2", "qwen2_vl", "qwen_vl")


@pytest.fixture(scope="module", params=["4bit llava", *(f"8bit {name}" for name in FAMILIES)])
def quantised(request, tmp_path_factory, wide_llava, save_checkpoint):
    """A full model and its quantised form."""
    bits, name = request.param.split()
    if bits == "4bit":
        return VLM.load(wide_llava), VLM.load(wide_llava, quantize=bits)
    full = tiny(name)
    folder = save_checkpoint(full, tmp_path_factory.mktemp(name))
    return full, VLM.load(folder, quantize=bits, prompt_format=full.prompt_format)


def test_without_bitsandbytes_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr("liveedit.models.quantisation.find_spec", lambda _name: None)
    with pytest.raises(BadInput, match=r"pip install 'liveedit\[quantised\]'"):
        quantization("8bit", None)


def test_another_number_of_bits_is_refused():
    with pytest.raises(BadInput, match="choose 8bit or 4bit"):
        quantization("3bit", None)


def test_a_missing_library_that_a_checkpoint_needs_is_named(tmp_path, monkeypatch, save_checkpoint):
    import transformers

    def lacking(*_, **__):
        raise ImportError(
            "Loading a GPTQ quantized model requires gptqmodel\n(`pip install gptqmodel`)"
        )

    folder = save_checkpoint(tiny("llava"), tmp_path)
    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", lacking)
    with pytest.raises(BadInput, match="requires gptqmodel"):
        VLM.load(folder)


@installed
def test_linear_layers_are_quantised_and_the_embeddings_are_not(quantised):
    full, vlm = quantised
    kinds = {type(module).__name__ for module in vlm.decoder.modules()}
    assert kinds & {"Linear8bitLt", "Linear4bit"}
    assert torch.equal(vlm.embedding.weight, full.embedding.weight)
    assert torch.equal(vlm.unembedding, full.unembedding)
    assert vlm.quantised in ("llm_int8", "nf4")
    assert full.quantised is None


@installed
def test_weights_are_the_full_ones_up_to_rounding(quantised, tmp_path, save_checkpoint, queries):
    full, vlm = quantised
    bits, share = ("8bit", 0.01) if vlm.quantised == "llm_int8" else ("4bit", 0.12)
    rounded = VLM.load(
        save_checkpoint(full, tmp_path), quantize=bits, prompt_format=full.prompt_format
    )
    rounded.model.dequantize()
    for name, parameter in full.decoder.named_parameters():
        error = rounded.decoder.get_parameter(name) - parameter
        assert error.norm() <= share * parameter.norm(), name
    batch = vlm.encode(queries)
    logits = vlm.logits(batch)
    expected = rounded.logits(batch)
    share = 0.1 if bits == "8bit" else 1e-4  # 8-bit layers round states, too
    assert (logits - expected).norm() < share * expected.norm()


@installed
def test_hidden_and_resume_and_their_gradients(quantised, queries):
    full, vlm = quantised
    batch = vlm.encode(queries)
    logits = vlm.logits(batch)
    for layer in (EMBEDDINGS, 1):
        torch.testing.assert_close(
            vlm.resume(layer, vlm.hidden(batch, layer)), logits, rtol=1e-4, atol=1e-4
        )
    slopes = []
    for model in (full, vlm):
        hidden = full.hidden(full.encode(queries), 1)
        hidden.hidden = hidden.hidden.clone().requires_grad_()
        model.resume(1, hidden, hidden.answer_positions()).logsumexp(-1).sum().backward()
        slopes.append(hidden.hidden.grad.flatten())
    assert torch.cosine_similarity(*slopes, dim=0) > (0.98 if vlm.quantised == "llm_int8" else 0.7)


@installed
def test_layers_that_would_be_computed_wrongly_are_refused(tmp_path, save_checkpoint):
    with pytest.raises(UnsupportedModel, match="32 wide, in 4 bits on a CPU: use 8 bits, or a GPU"):
        VLM.load(save_checkpoint(tiny("llava"), tmp_path), quantize="4bit")


@installed
def test_the_fingerprint_is_that_of_the_full_checkpoint(quantised):
    full, vlm = quantised
    assert vlm.fingerprint == full.fingerprint


@pytest.mark.one_in(2)
@installed
def test_a_quantised_checkpoint_loads_as_another_model(
    quantised, tmp_path, save_checkpoint, queries
):
    full, vlm = quantised
    fresh = VLM.load(save_checkpoint(vlm, tmp_path), prompt_format=full.prompt_format)
    before = fresh.fingerprint
    batch = vlm.encode(queries)
    torch.testing.assert_close(fresh.logits(batch), vlm.logits(batch))
    assert fresh.quantised == vlm.quantised
    assert fresh.fingerprint == before != full.fingerprint
    again = VLM.load(tmp_path)
    again.logits(batch)  # which moves 8-bit weights
    assert again.fingerprint == before
    with pytest.raises(BadInput, match="already quantised"):
        VLM.load(tmp_path, quantize="8bit")


@installed
def test_weights_cannot_be_changed(quantised):
    class Weights(Patch):
        def weights(self):
            names = [
                name
                for name, value in vlm.layers[1].named_parameters()
                if not value.is_floating_point()
            ]
            name = next(name for name in names if "q_proj" in name)
            return {f"{vlm.decoder_path}.layers.1.{name}": torch.zeros(1)}

    vlm = quantised[1]
    with pytest.raises(
        UnsupportedModel, match="load the model in full, or edit it by a method that"
    ) as caught:
        vlm.patched(Weights()).__enter__()
    assert "\n" not in str(caught.value)

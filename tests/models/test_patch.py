"""The empty patch, patches of weights, and functions at sites."""

import pytest
import torch

from liveedit.editors.common.branch import Recorder
from liveedit.errors import BadInput, Mismatch, UnsupportedModel
from liveedit.models.patch import Patch, Rewritten, main_output, site_layer
from liveedit.models.raw_calls import unpadded
from liveedit.models.tiny import tiny
from liveedit.types import Query

QUERIES = [
    Query("who sang the song", "Elvis"),
    Query("What is the country with this flag?", "Japan"),
]


class Weights(Patch):
    def __init__(self, values):
        self.values = values

    def weights(self):
        return self.values


class Sites(Patch):
    def __init__(self, functions):
        self.functions = functions

    def bind(self, batch):
        return self.functions


@pytest.fixture(scope="module")
def tied():
    made = tiny("blip2")
    head = made.model.get_output_embeddings()
    embedding = made.model.get_input_embeddings()
    assert head.weight is embedding.weight
    return made


def test_the_base_class_is_the_empty_patch(vlm):
    patch = Patch()
    batch = vlm.encode(QUERIES)
    logits = torch.zeros(2, 1, 3)
    assert len(patch) == 0
    assert patch.rewrite(QUERIES[0]) == Rewritten(QUERIES[0])
    assert patch.bind(batch) == patch.weights() == patch.prefix(batch) == {}
    assert patch.merge(batch, logits) is logits


def test_padding_cannot_be_told_from_a_mask_of_another_kind():
    ids = torch.ones(2, 3, dtype=torch.long)
    real = torch.tensor([[0, 1, 1], [1, 1, 1]])
    pairs = (real[:, None, None] & torch.ones(3, 3).tril().long()).bool()
    for mask in (real, {"full": None, "sliding": real}, pairs):
        assert torch.equal(unpadded(mask, ids).bool(), real.bool())
    for mask in (None, {"full": None}):
        assert bool(unpadded(mask, ids).all())
    assert bool(unpadded(object(), ids[:1]).all())
    with pytest.raises(BadInput, match="give one row at a time"):
        unpadded(object(), ids)


def test_saving_is_up_to_the_patch(tmp_path):
    with pytest.raises(NotImplementedError, match="Patch cannot be saved"):
        Patch().save(tmp_path)


def test_sites_and_their_layers():
    assert site_layer("layers.21") == site_layer("layers.21.mlp.down_proj") == 21
    assert site_layer("norm") is None


def test_main_output():
    states = torch.zeros(1)
    assert main_output(states) is main_output((states, None)) is states


def test_tied_weights_change_together(tied):
    name = "language_model.model.decoder.embed_tokens.weight"
    head = tied.model.get_output_embeddings()
    embedding = tied.model.get_input_embeddings()
    before = embedding.weight
    with tied.patched(Weights({name: torch.zeros_like(before)})):
        assert head.weight is embedding.weight
        assert tied.logits(tied.encode(QUERIES)).abs().max() == 0
    assert head.weight is embedding.weight is before


def test_weights_take_the_models_type(vlm):
    name, old = next(vlm.layers[0].named_parameters())
    name = f"model.language_model.layers.0.{name}"
    with vlm.patched(Weights({name: old.double()})):
        assert vlm.model.state_dict()[name].dtype == torch.float32


def test_weights_of_another_model_are_refused(vlm):
    name = "model.language_model.norm.weight"
    for values, reason in (
        ({"no.such": torch.zeros(1)}, "does not have"),
        ({name: torch.zeros(3)}, r"\(3,\)"),
    ):
        with pytest.raises(Mismatch, match=reason), vlm.patched(Weights(values)):
            pass
    assert vlm.patches == []


def test_a_refused_weight_puts_the_others_back(vlm):
    name = "model.language_model.norm.weight"
    before = vlm.model.get_parameter(name)
    values = {name: torch.zeros_like(before), "no.such": torch.zeros(1)}
    with pytest.raises(Mismatch), vlm.patched(Weights(values)):
        pass
    assert vlm.model.get_parameter(name) is before


def test_quantised_weights_are_refused():
    vlm = tiny("llava")
    name = "model.language_model.norm.weight"
    quantised = torch.nn.Parameter(torch.zeros(32, dtype=torch.int8), requires_grad=False)
    vlm.decoder.norm.weight = quantised
    with (
        pytest.raises(UnsupportedModel, match="quantised"),
        vlm.patched(Weights({name: torch.zeros(32)})),
    ):
        pass


def test_other_hooks_of_a_site_see_the_patched_output(vlm):
    class Add(Patch):
        def bind(self, batch):
            return {"layers.1": lambda states: states + 1}

    batch = vlm.encode(QUERIES)
    seen = []
    with vlm.layers[1].register_forward_hook(lambda _m, _a, output: seen.append(output)):
        vlm.logits(batch)
        with vlm.patched(Add()):
            vlm.logits(batch)
    assert torch.equal(seen[1], seen[0] + 1)


@torch.no_grad()
def test_on_resuming_a_patch_acts_above_the_layer_alone(vlm):
    """A patch on the layer itself has acted on the states that ``resume`` begins with."""
    patch = Sites({"layers.1": lambda states: 2 * states})
    batch = vlm.encode(QUERIES)
    hidden = [vlm.hidden(batch, layer) for layer in range(3)]
    plain = [vlm.resume(layer, states) for layer, states in enumerate(hidden)]
    with vlm.patched(patch):
        whole = vlm.logits(batch)
        acted = [vlm.resume(layer, states) for layer, states in enumerate(hidden)]
        again = vlm.resume(1, vlm.hidden(batch, 1))
    torch.testing.assert_close(acted[0], whole)
    assert torch.equal(acted[1], plain[1])
    assert torch.equal(acted[2], plain[2])
    torch.testing.assert_close(again, whole)
    assert not torch.allclose(whole, plain[0], atol=1e-3)


def test_an_interrupted_batch_does_not_leak_into_the_next(vlm):
    class Faulty(Patch):
        fails = True

        def bind(self, batch):
            return {"layers.1": self.act} if self.fails else {}

        def act(self, states):
            raise ZeroDivisionError

    batch = vlm.encode(QUERIES)
    patch = Faulty()
    logits = vlm.logits(batch)
    with vlm.patched(patch):
        with pytest.raises(ZeroDivisionError):
            vlm.logits(batch)
        patch.fails = False
        assert torch.equal(vlm.logits(batch), logits)


def test_the_text_model_alone_sees_a_patch(tied):
    """OPT, called by itself, embeds its tokens within the decoder; merging sees them, too."""
    grown = []

    class Watching(Patch):
        def merge(self, batch, logits):
            grown.append(batch.inputs["input_ids"].tolist())
            return logits

    text = tied.model.language_model
    ids = tied.encode(QUERIES[:1]).inputs["input_ids"]
    with tied.patched(Watching()):
        tokens = text.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=3,
            min_new_tokens=3,
            do_sample=False,
        )
    assert grown == [tokens[:, :stop].tolist() for stop in range(ids.shape[1], tokens.shape[1])]


@pytest.mark.parametrize(("family", "norm", "inside"), [
    ("llava", "layers.1.post_attention_layernorm", "layers.1.mlp"),
    ("blip2", "layers.1.final_layer_norm", "layers.1.fc1"),
])  # fmt: skip
def test_a_site_can_be_the_input_of_a_module(family, norm, inside):
    vlm = tiny(family)
    batch = vlm.encode(QUERIES)
    record = Recorder(norm, f"{inside}@input")
    with vlm.patched(record):
        plain = vlm.logits(batch)
    assert torch.equal(
        record.seen[norm].view_as(record.seen[f"{inside}@input"]), record.seen[f"{inside}@input"]
    )
    doubled, output = Sites({f"{inside}@input": lambda x: 2 * x}), Sites({norm: lambda x: 2 * x})
    with vlm.patched(doubled):
        seen = vlm.logits(batch)
    with vlm.patched(output):
        assert torch.equal(vlm.logits(batch), seen)
    assert not torch.equal(seen, plain)
    assert torch.equal(vlm.logits(batch), plain)

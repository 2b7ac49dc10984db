"""Gemma 3n: the states of a token stand side by side wherever an editor reads or changes them."""

import pytest
import torch
from transformers import MODEL_MAPPING, Gemma3nVisionConfig

from liveedit.models.conformance.assertions import close, real, rows_close
from liveedit.models.conformance.queries import QUERIES
from liveedit.models.conformance.sample_patches import Routed
from liveedit.models.patch import Patch, in_a_stack, side_by_side
from liveedit.models.tiny import tiny
from liveedit.models.vlm import VLM


@pytest.fixture(scope="module")
def vlm():
    return tiny("gemma3n")


class First(Patch):
    """Adds to the first state of every token alone."""

    def __init__(self, site, width):
        self.site = site
        self.width = width
        self.shape = None

    def bind(self, batch):
        def act(states):
            self.shape = states.shape
            changed = states.clone()
            changed[..., : self.width] += 1
            return changed

        return {self.site: act}


def test_a_stack_of_states_is_laid_side_by_side_and_back():
    stack = torch.randn(4, 2, 3, 5)
    flat = side_by_side(stack)
    assert torch.equal(flat[1, 2], torch.cat([stack[number, 1, 2] for number in range(4)]))
    assert torch.equal(in_a_stack(flat, 5), stack)
    assert side_by_side(flat) is flat


@pytest.mark.parametrize("site", ["layers.1", "layers.2@input"])
def test_a_patch_acts_on_one_state_of_a_token(vlm, site):
    batch = vlm.encode(QUERIES)
    width = vlm.hidden_size
    hidden = vlm.hidden(batch, 1)
    patch = First(site, width)
    with vlm.patched(patch):
        logits = vlm.logits(batch)
    assert patch.shape == (*batch.labels.shape, 4 * width)
    hidden.hidden[..., :width] += 1
    rows_close(
        real(vlm.resume(1, hidden), batch.spans),
        real(logits, batch.spans),
        "the first state changed",
    )


def test_rows_padded_on_the_left_keep_their_positions(vlm):
    batch = vlm.encode(QUERIES, padding_side="left")
    logits = real(vlm.logits(batch), batch.spans)
    rows = vlm.hidden(batch, 2).rows()
    assert rows[1].position_ids[0, 0] > 0
    rows_close([vlm.resume(2, row)[0] for row in rows], logits, "rows without their padding")


def test_the_towers_cached_output_is_not_scaled_twice(vlm):
    batch = vlm.encode(QUERIES)
    logits = vlm.logits(batch)
    with vlm.vision_once():
        for _ in range(2):
            assert torch.equal(vlm.logits(batch), logits)


def test_resume_agrees_with_a_whole_pass_in_bfloat16():
    half = tiny("gemma3n")
    half = VLM(half.model.bfloat16(), half.processor)
    batch = half.encode(QUERIES)
    with half.patched(Routed(3)):
        for layer in range(3):
            close(
                half.resume(layer, half.hidden(batch, layer)),
                half.logits(batch),
                f"resume from layer {layer}",
            )


def test_timms_tower_is_replaced_in_tiny_models_alone(vlm):
    assert type(vlm.model.model.vision_tower).__name__ == "Tower"
    assert MODEL_MAPPING[Gemma3nVisionConfig].__name__ == "TimmWrapperModel"

"""The contract of every VLM, whatever its prompt, image inputs and positions: all checks in order.

Each check takes a model. It raises :class:`Broken` with a description of the fault, or
:class:`NotApplicable` if the model refuses the checked feature, where that is allowed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from liveedit.errors import shortage
from liveedit.models.conformance import (
    encoding,
    generation,
    layers,
    logits,
    patches,
    probe,
    several_images,
)
from liveedit.models.conformance.assertions import Broken, NotApplicable
from liveedit.models.conformance.probe import Check
from liveedit.models.conformance.queries import QUERIES
from liveedit.models.runner import ModelRunner

__all__ = ["CHECKS", "Finding", "examine"]

IN_ORDER: tuple[Check, ...] = (
    # Encoding
    probe.spans_partition_the_tokens,
    encoding.image_span_holds_the_image,
    encoding.labels_cover_the_answer,
    encoding.prompt_ends_before_the_answer,
    encoding.encodes_as_the_processor_does,
    encoding.images_of_a_batch_follow_one_another,
    encoding.an_image_is_processed_once,
    several_images.each_of_several_images_has_its_span,
    several_images.several_images_are_read_as_by_the_processor,
    several_images.several_images_in_a_batch,
    encoding.without_target_there_is_no_answer,
    encoding.eos_is_part_of_the_answer,
    generation.an_answer_ends_where_generation_ends,
    encoding.a_prompt_is_kept_whole_before_an_answer,
    encoding.answer_positions_are_one_to_the_left,
    encoding.placeholder_in_a_prompt_is_refused,
    # Forward passes, whole and in part
    logits.rows_are_equal_alone_and_in_a_batch,
    logits.a_batch_may_be_text_alone,
    logits.the_image_matters,
    layers.hidden_stops_at_its_layer,
    probe.resume_continues_where_hidden_stopped,
    probe.resume_agrees_with_a_whole_pass,
    layers.what_goes_into_the_first_layer,
    layers.resume_runs_only_what_is_above,
    layers.resume_at_positions,
    layers.resume_is_differentiable,
    layers.rows_of_hidden_can_be_mixed_anew,
    layers.a_layer_that_does_not_exist_is_refused,
    logits.the_model_is_frozen,
    # Generation
    generation.generation_is_greedy,
    probe.hooks_see_single_tokens,
    probe.generation_with_a_cache_agrees_with_whole_passes,
    # Patches
    patches.a_patch_acts_and_leaves_nothing,
    patches.a_patch_is_bound_once_a_batch,
    patches.a_patch_sees_padded_rows_as_alone,
    generation.generation_sees_a_patch,
    generation.raw_calls_see_a_patch,
    patches.an_empty_patch_leaves_logits_bit_equal,
    patches.an_exception_leaves_nothing,
    patches.a_site_that_does_not_exist_is_refused,
    patches.hidden_and_resume_under_a_patch,
    patches.gradients_reach_what_a_patch_brings_in,
    patches.weights_are_put_on_and_taken_off,
    patches.patches_can_be_nested,
    patches.rewriting_queries,
    patches.vectors_before_a_text_are_like_tokens_there,
    generation.merging_logits,
)

CHECKS: dict[str, Check] = {check.__name__: check for check in IN_ORDER}
"""The checks by name, in the order in which they run."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Outcome of a check.

    ``proves`` is the check's summary, ``reason`` the fault, ``None`` if there is none.
    ``skipped`` is why the check does not apply, ``None`` if it does.
    """

    name: str
    proves: str
    reason: str | None
    skipped: str | None = None


def examine(vlm: ModelRunner, names: Sequence[str] | None = None) -> Iterator[Finding]:
    """Run the checks, all or those of ``names``, and yield the outcome of each."""
    # transformers puts hooks of its own on a vision tower when that first runs.
    vlm.logits(vlm.encode(QUERIES))
    for name in CHECKS if names is None else names:
        yield outcome(vlm, name)


def outcome(vlm: ModelRunner, name: str) -> Finding:
    """Run one check."""
    check = CHECKS[name]
    proves = str(check.__doc__).splitlines()[0]
    try:
        check(vlm)
    except NotApplicable as error:
        return Finding(name, proves, None, skipped=str(error))
    except Exception as error:  # a model may fail in any way
        if shortage(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if not isinstance(error, Broken):
            reason = f"{type(error).__name__}: {reason}"
        return Finding(name, proves, reason)
    return Finding(name, proves, None)

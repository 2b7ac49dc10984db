"""VLM: a frozen Hugging Face vision-language model and its processor, with a small interface.

Three classes, one file each: :class:`Encoder` turns queries into batches, :class:`ModelRunner` runs
the model on them, :class:`VLM` loads and copies it. Families derive from :class:`VLM`.

Shapes: B rows, T tokens (padding included), D width of the text decoder, V size of the vocabulary.
"""

import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from PIL import Image
from torch import nn

from liveedit.errors import BadInput, LiveEditError, UnsupportedModel, shortage
from liveedit.models import family
from liveedit.models.attach import Attachment
from liveedit.models.calls import TESTED
from liveedit.models.conformance.probe import LOADING, probe
from liveedit.models.encoder import PromptFormat
from liveedit.models.loading import one_line, read_checkpoint, read_outline, reading
from liveedit.models.quantisation import Bits
from liveedit.models.runner import (
    CARRIED,
    EMBEDDINGS,
    Inputs,
    ModelRunner,
    Reply,
    states_of,
    uncarried,
)
from liveedit.models.wrappers import unwrapped

__all__ = [
    "CARRIED",
    "EMBEDDINGS",
    "VLM",
    "Inputs",
    "PromptFormat",
    "Reply",
    "reading",
    "states_of",
    "uncarried",
]

LOG = logging.getLogger(__name__)
COMPILED = "_torchdynamo_orig_callable"
"""The attribute of a function that `torch.compile` has compiled."""

CAPTURING = "transformers.utils.output_capturing"
"""The module of transformers whose hooks collect the outputs of layers."""
TRANSIENT = ("_output_capturing_hooks_installed", "_compiled_call", "_last_compile_config")
"""Attributes that a model gets when it is called, and that a copy must not have."""


class Family(type):
    """Metaclass that makes ``VLM(model, …)`` an instance of the model's family."""

    def __call__(cls, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Unwrap the model from PEFT, `torch.compile` and the like, and choose its family."""
        model = unwrapped(model)
        chosen = family(model.config.model_type) if cls is VLM else cls
        return type.__call__(chosen, model, *args, **kwargs)


class VLM(ModelRunner, metaclass=Family):
    """A frozen Hugging Face model and its processor. A patched VLM is a VLM.

    ``VLM(model, processor)`` wraps a model that is loaded already; it is an instance of the family
    registered for the model's ``model_type``. A family sets class attributes, and overrides methods
    of :class:`Encoder` where its prompt or its image inputs differ (:meth:`render`,
    :meth:`process_images`, :meth:`expand_image_tokens`, :meth:`join` …), and of
    :class:`ModelRunner` where its model's calls do (:meth:`before_model`, :meth:`before_decoder`,
    :meth:`carry`, :meth:`stand_in` …).
    """

    hf_class: ClassVar[str] = "AutoModelForImageTextToText"
    """The class of ``transformers`` that reads the checkpoint."""

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        super().__init__(model, processor, prompt_format)
        self.probed = False

    # Loading

    @classmethod
    @torch.inference_mode(False)
    def load(
        cls,
        path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        quantize: Bits | None = None,
        device_map: Any = None,
        max_memory: Mapping[int | str, int | str] | None = None,
        prompt_format: PromptFormat | None = None,
    ) -> "VLM":
        """Load the model in a folder, or under a Hugging Face id, as the family of its type.

        ``dtype=None`` keeps the checkpoint's own. ``quantize`` reads the weights in 8 or 4
        bits; a checkpoint of quantised weights needs no such argument. ``device_map`` goes to
        ``from_pretrained``: "auto" fills all devices, then memory, then disk, of each no more than
        ``max_memory`` allows. ``prompt_format=None`` selects the chat template if there is one,
        else ``raw``.

        Raises :class:`BadInput` where there is no checkpoint or a broken one, and where
        bitsandbytes is missing; :class:`UnsupportedModel` for a ``model_type`` without a family,
        for a checkpoint that has to be converted first, and as :meth:`check_answers`.
        """
        start = time.monotonic()
        vlm = cls.read(path, dtype, quantize, device_map, max_memory, prompt_format)
        LOG.info("loaded %s in %.1f s", vlm, time.monotonic() - start)
        vlm.check_inputs(path)
        vlm.check_answers()
        LOG.debug("checked that the model answers under a patch, %.1f s", time.monotonic() - start)
        return vlm

    @classmethod
    def read(
        cls,
        path: str | Path,
        dtype: torch.dtype | None,
        quantize: Bits | None = None,
        device_map: Any = None,
        max_memory: Mapping[int | str, int | str] | None = None,
        prompt_format: PromptFormat | None = None,
    ) -> "VLM":
        """Load as :meth:`load`, without running the model."""
        chosen, model, processor = read_checkpoint(path, dtype, quantize, device_map, max_memory)
        vlm: VLM = chosen(model, processor, prompt_format)
        if quantize is not None:
            vlm.unquantised = partial(VLM.read, path, dtype, device_map={"": "disk"})
        return vlm

    @classmethod
    def outline(
        cls, path: str | Path, dtype: torch.dtype, prompt_format: PromptFormat | None = None
    ) -> "VLM":
        """The model without its weights, for code that has another engine run it.

        They are read for the fingerprint only. Raises as :meth:`load`.
        """
        chosen, model, processor = read_outline(path, dtype)
        vlm: VLM = chosen(model, processor, prompt_format)
        vlm.unquantised = partial(VLM.read, path, dtype, device_map={"": "disk"})
        return vlm

    @classmethod
    def load_processor(cls, source: str) -> Any:
        """The processor of a checkpoint."""
        return transformers.AutoProcessor.from_pretrained(source)

    def check_inputs(self, path: str | Path) -> None:
        """Raise :class:`UnsupportedModel` unless the model takes the processor's image inputs."""
        try:
            self.image_states(Image.new("RGB", (64, 64)))
        except LiveEditError:
            raise
        except Exception as error:  # a processor may fail in any way
            if shortage(error):
                raise
            reason = one_line(error)
            raise UnsupportedModel(
                f"the processor in {path} does not fit the model: {reason}"
            ) from error

    def check_answers(self) -> None:
        """Probe, once, that the model generates under a patch as it should.

        It detects that another version of transformers passes a cache, a mask or positions within a
        model by other names. It runs on loading or, for a model that :meth:`load` has not loaded,
        before its first edit. It takes twelve forward passes over one small image or short texts,
        four of them over a single token, and runs the vision tower twice.

        Raises :class:`UnsupportedModel` if the probe fails, :class:`BadInput` if it does so because
        some weights are not finite.
        """
        if self.probed:
            return
        try:
            with self.unpatched():
                probe(self, LOADING)
        except Exception as error:  # a model may fail in any way
            if shortage(error):
                raise
            raise self.probe_failure(error) from error
        self.probed = True

    def probe_failure(self, error: Exception) -> LiveEditError:
        """The error to raise in place of one from the probe."""
        here = (weight for weight in self.model.parameters() if not weight.is_meta)
        if not all(weight.isfinite().all() for weight in here if weight.is_floating_point()):
            reason = "some of the model's weights are not finite"
            return BadInput(f"{reason}: get its files again, or save it again in another dtype")
        versions = f"with transformers {transformers.__version__} ({TESTED} was tested)"
        kind = self.model.config.model_type
        return UnsupportedModel(
            f"models of type '{kind}' cannot be edited {versions}: {one_line(error)}"
        )

    def __str__(self) -> str:
        kind = type(self.model).__name__
        size = f"{self.num_layers} layers of width {self.hidden_size:,}"
        where = f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        return f"{kind} as {type(self).__name__}: {size}, {where}, {self.prompt_format} prompts"

    # Copying

    def __getstate__(self) -> dict[str, Any]:
        """The state for a copy or a pickle, without that of running calls.

        Raises :class:`BadInput` while the model is patched, and where its ``forward`` is compiled:
        in a copy, the compiled code would still call this model.
        """
        if self.attachment.users:
            raise BadInput(
                "a model cannot be copied while it is patched or answers: "
                "leave `patched`, or wait for the answers"
            )
        if any(hasattr(vars(module).get("forward"), COMPILED) for module in self.model.modules()):
            raise BadInput(
                "a model whose `forward` is compiled cannot be copied: "
                "call `model.compile()` in its place"
            )
        release(self.model)
        return {name: value for name, value in vars(self).items() if name != "attachment"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.attachment = Attachment.of(self)


def release(model: nn.Module) -> None:
    """Remove what transformers adds to a model when it is called; the next call adds it again.

    Its hooks cannot be pickled, and in a copy a compiled call would still be that of this model.
    """
    for module in model.modules():
        for name in TRANSIENT:
            vars(module).pop(name, None)
        for number, hook in list(module._forward_hooks.items()):
            if hook.__module__ == CAPTURING:
                del module._forward_hooks[number]

"""Processors reduced to their parts for images and text.

Parts for video and sound need further libraries, and images do not need them.
"""

from functools import cache
from importlib import import_module
from typing import Any

import transformers
from transformers import ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from liveedit.errors import UnsupportedModel

__all__ = ["completed", "image_text_class", "load_processor", "processor_class"]

ADDED = "num_additional_image_tokens"
"""The setting for the number of a vision tower's tokens besides those of the patches."""

UNWANTED = ("video_processor", "feature_extractor", "audio_processor")
"""The parts that are left out."""


class Settings:
    """The settings of another part; ``None`` for those that it lacks."""

    def __init__(self, part: Any) -> None:
        self.part = part

    def __getattr__(self, name: str) -> Any:
        """A setting."""
        return getattr(self.part, name, None)


class ImageTextProcessor(ProcessorMixin):  # type: ignore[misc]
    """Mixin between a processor's class and ``ProcessorMixin``; keeps parts for images and text."""

    def __init__(self, *parts: Any, **named: Any) -> None:
        given = dict(zip(super().get_attributes(), parts, strict=False)) | named
        super().__init__(**{name: part for name, part in given.items() if name not in UNWANTED})

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The parts that are kept."""
        return [name for name in super().get_attributes() if name not in UNWANTED]

    @classmethod
    def from_args_and_dict(
        cls, args: list[Any], processor_dict: dict[str, Any], **kwargs: Any
    ) -> Any:
        """The processor, with each part at the position that its class expects."""
        parts = dict(zip(cls.get_attributes(), args, strict=True))
        args = [parts.get(name) for name in super().get_attributes()]
        return super().from_args_and_dict(args, processor_dict, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the original class: under their common name only that one can be found."""
        return blank, (type(self).__bases__[0],), vars(self)

    def __getattr__(self, name: str) -> Any:
        """``None`` for a part that is left out; for videos the image processor's settings."""
        if name in UNWANTED:
            return Settings(self.image_processor) if name == "video_processor" else None
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")


@cache
def image_text_class(kind: type) -> Any:
    """A processor's class, reduced to the parts for images and text.

    It has the name of the original, because ``save_pretrained`` writes that into the checkpoint.
    """
    return type(kind.__name__, (kind, ImageTextProcessor), {"__module__": kind.__module__})


def blank(kind: type) -> Any:
    """An instance of a processor's reduced class, without any parts yet."""
    return object.__new__(image_text_class(kind))


def processor_class(name: str) -> type:
    """A processor's class by its name, even one that transformers hides without torchvision."""
    kind: type = getattr(transformers, name)
    hidden: type = getattr(import_module(kind.__module__), name, kind)
    return hidden


def load_processor(source: str) -> Any:
    """The processor of a checkpoint, reduced to its parts for images and text.

    Raises :class:`UnsupportedModel` if neither the checkpoint nor transformers names one.
    """
    model_type = str(transformers.PreTrainedConfig.get_config_dict(source)[0].get("model_type"))
    saved = settings_of(source).get("processor_class")
    name = saved or PROCESSOR_MAPPING_NAMES.get(model_type)
    if not name:
        raise UnsupportedModel(
            f"the checkpoint names no processor, and transformers has none for '{model_type}'"
        )
    try:
        return image_text_class(processor_class(name)).from_pretrained(source)
    except ImportError as error:  # transformers says what to install
        reason = " ".join(str(error).split())
        raise UnsupportedModel(
            f"the checkpoint's processor needs another library: {reason}"
        ) from error


def completed(processor: Any, model: Any, source: str) -> Any:
    """The processor with settings that older checkpoints lack, taken from the model's config.

    Checkpoints from before transformers 4.46 name neither the size of a patch nor the states of the
    vision tower that are used. Those from before 4.47 do not say how many tokens the tower adds to
    those of the patches.
    """
    vision = getattr(model.config, "vision_config", None)
    if getattr(processor, "patch_size", 0) is None:
        processor.patch_size = getattr(vision, "patch_size", None)
    if hasattr(processor, ADDED) and ADDED not in settings_of(source):
        names = [name for name, _ in model.named_parameters()]
        added = [name for name in names if name.endswith(("class_embedding", "cls_token"))]
        setattr(processor, ADDED, len(added))
        strategy = getattr(model.config, "vision_feature_select_strategy", None)
        processor.vision_feature_select_strategy = strategy
    return processor


def settings_of(source: str) -> dict[str, Any]:
    """The settings in a checkpoint's file of its processor; empty without such a file."""
    try:
        return dict(ProcessorMixin.get_processor_dict(source)[0])
    except OSError:  # older checkpoints hold the settings of the processor's parts alone
        return {}

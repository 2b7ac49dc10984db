"""A processor without its parts for video and sound, which images do not need and which need more
libraries.
"""

from functools import cache
from importlib import import_module
from typing import Any

import transformers
from transformers import ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from liveedit.errors import UnsupportedModel

__all__ = ["completed", "load_processor", "processor_class", "still"]

ADDED = "num_additional_image_tokens"
"""What processors call the tokens that a vision tower has besides those of the patches."""

UNWANTED = ("video_processor", "feature_extractor", "audio_processor")


class Settings:
    """What another part says; ``None`` for what it does not know."""

    def __init__(self, part: Any) -> None:
        self.part = part

    def __getattr__(self, name: str) -> Any:
        """A setting."""
        return getattr(self.part, name, None)


class Still(ProcessorMixin):  # type: ignore[misc]
    """Stands between a processor's class and ``ProcessorMixin``, and keeps of its parts those for
    images and text.
    """

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
        """The processor, each of its parts in its place."""
        parts = dict(zip(cls.get_attributes(), args, strict=True))
        args = [parts.get(name) for name in super().get_attributes()]
        return super().from_args_and_dict(args, processor_dict, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        """Of the class that this one stands for, by whose name it cannot be found."""
        return blank, (type(self).__bases__[0],), vars(self)

    def __getattr__(self, name: str) -> Any:
        """For a part that is not kept nothing; for that of videos the settings of the one for
        images.
        """
        if name in UNWANTED:
            return Settings(self.image_processor) if name == "video_processor" else None
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")


@cache
def still(kind: type) -> Any:
    """The class of a processor without its parts for video and sound.

    It bears the name of the class that it stands for, because ``save_pretrained`` writes that into
    the checkpoint.
    """
    return type(kind.__name__, (kind, Still), {"__module__": kind.__module__})


def blank(kind: type) -> Any:
    """An instance of what stands for a processor's class, without its parts."""
    return object.__new__(still(kind))


def processor_class(name: str) -> type:
    """A processor's class by its name, also where transformers hides it for want of torchvision."""
    kind: type = getattr(transformers, name)
    hidden: type = getattr(import_module(kind.__module__), name, kind)
    return hidden


def load_processor(source: str) -> Any:
    """The processor of a checkpoint, without its parts for video and sound.

    Raises :class:`UnsupportedModel` if neither the checkpoint nor transformers names one.
    """
    model_type = str(transformers.PreTrainedConfig.get_config_dict(source)[0].get("model_type"))
    if not (
        name := settings_of(source).get("processor_class")
        or PROCESSOR_MAPPING_NAMES.get(model_type)
    ):
        raise UnsupportedModel(
            f"the checkpoint names no processor, and transformers has none for '{model_type}'"
        )
    try:
        return still(processor_class(name)).from_pretrained(source)
    except ImportError as error:  # transformers says what to install
        reason = " ".join(str(error).split())
        raise UnsupportedModel(
            f"the checkpoint's processor needs another library: {reason}"
        ) from error


def completed(processor: Any, model: Any, source: str) -> Any:
    """The processor with what older files do not say of the vision tower, from the model's config.

    Those from before transformers 4.46 name neither the size of a patch nor the states that are
    taken, those from before 4.47 not the tokens that the tower adds to those of the patches.
    """
    config, vision = model.config, getattr(model.config, "vision_config", None)
    if getattr(processor, "patch_size", 0) is None:
        processor.patch_size = getattr(vision, "patch_size", None)
    if hasattr(processor, ADDED) and ADDED not in settings_of(source):
        own = [
            name
            for name, _ in model.named_parameters()
            if name.endswith(("class_embedding", "cls_token"))
        ]
        setattr(processor, ADDED, len(own))
        processor.vision_feature_select_strategy = getattr(
            config, "vision_feature_select_strategy", None
        )
    return processor


def settings_of(source: str) -> dict[str, Any]:
    """What the file of a checkpoint's processor says; nothing where there is none."""
    try:
        return dict(ProcessorMixin.get_processor_dict(source)[0])
    except OSError:  # older checkpoints hold the settings of its parts alone
        return {}

"""Read a Hugging Face checkpoint, with errors that say what is wrong with it."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from weakref import finalize

import torch
import transformers

from liveedit.errors import BadInput, LiveEditError, UnsupportedModel, shortage
from liveedit.models import check_authors, checkpoint, family
from liveedit.models.processor import completed
from liveedit.models.quantisation import Bits, quantization

__all__ = ["one_line", "read_checkpoint", "read_outline", "reading"]

SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways to spread the layers over all available devices."""


def read_checkpoint(
    path: str | Path,
    dtype: torch.dtype | None,
    quantize: Bits | None,
    device_map: Any,
    max_memory: Mapping[int | str, int | str] | None,
) -> tuple[Any, Any, Any]:
    """The family, the model and the processor of a checkpoint (arguments: ``VLM.load``)."""
    source = checkpoint(path)
    check_dtype(dtype)
    check_devices(device_map, max_memory)
    chosen, config = checked_family(source, path)
    options: dict[str, Any] = {
        "dtype": dtype or "auto",
        "device_map": device_map,
        "max_memory": max_memory,
    }
    if quantize is not None:
        options["quantization_config"] = quantization_config(quantize, dtype, config, path)
    with reading(path), quiet(), ExitStack() as undo:
        # Weights that go to the disk are written again into this folder.
        folder = undo.enter_context(TemporaryDirectory(prefix="liveedit-"))
        model, report = getattr(transformers, chosen.hf_class).from_pretrained(
            source,
            offload_folder=folder,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
        check_complete(report, path)
        processor = completed(chosen.load_processor(source), model, source)
        finalize(model, undo.pop_all().close)
    return chosen, model, processor


def read_outline(path: str | Path, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """The family, the model without its weights, and the processor of a checkpoint.

    The model's class is the one that transformers chooses for its config.
    """
    source = checkpoint(path)
    chosen, _ = checked_family(source, path)
    with reading(path), quiet():
        config = transformers.AutoConfig.from_pretrained(source)
        kind = transformers.AutoModelForImageTextToText
        with torch.device("meta"):
            model = kind.from_config(config, dtype=dtype)
        processor = completed(chosen.load_processor(source), model, source)
    return chosen, model, processor


def checked_family(source: str, path: str | Path) -> tuple[Any, dict[str, Any]]:
    """The family and the config of a checkpoint, which describes all of the model."""
    config = read_config(source, path)
    chosen = family(config["model_type"])
    check_text_config(config, path)
    return chosen, config


def read_config(source: str, path: str | Path) -> dict[str, Any]:
    """The config of a checkpoint.

    Raises :class:`UnsupportedModel` if it names no ``model_type``, and as :func:`check_authors`.
    """
    with reading(path):
        config: dict[str, Any] = transformers.PreTrainedConfig.get_config_dict(source)[0]
    check_authors(config, path)
    if not isinstance(config.get("model_type"), str):
        raise UnsupportedModel(
            f"{path} names no model_type in its config.json: give a Hugging Face checkpoint"
        )
    return config


def quantization_config(
    bits: Bits, dtype: torch.dtype | None, config: Mapping[str, Any], path: str | Path
) -> Any:
    """The settings that quantise a checkpoint while it is read.

    Raises :class:`BadInput` if its weights are already quantised.
    """
    if "quantization_config" in config:
        raise BadInput(f"the weights of {path} are already quantised: leave out quantize")
    own = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), None)
    return quantization(bits, dtype or own)


# Checks


def check_dtype(dtype: object) -> None:
    """Raise :class:`BadInput` unless ``dtype`` is a floating-point type or ``None``."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise BadInput(
            f"there are no weights of dtype {dtype!r}: choose torch.bfloat16, float16 or float32"
        )


def check_devices(device_map: object, max_memory: object) -> None:
    """Raise :class:`BadInput` for missing devices, and for ``max_memory`` without any."""
    if max_memory is not None and not (isinstance(max_memory, Mapping) and device_map is not None):
        raise BadInput(
            "max_memory says how much each device may take, "
            "as in {'cpu': '8GiB'}: give a device_map, too"
        )
    mapped = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    for device in (*mapped, *(max_memory or ())):
        if device in (*SPREAD, "disk", None):
            continue
        try:
            found = torch.device(device)
        except (RuntimeError, TypeError, ValueError):
            raise BadInput(
                f"there is no device {device!r}: choose {', '.join(SPREAD)}, cpu, cuda or disk"
            ) from None
        if found.type == "cuda" and not torch.cuda.is_available():
            raise BadInput(f"there is no CUDA device here for {device!r}: use cpu, or leave it out")


def check_text_config(config: Mapping[str, Any], path: str | Path) -> None:
    """Raise :class:`BadInput` for a config without the text decoder.

    For such a config transformers would build a decoder of 7 billion parameters.
    """
    kind = transformers.CONFIG_MAPPING[config["model_type"]]
    given = {name for name in config if config[name]}
    if "text_config" in kind.sub_configs and not {"text_config", "hidden_size"} & given:
        raise BadInput(
            f"the config.json of {path} does not describe its text decoder: "
            "get all of the model's files"
        )


def check_complete(report: Mapping[str, Any], path: str | Path) -> None:
    """Raise :class:`BadInput` for weights that are missing, or differ in shape from the config."""
    if missing := sorted(report["missing_keys"]):
        raise BadInput(f"the checkpoint {path} lacks {missing[0]}: get all of its files")
    for name, stored, expected in sorted(report["mismatched_keys"]):
        shapes = f"{tuple(stored)}, where its config says {tuple(expected)}"
        raise BadInput(
            f"the checkpoint {path} has {name} of shape {shapes}: "
            "get all of its files from one place"
        )


# Errors and output


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn any error while the checkpoint at ``path`` is read into a one-line :class:`BadInput`."""
    try:
        yield
    except LiveEditError:
        raise
    except Exception as error:  # a file may be broken in any way
        if shortage(error):
            raise
        raise BadInput(
            f"cannot read the model {path} ({one_line(error)}): get all of its files again"
        ) from error


def one_line(error: Exception) -> str:
    """The first line of an error's message, or its class's name where the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")


@contextmanager
def quiet() -> Iterator[None]:
    """Let transformers log only errors, without a report on each checkpoint."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)

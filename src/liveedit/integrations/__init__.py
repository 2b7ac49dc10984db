"""Edited models inside other programs, one module for each."""

from typing import Any

__all__ = ["lmms_eval_models"]


def lmms_eval_models() -> Any:
    """The entry of lmms-eval's registry of models: its entry point calls this."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("liveedit", simple_class_path=f"{__name__}.lmms_eval.EditedModel")

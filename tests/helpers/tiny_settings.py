"""Settings that make a method fit a tiny model; a method that is not listed has its defaults."""

from dataclasses import fields

from liveedit.editors import EDITORS, editor_class
from liveedit.editors.base import TrainableEditor
from liveedit.editors.common.in_context import InContextEditor

SMALL = {
    "direct": {"images": 16, "variants": 2, "steps": 10},
    "ke": {"hidden": 8, "condition": 12},
    "lemoe": {"batch": 2, "rank": 4, "steps": 4, "lr": 1e-2},
    "liveedit": {"module_dim": 16, "heads": 2, "layer": 2, "rank": 4},
    "locft-bf": {"epochs": 3},
    "mend": {"rank": 8},
    "pinpoint": {"module_dim": 16, "heads": 2, "layer": 2, "rank": 24},
    "recipe": {"key_dim": 16, "layer": 2},
    "serac": {"module_dim": 16, "heads": 2, "layer": 2, "width": 16, "depth": 1},
    "ultraedit": {"turn": 2, "lr": 1e-3},
    "wise": {"shard": 1, "merge": 2, "steps": 4},
}


def has_setting(name, setting):
    """Whether the method has this setting."""
    return setting in {field.name for field in fields(editor_class(name).Config)}


def small_settings(name, encoder=None):
    """The settings of a method on a tiny model; ``encoder`` is the folder of a sentence encoder."""
    settings = dict(SMALL.get(name, {}))
    if encoder is not None and has_setting(name, "retriever"):
        settings["retriever"] = encoder
    return settings


def trainable(name):
    """Whether the method has networks that are trained."""
    return issubclass(editor_class(name), TrainableEditor)


def only_prompts(name):
    """Whether the method changes nothing but the prompt."""
    return issubclass(editor_class(name), InContextEditor) and not trainable(name)


TRAINABLE = [name for name in sorted(EDITORS) if trainable(name)]

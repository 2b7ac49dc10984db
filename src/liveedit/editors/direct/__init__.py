"""Direct: an expert fitted to each edit, for models without a trained editor; see ``editor.py``."""

from liveedit.editors.direct.editor import Direct, DirectConfig

__all__ = ["Direct", "DirectConfig"]

"""LiveEdit, the published method: the editor, its generator, its routing and what it is trained on."""

from liveedit.editors.liveedit.editor import LiveEdit, LiveEditConfig

__all__ = ["LiveEdit", "LiveEditConfig"]

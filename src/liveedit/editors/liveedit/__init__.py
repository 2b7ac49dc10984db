"""LiveEdit, the published method: editor, generator, routing and training objective."""

from liveedit.editors.liveedit.editor import LiveEdit, LiveEditConfig

__all__ = ["LiveEdit", "LiveEditConfig"]

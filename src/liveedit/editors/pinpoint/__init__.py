"""Pinpoint, this package's own method: the editor and its generator."""

from liveedit.editors.pinpoint.editor import Pinpoint, PinpointConfig

__all__ = ["Pinpoint", "PinpointConfig"]

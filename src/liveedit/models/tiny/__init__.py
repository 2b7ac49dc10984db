"""Random tiny VLMs of any type, from real configurations and without a download, for tests."""

from liveedit.models.tiny.families import TinyFamily, tiny

__all__ = ["TinyFamily", "tiny"]

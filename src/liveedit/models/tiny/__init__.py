"""Random tiny VLMs of every family, made from real configurations without any download: for tests
and first steps.
"""

from liveedit.models.tiny.families import TinyFamily, tiny

__all__ = ["TinyFamily", "tiny"]

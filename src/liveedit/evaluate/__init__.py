"""The lifelong test: what is edited together, what is asked afterwards, and one record a probe."""

from liveedit.evaluate.protocol import Window, plan, windows
from liveedit.evaluate.run import evaluate

__all__ = ["Window", "evaluate", "plan", "windows"]

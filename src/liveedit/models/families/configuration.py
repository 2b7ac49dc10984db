"""Configurations that are made of others."""

from typing import Any

from transformers import PreTrainedConfig

__all__ = ["Composite"]


class Composite(PreTrainedConfig):  # type: ignore[misc]
    """Holds a configuration of the class that ``sub_configs`` names under each of its names."""

    def __post_init__(self, **kwargs: Any) -> None:
        """Make configurations of what ``config.json`` holds; not every version of transformers
        does.
        """
        for name, kind in self.sub_configs.items():
            if not isinstance(getattr(self, name), kind):
                setattr(self, name, kind(**(getattr(self, name) or {})))
        super().__post_init__(**kwargs)

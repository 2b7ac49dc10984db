"""PeakMemory: how far memory rises above where it stood."""

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

import torch

__all__ = ["PeakMemory"]


class PeakMemory:
    """The highest memory since it was made, less what was taken then: of a CUDA device, or of the
    process.

    On a CUDA device it is what torch has allocated there. Elsewhere it is the resident memory of
    the process, exact to a few MB on Linux; other systems cannot forget an earlier peak, so there
    only what goes beyond it counts.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with suppress(
                OSError, AttributeError
            ):  # what is freed goes back to the system, and the peak is forgotten
                ctypes.CDLL(None).malloc_trim(0)
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self.base = self._peak()

    def rise(self) -> int:
        """Bytes."""
        return self._peak() - self.base

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        try:
            import resource
        except ImportError:  # on Windows it is not measured
            return 0
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )

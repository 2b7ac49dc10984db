"""Measures the peak of memory use."""

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

import torch

__all__ = ["PeakMemory"]


class PeakMemory:
    """The highest memory in use since this object was made, minus the memory in use at that time.

    On a CUDA device it is the memory that torch has allocated there. Elsewhere it is the resident
    memory of the process, exact to a few MB on Linux; other systems cannot reset an earlier peak,
    so that only memory above that peak counts.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            _reset_process_peak()
        self.base = self._peak()

    def leave_out(self, count: int) -> None:
        """Leave out so many bytes more, which are kept for later."""
        self.base += count

    def rise(self) -> int:
        """The rise of memory, in bytes."""
        return max(0, self._peak() - self.base)

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _process_peak()


def _reset_process_peak() -> None:
    """Return freed memory to the system and reset the peak, where the system can do that."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _process_peak() -> int:
    """Peak of the process's resident memory in bytes; 0 on Windows, which does not report it."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

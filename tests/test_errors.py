"""Memory that ran out is told from all else that fails."""

import errno

import numpy as np
import pytest
import torch

from liveedit.errors import shortage


@pytest.mark.parametrize(
    "fail",
    [
        lambda: torch.empty(10**16),
        lambda: torch.empty(2**62, 2),
        lambda: np.empty(10**16),
        lambda: bytearray(2**62),
    ],
)
def test_what_is_too_large_for_memory(fail):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        fail()
    assert shortage(caught.value).startswith("there is not enough memory")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0"),
            "for 2.00 GiB more: in a",
        ),
        (
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"),
            "memory: in a training lower",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
            "memory: in a training",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory: in a training"),
    ],
)
def test_what_devices_and_systems_say_of_memory(error, says):
    assert says in shortage(error)
    assert "\n" not in shortage(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes"), ValueError("out of memory"), OSError(errno.ENOENT, "none")]
)
def test_what_has_nothing_to_do_with_memory(error):
    assert shortage(error) == ""

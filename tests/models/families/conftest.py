"""Shared fixtures of the tests of families."""

import errno

import pytest


@pytest.fixture
def full_disk():
    """A function that fails as one that writes to a full disk."""

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    return fail

"""What only a process short of memory meets of the file through which pages are handed over."""

from __future__ import annotations

import errno
import mmap
import os

import pytest

from app.exchange import _KEPT_BYTES, Exchange


@pytest.mark.parametrize(("number", "raised"), [(errno.ENOMEM, MemoryError), (errno.EACCES, PermissionError)])
def test_a_page_that_cannot_be_mapped_for_want_of_memory_says_so(
    monkeypatch: pytest.MonkeyPatch, number: int, raised: type[BaseException]
) -> None:
    exchange = Exchange()
    exchange.write(memoryview(bytes(_KEPT_BYTES + 1)))

    def refuse(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(raised):
        exchange.read(memoryview(bytearray(_KEPT_BYTES + 1)))

"""What the writers' worker processes run: `write_all` under a memory limit."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from pathlib import Path

from app.errors import StorageFull
from app.ingest.sandbox import address_space_limit
from app.results.document import Document, Options, Pictures
from app.results.writers import write_all


def prepare_process() -> None:
    """Let a crash leave no core file with the document in it, and be polite: pages that are read go first."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)


def write_confined(
    document: Document, targets: Mapping[str, Path], pictures: Pictures, options: Options, allowance: int
) -> int:
    """Write a document as `write_all` does, with at most `allowance` more bytes of address space; return their size.

    Raises StorageFull where a file cannot be written, MemoryError, and what opening the upload raises.
    """
    try:
        with address_space_limit(allowance):
            write_all(document, targets, pictures, options)
        return sum(path.stat().st_size for path in targets.values())
    except OSError as error:
        raise StorageFull from error

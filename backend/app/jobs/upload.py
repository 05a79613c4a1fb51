"""An upload on its way to becoming a document."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import structlog

from app.errors import InternalError, PageOutOfRange, PasswordRequired, StorageFull
from app.ingest.choice import PageChoice
from app.ingest.decoder import Decoder
from app.jobs.files import TaskFolder
from app.jobs.task import Order

log = structlog.get_logger()

# No file has this page: the refusal says how many there are, without a pixel decoded.
_BEYOND = PageChoice(10**9)
_COPY_BYTES = 1 << 20


def store_upload(upload: BinaryIO, folder: TaskFolder) -> tuple[int, str]:
    """Write an upload into its folder; return its length and its SHA-256. Raises StorageFull."""
    digest, length = hashlib.sha256(), 0
    try:
        folder.make()
        with folder.source.open("wb") as file:
            for piece in iter(functools.partial(upload.read, _COPY_BYTES), b""):
                file.write(piece)
                digest.update(piece)
                length += len(piece)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        log.error("upload_not_written", reason=error.strerror)
        raise StorageFull from None
    return length, digest.hexdigest()


async def count_pages(decoder: Decoder, source: Path, password: str) -> int:
    """Return how many pages a file has; raises what opening it raises."""
    try:
        await decoder.decode(source, replace(_BEYOND, password=password))
    except PageOutOfRange as refusal:
        if refusal.pages is not None:
            return refusal.pages
    raise InternalError


async def open_upload(decoder: Decoder, source: Path, password: str) -> tuple[int, str]:
    """Return how many pages a file has, and the password if it needs one; raises what opening it raises."""
    if password:
        try:
            return await count_pages(decoder, source, ""), ""
        except PasswordRequired:
            pass
    return await count_pages(decoder, source, password), password


def fingerprint(digest: str, order: Order) -> str:
    """Return what two orders have in common that ask for the same of the same file."""
    asked = json.dumps({**order.to_json(), "idempotency_key": "", "name": "", "password_half": ""}, sort_keys=True)
    return hashlib.sha256(f"{digest} {asked}".encode()).hexdigest()

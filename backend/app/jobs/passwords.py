"""Passwords of encrypted PDFs, which are needed for as long as their documents are kept.

One is kept in two halves: a random one in the database, and the password combined with that beside the upload. Either by
itself is noise, and so is what backups and logs of the database hold once the folder is deleted.
"""

from __future__ import annotations

import secrets

from app.jobs.files import TaskFolder

# Its length is nobody's business either.
_STEP = 64


def keep_password(folder: TaskFolder, password: str) -> str:
    """Write one half into the folder, and return the other; the password holds no NUL."""
    plain = password.encode()
    plain = plain.ljust(-(-len(plain) // _STEP) * _STEP, b"\0")
    half = secrets.token_bytes(len(plain))
    folder.password_half.touch(mode=0o600)
    folder.password_half.write_bytes(_combine(plain, half))
    return half.hex()


def recall_password(folder: TaskFolder, half: str) -> str:
    """Return the password of which `half` is one half; empty where there is none, or its other half is gone."""
    if not half:
        return ""
    try:
        other = folder.password_half.read_bytes()
    except FileNotFoundError:
        return ""
    return _combine(other, bytes.fromhex(half)).rstrip(b"\0").decode(errors="replace")


def _combine(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))

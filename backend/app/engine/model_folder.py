"""Finds the model's files, locally or on a hub, and says in one sentence what is wrong with them."""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.errors import EngineStartError

log = logging.getLogger(__name__)

ARCHITECTURES = frozenset({"DeepseekOCRForCausalLM", "DeepseekOCRServiceForCausalLM"})
PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model"]
_INDEX = "model.safetensors.index.json"
_LARGEST_HEADER = 100_000_000
_LFS_POINTER = b"version https://git-lfs"


def find_model(model_path: str, use_modelscope: bool = False, *, weights: bool = True) -> Path:
    """Return the folder of a complete DeepSeek-OCR model, downloading it if need be; blocks.

    `model_path` is a folder or a hub name ("owner/name"). Without `weights` a local folder may lack
    them, for vLLM's dummy weights. Raises EngineStartError.
    """
    folder = Path(model_path).expanduser()
    if folder.is_dir():
        check_folder(folder, weights=weights)
        return folder
    check_hub_name(model_path)
    cached = cached_model(model_path, use_modelscope)
    if cached is not None and not folder_faults(cached):
        check_folder(cached)
        return cached
    log.info("model_download_started model=%s", model_path)
    downloaded = _download(model_path, use_modelscope)
    check_folder(downloaded)
    return downloaded


def check_hub_name(model_path: str) -> None:
    """Raise EngineStartError where a path that is no folder cannot be the name of a model on a hub either."""
    owner, slash, name = model_path.partition("/")
    if not (slash and owner and name) or "/" in name or owner in (".", "..", "~"):
        raise EngineStartError(
            f"MODEL_PATH is {model_path}, and there is no such folder. Set it to the model's folder."
        )


def check_download(name: str, use_modelscope: bool) -> None:
    """Raise EngineStartError where a model that is not here may not be downloaded."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE and not use_modelscope:
        raise EngineStartError(
            f"The model {name} is not on this machine, and HF_HUB_OFFLINE forbids its download. "
            "Unset HF_HUB_OFFLINE, or set MODEL_PATH to a folder that holds the model."
        )


def check_folder(folder: Path, *, weights: bool = True) -> None:
    """Raise EngineStartError unless the folder holds a complete DeepSeek-OCR model."""
    if faults := folder_faults(folder, weights=weights):
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise EngineStartError(
            f"The model folder {folder} is incomplete: {'; '.join(faults[:3])}{more}. Download the model again."
        )
    named = read_config(folder).get("architectures") or ["nothing"]
    if not ARCHITECTURES & set(named):
        raise EngineStartError(
            f"The model in {folder} is {named[0]}, not DeepSeek-OCR (DeepseekOCRForCausalLM). Set MODEL_PATH to DeepSeek-OCR."
        )


def folder_faults(folder: Path, *, weights: bool = True) -> list[str]:
    """Return what is missing or broken in a model folder, one phrase a file; weights are judged by their headers."""
    faults = [f"{name} is missing" for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if (folder / "config.json").is_file() and _read_json(folder / "config.json") is None:
        faults.append("config.json is not JSON")
    return faults + [fault for fault in _weight_faults(folder) if fault and weights]


def read_config(folder: Path) -> dict[str, Any]:
    """Return the model's config.json, empty where it cannot be read."""
    return _read_json(folder / "config.json") or {}


def read_notice(model_path: str) -> str | None:
    """Return the sentence a model's makers want everyone to read with its answers: `notice` in its config.json.

    None where there is none, or the model is not in a local folder.
    """
    notice = read_config(Path(model_path).expanduser()).get("notice")
    return notice if isinstance(notice, str) and notice else None


def weight_bytes(folder: Path) -> int:
    """Return the size of all weight files."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _weight_faults(folder: Path) -> Iterator[str]:
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    if (folder / _INDEX).is_file():
        index = _read_json(folder / _INDEX)
        named = index.get("weight_map") if index else None
        if not isinstance(named, dict):
            yield f"{_INDEX} is not a list of weights"
            return
        shards = sorted(set(named.values()))
    if not shards:
        yield "no *.safetensors weights are there"
    for name in shards:
        yield _shard_fault(folder / name)


def _shard_fault(path: Path) -> str:
    """Return what is wrong with one file of weights, "" for nothing."""
    if not path.is_file():
        return f"{path.name} is missing"
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(_LFS_POINTER))
        if start == _LFS_POINTER:
            return f"{path.name} is a Git LFS pointer, not the weights (run: git lfs pull)"
        file.seek(0)
        length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else _LARGEST_HEADER
        if length >= _LARGEST_HEADER or length + 8 > size:
            return f"{path.name} is cut short or not a safetensors file"
        try:
            header = json.loads(file.read(length))
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{path.name} is not a safetensors file"
    return f"{path.name} is cut short" if 8 + length + end > size else ""


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def cached_model(name: str, use_modelscope: bool) -> Path | None:
    """Return the hub cache's folder for a model without asking any network; None where there is none."""
    if use_modelscope:
        return _modelscope(name, local_only=True)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True, allow_patterns=PATTERNS))
    except (LocalEntryNotFoundError, ValueError):
        return None


def _download(name: str, use_modelscope: bool) -> Path:
    if use_modelscope:
        found = _modelscope(name, local_only=False)
        assert found is not None
        return found
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=PATTERNS))
    except (RepositoryNotFoundError, GatedRepoError) as error:
        log.warning("model_not_found", exc_info=error)
        raise EngineStartError(
            f"There is no folder and no public hub model called {name}. Check MODEL_PATH, and HF_TOKEN for a private one."
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        log.warning("model_download_failed", exc_info=error)
        raise EngineStartError(_unreachable(name, "the Hugging Face hub")) from None


def _modelscope(name: str, local_only: bool) -> Path | None:
    try:
        from modelscope import snapshot_download
    except ImportError:
        raise EngineStartError(
            "VLLM_USE_MODELSCOPE is on, but the package modelscope is not installed. Install it, or turn the setting off."
        ) from None
    try:
        return Path(snapshot_download(name, local_files_only=local_only, allow_patterns=PATTERNS))
    except Exception as error:  # process boundary: ModelScope documents no exception classes
        if local_only:
            return None
        log.warning("model_download_failed", exc_info=error)
        raise EngineStartError(_unreachable(name, "ModelScope")) from None


def _unreachable(name: str, hub: str) -> str:
    return (
        f"The model {name} is not on this machine and could not be downloaded from {hub}. "
        "Check the network and the disk, or set MODEL_PATH to a folder that holds the model."
    )

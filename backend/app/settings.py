"""The only reader of the environment and of `.env`."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.ocr.resolution import LARGEST_SIDE, SMALLEST_SIDE, TOKEN_SIDE

CommaList = Annotated[tuple[str, ...], NoDecode]
JsonObject = Annotated[dict[str, Any], NoDecode]


class Settings(BaseSettings):
    """Every setting of the service, read from the environment and `.env`; names are case-insensitive."""

    model_config = SettingsConfigDict(
        env_file=".env",
        extra="ignore",
        env_ignore_empty=True,
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    inference_engine: Literal["auto", "vllm_direct", "rapidocr", "fake"] = "auto"
    """Which engine reads the pages. `auto` takes vllm_direct where vLLM is installed and an NVIDIA GPU is present, else rapidocr, the CPU engine; `fake` returns fixed text for trying out clients."""

    api_host: str = "0.0.0.0"
    """Address to listen on."""

    api_port: int = Field(8001, ge=0, le=65535)
    """Port to listen on."""

    api_key_hashes: CommaList = ()
    """SHA-256 hashes, in hex and separated by commas, of the accepted API keys (`make api-key` makes one). Empty: no key is asked for."""

    deepseek_ocr_api_key: str = Field("", repr=False)
    """The API key that `deepseek-ocr read --server` sends."""

    cors_origins: CommaList = ()
    """Origins, separated by commas, whose web pages may call the API, for example `https://app.example`. `*` allows every origin, without credentials. Empty: none."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log level written. Document text appears at debug only."""

    log_format: Literal["console", "json"] = "console"
    """Log lines for people (`console`) or for machines (`json`)."""

    max_upload_size_mb: float = Field(100, gt=0)
    """Largest request body in megabytes (1,000,000 bytes); a larger one is answered 413 while it streams in."""

    upload_timeout_seconds: float = Field(60, gt=0)
    """Longest silence during an upload before it is answered 408; over this time on top, uploads must average 2 kB/s."""

    max_image_pixels: int = Field(100_000_000, gt=0)
    """Most pixels (width times height) of a picture; checked before any of them is decoded. A PDF's page is rendered at a dpi that keeps it within them."""

    max_image_frames: int = Field(500, gt=0)
    """Most frames of an animated picture, of which the first is read, or of a TIFF, whose pages they are."""

    decode_timeout_seconds: float = Field(20, gt=0)
    """Longest time for decoding one picture or rendering one page; after it the decoder process is killed."""

    decode_workers: int = Field(0, ge=0)
    """Decoder processes. 0: one per CPU core for vllm_direct, one per two for rapidocr, which uses the cores itself; at most 16."""

    max_queue: int = Field(64, ge=1)
    """Most requests accepted at a time, those being read included; the next one is answered 429 with Retry-After."""

    request_timeout_seconds: float = Field(300, gt=0)
    """Longest time from the end of an upload to its answer; after it the answer is 504."""

    shutdown_timeout_seconds: int = Field(120, ge=0)
    """Longest time in whole seconds a stopping service takes to finish the requests it has accepted; the others are answered 503."""

    max_sync_pages: int = Field(50, ge=1)
    """Most pages POST /api/process-pdf reads of one document while its client waits; a longer one is answered 413."""

    jobs_enabled: bool = True
    """Whether documents are taken as durable tasks (POST /api/ocr/pdf). Without them nothing is written to DATA_DIR; POST /api/process-pdf reads short ones all the same."""

    data_dir: str = "data"
    """Folder for uploaded documents, their results and, without DATABASE_URL, the database. Replicas with one DATABASE_URL share it."""

    database_url: str = ""
    """Where tasks are kept: `postgresql://user:password@host:5432/name`. Empty: SQLite, in DATA_DIR."""

    max_tasks: int = Field(200, ge=1)
    """Most unfinished documents; the next one is answered 429."""

    max_data_mb: float = Field(20_000, gt=0)
    """Most megabytes that documents and their results may take in DATA_DIR; past it, the next document is answered 507."""

    task_retention_days: float = Field(7, ge=0)
    """How many days a finished task is kept with its files. 0: until it is deleted by request."""

    webhook_secret: str = ""
    """Secret with which webhooks are signed. Empty: they are sent unsigned."""

    webhook_allow_private: bool = False
    """Whether webhooks may go to private, loopback and link-local addresses."""

    rapidocr_threads: int = Field(0, ge=0)
    """CPU threads of the rapidocr engine. 0: one for each core this process may use; a container's CPU limit counts."""

    model_path: str = "deepseek-ai/DeepSeek-OCR"
    """vllm_direct: the DeepSeek-OCR model, as a folder or as a name on the Hugging Face hub. A name that is not in the hub's cache is downloaded at the first start."""

    vllm_use_modelscope: bool = False
    """vllm_direct: download the model from ModelScope instead of the Hugging Face hub. Needs the package modelscope."""

    tensor_parallel_size: int = Field(1, ge=1)
    """vllm_direct: how many GPUs hold the model together."""

    gpu_memory_utilization: float = Field(0.75, gt=0, le=1)
    """vllm_direct: share of each GPU's memory that vLLM takes, for weights and KV cache together."""

    max_model_len: int = Field(8192, ge=256)
    """vllm_direct: most tokens of one request: picture, prompt and output together. The model was trained for 8192."""

    max_num_seqs: int = Field(384, ge=1)
    """vllm_direct: most pages read side by side. MAX_QUEUE bounds them too."""

    max_tiles: int = Field(6, ge=2, le=9)
    """vllm_direct: most tiles a page is cut into in crop mode."""

    enforce_eager: bool = False
    """vllm_direct: run without compiled graphs. Starts faster, reads slower."""

    no_repeat_ngram_size: int = Field(30, ge=0, le=1024)
    """vllm_direct: a run of this many tokens is not written twice within NO_REPEAT_WINDOW tokens; it keeps the model from repeating itself without end. 0 turns the rule off."""

    no_repeat_window: int = Field(90, ge=1, le=1024)
    """vllm_direct: over how many tokens NO_REPEAT_NGRAM_SIZE looks back; not smaller than it."""

    loop_retries: int = Field(2, ge=0, le=2)
    """vllm_direct: how many more times a page is read, under other settings, when its text repeats itself without end all the same."""

    engine_stall_seconds: float = Field(180, gt=0)
    """vllm_direct: when pages are being read and none gets any text for this long, the engine counts as hung and is restarted."""

    engine_args: JsonObject = {}
    """vllm_direct: further engine arguments of vLLM as one JSON object, for example `{"kv_cache_dtype": "fp8"}`. The names are the fields of AsyncEngineArgs."""

    vllm_use_v1: bool = True
    """Accepted for old environment files; without effect, because vLLM has no other engine any more. Up to 0.11.0, `false` is refused: engine V0 knows no no-repeat rule."""

    base_size: int = Field(1024, ge=SMALLEST_SIDE, le=LARGEST_SIDE, multiple_of=TOKEN_SIDE)
    """Side in pixels of the global view when a request names no resolution: a multiple of 64 from 64 to 2048."""

    image_size: int = Field(640, ge=SMALLEST_SIDE, le=LARGEST_SIDE, multiple_of=TOKEN_SIDE)
    """Side in pixels of a tile when a request names no resolution; the same multiples."""

    crop_mode: bool = True
    """Whether large pages are also cut into tiles when a request names no resolution."""

    @field_validator("api_key_hashes", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("engine_args", mode="before")
    @classmethod
    def _json_object(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            raise ValueError('write one JSON object, for example {"kv_cache_dtype": "fp8"}')
        return parsed

    @model_validator(mode="after")
    def _window_holds_ngram(self) -> Settings:
        if self.no_repeat_window < self.no_repeat_ngram_size:
            raise ValueError("NO_REPEAT_WINDOW must not be smaller than NO_REPEAT_NGRAM_SIZE")
        return self

    @field_validator("api_key_hashes")
    @classmethod
    def _hex_digests(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for digest in value:
            if len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef"):
                raise ValueError("each API key hash is 64 hexadecimal digits; `make api-key` prints one")
        return tuple(digest.lower() for digest in value)


def visible_gpus() -> str | None:
    """Return CUDA_VISIBLE_DEVICES, which CUDA itself reads; None where it is unset and all GPUs are visible."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")

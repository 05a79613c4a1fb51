"""The only reader of the environment and of `.env`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

CommaList = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """Every setting of the service, read from the environment and `.env`; names are case-insensitive."""

    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", env_ignore_empty=True, frozen=True, use_attribute_docstrings=True
    )

    inference_engine: Literal["auto", "rapidocr", "fake"] = "auto"
    """Which engine reads the pages. `auto` takes rapidocr, the CPU engine; `fake` returns fixed text for trying out clients."""

    api_host: str = "0.0.0.0"
    """Address to listen on."""

    api_port: int = Field(8001, ge=0, le=65535)
    """Port to listen on."""

    api_key_hashes: CommaList = ()
    """SHA-256 hashes, in hex and separated by commas, of the accepted API keys (`make api-key` makes one). Empty: no key is asked for."""

    cors_origins: CommaList = ()
    """Origins, separated by commas, whose web pages may call the API, for example `https://app.example`. `*` allows every origin, without credentials. Empty: none."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log level written. Document text appears at debug only."""

    log_format: Literal["console", "json"] = "console"
    """Log lines for people (`console`) or for machines (`json`)."""

    max_upload_size_mb: float = Field(100, gt=0)
    """Largest request body in megabytes (1,000,000 bytes); a larger one is answered 413 while it streams in."""

    upload_timeout_seconds: float = Field(60, gt=0)
    """Longest silence during an upload before it is answered 408."""

    max_image_pixels: int = Field(100_000_000, gt=0)
    """Most pixels (width times height) of a picture; checked before any of them is decoded."""

    max_image_frames: int = Field(500, gt=0)
    """Most frames of an animated picture, of which the first is read."""

    decode_timeout_seconds: float = Field(20, gt=0)
    """Longest time for decoding one picture; after it the decoder process is killed."""

    decode_workers: int = Field(0, ge=0)
    """Decoder processes. 0: one per two CPU cores, at least one, at most eight."""

    max_queue: int = Field(64, ge=1)
    """Most requests accepted at a time, those being read included; the next one is answered 429 with Retry-After."""

    request_timeout_seconds: float = Field(300, gt=0)
    """Longest time from the end of an upload to its answer; after it the answer is 504."""

    shutdown_timeout_seconds: float = Field(120, ge=0)
    """Longest time a stopping service takes to finish the requests it has accepted."""

    rapidocr_threads: int = Field(0, ge=0)
    """CPU threads of the rapidocr engine. 0: all cores this process may use."""

    base_size: int = Field(1024, gt=0)
    """Side in pixels of the global view when a request names no resolution."""

    image_size: int = Field(640, gt=0)
    """Side in pixels of a tile when a request names no resolution."""

    crop_mode: bool = True
    """Whether large pages are also cut into tiles when a request names no resolution."""

    @field_validator("api_key_hashes", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("api_key_hashes")
    @classmethod
    def _hex_digests(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for digest in value:
            if len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef"):
                raise ValueError("each API key hash is 64 hexadecimal digits; `make api-key` prints one")
        return tuple(digest.lower() for digest in value)

"""The application as a whole: CORS, the committed OpenAPI file, logs, the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.api.gate import hash_api_key
from app.cli import main
from app.main import create_app
from tests.serving import make_settings, serving, upload

ROOT = Path(__file__).parents[2]


def test_the_committed_openapi_file_is_the_applications():
    """Clients are generated from it; `make openapi` writes it."""
    committed = json.loads((ROOT / "docs/openapi.json").read_text(encoding="utf-8"))
    assert committed == create_app(make_settings()).openapi()


async def test_no_origin_is_allowed_by_default():
    """A page of another site cannot read the answers."""
    async with serving() as client:
        answer = await client.post("/api/ocr", files=upload(), headers={"Origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in answer.headers


async def test_named_origins_may_call_with_credentials_and_read_refusals():
    """Errors carry the headers too, or a browser shows a network error in place of our sentence."""
    async with serving(cors_origins="https://app.example", max_upload_size_mb=0.00001) as client:
        answer = await client.post("/api/ocr", files=upload(), headers={"Origin": "https://app.example"})
        other = await client.post("/api/ocr", files=upload(), headers={"Origin": "https://other.example"})
    assert answer.status_code == 413
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert "access-control-allow-origin" not in other.headers


async def test_every_origin_never_goes_with_credentials():
    """`*` with credentials would let any site act for a logged-in person."""
    async with serving(cors_origins="*") as client:
        answer = await client.get("/livez", headers={"Origin": "https://any.example", "Cookie": "a=b"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


async def test_the_index_tells_a_program_where_everything_is():
    """Every route it names answers."""
    async with serving() as client:
        body = (await client.get("/")).json()
        assert (body["inference_engine"], body["docs"]) == ("fake", "/docs")
        for path in {**body["routes"], "docs": "/docs"}.values():
            assert (await client.get(path)).status_code == (405 if path == "/api/ocr" else 200)


async def test_metrics_do_not_grow_with_what_strangers_ask_for():
    """Unknown addresses and methods share one label."""
    async with serving() as client:
        for number in range(50):
            await client.get(f"/nowhere/{number}")
        text = (await client.get("/metrics")).text
    assert 'ocr_http_requests_total{method="GET",route="unmatched",status="404"} 50.0' in text
    assert 'ocr_errors_total{code="not_found"} 50.0' in text


def test_a_new_api_key_fits_its_hash(capsys):
    """What `deepseek-ocr api-key` prints works."""
    main(["api-key"])
    key, digest = (line.rsplit(" ", 1)[1] for line in capsys.readouterr().out.splitlines())
    assert hash_api_key(key) == digest
    assert len(key) >= 43


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("API_PORT", "high", "setting API_PORT: "),
        ("INFERENCE_ENGINE", "tesseract", "setting INFERENCE_ENGINE: "),
        ("API_KEY_HASHES", "secret", "setting API_KEY_HASHES: "),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(variable, value, said):
    """No traceback for a typing mistake."""
    ended = subprocess.run(
        [sys.executable, "-m", "app", "serve"],
        env={"PYTHONPATH": str(ROOT / "backend"), "PATH": "", variable: value},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"deepseek-ocr: {said}")
    assert "Traceback" not in ended.stderr
    assert "secret" not in ended.stderr

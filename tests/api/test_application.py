"""The application as a whole: CORS, the committed OpenAPI file, logs, the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.api.gate import hash_api_key
from app.cli import main
from app.main import create_app, default_decoders
from tests.engines import BuggyEngine, ScriptedEngine
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


async def test_a_browser_may_read_that_we_failed():
    """Our own faults carry the headers as well."""
    async with serving(BuggyEngine(), cors_origins="https://app.example") as client:
        answer = await client.post("/api/ocr", files=upload(), headers={"Origin": "https://app.example"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert answer.headers["x-request-id"]


async def test_refusals_at_the_gate_count_for_their_route():
    """401, 413, 429 and 503 come before there is a route."""
    async with serving(max_upload_size_mb=0.00001) as client:
        await client.post("/api/ocr", files=upload())
        text = (await client.get("/metrics")).text
    assert 'ocr_http_requests_total{method="POST",route="/api/ocr",status="413"} 1.0' in text


async def test_every_origin_never_goes_with_credentials():
    """`*` with credentials would let any site act for a logged-in person."""
    async with serving(cors_origins="*") as client:
        answer = await client.get("/livez", headers={"Origin": "https://any.example", "Cookie": "a=b"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


async def test_the_index_tells_a_program_where_everything_is():
    """It names every route, and each answers; here those of tasks say that they are turned off."""
    async with serving() as client:
        body = (await client.get("/")).json()
        assert (body["inference_engine"], body["docs"]) == ("fake", "/docs")
        published = (await client.get("/openapi.json")).json()["paths"]
        assert set(body["routes"].values()) == set(published) - {"/"} | {"/openapi.json"}
        for path in {**body["routes"], "docs": "/docs"}.values():
            usual = 501 if path.startswith("/api/tasks") else 200
            expected = usual if "get" in published.get(path, {"get": {}}) else 405
            assert (await client.get(path.replace("{number}", "1"))).status_code == expected, path


async def test_the_description_says_which_routes_take_a_key_and_how():
    """So that the documentation page can send one."""
    async with serving(api_key_hashes=hash_api_key("key")) as client:
        schema = (await client.get("/openapi.json")).json()
        sent = [{"Authorization": "Bearer key"}, {"X-API-Key": "key"}, {"Authorization": "Basic key"}]
        answers = [(await client.get("/api/modes", headers=headers)).status_code for headers in sent]
    assert answers == [200, 200, 401]
    kinds = schema["components"]["securitySchemes"].values()
    assert [(kind["type"], kind.get("name", kind.get("scheme"))) for kind in kinds] == [
        ("http", "bearer"),
        ("apiKey", "X-API-Key"),
    ]
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            keys = [name for way in operation.get("security", []) for name in way]
            assert keys == (["HTTPBearer", "APIKeyHeader"] if path.startswith("/api/") else []), path


async def test_metrics_do_not_grow_with_what_strangers_ask_for():
    """Unknown addresses share one label."""
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
        (
            "API_HOST",
            "no.such.host.invalid",
            "cannot listen on no.such.host.invalid port 8001: No such address. Set API_HOST ",
        ),
        ("BASE_SIZE", "1000", "setting BASE_SIZE: "),
        ("MAX_UPLOAD_SIZE_MB", "inf", "setting MAX_UPLOAD_SIZE_MB: "),
        ("NO_REPEAT_WINDOW", "10", "settings: NO_REPEAT_WINDOW must not be smaller than NO_REPEAT_NGRAM_SIZE"),
        ("INFERENCE_ENGINE", "tesseract", "setting INFERENCE_ENGINE: "),
        ("API_KEY_HASHES", "secret", "setting API_KEY_HASHES: "),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(variable, value, said):
    """No traceback for a typing mistake."""
    ended = _serve(ROOT, {variable: value})
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"deepseek-ocr: {said}")
    assert "Traceback" not in ended.stderr
    assert "secret" not in ended.stderr


def test_an_environment_file_in_another_encoding_is_refused_in_one_line(tmp_path):
    """Editors of Chinese Windows save comments as GBK."""
    (tmp_path / ".env").write_bytes("# 端口\nAPI_PORT=8001\n".encode("gbk"))
    ended = _serve(tmp_path, {})
    assert (ended.returncode, ended.stderr) == (
        2,
        "deepseek-ocr: the file .env is not UTF-8 text. Save it as UTF-8.\n",
    )


def _serve(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", "serve"],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT / "backend"), "PATH": "", **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize(
    ("cores", "concurrency", "decoders"),
    [(1, 384, 1), (2, 384, 2), (16, 384, 16), (64, 384, 16), (1, 1, 1), (2, 1, 1), (16, 1, 8), (64, 1, 16)],
)
def test_decoders_leave_an_engine_that_reads_a_page_at_a_time_half_the_cores(
    cores: int, concurrency: int, decoders: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.main.usable_cores", lambda: cores)
    assert default_decoders(ScriptedEngine(concurrency)) == decoders

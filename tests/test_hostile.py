"""Two thousand hostile inputs through HTTP: no 500, no hang, no growth.

The service runs as its own process with the fake engine, so that what is tested is ours: parsing,
limits, decoding, rendering and the answers. Damaged files are aimed at the decoders one by one in
tests/ingest; here they take the whole way.
"""

from __future__ import annotations

import io
import random
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from schemathesis.specs.openapi.checks import positive_data_acceptance

from app.api.gate import hash_api_key
from tests.ingest.pdfs import letter, pdf
from tests.ingest.pictures import HEIC
from tests.process import served

pytestmark = pytest.mark.slow

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "HEIC", "PDF")
DAMAGED_PER_FORMAT = 100
FORMS = 300
RAW_BODIES = 300
EXPECTED = {200, 400, 413, 415, 422}
KEY = "open sesame"
HEADERS = {"Authorization": f"Bearer {KEY}"}

schema = schemathesis.openapi.from_path(str(Path(__file__).parents[1] / "docs/openapi.json"))


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    log = tmp_path_factory.mktemp("hostile") / "service.log"
    settings = {"api_key_hashes": hash_api_key(KEY), "decode_timeout_seconds": 5, "max_image_pixels": 20_000_000}
    with served(log, inference_engine="fake", **settings) as running:
        yield running


@pytest.fixture(scope="module")
def client(service):
    with httpx.Client(base_url=service.url, headers=HEADERS, timeout=20) as client:
        yield client


# The parameter is there for the routes' ids: without one, Schemathesis gives all of them the same.
@pytest.mark.parametrize("headers", [HEADERS], ids=["with the key"])
@schema.parametrize()
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
def test_what_the_openapi_file_allows_and_forbids(case, service, headers):
    """Every answer has a status and a body that the OpenAPI file states, and there is none without the key."""
    # The schema cannot say what a picture is, so random bytes fit it and are rightly refused.
    case.call_and_validate(base_url=service.url, headers=headers, excluded_checks=[positive_data_acceptance])


def _picture(name: str) -> bytes:
    if name == "HEIC":  # Pillow reads it through pi_heif, which does not write
        return HEIC
    if name == "PDF":
        return pdf(letter("damage me", "line by line"), letter("or page by page"))
    picture = Image.new("RGB", (120, 80), "white")
    ImageDraw.Draw(picture).text((10, 30), "damage me", fill="black")
    buffer = io.BytesIO()
    picture.save(buffer, name)
    return buffer.getvalue()


def _damage(data: bytes, chance: random.Random) -> bytes:
    kind = chance.randrange(4)
    if kind == 0:
        return data[: chance.randrange(len(data))]
    damaged = bytearray(data)
    if kind == 1:
        for _ in range(chance.randint(1, 30)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    elif kind == 2:  # aim at the header, where sizes and offsets stand
        for _ in range(chance.randint(1, 8)):
            damaged[chance.randrange(min(64, len(damaged)))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
    else:
        at = chance.randrange(len(damaged))
        damaged[at:at] = damaged[max(0, at - chance.randrange(200)) : at] * chance.randint(1, 50)
    return bytes(damaged)


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_pictures_are_read_or_refused(client, name):
    """Cut short, bytes changed, pieces repeated."""
    chance = random.Random(f"damage {name}")
    whole = _picture(name)
    seen = {}
    for _ in range(DAMAGED_PER_FORMAT):
        answer = client.post("/api/ocr", files={"image": ("x", _damage(whole, chance))})
        assert answer.status_code in EXPECTED, answer.text
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
    assert 422 in seen


@settings(max_examples=FORMS, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "mode",
                "prompt",
                "grounding",
                "find_term",
                "schema",
                "base_size",
                "image_size",
                "crop_mode",
                "resolution",
                "max_tokens",
                "page",
                "dpi",
                "password",
                "stream",
                "test_compress",
                "include_caption",
            ]
        ),
        st.one_of(
            st.text(max_size=60),
            st.sampled_from(
                ["", "true", "-1", "1e9", "NaN", "\x00", "9" * 400, "<|ref|>", "../../etc/passwd", "☃" * 50]
            ),
        ),
    )
)
def test_any_text_in_any_field_is_taken_or_refused(client, form):
    """Numbers that are not, NUL bytes, surrogates that cannot be, tags, paths."""
    answer = client.post("/api/ocr", data=form, files={"image": ("x", _PNG)})
    assert answer.status_code in EXPECTED, answer.text
    if answer.status_code != 200:
        assert answer.json()["code"] in ("invalid_parameter", "page_out_of_range")


@settings(max_examples=RAW_BODIES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.sampled_from(
            [
                b"--b",
                b"--",
                b"\r\n",
                b"Content-Disposition: form-data; name=",
                b'"image"',
                b'; filename="',
                b"\x00",
                b"x" * 3000,
                b"Content-Type: image/png\r\n",
                b"\r\n\r\n",
                b'"mode"',
                b"\xff\xfe",
                b"--b--",
                b";" * 50,
                b'Content-Disposition: form-data; name="image"; filename="a"\r\n\r\n',
            ]
        ),
        max_size=30,
    )
)
def test_any_body_is_answered(client, pieces):
    """Multipart that is almost right."""
    answer = client.post(
        "/api/ocr", content=b"".join(pieces), headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert answer.status_code in EXPECTED, answer.text


def test_headers_that_lie_are_answered(service):
    """Lengths, types, paths and ids that no honest client sends."""
    with httpx.Client(base_url=service.url, headers=HEADERS, timeout=20) as client:
        for path, headers in (
            ("/api/ocr", {"Content-Type": "multipart/form-data; boundary="}),
            ("/api/ocr", {"Content-Type": "multipart/form-data; boundary=" + "b" * 5000}),
            ("/api/ocr", {"Content-Type": "\xff"}),
            ("/api/ocr", {"Authorization": "Bearer " + "\xe9" * 100, "X-API-Key": "\xff"}),
            ("/api/ocr", {"X-Request-ID": "x" * 5000}),
            ("/api/%00", {}),
            ("/api/../../etc/passwd", {}),
        ):
            sent = {name: value.encode("latin-1") for name, value in headers.items()}
            answer = client.post(path, content=b"x", headers=sent)
            assert 400 <= answer.status_code < 500, (path, headers, answer.text)


def test_the_service_has_not_grown(client, service):
    """After all of the above and a second round of damage: the same memory, the same open files."""
    chance = random.Random("growth")
    whole = [_picture(name) for name in FORMATS]

    def round_of_damage() -> None:
        for _ in range(25):
            for data in whole:
                client.post("/api/ocr", files={"image": ("x", _damage(data, chance))})

    round_of_damage()
    before = _resources(service.process.pid)
    round_of_damage()
    after = _resources(service.process.pid)
    assert after["files"] <= before["files"] + 2
    assert after["kilobytes"] <= before["kilobytes"] + 5_000
    assert client.post("/api/ocr", files={"image": ("x", _PNG)}).status_code == 200
    assert "Traceback" not in service.log.read_text()


def _resources(pid: int) -> dict[str, int]:
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return {"kilobytes": int(resident.split()[1]), "files": len(list(Path(f"/proc/{pid}/fd").iterdir()))}


_PNG = _picture("PNG")

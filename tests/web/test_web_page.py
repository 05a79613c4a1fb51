"""The page as the service hands it out: to whom, in which language, under which policy."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from app.errors import ServiceError
from app.ocr.modes import MODES
from app.ocr.resolution import RESOLUTIONS
from app.results.writers import FORMATS
from app.web.page import LANGUAGES, STATIC, load_texts
from tests.serving import serving

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def keys(texts: Any, path: str = "") -> set[str]:
    """Every path in a tree of texts."""
    if not isinstance(texts, dict):
        return {path}
    return set().union(*(keys(value, f"{path}/{name}") for name, value in texts.items()))


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, text/html", ""])
async def test_programs_get_json(accept: str) -> None:
    async with serving() as client:
        response = await client.get("/", headers={"Accept": accept})
    assert response.headers["content-type"] == "application/json"
    assert response.json()["routes"]["ocr"] == "/api/ocr"


async def test_browsers_get_the_page_under_a_policy_that_lets_nothing_in() -> None:
    async with serving() as client:
        response = await client.get("/", headers=BROWSER)
        script = await client.get("/static/main.js")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["vary"] == "Accept, Accept-Language, Cookie"
    for answer in (response, script):
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; ")
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", response.text)
    assert "style=" not in response.text


async def test_the_page_offers_the_modes_of_the_engine_and_the_usual_resolution_first() -> None:
    async with serving(base_size=640, image_size=640, crop_mode=False) as client:
        page = (await client.get("/", headers=BROWSER)).text
    options = re.findall(r'<option value="([a-z]\w*)"', page)
    assert options == [*MODES, "small", "gundam", "large", "base", "tiny"]


async def test_an_engine_without_prompts_has_no_resolutions_to_choose() -> None:
    async with serving(inference_engine="rapidocr") as client:
        page = (await client.get("/", headers=BROWSER)).text
        modes = (await client.get("/api/modes")).json()["modes"]
    assert re.findall(r'<option value="([a-z]\w*)"', page) == [mode["name"] for mode in modes if mode["available"]]
    assert 'id="key"' not in page


async def test_a_service_with_keys_asks_for_one() -> None:
    async with serving(api_key_hashes="0" * 64) as client:
        assert 'id="key"' in (await client.get("/", headers=BROWSER)).text


@pytest.mark.parametrize(
    ("query", "accept_language", "language"),
    [
        ("", "", "en"),
        ("", "zh-CN,zh;q=0.9,en;q=0.8", "zh-CN"),
        ("", "de-DE,de;q=0.9,zh;q=0.5,en;q=0.4", "zh-CN"),
        ("?lang=en", "zh-CN", "en"),
        ("?lang=xx", "zh-CN", "zh-CN"),
    ],
)
async def test_the_language_is_the_one_asked_for_or_the_browsers(
    query: str, accept_language: str, language: str
) -> None:
    async with serving() as client:
        response = await client.get(f"/{query}", headers=BROWSER | {"Accept-Language": accept_language})
    assert f'<html lang="{language}">' in response.text


async def test_a_language_asked_for_is_remembered() -> None:
    async with serving() as client:
        await client.get("/?lang=zh", headers=BROWSER)
        again = await client.get("/", headers=BROWSER | {"Accept-Language": "en"})
    assert '<html lang="zh-CN">' in again.text


def test_every_language_has_every_sentence_and_every_place_in_it() -> None:
    english = load_texts("en")
    assert set(english["modes"]) == set(MODES)
    assert set(english["resolutions"]) == set(RESOLUTIONS)
    for language in LANGUAGES:
        texts = load_texts(language)
        assert keys(texts) == keys(english)
        for name, sentence in texts["script"].items():
            assert set(re.findall(r"\{\w+\}", sentence)) == set(re.findall(r"\{\w+\}", english["script"][name]))
        for sentence in texts["problems"].values():
            assert set(re.findall(r"\{\w+\}", sentence)) <= {"{detail}"}


def test_every_error_that_the_page_can_meet_and_every_format_has_its_words() -> None:
    def codes(error: type[ServiceError]) -> set[str]:
        return {error.code}.union(*map(codes, error.__subclasses__()))

    # What only a program can do wrong, or asks for at another address.
    never = {
        *("malformed_request", "not_found", "invalid_path", "method_not_allowed", "webhook_refused", "client_gone"),
        *("too_many_pages", "unknown_format"),
    }
    assert set(load_texts("en")["problems"]) == codes(ServiceError) - never
    assert set(load_texts("en")["formats"]) == set(FORMATS)


def test_the_scripts_say_only_sentences_there_are_and_all_of_them() -> None:
    scripts = "\n".join(path.read_text("utf-8") for path in STATIC.glob("*.js"))
    sentences = set(load_texts("en")["script"])
    assert set(re.findall(r'\bsay\("(\w+)"', scripts)) <= sentences
    assert {name for name in sentences if not re.search(rf"\b{name}\b", scripts)} == set()


@pytest.mark.parametrize("path", ["/static/../page.py", "/static/%2e%2e/page.py", "/static/", "/static/nothing.js"])
async def test_nothing_else_is_handed_out(path: str) -> None:
    async with serving() as client:
        response = await client.get(path)
    assert response.status_code == 404
    assert json.loads(response.text)["code"] == "not_found"

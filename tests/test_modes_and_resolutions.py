"""The tables of modes and resolutions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.base import Resolution
from app.errors import InvalidParameter
from app.ocr.modes import MODES, build_prompt
from app.ocr.resolution import RESOLUTIONS, resolve_resolution


@pytest.mark.parametrize("name", RESOLUTIONS)
def test_a_name_and_its_numbers_are_the_same_resolution(name):
    """Old clients send numbers, new ones names."""
    published = RESOLUTIONS[name]
    assert resolve_resolution(name, 1024, 640, True) == published
    assert resolve_resolution(None, published.base_size, published.image_size, published.crop_mode) == published


@given(st.integers(-5000, 5000), st.integers(-5000, 5000), st.booleans())
def test_other_numbers_are_taken_as_given_or_refused(base_size, image_size, crop_mode):
    """A side the encoder cannot take never reaches it."""
    fits = all(64 <= side <= 2048 and side % 64 == 0 for side in (base_size, image_size))
    if not fits:
        with pytest.raises(InvalidParameter):
            resolve_resolution("", base_size, image_size, crop_mode)
    else:
        found = resolve_resolution("", base_size, image_size, crop_mode)
        assert found == Resolution(base_size, image_size, crop_mode, found.name)


@given(st.sampled_from(sorted(MODES)), st.booleans(), st.text(), st.text(), st.text())
def test_what_a_person_writes_is_sent_as_written(mode, grounding, prompt, term, schema):
    """Braces in a prompt, a term or a schema are the person's own, never placeholders."""
    built = build_prompt(MODES[mode], grounding=grounding, prompt=prompt, find_term=term, schema=schema)
    if mode == "find_ref":
        assert built == f"Locate <|ref|>{term}<|/ref|> in the image."
    if mode == "kv_json":
        assert built.endswith(schema)
    if mode == "freeform" and prompt:
        assert built.endswith(prompt)

"""Who is next: documents take turns, and requests go before all of them. And page ranges."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidParameter, PageOutOfRange
from app.jobs import ranges
from app.jobs.turns import Turns
from app.places import Places


async def test_documents_take_turns_page_by_page():
    """A short one that comes later does not wait for the long one to end."""
    turns, read = Turns(1), []

    async def document(name: str, pages: int) -> None:
        for page in range(pages):
            await turns.take(name, 0)
            read.append(f"{name}{page}")
            await asyncio.sleep(0)
            turns.give_back()

    await asyncio.gather(document("long", 4), document("short", 2))
    assert read == ["long0", "short0", "long1", "short1", "long2", "long3"]


async def test_a_higher_priority_goes_first():
    """Then the order of arrival counts."""
    turns, read = Turns(1), []
    await turns.take("other", 0)

    async def wait(name: str, priority: int) -> None:
        await turns.take(name, priority)
        read.append(name)
        turns.give_back()

    waiting = [asyncio.ensure_future(wait(*entry)) for entry in (("a", 0), ("b", 5), ("c", 0), ("d", 5))]
    await asyncio.sleep(0)
    turns.give_back()
    await asyncio.gather(*waiting)
    assert read == ["b", "d", "a", "c"]


async def test_a_document_that_gives_up_waiting_leaves_no_gap():
    """Before its turn comes, and in the very moment."""
    turns = Turns(1)
    await turns.take("other", 0)
    early, at_once, last = (asyncio.ensure_future(turns.take("other", 0)) for _ in range(3))
    await asyncio.sleep(0)
    early.cancel()
    await asyncio.sleep(0)
    turns.give_back()
    at_once.cancel()
    await asyncio.wait_for(last, 1)
    assert (early.cancelled(), at_once.cancelled()) == (True, True)


async def test_a_document_that_is_cancelled_gets_its_turn_at_once():
    """To end in; nobody else's comes any earlier for it."""
    turns = Turns(1)
    await turns.take("long", 0)
    cancelled, next_one = (asyncio.ensure_future(turns.take(name, 0)) for name in ("cancelled", "next"))
    await asyncio.sleep(0)
    assert turns.waiting == {"cancelled", "next"}
    turns.hurry("cancelled")
    await asyncio.wait_for(cancelled, 1)
    turns.give_back()
    await asyncio.sleep(0)
    assert (next_one.done(), turns.waiting) == (False, {"next"})
    turns.give_back()
    await asyncio.wait_for(next_one, 1)


async def test_requests_go_before_pages_of_documents():
    """Whoever came first."""
    places, order = Places(1), []

    async def hold(name: str, background: bool) -> None:
        async with places.held(background):
            order.append(name)
            await asyncio.sleep(0)

    entries = (("page 1", True), ("page 2", True), ("request 1", False), ("request 2", False))
    await asyncio.gather(*(hold(*entry) for entry in entries))
    assert order == ["page 1", "request 1", "request 2", "page 2"]


async def test_pages_of_documents_never_take_the_last_places():
    """They are kept for requests."""
    places, held = Places(3, reserved=1), []
    leave = asyncio.Event()

    async def hold(name: str, background: bool) -> None:
        async with places.held(background):
            held.append(name)
            await leave.wait()

    pages = [asyncio.ensure_future(hold(f"page {number}", True)) for number in range(3)]
    await asyncio.sleep(0.01)
    assert held == ["page 0", "page 1"]
    request = asyncio.ensure_future(hold("request", False))
    await asyncio.sleep(0.01)
    assert held == ["page 0", "page 1", "request"]
    leave.set()
    await asyncio.gather(*pages, request)
    assert held == ["page 0", "page 1", "request", "page 2"]


async def test_places_given_up_while_waiting_are_not_lost():
    """In the moment they are handed out, too."""
    places = Places(1)

    async def hold() -> None:
        async with places.held():
            await asyncio.sleep(0)

    for steps in range(4):
        first, second = asyncio.ensure_future(hold()), asyncio.ensure_future(hold())
        for _ in range(steps):
            await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
    await asyncio.wait_for(hold(), 1)


@pytest.mark.parametrize(
    ("text", "pages"),
    [
        ("", [1, 2, 3, 4, 5]),
        ("2", [2]),
        ("4-", [4, 5]),
        ("-2", [1, 2]),
        ("3-4, 1,4-4", [1, 3, 4]),
        ("1 - 2", [1, 2]),
    ],
)
def test_ranges_are_read_as_people_write_them(text, pages):
    """Of a document of five pages."""
    assert list(ranges.parse(text, 5)) == pages


@pytest.mark.parametrize("text", ["a", "1-2-3", "1;2", ",", "1,", "3-2", "-", "٣"])
def test_what_is_no_range_is_refused(text):
    """With the field's name."""
    with pytest.raises(InvalidParameter, match="Field 'pages'") as refusal:
        ranges.parse(text, 5)
    assert refusal.value.code == "invalid_parameter"


@pytest.mark.parametrize("text", ["0", "6", "1-6", "6-", "999999999"])
def test_a_page_the_document_does_not_have_is_refused(text):
    """With the number of those it has."""
    with pytest.raises(PageOutOfRange, match=r"Field 'pages' asks for page [\d,]+, and the file has 5 pages"):
        ranges.parse(text, 5)


@given(st.sets(st.integers(1, 200)))
def test_ranges_that_are_written_down_are_read_back(numbers):
    """Any set of pages."""
    assert set(ranges.read(ranges.write(sorted(numbers)))) == numbers

"""How many cores a limited container may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import cores


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_bound_cores", lambda: 8)


@pytest.mark.parametrize(
    ("limit", "count"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("5000 100000\n", 1),
        ("800000 100000\n", None),
        ("1600000 100000\n", None),
        ("max 100000\n", None),
        ("", None),
    ],
)
def test_a_limit_is_rounded_up_and_counts_where_it_is_below_the_cores(
    limit: str, count: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(limit)
    monkeypatch.setattr(cores, "_LIMIT", file)
    assert cores.core_limit() == count
    assert cores.usable_cores() == (count or 8)


def test_without_control_groups_all_cores_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_LIMIT", tmp_path / "none")
    assert (cores.core_limit(), cores.usable_cores()) == (None, 8)

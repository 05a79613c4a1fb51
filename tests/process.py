"""The project's folder, and the service as a process of its own, as a person starts it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.service import Served, served

__all__ = ["ROOT", "Served", "served"]

ROOT = Path(__file__).parents[1]

"""What can go wrong before any contract has run."""

from __future__ import annotations


class EnvironmentFailed(Exception):
    """The environment could not be made; the message says why."""

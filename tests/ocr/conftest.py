"""Set-up of the property tests."""

from __future__ import annotations

from hypothesis import settings

# A deadline for each example would measure how busy the machine is.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

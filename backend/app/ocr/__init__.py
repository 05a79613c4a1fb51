"""The OCR domain, pure: modes, prompts, grounding, rendering, verdicts, and the service that ties them to an engine."""

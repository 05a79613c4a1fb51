"""What the client raises."""

from __future__ import annotations


class OcrError(Exception):
    """The service refused a request: `status` and `code` are its own, `str()` is its sentence.

    `retry_after` is in seconds, where the service said when to try again.
    """

    def __init__(self, status: int, code: str, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.retry_after = retry_after


class ServiceUnreachable(OcrError):
    """No answer came: the address is wrong, nothing listens there, or the connection broke."""

    def __init__(self, detail: str) -> None:
        super().__init__(0, "service_unreachable", detail)

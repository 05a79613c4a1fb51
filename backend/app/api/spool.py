"""Uploads on disk while they stream in: beside the documents, since the machine's folder for such files may be memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from tempfile import SpooledTemporaryFile
from typing import Any

from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartParser


class SpoolingParser(MultiPartParser):
    """Starlette's parser with its files in a folder of ours. They have no names: a crash leaves nothing behind."""

    def __init__(
        self, folder: str | None, headers: Headers, stream: AsyncGenerator[bytes, None], **limits: Any
    ) -> None:
        super().__init__(headers, stream, **limits)
        self._folder = folder
        self._spooled: list[SpooledTemporaryFile[bytes]] = []

    def on_headers_finished(self) -> None:
        """Put a file of ours in the place of the one that was just made, which is still empty."""
        super().on_headers_finished()
        upload = self._current_part.file
        if upload is not None:
            upload.file.close()
            file = SpooledTemporaryFile(max_size=self.spool_max_size, dir=self._folder)  # noqa: SIM115 - the form's
            self._spooled.append(file)
            upload.file = file  # type: ignore[assignment]

    async def parse(self) -> FormData:
        """Return the form, which closes its files; those that did not come whole are closed here."""
        whole: list[object] = []
        try:
            form = await super().parse()
            whole = [value.file for _, value in form.multi_items() if isinstance(value, UploadFile)]
            return form
        finally:
            for file in self._spooled:
                if file not in whole:
                    file.close()

"""An upload larger than allowed is not read: its declared length is enough to refuse it, on every page."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.files.uploadhandler import FileUploadHandler, StopUpload

FORM_BYTES = 2**16


class Bounded(FileUploadHandler):
    """Stops before the first byte of a file and leaves ``request.upload_too_large`` for the view to tell."""

    length = 0

    def handle_raw_input(
        self, input_data: Any, META: dict, content_length: int, boundary: bytes, encoding: str | None = None
    ) -> None:
        self.length = content_length

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        if self.length > settings.UPLOAD_MAX_BYTES + FORM_BYTES:
            self.request.upload_too_large = True
            raise StopUpload(connection_reset=True)

    def receive_data_chunk(self, raw_data: bytes, start: int) -> bytes:
        return raw_data

    def file_complete(self, file_size: int) -> None:
        return None

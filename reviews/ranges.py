"""A file sent whole, or the part a broken download still lacks (RFC 9110, sections 13.1.5 and 14)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

PIECE = 1 << 16
ONE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


def asked(request: HttpRequest, size: int, etag: str) -> tuple[int, int] | None:
    """(first, last) byte wanted, None for all of them. A range that cannot be had has first > last.

    Several ranges, another unit, or an If-Range with another tag ask for the whole file.
    """
    found = ONE.fullmatch(request.headers.get("Range", ""))
    if not found or found.groups() == ("", "") or request.headers.get("If-Range", etag) != etag:
        return None
    first, last = found.groups()
    if not first:
        return max(size - int(last), 0), size - 1 if int(last) else -1
    return int(first), min(int(last) if last else size - 1, size - 1)


def respond(
    path: Path, wanted: tuple[int, int] | None, *, etag: str, name: str, content_type: str
) -> HttpResponseBase:
    size = path.stat().st_size
    headers = {"ETag": etag, "Accept-Ranges": "bytes"}
    if wanted is None:
        return FileResponse(
            path.open("rb"), as_attachment=True, filename=name, content_type=content_type, headers=headers
        )
    first, last = wanted
    if first > last or first >= size:
        return HttpResponse(status=416, headers=headers | {"Content-Range": f"bytes */{size}"})
    headers |= {
        "Content-Range": f"bytes {first}-{last}/{size}",
        "Content-Length": str(last - first + 1),
        "Content-Disposition": f'attachment; filename="{name}"',
    }
    part = _part(path.open("rb"), first, last)
    return StreamingHttpResponse(part, status=206, content_type=content_type, headers=headers)


def _part(file: BinaryIO, first: int, last: int) -> Iterator[bytes]:
    with file:
        file.seek(first)
        left = last - first + 1
        while left and (piece := file.read(min(PIECE, left))):
            left -= len(piece)
            yield piece

"""Logs without patients: a traceback keeps its places and types, never the words of an exception."""

from __future__ import annotations

import copy
import logging
import traceback


class PrivateFormatter(logging.Formatter):
    """Exceptions can quote a row or a note (PostgreSQL's DETAIL does), so their messages stay out."""

    def format(self, record: logging.LogRecord) -> str:
        """Another handler may have left the exception's words in ``exc_text``; they are not taken over."""
        own = copy.copy(record)
        own.exc_text = None
        return super().format(own)

    def formatException(self, ei: tuple) -> str:
        lines = []
        error = ei[1]
        while error is not None:
            lines.append(type(error).__name__)
            lines += [
                f"  {frame.filename}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(error.__traceback__)
            ]
            error = error.__cause__ or error.__context__
        return "\n".join(lines)

"""The base of every command: what goes wrong for a reason is told in one sentence, exit code 2."""

from __future__ import annotations

import errno
import logging
import sys
from pathlib import Path

import redis
from django.core.management.base import BaseCommand
from django.db import DatabaseError

from mlcore.errors import CentinelaError, DataError
from triage.services import ServiceError

log = logging.getLogger(__name__)
NO_DATABASE = (
    "PostgreSQL does not answer: check DATABASE_URL, or `manage.py services status`, and run it again."
)
REFUSED = {
    "42P01": "The database lacks a table: run `manage.py migrate` first.",
    "42703": "The database lacks a column: run `manage.py migrate` first.",
    "53100": "The disk of PostgreSQL is full: make room and run it again.",
}


def make_folder(folder: Path) -> None:
    """Make the folder a report goes to, where it is not there. Raises DataError when it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written ({error.strerror}): name a new folder, or one of yours."
        ) from None


class SentenceCommand(BaseCommand):
    """Ends with one sentence on stderr and exit code 2 for a CentinelaError, a full disk, or a service that is away.

    What PostgreSQL says of a row may quote a note, so it is never printed.
    """

    def run_from_argv(self, argv: list[str]) -> None:
        """As Django's, from the command line; `call_command` lets the errors through."""
        try:
            super().run_from_argv(argv)
        except (CentinelaError, ServiceError) as error:
            self._end(str(error))
        except DatabaseError as error:
            self._end(_told(error))
        except redis.RedisError:
            self._end(
                "The queue does not answer: check REDIS_URL, or `manage.py services status`, and run it again."
            )
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._end(f"The disk is full ({error.filename or 'no file named'}): make room and run it again.")

    def _end(self, sentence: str) -> None:
        self.stderr.write(sentence)
        sys.exit(2)


def _told(error: DatabaseError) -> str:
    state = getattr(error.__cause__, "sqlstate", None)
    if state is None:
        return NO_DATABASE
    log.error("the database refused a statement", exc_info=error)
    return REFUSED.get(state, f"The database refused the work (SQLSTATE {state}); the places stand above.")

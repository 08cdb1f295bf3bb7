"""The base of every command: what goes wrong for a reason is told in one sentence, exit code 2."""

from __future__ import annotations

import errno
import sys

from django.core.management.base import BaseCommand

from mlcore.errors import CentinelaError


class SentenceCommand(BaseCommand):
    """Ends with one sentence on stderr and exit code 2 for a CentinelaError or a full disk."""

    def run_from_argv(self, argv: list[str]) -> None:
        """As Django's, from the command line; `call_command` lets the errors through."""
        try:
            super().run_from_argv(argv)
        except CentinelaError as error:
            self._end(str(error))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._end(f"The disk is full ({error.filename or 'no file named'}): make room and run it again.")

    def _end(self, sentence: str) -> None:
        self.stderr.write(sentence)
        sys.exit(2)

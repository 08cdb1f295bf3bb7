"""Worker processes of a test: begun for real on its database, and ended with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from django.db import connection

from tests.conftest import ROOT


class RealWorkers:
    """What a class of tests inherits. ``command``: how one is begun; ``facts``: what is shown of a wait that never ends."""

    command = (sys.executable, "manage.py", "work")

    def facts(self):
        return ""

    @pytest.fixture(autouse=True)
    def _ended(self):
        self.running = []
        yield
        for worker in self.running:
            worker.kill()
            worker.wait()

    def surround(self, settings, releases):
        """The database and the stores that the workers are given."""
        url = os.environ["DATABASE_URL"].rsplit("/", 1)[0] + "/" + connection.settings_dict["NAME"]
        self.environment = os.environ | {
            "DATABASE_URL": url,
            "REDIS_URL": settings.REDIS_URL.rsplit("/", 1)[0] + "/1",
            "RELEASES_DIR": str(releases),
        }

    def work(self):
        self.running.append(subprocess.Popen(self.command, cwd=ROOT, env=self.environment))
        return self.running[-1]

    def until(self, done, seconds=60):
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, self.facts()
            time.sleep(0.05)

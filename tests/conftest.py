"""Fixtures of every test. The servers are started by tests/services.py, which pytest loads first."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from django.contrib.auth import get_user_model
from django.db import OperationalError, connection
from django.utils import translation

os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
QUIET += " --disable-component-update --disable-sync"
ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def _flush_append_only_tables() -> None:
    """Emptying the test database between transactional tests must pass the append-only triggers; only here.

    A browser's last request may still be under way in the live server's thread: where both wait for each other, again.
    """
    operations = type(connection.ops)  # the class: a browser's event loop brings connections of its own
    flush = operations.execute_sql_flush
    unlocked = ["SET session_replication_role = replica"]
    locked = ["SET session_replication_role = origin"]

    def patiently(self, sql) -> None:
        for left in reversed(range(5)):
            try:
                flush(self, [*unlocked, *sql, *locked])
                break
            except OperationalError:
                if not left:
                    raise
                time.sleep(0.5)

    operations.execute_sql_flush = patiently


@pytest.fixture(autouse=True)
def _own_language(settings) -> Iterator[None]:
    """Whatever language a test or a command left active, the next begins in the site's."""
    with translation.override(settings.LANGUAGE_CODE):
        yield


@pytest.fixture(autouse=True)
def _quick_passwords(settings) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def shared_data() -> Path:
    if not DATA.exists():
        pytest.skip("the shared data folder is not beside this checkout")
    return DATA


@pytest.fixture
def site(db):
    from triage.models import Site

    return Site.objects.create(slug="norte", name="Hospital Norte")


@pytest.fixture
def other_site(db):
    from triage.models import Site

    return Site.objects.create(slug="sur", name="Hospital Sur")


@pytest.fixture
def protocol(db):
    from triage.models import Protocol

    return Protocol.objects.get(slug="hiv-suspicion-es")


def _member(site, role: str, name: str):
    from triage.models import Membership

    user = get_user_model().objects.create_user(name, password="una-clave-larga-y-rara")
    Membership.objects.create(user=user, site=site, role=role)
    return user


@pytest.fixture
def reader(site):
    return _member(site, "reader", "lectora")


@pytest.fixture
def lead(site):
    return _member(site, "lead", "jefa")


@pytest.fixture
def admin(site):
    return _member(site, "admin", "admin-norte")


@pytest.fixture
def outsider(other_site):
    return _member(other_site, "admin", "admin-sur")


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory) -> Path:
    """A small release of the Spanish protocol, trained on invented patients; real, but not good."""
    from mlcore import records, train
    from mlcore.protocols import get
    from triage import synthetic

    spec = get("hiv-suspicion-es")
    made = synthetic.generate(640, 11, foreign=0, suspects=0.4, prefix="T")
    lines = "\n".join(json.dumps(synthetic.as_record(p, labelled=True), ensure_ascii=False) for p in made)
    found = list(records.read(BytesIO(lines.encode()), "cohort.jsonl", spec))
    config = train.TrainConfig(epochs=3, vocabulary=3000, width=32, hidden=16, learning_rate=2e-3)
    folder = tmp_path_factory.mktemp("release") / "bundle"
    train.train(found, spec, train.COMPACT, folder, config)
    return folder


@pytest.fixture
def release(db, bundle_folder, settings, tmp_path):
    """The small release, installed and active."""
    from triage import registry

    settings.RELEASES_DIR = tmp_path / "releases"
    return registry.install(bundle_folder)[0]


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium on this machine: install Debian's chromium to run the browser tests")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=QUIET.split())
        yield browser
        browser.close()

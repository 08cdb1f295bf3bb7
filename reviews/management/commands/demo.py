"""From nothing to a clinician's desk: services, cohort, training, real workers, scores, an invented past, the app."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import django_rq
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone
from django.utils.translation import gettext_noop
from tqdm import tqdm

from mlcore.errors import CentinelaError
from reviews import invented, reading_policy
from reviews.models import Review
from triage import audit, intake, jobs, policy, registry, services, synthetic, tally
from triage.access import Workplace
from triage.management.command import SentenceCommand
from triage.models import Case, Explanation, Membership, Policy, Protocol, Release, Role, Site

SLUG = "hiv-suspicion-es"
SITES = {"norte": "Hospital Norte", "sur": "Hospital Sur"}
PEOPLE = [
    ("lectora", "Dra. L. Ferrer", Role.READER, ["norte"]),
    ("lector", "Dr. M. Soler", Role.READER, ["norte", "sur"]),
    ("jefa", "Dra. A. Rey", Role.LEAD, ["norte"]),
    ("admin-norte", "Administración Norte", Role.ADMIN, ["norte"]),
    ("admin-norte-2", "Segunda administración Norte", Role.ADMIN, ["norte"]),
    ("admin-sur", "Administración Sur", Role.ADMIN, ["sur"]),
    ("admin", "Administración de ambos", Role.ADMIN, ["norte", "sur"]),
]
SIMULATED = [  # nobody can sign in as these
    ("lectora-simulada", "Lectora simulada", Role.READER, ["norte", "sur"]),
    ("lector-simulado", "Lector simulado", Role.READER, ["norte", "sur"]),
    ("jefa-simulada", "Jefa simulada", Role.LEAD, ["norte", "sur"]),
]
AUDIT_RATE, DOUBLE_SHARE = 0.10, 0.25
REASON = gettext_noop("Demonstration: first policy, with an audit sample.")
SEED, LABELLED, WORKERS = 2026, 2400, 2


class Command(SentenceCommand):
    help = "Builds a demonstration with synthetic patients and opens it in the browser's reach."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--cases", type=int, default=600, help="cases to import and score (default 600)")
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument("--no-serve", action="store_true", help="prepare everything, then stop")
        parser.add_argument("--fresh", action="store_true", help="throw the former demonstration away first")

    def handle(self, *, cases: int, port: int, no_serve: bool, fresh: bool, **options: Any) -> None:
        if not settings.DEBUG:
            raise CentinelaError(
                "The demonstration is not for production: unset DEBUG, or use install_release."
            )
        if cases < 2:
            raise CentinelaError("--cases must be at least 2: one for each site.")
        if not no_serve:
            _check_port(port)
        for end in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(end, signal.default_int_handler)
        try:
            self._run(cases, port, no_serve, fresh)
        except KeyboardInterrupt:
            self.stdout.write("stopped")
        finally:
            connection.close()
            if services.owns(settings.DATABASE_URL):
                services.stop()

    def _run(self, cases: int, port: int, no_serve: bool, fresh: bool) -> None:
        if fresh:
            _throw_away()
        call_command("migrate", verbosity=0)
        passwords = _people()
        self._release()
        with _workers() as workers:
            self._import(cases)
            self._wait("scored", _unscored, workers)
            _past()
            self._wait("explained", _unexplained, workers)
            self._say_where(port, passwords, no_serve)
            if not no_serve:
                _serve(port, workers)

    def _release(self) -> None:
        if Release.objects.filter(protocol__slug=SLUG, active=True).exists() and not registry.problems():
            return
        with tempfile.TemporaryDirectory() as folder:
            registry.install(_train(Path(folder)))

    def _import(self, cases: int) -> None:
        protocol = Protocol.objects.get(slug=SLUG)
        if known := Case.objects.count():
            if known != cases:
                self.stdout.write(
                    f"the demonstration stands with {known} cases; --fresh builds it with {cases}"
                )
            if not Case.objects.filter(protocol=protocol).exclude(status="pending").count() < known:
                return
        for slug, share in {"norte": cases - cases // 3, "sur": cases // 3}.items():
            site = Site.objects.get(slug=slug)
            intake.receive(site, protocol, _cohort(slug, share), f"cohorte-{slug}.jsonl", by=None)

    def _wait(self, word: str, left: Callable[[], int], workers: list[subprocess.Popen[bytes]]) -> None:
        """A bar until nothing is left; workers do the work, this only looks."""
        total = left()
        if not total:
            return
        with tqdm(total=total, desc=word, unit="case", file=sys.stderr) as bar:
            while remaining := left():
                bar.update(total - remaining - bar.n)
                if all(worker.poll() is not None for worker in workers):
                    raise CentinelaError(f"The workers ended before all was {word}; their words stand above.")
                time.sleep(0.3)
            bar.update(total - bar.n)

    def _say_where(self, port: int, passwords: dict[str, str], no_serve: bool) -> None:
        if not no_serve:
            self.stdout.write(f"\nopen http://127.0.0.1:{port}/ and sign in:")
        for name, _, role, sites in PEOPLE:
            password = passwords.get(name, "(as printed before; new: manage.py changepassword)")
            self.stdout.write(
                f"  {name:<12} {password}   {role} of {', '.join(SITES[slug] for slug in sites)}"
            )
        self.stdout.write("Research prototype for decision support; every patient here is invented.")
        read = Review.objects.filter(reader__username__in=[name for name, *_ in SIMULATED]).count()
        self.stdout.write(
            f"{read} readings of the past weeks are simulated: nobody can sign in as their readers."
        )
        opened = Policy.objects.filter(protocol__slug=SLUG, version=1).select_related("site", "protocol")
        self.stdout.write(_ready([policy.current(dial.site, dial.protocol) for dial in opened]))
        self.stdout.flush()


def _ready(dials: list[Policy]) -> str:
    """How the cases of the sites come out, and where a hold has every one of them read."""
    found: Counter[str] = Counter()
    for dial in dials:
        found.update(tally.counts(dial.site, dial.protocol, *tally.setting(dial)))
    reasons = [name for name in policy.OUTCOMES[1:] if found[name] or name != policy.HELD]
    said = (
        f"demo ready: {found.total()} cases, {found['automatic']} automatic, {found.total() - found['automatic']} deferred "
        f"({', '.join(f'{found[name]} {name}' for name in reasons)})"
    )
    held = ", ".join(dial.site.name for dial in dials if not dial.automate)
    return f"{said}; automation is on hold at {held}: every case there is read" if held else said


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise CentinelaError(
                f"Port {port} of 127.0.0.1 cannot be used: choose another with --port."
            ) from error


def _throw_away() -> None:
    """Empty the embedded database, the queue and the releases; never somebody's own database."""
    if not services.owns(settings.DATABASE_URL):
        raise CentinelaError(
            "--fresh empties the embedded database only: unset DATABASE_URL, or empty yours yourself."
        )
    with connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    for name in jobs.QUEUES:
        django_rq.get_queue(name).empty()
    shutil.rmtree(services.folder() / "releases", ignore_errors=True)


def _people() -> dict[str, str]:
    """Sites, users and memberships; the passwords of those created now."""
    passwords = {}
    protocol = Protocol.objects.get(slug=SLUG)
    for slug, name in SITES.items():
        _open(Site.objects.get_or_create(slug=slug, defaults={"name": name})[0], protocol)
    for name, full_name, role, sites in [*PEOPLE, *SIMULATED]:
        user, new = get_user_model().objects.get_or_create(username=name, defaults={"first_name": full_name})
        if new:
            password = secrets.token_urlsafe(9) if (name, full_name, role, sites) in PEOPLE else None
            user.set_password(password)
            user.save()
            passwords |= {name: password} if password else {}
        for slug in sites:
            Membership.objects.get_or_create(
                user=user, site=Site.objects.get(slug=slug), defaults={"role": role}
            )
    return passwords


@transaction.atomic
def _open(site: Site, protocol: Protocol) -> None:
    """A first policy with an audit sample, in force since before the first case came."""
    begins = invented.start(timezone.localdate())
    facts = {"version": 1, "audit_rate": AUDIT_RATE, "reason": REASON, "at": begins, "starts_at": begins}
    if not Policy.objects.filter(site=site, protocol=protocol).exists():
        opened = Policy.objects.create(site=site, protocol=protocol, **policy.FIRST, **facts)
        audit.record("policy.open", opened, site=site, details=policy.FIRST | {"audit_rate": AUDIT_RATE})


def _past() -> None:
    """Twelve weeks of arrivals and readings, once."""
    protocol, users = Protocol.objects.get(slug=SLUG), get_user_model().objects
    *readers, lead = (users.get(username=name) for name, *_ in SIMULATED)
    fresh = [slug for slug in SITES if not Review.objects.filter(case__site__slug=slug).exists()]
    if fresh and protocol.double_share != DOUBLE_SHARE:
        protocol = _read_twice(protocol)
    for slug in fresh:
        site = Site.objects.get(slug=slug)
        n = Case.objects.filter(site=site, protocol=protocol).count()
        truth = {patient.patient_id: patient.label for patient in _patients(slug, n)}
        invented.live(site, protocol, truth, readers, lead, timezone.localdate())


def _read_twice(protocol: Protocol) -> Protocol:
    """Have a share of the cases read by two, as an admin of all sites would."""
    admin = get_user_model().objects.get(username="admin")
    membership = admin.memberships.select_related("site").first()
    was = {"was_reading": protocol.reading, "was_double_share": protocol.double_share}
    wanted = {"reading": protocol.reading, "double_share": DOUBLE_SHARE, "reason": "Demostración."} | was
    return reading_policy.change(Workplace(membership.site, protocol, membership), admin, wanted)


def _train(folder: Path) -> Path:
    from mlcore import train
    from mlcore.protocols import get

    records = _records()
    bars: dict[str, tqdm] = {}

    def show(stage: str, done: int, total: int) -> None:
        bar = bars.setdefault(stage, tqdm(total=total, desc=f"training: {stage}", file=sys.stderr))
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    train.train(records, get(SLUG), train.COMPACT, folder / "bundle", train.TrainConfig.quick(), show)
    return folder / "bundle"


def _records() -> list:
    from mlcore import records
    from mlcore.protocols import get

    lines = "".join(
        json.dumps(synthetic.as_record(patient, labelled=True), ensure_ascii=False) + "\n"
        for patient in synthetic.generate(LABELLED, SEED, foreign=0, prefix="T")
    )
    found = records.read(BytesIO(lines.encode()), "training.jsonl", get(SLUG))
    return [record for record in found if isinstance(record, records.Record)]


def _patients(slug: str, n: int) -> Iterator[synthetic.Patient]:
    """The invented patients of a site."""
    number = list(SITES).index(slug)
    return synthetic.generate(n, SEED + 1 + number, prefix="PS"[number])


def _cohort(slug: str, n: int) -> BytesIO:
    lines = (
        json.dumps(synthetic.as_record(patient, labelled=False), ensure_ascii=False)
        for patient in _patients(slug, n)
    )
    return BytesIO("\n".join(lines).encode())


@contextmanager
def _workers() -> Iterator[list[subprocess.Popen[bytes]]]:
    running = [_worker() for _ in range(WORKERS)]
    try:
        yield running
    finally:
        _end(running)


def _worker() -> subprocess.Popen[bytes]:
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "work"]
    return subprocess.Popen(command, start_new_session=True)


def _revive_services() -> None:
    """Start a database or a queue of ours again that was killed, and say so; both keep what they were told."""
    for name in services.revive():
        print(f"{name} had ended and is started again", file=sys.stderr)


def _revive(workers: list[subprocess.Popen[bytes]]) -> None:
    """Start another worker for each that ended, and say so."""
    for i, worker in enumerate(workers):
        if worker.poll() is not None:
            print(f"a worker ended with exit code {worker.returncode}; another is started", file=sys.stderr)
            workers[i] = _worker()


def _end(running: list[subprocess.Popen[bytes]]) -> None:
    """Ends them for certain: a second Ctrl-C must not leave workers behind."""
    for once_more in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(once_more, signal.SIG_IGN)
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _serve(port: int, workers: list[subprocess.Popen[bytes]]) -> None:
    """Gunicorn as in production, but over plain HTTP on this machine only."""
    key = services.folder() / "secret_key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_text(secrets.token_urlsafe(50))
    production = {
        "DEBUG": "0",
        "DEMO": "1",
        "HTTPS": "0",
        "SECRET_KEY": key.read_text(),
        "ALLOWED_HOSTS": "127.0.0.1,localhost",
    }
    command = [sys.executable, "-m", "gunicorn", "triage.wsgi", "--bind", f"127.0.0.1:{port}"]
    command += ["--workers", "2", "--threads", "4", "--log-level", "warning", "--no-control-socket"]
    web = subprocess.Popen(
        command, env=os.environ | production, cwd=settings.BASE_DIR, start_new_session=True
    )
    try:
        while web.poll() is None:
            _revive_services()
            _revive(workers)
            time.sleep(1)
        raise CentinelaError(f"The web server ended with exit code {web.returncode}; its words stand above.")
    finally:
        _end([web])


def _unscored() -> int:
    return Case.objects.filter(status__in=["pending", "claimed"]).count()


def _unexplained() -> int:
    return Explanation.objects.filter(status__in=["pending", "claimed"], prediction__current=True).count()

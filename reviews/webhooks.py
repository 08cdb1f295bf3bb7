"""Standing labels told to another system: ids and labels, signed, tried again later each time; never text of a note.

A delivery is a row made in the transaction of its label, so that none is lost and none is told of a label that was not
given. ``X-Centinela-Signature: t=<unix seconds>,v1=<hex>`` signs «t.body» with HMAC-SHA256 under the webhook's secret.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
import math
import secrets
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx2
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import URLValidator
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext_noop

from mlcore.errors import DataError
from reviews import jobs
from reviews.models import Delivery, Label, Webhook
from reviews.rows import case_id
from triage import audit, claims
from triage.access import Workplace
from triage.models import Prediction

log = logging.getLogger(__name__)
SECONDS, DEADLINE = 5, 10  # for one step of a delivery, and for all of it
MINUTES = (1, 5, 15, 60, 180, 480, 1440)  # until the next try
TRIES = len(MINUTES) + 1
BAD_ADDRESS = gettext_noop(
    "The address is not one a label can be sent to: write http:// or https://, a host, and no user or password."
)
OWN_ADDRESS = gettext_noop(
    "The address leads to this server itself or to its own link: name another host, or have whoever runs the server allow "
    "this one in WEBHOOK_HOSTS."
)


class BadAddress(DataError):
    """An address nothing is sent to."""


def tell(prediction: Prediction, label: Label, event: str) -> int:
    """Put a label («given» or «withdrawn») in line for every webhook that is on; within the label's transaction."""
    hooks = Webhook.objects.filter(site=prediction.site_id, protocol=prediction.protocol_id, active=True)
    rows = [Delivery(webhook=hook, label=label, event=event) for hook in hooks]
    if rows:
        Delivery.objects.bulk_create(rows, ignore_conflicts=True)
        transaction.on_commit(jobs.wake_deliveries, robust=True)
    return len(rows)


def add(place: Workplace, user: Any, url: str) -> Webhook:
    """A webhook, off, with a secret of its own. BadAddress for an address that is not http(s), or is this server's own."""
    check(url)
    hook = Webhook.objects.create(
        site=place.site, protocol=place.protocol, url=url, secret=secrets.token_hex(32), by=user
    )
    audit.record("webhook.add", hook, site=place.site, actor=user, details={"url": url})
    return hook


def check(url: str) -> None:
    """BadAddress where a label cannot, or may not, be sent there. A name that is not known yet is."""
    try:
        URLValidator(schemes=["http", "https"])(url)
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        known = url.isprintable() and "@" not in parts.netloc and parts.port != 0 and len(url) <= 500
    except (ValidationError, ValueError):
        known = False
    if not known:
        raise BadAddress(BAD_ADDRESS)
    try:
        _check_host(url)
    except OSError:
        log.info("the host of a new webhook is not known yet")


def _check_host(url: str) -> None:
    """BadAddress where the host's name leads to this machine or its link; OSError where it leads nowhere."""
    host = urlsplit(url).hostname or ""
    if host in settings.WEBHOOK_HOSTS:
        return
    for *_, place in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
        address = ipaddress.ip_address(place[0])
        address = getattr(address, "ipv4_mapped", None) or address
        if address.is_loopback or address.is_link_local or address.is_unspecified:
            raise BadAddress(OWN_ADDRESS)


def switch(hook: Webhook, user: Any, on: bool) -> None:
    """What waits while it is off is sent when it is on again."""
    Webhook.objects.filter(pk=hook.pk).update(active=on)
    audit.record("webhook.on" if on else "webhook.off", hook, site=hook.site, actor=user)
    if on:
        transaction.on_commit(jobs.wake_deliveries, robust=True)


def send_test(hook: Webhook, user: Any) -> tuple[int | None, str]:
    """(HTTP status, why there is none) of a message that tells no label."""
    answer, failure = post(hook, {"event": "test"} | _where(hook) | {"at": timezone.now().isoformat()})
    audit.record("webhook.test", hook, site=hook.site, actor=user, details={"answer": answer})
    return answer, failure


def drain(seconds: float = math.inf) -> int:
    """Send what is due, none begun after ``seconds``; how many were answered with a yes."""
    done, until = 0, time.monotonic() + seconds
    with claims.held() as number:
        while time.monotonic() < until and (rows := claims.take(waiting(), number, batch=1)):
            done += sum(_attempt(row, number) for row in rows)
    return done


def waiting() -> QuerySet[Delivery]:
    due = Delivery.objects.filter(status="pending", due_at__lte=timezone.now(), webhook__active=True)
    return due.select_related(
        "webhook__site", "webhook__protocol", "label__case__patient", "label__case__note"
    ).order_by("due_at", "pk")


def reconcile() -> int:
    claims.release_abandoned(Delivery, "failed")
    return waiting().count()


def _attempt(row: Delivery, number: int) -> bool:
    """``attempts`` counts deaths of workers only, ``tries`` what was sent."""
    mine = Delivery.objects.filter(pk=row.pk, status="claimed", claim=number)
    same = Delivery.objects.filter(webhook=row.webhook_id, label=row.label_id)
    if row.event == "given" and same.filter(event="withdrawn", status="ready").exists():
        mine.delete()
        return False
    answer, failure = post(row.webhook, body(row))
    tries = row.tries + 1
    good = answer is not None and 200 <= answer < 300
    status = "ready" if good else "failed" if tries >= TRIES else "pending"
    due = timezone.now() + timedelta(minutes=MINUTES[min(tries, len(MINUTES)) - 1])
    mine.update(
        status=status,
        claim=None,
        claimed_at=None,
        attempts=0,
        tries=tries,
        answer=answer,
        failure="" if good else failure,
        due_at=row.due_at if good else due,
    )
    if good and row.event == "withdrawn":
        same.filter(event="given", status="pending").delete()
    return good


def body(row: Delivery) -> dict[str, Any]:
    """What is told of a label."""
    label, case, protocol = row.label, row.label.case, row.webhook.protocol
    where = _where(row.webhook)
    note = case.note and {
        "note_id": case.note.source_id,
        "written_at": case.note.written_at and case.note.written_at.isoformat(),
        "specialty": case.note.specialty,
        "sha256": case.note.sha256,
    }
    return {
        "event": row.event,
        **where,
        "case": case.pk,
        "case_id": case_id(where["site"], where["protocol"], case.patient.pseudonym, note),
        "label_id": label.pk,
        "label": protocol.labels[label.label],
        "provenance": label.provenance,
        "at": ((row.event == "withdrawn" and label.withdrawn_at) or label.at).isoformat(),
        "delivery": row.pk,
    }


def _where(hook: Webhook) -> dict[str, str]:
    return {"site": hook.site.slug, "protocol": hook.protocol.slug}


def post(hook: Webhook, told: dict[str, Any]) -> tuple[int | None, str]:
    """(HTTP status, failure in words) of one signed POST, in DEADLINE seconds whatever the other side does. No redirect is
    followed, the answer's body never read."""
    content = json.dumps(told, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json", "X-Centinela-Signature": sign(hook.secret, content)}
    try:
        _check_host(hook.url)
        with ThreadPoolExecutor(1) as apart:  # whatever runs in this thread, an event loop of its own
            status = apart.submit(asyncio.run, _status(hook.url, content, headers)).result()
    except (
        httpx2.HTTPError,
        httpx2.InvalidURL,
        httpx2.StreamError,
        BadAddress,
        OSError,
        ValueError,
    ) as error:
        return None, type(error).__name__
    return status, "" if 200 <= status < 300 else f"HTTP {status}"


async def _status(url: str, content: bytes, headers: dict[str, str]) -> int:
    async with (
        asyncio.timeout(DEADLINE),
        httpx2.AsyncClient(timeout=SECONDS, follow_redirects=False, trust_env=False) as client,
        client.stream("POST", url, content=content, headers=headers) as answer,
    ):
        return answer.status_code


def sign(secret: str, content: bytes, at: int | None = None) -> str:
    """The header's value; ``at`` in unix seconds, now without it."""
    moment = int(time.time()) if at is None else at
    digest = hmac.digest(secret.encode(), f"{moment}.".encode() + content, hashlib.sha256)
    return f"t={moment},v1={digest.hex()}"

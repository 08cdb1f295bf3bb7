"""Standing labels and alarms told to another system: ids and figures, signed, tried again later; never text of a note.

A delivery is a row made in the transaction of what it tells, so that none is lost and none is told of a label that was not
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
from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext_noop

from mlcore.errors import DataError
from reviews import jobs
from reviews.models import Delivery, Label, Webhook
from reviews.rows import case_id
from triage import audit, claims
from triage.access import Workplace
from triage.models import Alarm, Prediction

log = logging.getLogger(__name__)
SECONDS, DEADLINE = 5, 10  # for one step of a delivery, and for all of it
MINUTES = (1, 5, 15, 60, 180, 480, 1440)  # until the next try
TRIES = len(MINUTES) + 1
# One statement: a webhook that is being deleted gets nothing, and none is deleted between being found and being told.
TELL = """
    INSERT INTO reviews_delivery (webhook_id, label_id, event, status, attempts, failure, tries)
    SELECT id, %(label)s, %(event)s, 'pending', 0, '', 0 FROM reviews_webhook
    WHERE site_id = %(site)s AND protocol_id = %(protocol)s AND active FOR KEY SHARE
    ON CONFLICT DO NOTHING
"""
TELL_ALARM = """
    INSERT INTO reviews_delivery (webhook_id, alarm_id, event, status, attempts, failure, tries)
    SELECT id, %(alarm)s, 'alarm', 'pending', 0, '', 0 FROM reviews_webhook
    WHERE site_id = %(site)s AND protocol_id = %(protocol)s AND active FOR KEY SHARE
    ON CONFLICT DO NOTHING
"""
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
    where = {"site": prediction.site_id, "protocol": prediction.protocol_id}
    return _tell(TELL, where | {"label": label.pk, "event": event})


def tell_alarm(alarm: Alarm) -> int:
    """Put an alarm of the watch in line for every webhook that is on; within the alarm's transaction."""
    return _tell(TELL_ALARM, {"site": alarm.site_id, "protocol": alarm.protocol_id, "alarm": alarm.pk})


def _tell(statement: str, values: dict[str, Any]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        told = cursor.rowcount
    if told:
        transaction.on_commit(jobs.wake_deliveries, robust=True)
    return told


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
        _addresses(url)
    except OSError:
        log.info("the host of a new webhook is not known yet")


def _addresses(url: str) -> list[str]:
    """Where the host's name leads. BadAddress where that is this machine or its link; OSError where it leads nowhere."""
    host = urlsplit(url).hostname or ""
    found = [place[0] for *_, place in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    if host not in settings.WEBHOOK_HOSTS and any(map(_own, found)):
        raise BadAddress(OWN_ADDRESS)
    return list(dict.fromkeys(found))


def _own(place: str) -> bool:
    address = ipaddress.ip_address(place)
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_link_local or address.is_unspecified


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
        "webhook__site", "webhook__protocol", "label__case__patient", "label__case__note", "alarm"
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
    """What is told of a label, or of an alarm."""
    if row.alarm is not None:
        return _alarm(row, row.alarm)
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


def _alarm(row: Delivery, alarm: Alarm) -> dict[str, Any]:
    return {
        "event": row.event,
        **_where(row.webhook),
        "alarm": alarm.pk,
        "kind": alarm.kind,
        "measure": alarm.measure,
        "week": alarm.week.isoformat(),
        "figures": alarm.facts,
        "at": alarm.at.isoformat(),
        "delivery": row.pk,
    }


def _where(hook: Webhook) -> dict[str, str]:
    return {"site": hook.site.slug, "protocol": hook.protocol.slug}


def post(hook: Webhook, told: dict[str, Any]) -> tuple[int | None, str]:
    """(HTTP status, failure in words) of one signed POST, in DEADLINE seconds whatever the other side does. No redirect is
    followed, the answer's body never read; the host's name is asked for once, and what it led to is what is called."""
    content = json.dumps(told, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json", "X-Centinela-Signature": sign(hook.secret, content)}
    try:
        addresses = _addresses(hook.url)
        with ThreadPoolExecutor(1) as apart:  # whatever runs in this thread, an event loop of its own
            status = apart.submit(asyncio.run, _status(hook.url, addresses, content, headers)).result()
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


async def _status(url: str, addresses: list[str], content: bytes, headers: dict[str, str]) -> int:
    """The answer of the first of the addresses that takes the call, which is made, and its certificate checked, under the
    host's name."""
    named = httpx2.URL(url)
    headers = headers | {"Host": named.netloc.decode("ascii")}
    name = {"sni_hostname": named.raw_host.decode("ascii")}
    async with (
        asyncio.timeout(DEADLINE),
        httpx2.AsyncClient(timeout=SECONDS, follow_redirects=False, trust_env=False) as client,
    ):
        for left, address in enumerate(addresses, start=1 - len(addresses)):
            place = named.copy_with(host=address)
            try:
                async with client.stream(
                    "POST", place, content=content, headers=headers, extensions=name
                ) as answer:
                    return answer.status_code
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                if not left:
                    raise
    raise BadAddress(BAD_ADDRESS)


@transaction.atomic
def remove(hook: Webhook, user: Any) -> int:
    """Delete it with its deliveries; how many of them were still to be sent. Labels stay, nothing is told of them."""
    found = Webhook.objects.select_for_update().filter(pk=hook.pk).first()
    if found is None:
        return 0
    waited = found.deliveries.filter(status__in=["pending", "claimed"]).count()
    details = {"url": found.url, "waiting": waited, "deliveries": found.deliveries.count()}
    audit.record("webhook.remove", found, site=found.site, actor=user, details=details)
    found.delete()
    return waited


def sign(secret: str, content: bytes, at: int | None = None) -> str:
    """The header's value; ``at`` in unix seconds, now without it."""
    moment = int(time.time()) if at is None else at
    digest = hmac.digest(secret.encode(), f"{moment}.".encode() + content, hashlib.sha256)
    return f"t={moment},v1={digest.hex()}"

"""The dial: the rule in SQL over four stored numbers, and its turns: written, proposed, approved, scheduled, on hold.

``mlcore.decision`` is the reference; ``tests/triage/test_policy.py`` holds both to the same answer on every row.
``triage.tally`` counts by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Case as When_
from django.db.models import CharField, F, Q, QuerySet, Value, When
from django.db.models.functions import Now
from django.db.models.lookups import Exact
from django.utils import timezone
from django.utils.translation import gettext_noop

from mlcore import decision
from mlcore.errors import CentinelaError
from triage import audit, jobs
from triage.models import Alarm, Dial, Policy, Prediction, Proposal, Protocol, Site

HELD = "held"
OUTCOMES = (*decision.NAMES, HELD)
AUTOMATIC = OUTCOMES[0]
FIRST = {"alpha": 0.02, "typicality_floor": 0.01}
BEFORE = {  # what the columns of a first version hold besides
    "audit_rate": 0.0,
    "automate": True,
    "second_approver": False,
    "hold_on_alarm": False,
    "second_opinion": "off",
}
SETTINGS = (
    "alpha",
    "typicality_floor",
    "audit_rate",
    "automate",
    "second_approver",
    "hold_on_alarm",
    "second_opinion",
)
MOVED = gettext_noop(
    "Somebody else turned the dial while this page was open. Look at the new version, then decide again."
)
STALE = gettext_noop(
    "The dial was turned after this was proposed, so it can no longer be approved. Propose it again against the new version."
)
WAITS = gettext_noop("A proposal waits for a second administrator. Close it before you propose another turn.")
CLOSED = gettext_noop("This proposal was closed meanwhile. Look at the versions, then decide again.")
OWN = gettext_noop("Who proposed a turn cannot approve it: another administrator of this site does.")

_read: ContextVar[dict[tuple[int, int], Policy] | None] = ContextVar("policies_read", default=None)
_opens: ContextVar[bool] = ContextVar("policies_opened", default=True)
FIRST_REASON = gettext_noop("First policy, set when the protocol was opened at this site.")


class PolicyMoved(CentinelaError):
    """The dial, or a proposal for it, is no longer what the page showed."""


class NotTheirs(CentinelaError):
    """Who proposed a turn would approve it."""


@contextmanager
def read_once(opens: bool = True) -> Iterator[None]:
    """Within it the policy of a workplace is read once: a page is old or new, never a mix.

    opens: whether a protocol is opened at a site that has not used it; a page that is only looked at gets its first policy
    unwritten.
    """
    token, allowed = _read.set({}), _opens.set(opens)
    try:
        yield
    finally:
        _read.reset(token)
        _opens.reset(allowed)


def current(site: Site, protocol: Protocol) -> Policy:
    """The policy in force: the latest version that has started. Version 1 is written when a protocol is first used at a site, by a
    request that may write."""
    known, key = _read.get(), (site.pk, protocol.pk)
    if known is None:
        return _current(site, protocol)
    if key not in known:
        known[key] = _current(site, protocol)
    return known[key]


def _current(site: Site, protocol: Protocol) -> Policy:
    started = Policy.objects.filter(site=site, protocol=protocol, starts_at__lte=Now())
    return started.order_by("-version").first() or _first(site, protocol)


def latest(site: Site, protocol: Protocol) -> Policy:
    """The last version written, which may still wait for its start: what the next turn builds on."""
    found = Policy.objects.filter(site=site, protocol=protocol).order_by("-version").first()
    return found or _first(site, protocol)


def _first(site: Site, protocol: Protocol) -> Policy:
    if not _opens.get():
        return _unwritten(site, protocol)
    with transaction.atomic():
        policy, created = Policy.objects.get_or_create(
            site=site, protocol=protocol, version=1, defaults=FIRST | {"reason": FIRST_REASON}
        )
        if created:
            audit.record("policy.open", policy, site=site, details=FIRST)
    return policy


def _unwritten(site: Site, protocol: Protocol) -> Policy:
    """What opening the protocol at the site would write; the same one throughout a request."""
    now = timezone.now()
    facts = FIRST | BEFORE | {"version": 1, "reason": FIRST_REASON, "at": now, "starts_at": now}
    known = _read.get()
    made = Policy(site=site, protocol=protocol, **facts)
    return made if known is None else known.setdefault((site.pk, protocol.pk), made)


# The rule


def deferred(alpha: float, floor: float, automate: bool = True) -> Q:
    """True where a person must read: ambiguous, novel or atypical; on hold everything."""
    if not automate:
        return Q(pk__isnull=False)
    return Q(runner_up__gt=alpha) | Q(credibility__lte=alpha) | Q(typicality__lte=floor)


def outcome(alpha: float | F, floor: float | F, automate: bool | F = True) -> When_:
    """The outcome in words, the first reason that applies; «held» is what would be automatic but for the hold."""
    return When_(
        When(runner_up__gt=alpha, then=Value("ambiguous")),
        When(credibility__lte=alpha, then=Value("novel")),
        When(typicality__lte=floor, then=Value("atypical")),
        When(Exact(automate, False), then=Value(HELD)),
        default=Value(AUTOMATIC),
        output_field=CharField(),
    )


def outcome_under(dial: Dial) -> When_:
    """The outcome in words under a policy that is at hand."""
    return outcome(dial.alpha, dial.typicality_floor, dial.automate)


def outcome_of(prediction: Prediction, dial: Dial) -> str:
    """The outcome of one prediction that is at hand."""
    numbers = ([prediction.credibility], [prediction.runner_up], [prediction.typicality])
    [code] = decision.decide(*numbers, dial.alpha, dial.typicality_floor)
    return HELD if code == decision.AUTOMATIC and not dial.automate else decision.NAMES[code]


def standing(site: Site, protocol: Protocol) -> QuerySet[Prediction]:
    return Prediction.objects.filter(site=site, protocol=protocol, current=True)


# Turns


def settings_of(dial: Dial) -> dict[str, Any]:
    return {name: getattr(dial, name) for name in SETTINGS}


def turn(
    site: Site,
    protocol: Protocol,
    *,
    alpha: float,
    floor: float,
    reason: str,
    author: Any,
    base_version: int,
    audit_rate: float | None = None,
    automate: bool | None = None,
    second_approver: bool | None = None,
    hold_on_alarm: bool | None = None,
    second_opinion: str | None = None,
    starts_at: datetime | None = None,
) -> Policy | Proposal:
    """Write the next version, in force now or from ``starts_at`` on; what is not given stays as in the latest one.

    Where the version in force or the latest asks for a second approver, a proposal is written instead, unless the turn only puts
    automation on hold: what makes people read more waits for nobody. PolicyMoved when ``base_version`` is not the
    latest, or a proposal waits already.
    """
    base = latest(site, protocol)
    if base.version != base_version:
        raise PolicyMoved(MOVED)
    given = {
        "alpha": alpha,
        "typicality_floor": floor,
        "audit_rate": audit_rate,
        "automate": automate,
        "second_approver": second_approver,
        "hold_on_alarm": hold_on_alarm,
        "second_opinion": second_opinion,
    }
    chosen = settings_of(base) | {name: value for name, value in given.items() if value is not None}
    asked = base.second_approver or current(site, protocol).second_approver
    if asked and chosen != settings_of(base) | {"automate": False}:
        return _propose(base, chosen, reason, author, starts_at)
    return _write(base, chosen, reason, author, starts_at)


def _write(
    base: Policy,
    chosen: dict[str, Any],
    reason: str,
    author: Any,
    starts_at: datetime | None = None,
    approver: Any = None,
) -> Policy:
    """The version after ``base``. PolicyMoved when there is one already."""
    starts = {"starts_at": starts_at} if starts_at else {}
    place = {"site": base.site, "protocol": base.protocol}
    with _unless_moved(MOVED):
        policy = Policy.objects.create(
            **place,
            version=base.version + 1,
            reason=reason,
            author=author,
            approver=approver,
            **chosen,
            **starts,
        )
        details = {"version": policy.version, **chosen} | {key: at.isoformat() for key, at in starts.items()}
        details |= {"proposed_by": author.pk} if approver else {}
        audit.record("policy.turn", policy, site=base.site, actor=approver or author, details=details)
    (_read.get() or {}).pop((base.site_id, base.protocol_id), None)
    if not starts_at:
        jobs.wake_after_turn(base.site_id, base.protocol_id)
    return policy


@contextmanager
def _unless_moved(message: str) -> Iterator[None]:
    """A savepoint; PolicyMoved where somebody else wrote the same row first."""
    try:
        with transaction.atomic():
            yield
    except IntegrityError as error:
        if getattr(error.__cause__, "sqlstate", "") != UNIQUE_VIOLATION:
            raise
        raise PolicyMoved(message) from error


UNIQUE_VIOLATION = "23505"


def hold(
    site: Site, protocol: Protocol, *, reason: str, author: Any = None, alarm: Alarm | None = None
) -> Policy:
    """Put automation on hold, at once and without approval: the settings in force stay, and every case is read.

    A version that waits for its start is replaced by it. What is on hold already, with nothing waiting to end it,
    gets no new version. ``alarm`` then names the hold it brought about.
    """
    policy = _hold(site, protocol, reason, author)
    if alarm is not None:
        Alarm.objects.filter(pk=alarm.pk).update(held=policy)
    return policy


def _hold(site: Site, protocol: Protocol, reason: str, author: Any, patience: int = 10) -> Policy:
    base, now = latest(site, protocol), _current(site, protocol)
    waiting = Policy.objects.filter(site=site, protocol=protocol, version__gt=now.version, automate=True)
    if not now.automate and not waiting.exists():
        return now
    try:
        return _write(base, settings_of(now) | {"automate": False}, reason, author)
    except PolicyMoved:
        if not patience:
            raise
        return _hold(site, protocol, reason, author, patience - 1)


def give_back(
    former: Policy, *, reason: str, author: Any, base_version: int, starts_at: datetime | None = None
) -> Policy | Proposal:
    """Return to the settings of a former version, by a new one. As ``turn``."""
    chosen = settings_of(former)
    floor = chosen.pop("typicality_floor")
    return turn(
        former.site,
        former.protocol,
        floor=floor,
        reason=reason,
        author=author,
        base_version=base_version,
        starts_at=starts_at,
        **chosen,
    )


# Proposals


def proposal(site: Site, protocol: Protocol) -> Proposal | None:
    """The one that waits."""
    return (
        Proposal.objects.filter(site=site, protocol=protocol, closed_at=None).select_related("author").first()
    )


def _propose(
    base: Policy, chosen: dict[str, Any], reason: str, author: Any, starts_at: datetime | None
) -> Proposal:
    place = {"site": base.site, "protocol": base.protocol}
    with _unless_moved(WAITS):
        made = Proposal.objects.create(
            **place, base_version=base.version, reason=reason, author=author, starts_at=starts_at, **chosen
        )
        details = {"base_version": base.version, **chosen}
        details |= {"starts_at": starts_at.isoformat()} if starts_at else {}
        audit.record("policy.propose", made, site=base.site, actor=author, details=details)
    return made


@transaction.atomic
def approve(proposal: Proposal, by: Any) -> Policy:
    """The proposal becomes the next version. PolicyMoved when it was closed, or the dial was turned since; NotTheirs for
    its author."""
    waiting = _waiting(proposal)
    if waiting.author_id == by.pk:
        raise NotTheirs(OWN)
    base = latest(waiting.site, waiting.protocol)
    if base.version != waiting.base_version:
        raise PolicyMoved(STALE)
    later = waiting.starts_at if waiting.starts_at and waiting.starts_at > timezone.now() else None
    written = _write(base, settings_of(waiting), waiting.reason, waiting.author, later, by)
    _close(waiting, by, policy=written)
    return written


@transaction.atomic
def close(proposal: Proposal, by: Any, remark: str = "") -> None:
    """Withdrawn by its author, or declined by another. PolicyMoved when it was closed meanwhile."""
    waiting = _waiting(proposal)
    _close(waiting, by, remark=remark)
    verb = "policy.withdraw" if waiting.author_id == by.pk else "policy.decline"
    audit.record(verb, waiting, site=waiting.site, actor=by, details={"base_version": waiting.base_version})


def _waiting(proposal: Proposal) -> Proposal:
    rows = Proposal.objects.select_for_update(of=("self",)).select_related("site", "protocol", "author")
    found = rows.get(pk=proposal.pk)
    if found.closed_at:
        raise PolicyMoved(CLOSED)
    return found


def _close(waiting: Proposal, by: Any, **facts: Any) -> None:
    for name, value in {"closed_at": timezone.now(), "closed_by": by, **facts}.items():
        setattr(waiting, name, value)
    waiting.save(update_fields=["closed_at", "closed_by", *facts])

"""The dial: the rule in SQL over four stored numbers, its preview, its curve, and its turns.

``mlcore.decision`` is the reference; ``tests/triage/test_policy.py`` holds both to the same answer on every row.
"""

from __future__ import annotations

from typing import Any

from django.db import IntegrityError, connection, transaction
from django.db.models import Case as When_
from django.db.models import CharField, Count, Q, QuerySet, Value, When
from django.utils.translation import gettext_noop

from mlcore import decision
from mlcore.errors import CentinelaError
from triage import audit
from triage.models import Policy, Prediction, Protocol, Site

OUTCOMES = ("automatic", "ambiguous", "novel", "atypical")
FIRST = {"alpha": 0.02, "typicality_floor": 0.01}
MOVED = gettext_noop(
    "Somebody else turned the dial while this page was open. Look at the new version, then decide again."
)


class PolicyMoved(CentinelaError):
    """Somebody else turned the dial since the page was opened."""


def current(site: Site, protocol: Protocol) -> Policy:
    """The policy in force: the latest version. Version 1 is written when a protocol is first used at a site."""
    latest = Policy.objects.filter(site=site, protocol=protocol).order_by("-version").first()
    return latest or _first(site, protocol)


def _first(site: Site, protocol: Protocol) -> Policy:
    reason = gettext_noop("First policy, set when the protocol was opened at this site.")
    with transaction.atomic():
        policy, created = Policy.objects.get_or_create(
            site=site, protocol=protocol, version=1, defaults=FIRST | {"reason": reason}
        )
        if created:
            audit.record("policy.open", policy, site=site, details=FIRST)
    return policy


def deferred(alpha: float, floor: float) -> Q:
    """True where a person must read: ambiguous, novel or atypical."""
    return Q(runner_up__gt=alpha) | Q(credibility__lte=alpha) | Q(typicality__lte=floor)


def outcome(alpha: float, floor: float) -> When_:
    """The outcome in words, the first reason that applies."""
    return When_(
        When(runner_up__gt=alpha, then=Value("ambiguous")),
        When(credibility__lte=alpha, then=Value("novel")),
        When(typicality__lte=floor, then=Value("atypical")),
        default=Value("automatic"),
        output_field=CharField(),
    )


def outcome_of(prediction: Prediction, dial: Policy) -> str:
    """The outcome of one prediction that is at hand."""
    numbers = ([prediction.credibility], [prediction.runner_up], [prediction.typicality])
    [code] = decision.decide(*numbers, dial.alpha, dial.typicality_floor)
    return decision.NAMES[code]


def standing(site: Site, protocol: Protocol) -> QuerySet[Prediction]:
    return Prediction.objects.filter(site=site, protocol=protocol, current=True)


def compare(
    site: Site, protocol: Protocol, now: tuple[float, float], then: tuple[float, float]
) -> tuple[dict[str, int], dict[str, int], int]:
    """Counts of the outcomes under two (α, floor), and how many cases change hands, in one pass.

    Cases automatic under both are those below the smaller and above the larger α and above the higher floor.
    """
    both = Q(
        runner_up__lte=min(now[0], then[0]),
        credibility__gt=max(now[0], then[0]),
        typicality__gt=max(now[1], then[1]),
    )
    row = _count(site, protocol, {"both": both} | _conditions("now", *now) | _conditions("then", *then))
    before, after = _outcomes("now", row), _outcomes("then", row)
    return before, after, before["automatic"] + after["automatic"] - 2 * row["both"]


def counts(site: Site, protocol: Protocol, alpha: float, floor: float) -> dict[str, int]:
    """How many of the predictions that stand have each outcome."""
    return _outcomes("now", _count(site, protocol, _conditions("now", alpha, floor)))


def _conditions(when: str, alpha: float, floor: float) -> dict[str, Q]:
    """The fewest comparisons that tell the outcomes apart, since runner_up ≤ credibility."""
    return {
        f"{when}_ambiguous": Q(runner_up__gt=alpha),
        f"{when}_novel": Q(credibility__lte=alpha),
        f"{when}_automatic": Q(runner_up__lte=alpha, credibility__gt=alpha, typicality__gt=floor),
    }


def _count(site: Site, protocol: Protocol, filters: dict[str, Q]) -> dict[str, int]:
    counts = {name: Count(Value(1), filter=condition) for name, condition in filters.items()}
    return standing(site, protocol).aggregate(n=Count("*"), **counts)


def _outcomes(when: str, row: dict[str, int]) -> dict[str, int]:
    found = {name: row[f"{when}_{name}"] for name in ("automatic", "ambiguous", "novel")}
    return found | {"atypical": row["n"] - sum(found.values())}


CURVE = """
    SELECT width_bucket(-runner_up, %(steps)s), width_bucket(-credibility, %(steps)s), typicality <= %(floor)s, count(*)
    FROM triage_prediction WHERE site_id = %(site)s AND protocol_id = %(protocol)s AND current GROUP BY 1, 2, 3
"""


def curve(site: Site, protocol: Protocol, alphas: list[float], floor: float) -> dict[str, list[int]]:
    """Counts of the four outcomes at each of the ascending ``alphas``, from one pass.

    Because runner_up ≤ credibility, each outcome is a difference of two cumulative counts. ``width_bucket`` over the
    negated values counts the alphas at or above a value, so that ties fall as the rule has them.
    """
    steps = [-alpha for alpha in reversed(alphas)]
    parameters = {"steps": steps, "floor": floor, "site": site.pk, "protocol": protocol.pk}
    at_least = {
        key: [0] * (len(alphas) + 1) for key in ("runner_up", "credibility", "strange_up", "strange_cred")
    }
    total = 0
    with connection.cursor() as cursor:
        cursor.execute(CURVE, parameters)
        for runner_up, credibility, strange, count in cursor.fetchall():
            total += count
            at_least["runner_up"][runner_up] += count
            at_least["credibility"][credibility] += count
            if strange:
                at_least["strange_up"][runner_up] += count
                at_least["strange_cred"][credibility] += count
    below = {key: _cumulated(histogram) for key, histogram in at_least.items()}
    atypical = [up - cred for up, cred in zip(below["strange_up"], below["strange_cred"], strict=True)]
    decided = [up - cred for up, cred in zip(below["runner_up"], below["credibility"], strict=True)]
    return {
        "ambiguous": [total - count for count in below["runner_up"]],
        "novel": below["credibility"],
        "atypical": atypical,
        "automatic": [all_ - strange for all_, strange in zip(decided, atypical, strict=True)],
    }


def _cumulated(histogram: list[int]) -> list[int]:
    """histogram[k] = rows with exactly k alphas at or above them → for each ascending alpha, rows at or below it."""
    totals, running = [], 0
    for count in reversed(histogram[1:]):
        running += count
        totals.append(running)
    return totals


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
) -> Policy:
    """Write the next version; what is not given stays. PolicyMoved when ``base_version`` is not the latest."""
    now = current(site, protocol)
    rate = now.audit_rate if audit_rate is None else audit_rate
    try:
        if now.version != base_version:
            raise IntegrityError
        with transaction.atomic():
            policy = Policy.objects.create(
                site=site,
                protocol=protocol,
                version=base_version + 1,
                alpha=alpha,
                typicality_floor=floor,
                audit_rate=rate,
                second_opinion=now.second_opinion,
                reason=reason,
                author=author,
            )
            details = {
                "version": policy.version,
                "alpha": alpha,
                "typicality_floor": floor,
                "audit_rate": rate,
            }
            audit.record("policy.turn", policy, site=site, actor=author, details=details)
    except IntegrityError as error:
        raise PolicyMoved(MOVED) from error
    return policy

"""The list of what waits: its rows in words, its size, its filters, and the last verdict."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.core.cache import cache
from django.db.models.functions import Now
from django.http import QueryDict
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from reviews import counts as counting
from reviews import filters as filtering
from reviews import search as searching
from reviews import selectors
from reviews.filters import BLIND, EVERYTHING, HOLDERS, ORDERS, REASONS, Filters
from reviews.models import SavedView
from reviews.search import Search
from reviews.visibility import blind_protocol, covered
from reviews.wording import checked, stood, verdict_name
from triage import policy as dial
from triage.access import Workplace
from triage.context import workplaces
from triage.models import Membership, Policy

STATES = {
    "waiting": gettext_lazy("waits for you"),
    "mine": gettext_lazy("read by you"),
    "decided": gettext_lazy("decided"),
    "": gettext_lazy("nothing asked of you"),
}
ELSEWHERE_SECONDS = 60
MATCHES = 999


def queue(
    place: Workplace,
    user: Any,
    filters: Filters = filtering.PLAIN,
    search: Search | None = None,
) -> dict[str, Any]:
    """The rows of one page, the size of the queue by reason, and the last verdict. Without its search, hits are no group."""
    policy, after = dial.current(place.site, place.protocol), filters.after
    if search is None:
        filters = filters._replace(q="", show="" if filters.show == EVERYTHING else filters.show)
    hidden = covered(place, policy, user)
    rows = selectors.queue_page(place, user, policy, hidden, filters, search)
    verdicts = selectors.done_today(place, user, policy)
    counts, done = counting.waiting(place, user, policy, verdicts), sum(verdicts.values())
    shown, pending = rows[: selectors.PAGE], sum(counts.values())
    more = shown[-1].case_id if len(rows) > selectors.PAGE else None
    return {
        "place": place,
        "policy": policy,
        "filters": filters,
        "rows": [_row(row, user) for row in shown],
        "more": more,
        "after": after,
        "top_query": filters.query(after=None),
        "more_query": filters.query(after=more),
        "here_query": filters.query(),
        "pending": pending,
        "counts": [
            (kind, REASONS[kind], n)
            for kind, n in counts.items()
            if kind and (n or kind != dial.HELD) and not blind_protocol(place.protocol)
        ],
        "seen": pending - counts[""],
        "blind": counts[""],
        "done": done,
        "today": done + pending,
        "last": _last(place, user),
    }


def page(place: Workplace, user: Any, query: QueryDict, session: Any) -> dict[str, Any]:
    """The whole queue page: the list, its filters and saved views, and how much waits elsewhere."""
    filters, refused = filtering.read(query, place.protocol)
    said = searching.terms(session, filters.q) if filters.q else ""
    if filters.q and not said:
        refused.append(_("This search has ended with its session. Type it again."))
    search = Search(place.protocol, said) if said else None
    if search and search.refusal:
        refused.append(_(search.refusal))
    shown = queue(place, user, filters, search)
    filters = shown["filters"]
    policy, views = shown["policy"], _views(place, user, filters)
    if search:
        _with_passages(place, user, policy, shown["rows"], search)
    return shown | {
        "reasons": [] if blind_protocol(place.protocol) else _reasons(policy),
        "holders": list(HOLDERS.items()),
        "refused": refused,
        "said": said,
        "cut": bool(search and search.cut),
        "groups": _groups(filters, shown, search is not None, place),
        "orders": _orders(filters, place),
        "specialties": _specialties(place),
        "matches": _matches(place, user, policy, filters) if filters.narrow and not search else None,
        "views": views,
        "viewed": any(view["current"] for view in views),
        "view_query": filters.query(after=None, q=""),
        "elsewhere": _elsewhere(place, user),
        "hold": hold(place, policy),
    }


def hold(place: Workplace, policy: Policy) -> dict[str, Any] | None:
    """Since when, and why, everything is read; None while clear cases are settled.

    The order of risk stays as it is under a hold: nothing is done for a held case until somebody reads it, so passing over a
    clear target costs its whole row of the matrix, more than passing over one in doubt.
    """
    if policy.automate:
        return None
    started = Policy.objects.filter(site=place.site, protocol=place.protocol, starts_at__lte=Now())
    before = started.filter(automate=True).order_by("-version").values_list("version", flat=True).first()
    first = started.filter(version__gt=before or 0).order_by("version").first() or policy
    return {"since": first.starts_at, "why": first.reason if first.author_id else _(first.reason)}


def _row(row: Any, user: Any) -> dict[str, Any]:
    held = row.holder and row.held_until > timezone.now()
    others = held and row.holder != user.pk
    return {
        "prediction": row.pk,
        "note_ids": row.note_ids,
        "case": row.case_id,
        "pseudonym": row.pseudonym,
        "kind": row.reason if row.reason in REASONS else "",
        "why": REASONS.get(row.reason, ""),
        "specialty": row.specialty,
        "written_at": row.written_at,
        "age": age(row.at),
        "at": row.at,
        "mine": held and not others,
        "holder": (f"{row.first_name} {row.last_name}".strip() or row.username) if others else "",
    }


def age(since: datetime) -> str:
    """Time waited, in its largest whole unit."""
    minutes = max(int((timezone.now() - since) / timedelta(minutes=1)), 0)
    for size, unit in ((1440, _("d")), (60, _("h"))):
        if minutes >= size:
            return f"{minutes // size}\u00a0{unit}"
    return f"{minutes}\u00a0min"


def _reasons(policy: Policy) -> list[tuple[str, Any]]:
    return [(name, said) for name, said in REASONS.items() if name != dial.HELD or not policy.automate]


def _last(place: Workplace, user: Any) -> dict[str, Any] | None:
    review = selectors.last_verdict(place, user)
    if review is None:
        return None
    automatic = dial.outcome_of(review.prediction, review.policy) == dial.OUTCOMES[0]
    told = checked if automatic else stood
    return {
        "review": review.pk,
        "case": review.case_id,
        "pseudonym": review.case.patient.pseudonym,
        "verdict": verdict_name(place.protocol, review.label, review.why),
        "stood": told(place.protocol, review.prediction),
    }


def _with_passages(
    place: Workplace, user: Any, policy: Policy, rows: list[dict[str, Any]], search: Search
) -> None:
    """Beside each hit, where its notes say it, and what is to be done with the case."""
    found = [row["prediction"] for row in rows]
    passages = search.passages([(row["prediction"], row["note_ids"]) for row in rows])
    states = selectors.states(place, user, policy, found)
    for row in rows:
        row |= {"passage": passages.get(row["prediction"], ""), "state": STATES[states[row["prediction"]]]}


def _groups(
    filters: Filters, counts: dict[str, Any], searched: bool, place: Workplace
) -> list[dict[str, Any]]:
    """What is read with the model's view, what is read blind and, of a search, whatever else it finds."""
    names = [("", _("In order"), counts["seen"]), (BLIND, _("To be read blind"), counts["blind"])]
    if blind_protocol(place.protocol):
        names[1] = (BLIND, _("Mixed in at random"), counts["blind"])
    if searched:
        names.append((EVERYTHING, _("All cases here"), None))
    return [
        {"name": name, "n": n, "current": filters.show == show, "query": filters.query(show=show, after=None)}
        for show, name, n in names
        if n or not show or show in (EVERYTHING, filters.show)
    ]


def _orders(filters: Filters, place: Workplace) -> list[tuple[str, Any, bool]]:
    offered = [name for name in ORDERS if name != "reason" or not blind_protocol(place.protocol)]
    return [(name, ORDERS[name], name == filters.order) for name in offered]


def _specialties(place: Workplace) -> list[str]:
    key = f"specialties:{place.site.pk}:{place.protocol.pk}"
    return cache.get_or_set(key, lambda: selectors.specialties(place), ELSEWHERE_SECONDS) or []


def _matches(place: Workplace, user: Any, policy: Policy, filters: Filters) -> tuple[int, bool]:
    """How many cases pass the filters, counted no further than MATCHES; whether there are more."""
    n = selectors.up_to(selectors.group(place, user, policy, filters), MATCHES)
    return min(n, MATCHES), n > MATCHES


def _views(place: Workplace, user: Any, filters: Filters) -> list[dict[str, Any]]:
    here = filters.query(after=None, q="")
    return [
        {"pk": view.pk, "name": view.name, "query": view.query, "current": view.query == here}
        for view in saved_views(place, user)
    ]


def saved_views(place: Workplace, user: Any) -> Any:
    return SavedView.objects.filter(user=user, site=place.site, protocol=place.protocol).order_by("name")


def _elsewhere(place: Workplace, user: Any) -> list[dict[str, Any]]:
    """What waits for the reader at their other sites and protocols, each counted once a minute, to MATCHES."""
    found = [(there, _waiting_at(there, user)) for there in _others(place, user)]
    return [{"place": there, "n": min(n, MATCHES), "more": n > MATCHES} for there, n in found]


def _others(place: Workplace, user: Any) -> list[Workplace]:
    roles = {membership.site_id: membership for membership in Membership.objects.filter(user=user)}
    here = (place.site, place.protocol)
    return [Workplace(*pair, roles[pair[0].pk]) for pair in workplaces(user) if pair != here]


def _waiting_at(there: Workplace, user: Any) -> int:
    key = f"elsewhere:{there.site.pk}:{there.protocol.pk}:{user.pk}"
    n = cache.get(key)
    if n is None:
        policy = dial.current(there.site, there.protocol)
        n = selectors.up_to(selectors.pending(there, user, policy), MATCHES)
        cache.set(key, n, ELSEWHERE_SECONDS)
    return int(n)

"""How many standing predictions have each outcome, from a tally beside them instead of from every row.

The database keeps the tally (migration ``0009_dial_tally``): a statement that brings or unseats standing predictions adds,
in the same transaction, what it changed: how many have their runner-up, and how many their credibility, in each step of
``EDGES``, for each step of typicality. Rows are only ever added, so writers do not wait for each other, and ``fold`` sums
them up in one statement: tally and predictions agree in every snapshot.

A setting at the edges (every number of two digits, and the points of the curve) is a sum over at most ``len(EDGES)``² rows;
any other is counted row by row, as exactly and more slowly. Since runner_up ≤ credibility,

    automatic = #(runner_up ≤ α, typicality > floor) − #(credibility ≤ α, typicality > floor)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from django.db import connection, transaction

from mlcore import decision
from triage.models import Dial, Protocol, Site

CURVE = tuple(round(float(alpha), 4) for alpha in np.geomspace(0.002, 0.2, 50))
TWO_DIGITS = (round(n * unit, 4) for unit in (0.0001, 0.001, 0.01) for n in range(10, 100))
EDGES = (0.0, *sorted({edge for edge in (*CURVE, *TWO_DIGITS) if 0.001 <= edge <= 0.5}))
FOLD_FROM = 2000  # rows added since the last time


class Setting(NamedTuple):
    """What divides the cases."""

    alpha: float
    floor: float
    automate: bool = True


def setting(dial: Dial) -> Setting:
    return Setting(dial.alpha, dial.typicality_floor, dial.automate)


# Where a < b both p-values of a case may lie between them: ambiguous at a, without precedent at b. They are few and lie
# together in the index.
FROM_TALLY = """
    SELECT coalesce(sum(runner_up), 0),
        coalesce(sum(runner_up) FILTER (WHERE step > %(now)s), 0),
        coalesce(sum(credibility) FILTER (WHERE step <= %(now)s), 0),
        coalesce(sum(runner_up - credibility) FILTER (WHERE step <= %(now)s AND typical > %(now_floor)s), 0),
        coalesce(sum(runner_up) FILTER (WHERE step > %(then)s), 0),
        coalesce(sum(credibility) FILTER (WHERE step <= %(then)s), 0),
        coalesce(sum(runner_up - credibility) FILTER (WHERE step <= %(then)s AND typical > %(then_floor)s), 0),
        coalesce(sum(runner_up) FILTER (WHERE step <= %(low)s AND typical > %(floor)s), 0)
        - coalesce(sum(credibility) FILTER (WHERE step <= %(high)s AND typical > %(floor)s), 0)
        + (SELECT count(*) FROM triage_prediction
           WHERE site_id = %(site)s AND protocol_id = %(protocol)s AND current AND credibility > %(from)s
               AND credibility <= %(to)s AND runner_up > %(from)s AND typicality > %(strange)s)
    FROM triage_tally WHERE site_id = %(site)s AND protocol_id = %(protocol)s
"""
FROM_ROWS = """
    SELECT count(*),
        count(*) FILTER (WHERE runner_up > %(now)s),
        count(*) FILTER (WHERE credibility <= %(now)s),
        count(*) FILTER (WHERE runner_up <= %(now)s AND credibility > %(now)s AND typicality > %(now_floor)s),
        count(*) FILTER (WHERE runner_up > %(then)s),
        count(*) FILTER (WHERE credibility <= %(then)s),
        count(*) FILTER (WHERE runner_up <= %(then)s AND credibility > %(then)s AND typicality > %(then_floor)s),
        count(*) FILTER (WHERE runner_up <= %(low)s AND credibility > %(high)s AND typicality > %(floor)s)
    FROM triage_prediction WHERE site_id = %(site)s AND protocol_id = %(protocol)s AND current
"""


def counts(
    site: Site, protocol: Protocol, alpha: float, floor: float, automate: bool = True
) -> dict[str, int]:
    """How many of the predictions that stand have each of ``policy.OUTCOMES``."""
    here = Setting(alpha, floor, automate)
    return compare(site, protocol, here, here)[0]


def compare(
    site: Site, protocol: Protocol, now: tuple[float, ...], then: tuple[float, ...]
) -> tuple[dict[str, int], dict[str, int], int]:
    """Counts of the outcomes under two Settings, and how many cases change hands; all of one snapshot.

    Cases automatic under both are those below the smaller and above the larger α and above the higher floor.
    """
    before, after = Setting(*now), Setting(*then)
    low, high = sorted((before.alpha, after.alpha))
    floor = max(before.floor, after.floor)
    told = {"now": before.alpha, "then": after.alpha, "now_floor": before.floor, "then_floor": after.floor}
    told |= {"low": low, "high": high, "floor": floor}
    here: dict[str, Any] = {
        "site": site.pk,
        "protocol": protocol.pk,
        "from": low,
        "to": high,
        "strange": floor,
    }
    whole = all(map(_is_edge, told.values()))
    with connection.cursor() as cursor:
        if whole:
            cursor.execute(FROM_TALLY, here | {name: _step(value) for name, value in told.items()})
        else:
            cursor.execute(FROM_ROWS, here | told)
        n, *found, both = map(int, cursor.fetchone())
    counted = _outcomes(n, *found[:3], before.automate), _outcomes(n, *found[3:], after.automate)
    stay = both if before.automate and after.automate else 0
    return *counted, counted[0]["automatic"] + counted[1]["automatic"] - 2 * stay


def _outcomes(n: int, ambiguous: int, novel: int, automatic: int, automate: bool) -> dict[str, int]:
    atypical = n - ambiguous - novel - automatic
    found = {"automatic": automatic, "ambiguous": ambiguous, "novel": novel, "atypical": atypical, "held": 0}
    return found if automate else found | {"automatic": 0, "held": automatic}


def _step(value: float) -> int:
    """How many edges lie below: x ≤ edge i exactly where the step of x is at most i."""
    return bisect_left(EDGES, value)


def _is_edge(value: float) -> bool:
    step = _step(value)
    return step < len(EDGES) and EDGES[step] == value


CURVE_FROM_TALLY = """
    SELECT step, typical <= %(floor)s, sum(runner_up), step, sum(credibility)
    FROM triage_tally WHERE site_id = %(site)s AND protocol_id = %(protocol)s GROUP BY 1, 2
"""
CURVE_FROM_ROWS = """
    SELECT width_bucket(-runner_up, %(steps)s), typicality <= %(floor)s, count(*),
        width_bucket(-credibility, %(steps)s), count(*)
    FROM triage_prediction WHERE site_id = %(site)s AND protocol_id = %(protocol)s AND current GROUP BY 1, 2, 4
"""


def curve(site: Site, protocol: Protocol, alphas: Sequence[float], floor: float) -> dict[str, list[int]]:
    """Counts of the four outcomes, the hold aside, at each of the ascending ``alphas``.

    Each outcome is a difference of two cumulative counts. Row by row, ``width_bucket`` over the negated values counts
    the alphas at or above a value, so that ties fall as the rule has them.
    """
    m, place = len(alphas), {"site": site.pk, "protocol": protocol.pk}
    whole = all(map(_is_edge, (*alphas, floor)))
    with connection.cursor() as cursor:
        if whole:
            cursor.execute(CURVE_FROM_TALLY, place | {"floor": _step(floor)})
        else:
            steps = [-alpha for alpha in reversed(alphas)]
            cursor.execute(CURVE_FROM_ROWS, place | {"floor": floor, "steps": steps})
        rows = cursor.fetchall()
    at = [_step(alpha) for alpha in alphas]
    up, known = np.zeros((2, 2, m + 1), dtype=np.int64)
    for runner_up, strange, n_up, credibility, n_known in rows:
        first = [bisect_left(at, row) if whole else m - row for row in (runner_up, credibility)]
        up[int(strange), first[0]] += int(n_up)
        known[int(strange), first[1]] += int(n_known)
    total, (up, known) = int(up.sum()), (up.cumsum(axis=1)[:, :m], known.cumsum(axis=1)[:, :m])
    (automatic, atypical), ambiguous, novel = up - known, total - up.sum(axis=0), known.sum(axis=0)
    found = zip(decision.NAMES, (automatic, ambiguous, novel, atypical), strict=True)
    return {name: row.tolist() for name, row in found}


# One statement: whoever reads meanwhile sees the rows before or after it, and rows added meanwhile are not touched.
FOLD = """
    WITH grown AS (
        SELECT site_id, protocol_id FROM triage_tally WHERE NOT folded GROUP BY 1, 2 HAVING count(*) >= %s
    ), gone AS (
        DELETE FROM triage_tally AS t USING grown AS g
        WHERE t.site_id = g.site_id AND t.protocol_id = g.protocol_id RETURNING t.*
    )
    INSERT INTO triage_tally (site_id, protocol_id, step, typical, runner_up, credibility, folded)
    SELECT site_id, protocol_id, step, typical, sum(runner_up), sum(credibility), true
    FROM gone GROUP BY 1, 2, 3, 4 HAVING sum(runner_up) <> 0 OR sum(credibility) <> 0
"""
LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('triage_tally'))"


def fold(at_least: int = FOLD_FROM) -> None:
    """Sum up what was added to a tally, where that is ``at_least`` so many rows; by one worker at a time."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(LOCK)
        if cursor.fetchone()[0]:
            cursor.execute(FOLD, [at_least])

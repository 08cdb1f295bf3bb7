"""A conformal test martingale: is what arrives still exchangeable with what came before?

It bets, case by case, against «new cases are exchangeable with the earlier ones» (Vovk, Gammerman & Shafer 2022, part III),
on p-values of each case among all before it.

Why the bag grows. P-values of a stream against one fixed calibration set all lean on the same sample: where it lies by
chance a little low, every case looks a little strange, the p-values are not independent, and any martingale on them grows
without end on a stream that never changed. Ranked among the reference *and all earlier cases*, with ties broken by a
random lot, the p-values of exchangeable cases are independent and exactly uniform (same book, proposition 11.1). The
price: after a change the new cases join the bag, so that a shift must be caught while it is new. The weekly checks
(`two_sample`), whose reference stands still, catch what the martingale has grown used to.

What is exchangeable. Any order in time breaks it, harmless or not: a case that comes back, batches sorted by ward, nights
and week-ends. Let each case in once, in the order of arrival. Let the strangeness mean the same for the reference as for
the stream: a probability or distance of held-out cases does, one from the cases a model was fitted on does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlcore.errors import DataError
from mlcore.lines import Floats, line, uniform

AT_ONCE = 8192  # cases bet on between two looks at memory


# P-values


def online_p(values: ArrayLike, lots: ArrayLike, reference: ArrayLike = ()) -> Floats:
    """(n,) conformal p-value of each case among the reference and all cases before it; stranger cases get smaller ones.

    values: (n,) any finite strangeness in order of arrival, higher is stranger. lots: (n,) uniform in [0, 1], one a
    case, drawn independently of the values. reference: (m,) the same strangeness of earlier cases, in any order, m may
    be 0. With N cases before it, p = (#{stranger} + lot (1 + #{as strange})) / (N + 1). If reference and stream together
    are exchangeable, the p-values are independent and uniform, however many ties there are. Going on later with
    reference = reference + all values so far gives the numbers that one call would have given.
    Raises DataError for values that are not finite, or lots outside [0, 1] or of another number.
    """
    values, known = line("values", values), np.sort(line("reference values", reference))
    lots = uniform("lots", lots, len(values))
    order, rank = np.unique(values, return_inverse=True)
    up_to = np.searchsorted(known, order, side="right")
    equal = (up_to - np.searchsorted(known, order, side="left"))[rank] + earlier_equal(rank)
    before = len(known) + np.arange(len(values))
    stranger = before - equal - np.searchsorted(known, order, side="left")[rank] - earlier_below(rank)
    p: Floats = (stranger + lots * (1 + equal)) / (before + 1)
    return p


def earlier_equal(rank: NDArray[np.intp]) -> NDArray[np.intp]:
    """(n,) how many elements before each equal it."""
    order = np.argsort(rank, kind="stable")
    count = np.empty(len(rank), dtype=np.intp)
    count[order] = np.arange(len(rank)) - _first_of_run(rank[order])
    return count


def earlier_below(rank: NDArray[np.intp]) -> NDArray[np.intp]:
    """(n,) how many elements before each lie below it; rank: (n,) integers from 0. O(n log² n), no loop over cases.

    Bit by bit: among elements that agree in all higher bits, those with a 0 lie below those with a 1.
    """
    count = np.zeros(len(rank), dtype=np.intp)
    for bit in range(int(rank.max(initial=0)).bit_length()):
        order = np.argsort(rank >> bit + 1, kind="stable")
        low = (rank[order] >> bit & 1) == 0
        lows = np.cumsum(low) - low
        count[order] += np.where(low, 0, lows - lows[_first_of_run(rank[order] >> bit + 1)])
    return count


def _first_of_run(ascending: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.searchsorted(ascending, ascending, side="left")


# The martingale

SLOPES = (-1.8, -0.6, 0.6, 1.8)  # bets 1 + e (p - 1/2): on small p-values (e < 0) or large ones
BENDS = (-0.9, 0.6, 1.8)  # bets 1 + e (6 p² - 6 p + 1): on the middle (e < 0) or on both ends at once
JUMPS = (1e-4, 1e-3, 1e-2)  # how readily a bettor changes its bet, per case
STATES = 1 + len(SLOPES) + len(BENDS)
CELLS = STATES * len(JUMPS)
PATIENCE = 100.0  # cases; sets the pace at which capital is put to work


def bets(p: Floats) -> Floats:
    """(n, STATES) what each bet pays on a p-value: densities on [0, 1], so that a fair game pays 1 on average."""
    sloped = [1 + e * (p - 0.5) for e in SLOPES]
    bent = [1 + e * (6 * p * p - 6 * p + 1) for e in BENDS]
    return np.column_stack([np.ones_like(p), *sloped, *bent])


def idle(n: ArrayLike) -> Floats:
    """Share of the capital not yet at work after n cases, 1 / (1 + ln(1 + n / PATIENCE))."""
    share: Floats = 1 / (1 + np.log1p(np.asarray(n, dtype=np.float64) / PATIENCE))
    return share


def _moves() -> Floats:
    """(CELLS + 1, CELLS + 1) column-stochastic: within each jumping rate J, a share J spreads evenly over the bets."""
    blocks = [(1 - j) * np.eye(STATES) + j / STATES for j in JUMPS]
    moves = np.eye(CELLS + 1)
    for at, block in enumerate(blocks):
        moves[at * STATES : (at + 1) * STATES, at * STATES : (at + 1) * STATES] = block
    return moves


MOVES = _moves()
WAKE = np.append(np.full(CELLS, 1 / CELLS), -1.0)


@dataclass(frozen=True)
class Bets:
    """Where the game stands after n cases: log capital, and how it is spread over the bets (last: not yet at work)."""

    n: int = 0
    log_m: float = 0.0
    capital: tuple[float, ...] = (0.0,) * CELLS + (1.0,)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers that JSON keeps exactly."""
        return {"n": self.n, "log_m": self.log_m, "capital": list(self.capital)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Bets:
        """The state that to_json gave. Raises DataError where it was stored by another form of the game."""
        capital = tuple(float(part) for part in stored.get("capital", ()))
        if len(capital) != CELLS + 1 or not {"n", "log_m"} <= stored.keys():
            raise DataError(
                "The stored state of the watch is of another form: compute it anew from the cases."
            )
        return cls(int(stored["n"]), float(stored["log_m"]), capital)


START = Bets()


def advance(state: Bets, p: ArrayLike) -> tuple[Bets, Floats]:
    """The state after (n,) more p-values, and the (n,) natural log of the martingale after each.

    A mixture of Simple Jumpers (Vovk et al. 2021, «Retrain or not retrain», algorithm 1) over three jumping rates, with
    two strengths of slope, and bends for p-values that crowd at both ends or in the middle (degree 2 of arXiv:2606.20859). Their capital
    is put to work little by little (`idle`), which is a mixture over the time of the change: a quiet year costs a late
    alarm only the logarithm of its length, and the martingale never falls below idle(n).
    Raises DataError for p-values outside [0, 1].
    """
    p = uniform("p-values", p)
    left = idle(state.n + np.arange(len(p) + 1))
    wake = 1 - left[1:] / left[:-1]
    capital, growth = np.array(state.capital), np.empty(len(p))
    for start in range(0, len(p), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        pays = np.column_stack([np.tile(bets(p[part]), len(JUMPS)), np.ones(len(p[part]))])
        capital = _play(capital, pays, wake[part], growth[part])
    log_m = state.log_m + np.cumsum(np.log(growth))
    end = float(log_m[-1]) if len(p) else state.log_m
    return Bets(state.n + len(p), end, tuple(capital.tolist())), log_m


def _play(capital: Floats, pays: Floats, wake: Floats, growth: Floats) -> Floats:
    """The shares of capital after some cases; growth is filled with the factor that each case brought."""
    for i, pay in enumerate(pays):
        capital = (MOVES @ capital + capital[-1] * wake[i] * WAKE) * pay
        growth[i] = total = capital.sum()
        capital /= total
    return capital


def martingale(p: ArrayLike, state: Bets = START) -> Floats:
    """(n,) natural log of the martingale after each p-value; positive: evidence that the stream has changed."""
    return advance(state, p)[1]


def level(rate: float = 0.01, streams: int = 1) -> float:
    """The capital at which to raise the alarm, streams / rate.

    By Ville's inequality at most a share `rate` of sites where nothing ever changes will ever raise one, on whichever
    of their streams (measures watched side by side, each with a martingale of its own), for however long they run.
    Raises DataError for a rate outside (0, 1) or no stream.
    """
    if not 0 < rate < 1 or streams < 1:
        raise DataError(
            f"A false alarm rate of {rate} on {streams} streams: give a rate between 0 and 1, and streams."
        )
    return streams / rate


def alarm_at(log_m: ArrayLike, level: float) -> int | None:
    """Index of the first case at which the martingale, given as (n,) logs, stands at the level or above."""
    reached = np.asarray(log_m, dtype=np.float64) >= np.log(level)
    return int(reached.argmax()) if reached.any() else None


def began_at(p: ArrayLike, alarm: int) -> int:
    """Index of the case from which one constant bet, held up to the alarm, would have won most.

    p: (n,) p-values, from the start of the martingale. An estimate of when the stream changed, to look there first;
    nothing is promised of it.
    """
    won = np.log(bets(uniform("p-values", p)[: alarm + 1]))[::-1].cumsum(axis=0)
    return alarm - int(won.max(axis=1).argmax())


def alarms(p: ArrayLike, level: float) -> list[int]:
    """Indices of all alarms when the martingale starts again from 1 after each.

    Every new start may raise a false alarm with probability 1 / level. The bag keeps what came before an alarm; to
    accept the changed stream as the new normal, call online_p on the cases after it with an empty reference instead.
    """
    p = uniform("p-values", p)
    found: list[int] = []
    state, start = START, 0
    while start < len(p):
        state, log_m = advance(state, p[start : start + AT_ONCE])
        hit = alarm_at(log_m, level)
        start += len(log_m) if hit is None else hit + 1
        if hit is not None:
            found.append(start - 1)
            state = START
    return found

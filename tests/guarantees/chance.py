"""How far chance alone may carry a count: what lies beyond would come with a chance below one in a thousand."""

from scipy import stats


def at_most(n: int, rate: float) -> float:
    """Of n trials that each go wrong at the rate, the most that may."""
    return stats.binom.ppf(0.999, n, rate)


def at_least(n: int, rate: float) -> float:
    """Of n trials that each hold at the rate, the fewest that may."""
    return stats.binom.ppf(0.001, n, rate)

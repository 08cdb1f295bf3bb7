"""One line of numbers, one a case, checked where it enters."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlcore.errors import DataError

Floats = NDArray[np.float64]


def line(name: str, values: ArrayLike) -> Floats:
    """(n,) the values, any length. Raises DataError where they are not one line of finite numbers."""
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not np.isfinite(found).all():
        raise DataError(
            f"The {name}, of shape {found.shape}, must be one line of finite numbers: correct the scores."
        )
    return found


def uniform(name: str, values: ArrayLike, n: int | None = None) -> Floats:
    """(n,) the values. Raises DataError where one lies outside 0 to 1, or where they are not n."""
    found = line(name, values)
    if (n is not None and len(found) != n) or ((found < 0) | (found > 1)).any():
        raise DataError(f"The {len(found)} {name} must lie between 0 and 1, one for each case: correct them.")
    return found

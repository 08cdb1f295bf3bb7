"""Who is read besides the deferred: a random sample of automatic cases, and as large a share of deferred ones, blind.

Each case has a lot, uniform in [0, 1). Below the policy's audit rate the case is read blind, whatever its outcome: an
automatic one is drawn into the queue by it, a deferred one only loses the model's view. So nothing tells a reader which
of the two lies before them, and the propensity of an automatic case to be read is the audit rate itself.
"""

from __future__ import annotations

import hashlib
import hmac

from django.conf import settings
from django.db.models import Q

from triage import policy as dial
from triage.models import Policy, Prediction

BITS = 53  # what a float64 in [0, 1) holds


def lot(case: int, notes_sha256: str) -> float:
    """The lot of a case and its exact notes: the same for every release, not to be guessed without the secret key."""
    drawn = hmac.digest(settings.SECRET_KEY.encode(), f"lot {case} {notes_sha256}".encode(), hashlib.sha256)
    return (int.from_bytes(drawn[:8]) >> 64 - BITS) / 2**BITS


def drawn(policy: Policy) -> Q:
    """Predictions of the blind sample."""
    return Q(lot__lt=policy.audit_rate)


def to_read(policy: Policy) -> Q:
    """Predictions somebody is to read under the policy: deferred, or drawn."""
    return dial.deferred(policy.alpha, policy.typicality_floor, policy.automate) | drawn(policy)


def asks(policy: Policy, prediction: Prediction) -> bool:
    """``to_read`` of a prediction that is at hand."""
    return prediction.lot < policy.audit_rate or dial.outcome_of(prediction, policy) != dial.AUTOMATIC


def propensity(outcome: str, policy: Policy) -> float:
    """With what probability a case of this outcome is sent to a reader by the policy; on hold everything is."""
    return policy.audit_rate if outcome == dial.AUTOMATIC else 1.0

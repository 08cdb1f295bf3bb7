"""What the clinician's views ask of every request that brings something typed."""

from __future__ import annotations

from typing import Any

from django.core.signing import Signer
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare
from django.utils.translation import gettext as _

from reviews.adjudication import Conflict


def check_reader(request: HttpRequest) -> None:
    """Conflict when the page was drawn for somebody else than who is signed in now."""
    if request.POST.get("reader") != str(request.user.pk):
        raise Conflict(
            _(
                "Somebody else is signed in now. Sign in as yourself in another tab, then save; what you typed is kept."
            )
        )


def sentence(form: Any) -> str:
    """What is wrong with a form, in one line."""
    return " ".join(str(error) for errors in form.errors.values() for error in errors)


def wants_json(request: HttpRequest) -> bool:
    """Whether the page's script asks, or a plain form."""
    return request.get_preferred_type(["text/html", "application/json"]) == "application/json"


def seal(user: Any, case: int, prediction: int, policy: int, mode: str) -> str:
    """Proof that a page of ours was drawn for this person with these facts: a verdict is stored under no others."""
    return Signer(salt="verdict").signature(f"{user.pk} {case} {prediction} {policy} {mode}")


def check_seal(user: Any, case: int, sent: dict[str, Any]) -> None:
    """Raises Conflict for a verdict whose facts are not those of the page it came from."""
    own = seal(user, case, sent["prediction"], sent["policy"], sent["mode"])
    if not constant_time_compare(own, sent["seal"]):
        raise Conflict(_("This page is no longer valid. Reload it, then save; what you typed is kept."))

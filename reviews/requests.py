"""What the clinician's views ask of every request that brings something typed."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
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

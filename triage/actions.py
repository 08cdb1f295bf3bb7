"""A page that shows what stands and carries one form of what can be done about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.forms import Form
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from triage.access import Workplace

DONE = 302


def answer(
    request: HttpRequest,
    place: Workplace,
    form: Form,
    act: Callable[[HttpRequest, Workplace, Any], tuple[int, str]],
    page: Callable[[Workplace, Any], dict[str, Any]],
    template: str,
) -> HttpResponse:
    """What is posted is done and the page shown anew from its address; refused, it is shown with the reason.

    act: the status and, unless it is DONE, why nothing was done. page: what the template shows to a user.
    """
    status, error = 200, ""
    if request.method == "POST":
        status, error = act(request, place, form)
        if status == DONE:
            return redirect(request.path)
    facts = page(place, request.user) | {"form": form, "error": error}
    return render(request, template, facts, status=status)

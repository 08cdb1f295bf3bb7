"""The page of one's own keys to the API; for administrators, of everybody's at the site."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_POST

from triage import tokens
from triage.access import Workplace, workplace
from triage.models import Token


class TokenForm(forms.Form):
    name = forms.CharField(max_length=80, label=gettext_lazy("What it is for"))
    scopes = forms.MultipleChoiceField(
        choices=Token.Scope.choices, error_messages={"required": gettext_lazy("Choose what the key may do.")}
    )
    days = forms.IntegerField(
        min_value=1,
        max_value=tokens.MOST_DAYS,
        initial=tokens.DAYS,
        label=gettext_lazy("Days it is good for"),
    )


@require_http_methods(["GET", "HEAD", "POST"])
def keys(request: HttpRequest, site: str, protocol: str) -> HttpResponse:
    """The key made by a POST stands on its answer and nowhere else."""
    place = workplace(request, site, protocol)
    form = TokenForm(request.POST or None)
    made = _make(place, form) if request.method == "POST" else None
    status = 422 if form.errors else 200
    return render(request, "triage/keys.html", _page(request, place, form) | {"made": made}, status=status)


def _make(place: Workplace, form: TokenForm) -> str | None:
    if form.is_valid():
        asked = form.cleaned_data
        try:
            return tokens.create(place.membership, asked["name"], asked["scopes"], asked["days"])[1]
        except tokens.NotAllowed as error:
            form.add_error(None, error.told(_))
    return None


def _page(request: HttpRequest, place: Workplace, form: TokenForm) -> dict[str, Any]:
    allowed = tokens.scopes_of(place.membership)
    return {
        "place": place,
        "form": form,
        "choices": [(value, label, value in allowed) for value, label in Token.Scope.choices],
        "days": form["days"].value() or tokens.DAYS,
        "most_days": tokens.MOST_DAYS,
        "now": timezone.now(),
        "tokens": _listed(tokens.of(request.user, place.site)),
        "others": _listed(tokens.of_others(request.user, place.site)) if place.is_admin else [],
    }


def _listed(found: QuerySet[Token]) -> list[tuple[Token, list[str]]]:
    return [(token, [str(Token.Scope(scope).label) for scope in token.scopes]) for token in found]


@require_POST
def revoke(request: HttpRequest, site: str, protocol: str, token: int) -> HttpResponse:
    """One's own; an administrator's, anybody's at the site."""
    place = workplace(request, site, protocol)
    allowed = tokens.of(request.user, place.site)
    if place.is_admin:
        allowed = allowed | tokens.of_others(request.user, place.site)
    found = get_object_or_404(allowed, pk=token)
    if tokens.revoke(found, request.user):
        messages.success(
            request, _("Revoked: the key «%(name)s» opens nothing any more.") % {"name": found.name}
        )
    return redirect("triage:keys", site, protocol)

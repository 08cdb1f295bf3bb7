"""The page of releases, and what is done to one."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_http_methods

from mlcore.errors import BundleError, DataError
from triage import releases
from triage.access import Workplace, governs, workplace
from triage.models import Release
from triage.registry import ReleaseMoved
from triage.releases import ReleaseForm


@require_http_methods(["GET", "HEAD", "POST"])
def releases_page(request: HttpRequest, site: str, protocol: str) -> HttpResponse:
    place = workplace(request, site, protocol)
    if not place.is_lead:
        facts = {"place": place, "what": _("Releases are shown to leads and administrators")}
        return render(request, "reviews/lead_only.html", facts, status=403)
    form, status, error = ReleaseForm(request.POST or None), 200, ""
    if request.method == "POST":
        status, error = _act(request, place, form)
        if status == 302:
            return redirect("triage:releases", site, protocol)
    page = releases.page(place, request.user) | {"form": form, "error": error}
    return render(request, "triage/releases.html", page, status=status)


def _act(request: HttpRequest, place: Workplace, form: ReleaseForm) -> tuple[int, str]:
    if not governs(place, request.user):
        return 403, _("Only an administrator of every site that uses this protocol changes its releases.")
    if not form.is_valid():
        return 422, _("Nothing was done: give the reason, it stays in the trail.")
    try:
        release, done = releases.act(place, request.user, form.cleaned_data)
    except Release.DoesNotExist:
        raise Http404 from None
    except (ReleaseMoved, BundleError, DataError) as refused:
        return 409, _(str(refused))
    if form.cleaned_data["action"] == "shadow":
        messages.success(request, _("%(name)s is in line to be scored in shadow.") % {"name": release.name})
    else:
        messages.success(request, _activated(release, done))
    return 302, ""


def _activated(release: Release, done: dict[str, int]) -> str:
    waits = ngettext(
        "%(n)d case it had not scored waits.", "%(n)d cases it had not scored wait.", done["pending"]
    ) % {"n": done["pending"]}
    stands = ngettext(
        "%(name)s is active: %(n)d case stands by its score.",
        "%(name)s is active: %(n)d cases stand by its scores.",
        done["scored"],
    ) % {"name": release.name, "n": done["scored"]}
    return f"{stands} {waits}" if done["pending"] else stands

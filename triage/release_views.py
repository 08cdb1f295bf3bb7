"""The page of releases, and what is done to one."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods

from mlcore.errors import BundleError, DataError
from triage import releases
from triage.access import Workplace, for_leads, governs
from triage.actions import DONE, answer
from triage.models import Release
from triage.registry import ReleaseMoved
from triage.releases import ReleaseForm


@require_http_methods(["GET", "HEAD", "POST"])
@for_leads(gettext_lazy("Releases are shown to leads and administrators"))
def releases_page(request: HttpRequest, place: Workplace) -> HttpResponse:
    form = ReleaseForm(request.POST or None)
    return answer(request, place, form, _act, releases.page, "triage/releases.html")


def _act(request: HttpRequest, place: Workplace, form: ReleaseForm) -> tuple[int, str]:
    if not governs(place, request.user):
        return 403, _("Only an administrator of every site that uses this protocol changes its releases.")
    if not form.is_valid():
        return 422, _("Nothing was done: give the reason, it stays in the trail.")
    try:
        release, _task = releases.act(place, request.user, form.cleaned_data)
    except Release.DoesNotExist:
        raise Http404 from None
    except (ReleaseMoved, BundleError, DataError) as refused:
        return 409, refused.told(_)
    if form.cleaned_data["action"] == "shadow":
        messages.success(request, _("%(name)s is in line to be scored in shadow.") % {"name": release.name})
    else:
        messages.success(
            request, _("%(name)s is in line to be made the active one.") % {"name": release.name}
        )
    return DONE, ""

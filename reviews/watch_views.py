"""The watch and its alarms. Thin: parse, authorise, call one function, render."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST, require_safe

from reviews import alarms, watch_page
from triage.access import Workplace, for_leads, workplace
from triage.models import Alarm

REMARK = 1000  # characters


@require_safe
def watch(request: HttpRequest, site: str, protocol: str) -> HttpResponse:
    return render(request, "reviews/watch.html", watch_page.page(workplace(request, site, protocol)))


@require_POST
@for_leads(gettext_lazy("Alarms are marked as seen by leads and administrators"))
def see(request: HttpRequest, place: Workplace, alarm: int) -> HttpResponse:
    if not Alarm.objects.filter(site=place.site, protocol=place.protocol, pk=alarm).exists():
        raise Http404
    remark = request.POST.get("remark", "").strip()
    if not remark or len(remark) > REMARK:
        page = watch_page.page(place) | {"refused": alarm, "typed": remark}
        return render(request, "reviews/watch.html", page, status=400)
    if alarms.see(place, request.user, alarm, remark):
        messages.success(request, _("Marked as seen."))
    else:
        messages.warning(request, _("Somebody else has seen this alarm; their remark stands."))
    return HttpResponseRedirect(reverse("reviews:watch", args=[place.site.slug, place.protocol.slug]))

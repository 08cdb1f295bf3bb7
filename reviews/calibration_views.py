"""The page of calibrations: leads see it, administrators act on it."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from reviews import calibration_page, recalibration, training
from triage.access import Workplace, governs, workplace

ACTIONS = ("recalibrate", "return", "train")


class CalibrationForm(forms.Form):
    action = forms.ChoiceField(choices=[(name, name) for name in ACTIONS])
    calibration = forms.IntegerField(required=False)
    since = forms.DateField(required=False)
    reason = forms.CharField(max_length=1000)


@require_http_methods(["GET", "HEAD", "POST"])
def calibrations(request: HttpRequest, site: str, protocol: str) -> HttpResponse:
    place = workplace(request, site, protocol)
    if not place.is_lead:
        facts = {"place": place, "what": _("Calibrations are shown to leads and administrators")}
        return render(request, "reviews/lead_only.html", facts, status=403)
    form, status, error = CalibrationForm(request.POST or None), 200, ""
    if request.method == "POST":
        status, error = _act(request, place, form)
        if status == 302:
            return redirect("reviews:calibrations", site, protocol)
    page = calibration_page.page(place, request.user) | {"form": form, "error": error}
    return render(request, "reviews/calibrations.html", page, status=status)


def _act(request: HttpRequest, place: Workplace, form: CalibrationForm) -> tuple[int, str]:
    if not place.is_admin:
        return 403, _("Only an administrator of this site calibrates or trains from its labels.")
    if not form.is_valid():
        return 422, _("Nothing was done: give the reason, it stays in the trail, and a day that can be read.")
    asked = form.cleaned_data
    act = {"recalibrate": _recalibrate, "return": _return, "train": _train}[asked["action"]]
    return act(request, place, asked)


def _recalibrate(request: HttpRequest, place: Workplace, asked: dict[str, Any]) -> tuple[int, str]:
    facts = calibration_page.page(place, request.user)
    if "need" not in facts.get("labels", {}) or not facts["labels"]["need"].enough:
        return 409, _("Nothing was done: the audit sample is too small. What is missing stands below.")
    params = {"reason": asked["reason"]}
    if asked["since"]:
        params["since"] = asked["since"].isoformat()
    recalibration.ask(place.site, place.protocol, by=request.user, params=params)
    messages.success(
        request, _("In line: the cases are ranked anew in the background, then all change at once.")
    )
    return 302, ""


def _return(request: HttpRequest, place: Workplace, asked: dict[str, Any]) -> tuple[int, str]:
    former = calibration_page.page(place, request.user).get("former", [])
    if asked["calibration"] not in {one["row"].pk for one in former}:
        raise Http404
    params = {"reason": asked["reason"], "calibration": asked["calibration"]}
    recalibration.ask(place.site, place.protocol, by=request.user, params=params)
    messages.success(request, _("In line: the former scores will stand again, all at once."))
    return 302, ""


def _train(request: HttpRequest, place: Workplace, asked: dict[str, Any]) -> tuple[int, str]:
    if not governs(place, request.user):
        return 403, _(
            "Only an administrator of every site that uses this protocol trains a release from a page."
        )
    training.ask(place.site, place.protocol, by=request.user, reason=asked["reason"])
    messages.success(
        request,
        _("In line: the release will be trained in the background and installed beside the active one."),
    )
    return 302, ""

"""The page of calibrations: leads see it, administrators act on it."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods

from reviews import calibration_page, recalibration, training
from triage.access import Workplace, for_leads, governs
from triage.actions import DONE, answer

ACTIONS = ("recalibrate", "return", "train")


class CalibrationForm(forms.Form):
    action = forms.ChoiceField(choices=[(name, name) for name in ACTIONS])
    calibration = forms.IntegerField(required=False)
    since = forms.DateField(required=False)
    reason = forms.CharField(max_length=1000)


@require_http_methods(["GET", "HEAD", "POST"])
@for_leads(gettext_lazy("Calibrations are shown to leads and administrators"))
def calibrations(request: HttpRequest, place: Workplace) -> HttpResponse:
    form = CalibrationForm(request.POST or None)
    return answer(request, place, form, _act, calibration_page.page, "reviews/calibrations.html")


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
    return DONE, ""


def _return(request: HttpRequest, place: Workplace, asked: dict[str, Any]) -> tuple[int, str]:
    former = calibration_page.page(place, request.user).get("former", [])
    if asked["calibration"] not in {one["row"].pk for one in former}:
        raise Http404
    params = {"reason": asked["reason"], "calibration": asked["calibration"]}
    recalibration.ask(place.site, place.protocol, by=request.user, params=params)
    messages.success(request, _("In line: the former scores will stand again, all at once."))
    return DONE, ""


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
    return DONE, ""

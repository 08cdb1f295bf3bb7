"""The dial's pages: preview and turn, versions side by side, a return to a former one, and what becomes of a proposal."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import NoReverseMatch, reverse
from django.utils.formats import date_format
from django.utils.timezone import localtime
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from triage import dial as dialling
from triage import policy, tally
from triage.access import Workplace, workplace
from triage.forms import ActionForm, DialForm, PreviewForm, ProposalForm, ReturnForm
from triage.models import Membership, Policy, Proposal, Role, Site
from triage.tally import Setting

NAMED = {"typicality_floor": "floor"}  # settings that a form calls otherwise
INSTRUMENTS = "reviews:dial-instruments"
UNCHANGED = gettext_lazy("Nothing was saved: these are the settings there are. Change one of them first.")
ALONE = gettext_lazy("This site has one administrator: nobody could approve.")
SAID = {
    "alpha": gettext_lazy("Tolerated risk, α"),
    "typicality_floor": gettext_lazy("Typicality floor"),
    "audit_rate": gettext_lazy("Audit rate"),
    "automate": gettext_lazy("Settle clear cases automatically"),
    "second_approver": gettext_lazy("Turns need a second administrator"),
    "hold_on_alarm": gettext_lazy("An alarm puts automation on hold"),
    "second_opinion": gettext_lazy("Second opinion"),
}


@require_http_methods(["GET", "POST"])
def dial(request: HttpRequest, site: str, protocol: str) -> HttpResponse:
    place = workplace(request, site, protocol)
    base, today = (read(place.site, place.protocol) for read in (policy.latest, policy.current))
    step = ActionForm(request.POST if "action" in request.POST else None)
    turned = request.method == "POST" and not step.is_bound
    form = DialForm(request.POST if turned else None, initial=_typed(today) | _tried(request))
    status = 200
    if request.method == "POST":
        status = _act(request, place, base, step) if step.is_bound else _turn(request, place, base, form)
    if status == 302:
        return redirect("triage:dial", site, protocol)
    page = _dial_page(place, form, status) | {"step": step}
    return render(request, "triage/dial.html", page, status=status)


def _typed(dial: Policy) -> dict[str, Any]:
    """The settings by the form's names."""
    return {NAMED.get(name, name): value for name, value in policy.settings_of(dial).items()}


def _tried(request: HttpRequest) -> dict[str, Any]:
    """α and floor that a link proposes."""
    form = PreviewForm(request.GET)
    form.is_valid()
    return {
        name: form.cleaned_data[name]
        for name in ("alpha", "floor")
        if form.cleaned_data.get(name) is not None
    }


def _turn(request: HttpRequest, place: Workplace, base: Policy, form: DialForm) -> int:
    valid = form.is_valid()
    if not place.is_admin:
        form.add_error(None, _("Only an admin of this site turns the dial."))
        return 403
    typed = {name: value for name, value in form.cleaned_data.items() if value is not None}
    chosen = _typed(policy.current(place.site, place.protocol)) | typed
    if valid:
        _check(place, base, chosen, form)
    return _write(request, place, chosen) if form.is_valid() else 422


def _check(place: Workplace, base: Policy, chosen: dict[str, Any], form: DialForm) -> None:
    """What the fields alone cannot tell, told at the field where it is to be mended."""
    today, start = policy.current(place.site, place.protocol), chosen.get("starts_at")
    if _same(base, chosen):
        form.add_error(None, UNCHANGED)
    elif chosen["alpha"] not in (base.alpha, today.alpha):
        for sentence in dialling.refusals(place, chosen["alpha"]):
            form.add_error("alpha", sentence)
    if chosen["second_approver"] and not base.second_approver and _admins(place.site).count() < 2:
        form.add_error("second_approver", ALONE)
    if base.waits and start and start > base.starts_at:
        sooner = _("Version %(version)d starts before that, on %(start)s. Cancel it first.") % _told(base)
        form.add_error("starts_at", sooner)


def _same(base: Policy, chosen: dict[str, Any]) -> bool:
    """Whether ``chosen`` is the latest version again; where that one waits, its start counts too."""
    same = all(chosen[name] == value for name, value in _typed(base).items())
    return same and (not base.waits or chosen.get("starts_at") == base.starts_at)


def _admins(site: Site) -> QuerySet[Membership]:
    active = Membership.objects.filter(site=site, role=Role.ADMIN, user__is_active=True)
    return active.select_related("user").order_by("user__last_name", "user__username")


def _approvers(place: Workplace) -> list[Any]:
    """Who may approve the proposal that waits."""
    waiting = policy.proposal(place.site, place.protocol)
    others = _admins(place.site).exclude(user=waiting.author) if waiting else []
    return [one.user for one in others]


def _act(request: HttpRequest, place: Workplace, base: Policy, step: ActionForm) -> int:
    """A hold needs nobody's approval; a lift and a cancellation are turns to the settings in force."""
    valid = step.is_valid()
    if not place.is_admin:
        step.add_error(None, _("Only an admin of this site turns the dial."))
        return 403
    if not valid:
        return 422
    typed = step.cleaned_data
    action = typed.pop("action")
    if action == "hold":
        _say(request, policy.hold(place.site, place.protocol, reason=typed["reason"], author=request.user))
        return 302
    chosen = _typed(policy.current(place.site, place.protocol)) | typed
    if action == "lift":
        chosen["automate"] = True
    if typed["base_version"] == base.version and _same(base, chosen):
        step.add_error(None, UNCHANGED)
        return 422
    return _write(request, place, chosen)


def _write(request: HttpRequest, place: Workplace, chosen: dict[str, Any]) -> int:
    try:
        turned = policy.turn(place.site, place.protocol, author=request.user, **chosen)
    except policy.PolicyMoved:
        return 409
    _say(request, turned)
    return 302


def _say(request: HttpRequest, turned: Policy | Proposal) -> None:
    if isinstance(turned, Proposal):
        said = _("Proposed. It becomes a version once another administrator approves it.")
    elif turned.waits:
        said = _("Saved: version %(version)d starts on %(start)s.") % _told(turned)
    else:
        said = _("Saved: version %(version)d is in force.") % _told(turned)
    messages.success(request, said)


def _told(turned: Policy) -> dict[str, Any]:
    return {
        "version": turned.version,
        "start": date_format(localtime(turned.starts_at), "SHORT_DATETIME_FORMAT"),
    }


def _dial_page(place: Workplace, form: DialForm, status: int) -> dict[str, Any]:
    today, newest = (read(place.site, place.protocol) for read in (policy.current, policy.latest))
    where = [place.site.slug, place.protocol.slug]
    return {
        "form": form,
        "policy": today,
        "latest": newest,
        "waiting": newest if newest != today else None,
        "proposal": policy.proposal(place.site, place.protocol),
        "approvers": _approvers(place),
        "proposes": today.second_approver or newest.second_approver,
        "conflict": status == 409,
        "curve": dialling.curve(place, today.typicality_floor),
        "pace": dialling.pace(place),
        "target_name": ", ".join(target["name"] for target in _targets(place)),
        "many": len(place.protocol.labels) > 2,
        "targets": _targets(place),
        "preview_url": reverse("triage:dial-preview", args=where),
        "instruments_url": _instruments(where),
        "can_save": place.is_admin,
    }


def _targets(place: Workplace) -> list[dict[str, str]]:
    """Each target's name, and what its figures are called: of several they stand apart, as in ``dial.preview``."""
    names = dict(zip(place.protocol.labels, place.protocol.label_names, strict=True))
    several = len(place.protocol.targets) > 1
    return [
        {"name": names[target], "of": f"/{target}" if several else ""} for target in place.protocol.targets
    ]


def _instruments(where: list[str]) -> str:
    try:
        return reverse(INSTRUMENTS, args=where)
    except NoReverseMatch:
        return ""


@require_GET
def dial_preview(request: HttpRequest, site: str, protocol: str) -> JsonResponse:
    """What a setting would do. ``hours`` instead of ``alpha`` asks for the α that keeps reading within them."""
    place = workplace(request, site, protocol)
    form = PreviewForm(request.GET)
    if not form.is_valid():
        return JsonResponse({"errors": form.errors}, status=422)
    today, typed = policy.current(place.site, place.protocol), form.cleaned_data
    given = {name: value for name, value in typed.items() if value is not None}
    rate, automate = given.get("audit_rate", today.audit_rate), given.get("automate", today.automate)
    try:
        alpha = (
            given["alpha"]
            if "hours" not in given
            else dialling.within(place, given["hours"], typed["floor"], rate)
        )
    except dialling.NotAffordable as refusal:
        return JsonResponse({"errors": {"hours": [str(refusal)]}}, status=422)
    return JsonResponse(dialling.preview(place, today, Setting(alpha, typed["floor"], automate), rate))


@require_http_methods(["GET", "POST"])
def dial_versions(request: HttpRequest, site: str, protocol: str) -> HttpResponse:
    """All versions, two of them side by side; posted, a return to one of them."""
    place = workplace(request, site, protocol)
    if request.method == "POST":
        return _return(request, place)
    return _versions(request, place, ReturnForm())


def _versions(request: HttpRequest, place: Workplace, form: ReturnForm, status: int = 200) -> HttpResponse:
    today, newest = (read(place.site, place.protocol) for read in (policy.current, policy.latest))
    versions = list(
        Policy.objects.filter(site=place.site, protocol=place.protocol)
        .select_related("author", "approver")
        .order_by("-version")
    )
    _mark_replaced(versions)
    page = {
        "form": form,
        "policy": today,
        "latest": newest,
        "versions": versions,
        "proposal": policy.proposal(place.site, place.protocol),
        "approvers": _approvers(place),
        "proposal_form": ProposalForm(),
        "can_save": place.is_admin,
        "compared": _compared(
            place, today, versions, form.data.get("version") or request.GET.get("version"), request
        ),
        "conflict": status == 409,
    }
    return render(request, "triage/dial_versions.html", page, status=status)


def _mark_replaced(versions: list[Policy]) -> None:
    """``replaced`` on each, the newest first: a later version began before or with it, so it was never in force."""
    for i, row in enumerate(versions):
        row.replaced = any(later.starts_at <= row.starts_at for later in versions[:i])  # type: ignore[attr-defined]


def _compared(
    place: Workplace, today: Policy, versions: list[Policy], asked: str | None, request: HttpRequest
) -> dict[str, Any] | None:
    """Two versions side by side: ``version``, and ``with`` or the one in force. None where no version is asked for."""
    numbered = {str(row.version): row for row in versions}
    waiting = policy.proposal(place.site, place.protocol)
    other = waiting if asked == "proposal" else numbered.get(asked or "")
    if other is None:
        return None
    one = numbered.get(request.GET.get("with", ""), today)
    before, after, changed = tally.compare(
        place.site, place.protocol, tally.setting(one), tally.setting(other)
    )
    values = [policy.settings_of(row) for row in (one, other)]
    return {
        "one": one,
        "other": other,
        "former": isinstance(other, Policy),
        "rows": [
            {
                "name": name,
                "said": said,
                "values": [v[name] for v in values],
                "same": values[0][name] == values[1][name],
            }
            for name, said in SAID.items()
        ],
        "automatic": [counts["automatic"] for counts in (before, after)],
        "n": sum(before.values()),
        "changed": changed,
        "refused": dialling.refusals(place, other.alpha) if other.alpha != today.alpha else [],
    }


def _return(request: HttpRequest, place: Workplace) -> HttpResponse:
    form = ReturnForm(request.POST)
    if not place.is_admin:
        form.add_error(None, _("Only an admin of this site turns the dial."))
        return _versions(request, place, form, 403)
    if not form.is_valid():
        return _versions(request, place, form, 422)
    typed = form.cleaned_data
    former = Policy.objects.filter(
        site=place.site, protocol=place.protocol, version=typed.pop("version")
    ).first()
    if former is None:
        raise Http404
    base = policy.latest(place.site, place.protocol)
    if former.alpha != base.alpha:
        for sentence in dialling.refusals(place, former.alpha):
            form.add_error(None, sentence)
    if _same(base, _typed(former) | typed):
        form.add_error(None, UNCHANGED)
    if former.second_approver and not base.second_approver and _admins(place.site).count() < 2:
        form.add_error(None, ALONE)
    if not form.is_valid():
        return _versions(request, place, form, 422)
    try:
        turned = policy.give_back(former, author=request.user, **typed)
    except policy.PolicyMoved:
        return _versions(request, place, form, 409)
    _say(request, turned)
    return redirect("triage:dial-versions", place.site.slug, place.protocol.slug)


@require_POST
def dial_proposal(request: HttpRequest, site: str, protocol: str, proposal: int) -> HttpResponse:
    """Another administrator approves or declines it; its author may withdraw it."""
    place = workplace(request, site, protocol)
    found = Proposal.objects.filter(site=place.site, protocol=place.protocol, pk=proposal).first()
    if found is None:
        raise Http404
    form = ProposalForm(request.POST)
    status = _decide(request, place, found, form)
    if status == 302:
        return redirect("triage:dial-versions", site, protocol)
    return _versions(request, place, ReturnForm(), status)


def _decide(request: HttpRequest, place: Workplace, found: Proposal, form: ProposalForm) -> int:
    refused = _refused(request, place, found, form)
    if refused:
        messages.error(request, refused)
        return 403 if form.is_valid() else 422
    typed = form.cleaned_data
    try:
        if typed["decision"] == "approve":
            _say(request, policy.approve(found, request.user))
        else:
            policy.close(found, request.user, typed["remark"])
            messages.success(request, _("The proposal is closed. The dial stays as it was."))
    except policy.PolicyMoved as moved:
        messages.error(request, _(str(moved)))
        return 409
    return 302


def _refused(request: HttpRequest, place: Workplace, found: Proposal, form: ProposalForm) -> str:
    """Why it is not theirs to decide so; "" where it is."""
    if not place.is_admin:
        return _("Only an admin of this site turns the dial.")
    if not form.is_valid():
        return " ".join(error for errors in form.errors.values() for error in errors)
    own, decision = found.author_id == request.user.pk, form.cleaned_data["decision"]
    if own and decision != "withdraw":
        return _(policy.OWN)
    if not own and decision == "withdraw":
        return _("Only who proposed it withdraws it. Decline it instead, and say why.")
    base = policy.latest(place.site, place.protocol)
    refusals = (
        dialling.refusals(place, found.alpha) if decision == "approve" and found.alpha != base.alpha else []
    )
    return " ".join(refusals)

"""The dial page through the real view: who turns it, what a refusal keeps, what everyone sees."""

import json
import re
from datetime import timedelta
from itertools import count

import numpy as np
import pytest
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from safetensors.numpy import load, save

from mlcore import decision, metrics
from tests import factories
from triage import dial, jobs, policy
from triage.access import Workplace
from triage.models import AuditEvent, Calibration, Membership, Policy, Prediction, Proposal

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _no_queue(monkeypatch):
    monkeypatch.setattr(jobs, "wake_after_turn", lambda *_: None)


@pytest.fixture
def page(site, protocol) -> str:
    policy.current(site, protocol)
    factories.predictions(
        site, protocol, [0.9, 0.5, 0.01, 0.9], [0.01, 0.3, 0.001, 0.01], [0.5, 0.5, 0.5, 0.001]
    )
    Calibration.objects.update(held_out=held_out())
    return reverse("triage:dial", args=[site.slug, protocol.slug])


def held_out() -> bytes:
    """Forty calibration cases, right and clear but for a few."""
    rng = np.random.default_rng(3)
    truth = np.repeat([0, 1], 20)
    numbers = {
        "credibility": rng.uniform(0.1, 1, 40),
        "runner_up": rng.uniform(0, 0.1, 40),
        "typicality": rng.uniform(0, 1, 40),
    }
    return save({"truth": truth, "label": truth.copy(), "weight": np.ones(40), **numbers})


def signed_in(user, language="es") -> Client:
    client = Client(HTTP_ACCEPT_LANGUAGE=language)
    client.session.save()
    client.force_login(user)
    return client


def turn(client, page, **changes):
    return client.post(
        page, {"alpha": "0,05", "floor": "0,01", "reason": "Agosto.", "base_version": 1} | changes
    )


def field(html: str, name: str) -> str:
    return re.search(rf'<input[^>]*name="{name}"[^>]*value="([^"]*)"', html)[1]


def test_the_page_shows_todays_values_with_the_readers_decimal_sign(admin, page):
    spanish = signed_in(admin).get(page).content.decode()
    english = signed_in(admin, "en").get(page).content.decode()
    assert (field(spanish, "alpha"), field(english, "alpha")) == ("0,02", "0.02")
    assert 'data-alpha="0.02"' in spanish
    assert "Guardar como versión 2" in spanish
    assert "Save as version 2" in english


def test_the_curve_travels_as_data(admin, page):
    html = signed_in(admin).get(page).content.decode()
    curve = json.loads(re.search(r'<script id="curve" type="application/json">(.*?)</script>', html, re.S)[1])
    assert curve["n"] == 4
    totals = {sum(curve[name][i] for name in decision.NAMES) for i in range(len(curve["alpha"]))}
    assert totals == {4}


@pytest.mark.parametrize("alpha", ["0,05", "0.05"])
def test_a_turn_takes_comma_and_point_and_shows_the_new_version(admin, page, alpha):
    client = signed_in(admin)
    assert turn(client, page, alpha=alpha).status_code == 302
    assert Policy.objects.get(version=2).alpha == 0.05
    html = client.get(page).content.decode()
    assert "Guardar como versión 3" in html
    assert "la versión 2 está vigente" in html


def test_a_late_turn_is_told_and_keeps_what_was_typed(admin, page):
    client = signed_in(admin)
    turn(client, page, reason="La primera.")
    late = turn(client, page, alpha="0,1", reason="La <b>segunda</b>.")
    html = late.content.decode()
    assert late.status_code == 409
    assert Policy.objects.count() == 2
    assert 'role="alert"' in html and "La primera." in html
    assert field(html, "alpha") == "0,1"
    assert "La &lt;b&gt;segunda&lt;/b&gt;." in html
    assert field(html, "base_version") == "2"


@pytest.mark.parametrize("wrong", [{"alpha": "mucho"}, {"alpha": "0,9"}, {"floor": "-1"}, {"reason": "  "}])
def test_a_wrong_value_is_told_at_its_field_and_nothing_is_saved(admin, page, wrong):
    refused = turn(signed_in(admin), page, **wrong)
    name = next(iter(wrong))
    html = refused.content.decode()
    assert (refused.status_code, Policy.objects.count()) == (422, 1)
    errors = re.search(rf'<ul class="error" id="id_{name}-error">(.*?)</ul>', html, re.S)[1]
    assert "<li>" in errors
    assert re.search(rf'id="id_{name}"[^>]*aria-invalid="true"', html)


@pytest.mark.parametrize("role", ["reader", "lead"])
def test_others_read_the_dial_and_cannot_turn_it(request, role, page):
    client = signed_in(request.getfixturevalue(role))
    html = client.get(page).content.decode()
    assert re.search(r'id="id_alpha"[^>]*readonly', html)
    assert 'name="reason"' not in html
    assert turn(client, page).status_code == 403
    assert Policy.objects.count() == 1


def test_the_frame_has_what_every_page_promises(admin, page):
    html = signed_in(admin).get(page).content.decode()
    assert "Prototipo de investigación" in html
    assert f'<form method="post" action="{reverse("logout")}">' in html
    assert f'action="{reverse("set_language")}"' in html
    assert re.search(r'<a href="[^"]*/dial/" aria-current="page">', html)
    assert "no-store" in signed_in(admin).get(page)["Cache-Control"]


def test_a_turn_that_changes_nothing_is_no_version(page, admin):
    answer = turn(signed_in(admin), page, alpha="0,02")
    assert answer.status_code == 422
    assert 'class="banner banner-error" role="alert"' in answer.content.decode()
    assert Policy.objects.count() == 1


# ---------- What is previewed


def preview(client, page, **changes):
    answer = client.get(f"{page}preview/", {"alpha": "0.05", "floor": "0.01", "audit_rate": "0"} | changes)
    return answer.status_code, answer.json()


def test_the_preview_counts_own_cases_and_reads_calibration_at_the_very_candidate(reader, page):
    status, found = preview(signed_in(reader), page, alpha="0,00513")
    assert (status, found["n"], found["changed"]) == (200, 4, 2)
    assert found["now"] == {"automatic": 1, "ambiguous": 1, "novel": 1, "atypical": 1, "held": 0}
    assert found["then"] == {"automatic": 1, "ambiguous": 3, "novel": 0, "atypical": 0, "held": 0}
    cases = load(held_out())
    decided = decision.decide(cases["credibility"], cases["runner_up"], cases["typicality"], 0.00513, 0.01)
    then = found["calibration"]["then"]
    assert then["coverage"][0] == round(float(metrics.coverage(decided)), 4)
    assert then["coverage"][1] <= then["coverage"][0] <= then["coverage"][2]
    assert then["coverage"][3] == 40 and then["tpdr"][3] == 20
    assert then["clear_f2"][3] == then["missed"][3] == int((decided == decision.AUTOMATIC).sum())


def test_figures_and_intervals_are_those_of_the_weighted_bootstrap(page):
    """Each metric by its own definition, over the same resamples."""
    rng = np.random.default_rng(4)
    label = rng.integers(0, 2, 60)
    cases = load(held_out())
    cases = {name: np.concatenate([x, x[:20]]) for name, x in cases.items()}
    cases |= {"label": label, "weight": rng.choice([0.25, 1.0], 60), "runner_up": rng.uniform(0, 0.06, 60)}
    cases |= {"credibility": rng.uniform(0.06, 1, 60)}
    Calibration.objects.update(held_out=save(cases))
    made = Calibration.objects.get()
    numbers = (cases[name] for name in ("credibility", "runner_up", "typicality"))
    decided, truth, prior = decision.decide(*numbers, 0.05, 0.01), cases["truth"], cases["weight"]
    automatic = decided == decision.AUTOMATIC
    wrong = (truth == 1) & (label == 0)
    expected = metrics.bootstrap(
        {
            "coverage": (lambda w: metrics.coverage(decided, w * prior), np.ones(60)),
            "tpdr": (lambda w: metrics.tpdr(decided, truth, (1,), w * prior), truth == 1),
            "clear_f2": (
                lambda w: metrics.f_beta(truth, label, (1,), weights=w * prior * automatic),
                automatic,
            ),
            "missed": (lambda w: 1000 * metrics.share(wrong, automatic, w * prior), automatic),
        },
        60,
        dial.REPLICATES,
    )
    found = dial.at_setting(made.pk, 0.05, 0.01, (1,))
    for name, interval in expected.items():
        value, low, high, n = found[name]
        assert (value, low, n) == (round(interval.value, 4), round(interval.low, 4), interval.n)
        assert high == round(interval.high, 4) or (name == "missed" and high > interval.high)
    assert 10 < automatic.sum() < 60 and wrong[automatic].sum() > 2


def test_none_missed_is_no_proof_that_none_will_be(reader, page):
    """Forty cases without an error: the upper end is the exact bound of that many, not zero."""
    value, low, high, n = preview(signed_in(reader), page, alpha="0.1")[1]["calibration"]["then"]["missed"]
    assert (value, low) == (0, 0) and n > 30
    assert high == pytest.approx(1000 * (1 - 0.025 ** (1 / n)), rel=1e-3)


def test_a_hold_is_previewed_as_everything_read(reader, page):
    found = preview(signed_in(reader), page, alpha="0.02", automate="0")[1]
    assert found["then"] == found["now"] | {"automatic": 0, "held": 1}
    assert found["changed"] == 1


def weeks_of_cases(site, protocol, reader, minutes=5):
    """40 cases over the last two weeks, a quarter of them deferred at 0.02 and half at 0.005; twenty readings timed."""
    Prediction.objects.all().delete()
    second = [0.001] * 20 + [0.01] * 10 + [0.3] * 10
    rows = factories.predictions(site, protocol, [0.9] * 40, second, [0.5] * 40)
    Prediction.objects.update(at=timezone.now() - timedelta(days=13, hours=23))
    for row in rows[:20]:
        factories.review(row, reader, 0, seconds=60 * minutes)
    cache.clear()


def test_a_week_of_reading_follows_from_arrivals_and_pace(site, protocol, reader, admin, page):
    weeks_of_cases(site, protocol, reader)
    found = preview(signed_in(admin), page, alpha="0.005", audit_rate="0.5")[1]
    weeks = (13 * 24 + 23) / (7 * 24)
    now, then = found["week"]["now"], found["week"]["then"]
    assert now["deferred"][0] == pytest.approx(10 / weeks, rel=1e-3)
    assert then["deferred"][0] == pytest.approx(20 / weeks, rel=1e-3)
    # Garwood's interval of a count of 10 is 4.795 to 18.391
    assert now["deferred"][1:] == pytest.approx([4.795 / weeks, 18.391 / weeks], rel=1e-3)
    assert now["hours"][0] == pytest.approx(10 / weeks * 5 / 60, rel=1e-3)
    assert then["hours"][0] == pytest.approx((20 + 0.5 * 20) / weeks * 5 / 60, rel=1e-3)
    assert now["hours"][1] < now["hours"][0] < now["hours"][2]
    assert (now["arrived"], now["timed"]) == (40, 20)
    site_hours = dial.pace(Workplace(site, protocol, Membership.objects.get(user=admin)))
    assert site_hours == (300, 300, 300, 20)


def test_a_reading_budget_finds_the_most_careful_alpha_that_fits(site, protocol, reader, admin, page):
    weeks_of_cases(site, protocol, reader)
    client, query = signed_in(admin), {"floor": "0.01", "audit_rate": "0"}
    for hours, expected in (("0,84", "ten in the smaller half"), ("0.42", "a quarter")):
        found = client.get(f"{page}preview/", query | {"hours": hours}).json()
        deferred = found["then"]["ambiguous"]
        assert found["week"]["then"]["hours"][0] <= float(hours.replace(",", "."))
        assert deferred == {"ten in the smaller half": 20, "a quarter": 10}[expected]
    assert found["alpha"] == min(alpha for alpha in dial.ALPHAS if alpha >= 0.01)
    refused = client.get(f"{page}preview/", query | {"hours": "0.1"})
    assert refused.status_code == 422 and refused.json()["errors"]["hours"]


def test_without_arrivals_or_pace_a_budget_says_so(admin, page):
    cache.clear()
    answer = signed_in(admin).get(f"{page}preview/", {"floor": "0.01", "hours": "10"})
    assert answer.status_code == 422 and answer.json()["errors"]["hours"]


def test_an_alpha_finer_than_calibration_is_refused_by_label_unless_it_is_in_force(
    site, protocol, admin, page
):
    """200 cases a label: p-values go down to 1/201."""
    client = signed_in(admin)
    Calibration.objects.update(counts=[2000, 200])
    assert turn(client, page, alpha="0,0049").status_code == 422
    html = turn(client, page, alpha="0,0049").content.decode()
    errors = re.search(r'<ul class="error" id="id_alpha-error">(.*?)</ul>', html, re.S)[1]
    assert errors.count("<li>") == 1 and protocol.label_names[1] in errors and "204" in errors
    assert preview(client, page, alpha="0.0049")[1]["refused"]
    assert not preview(client, page, alpha="0.005")[1]["refused"]
    Calibration.objects.update(counts=[20, 20])
    assert turn(client, page, alpha="0,02", audit_rate="0,1").status_code == 302
    assert Policy.objects.latest("version").audit_rate == 0.1


# ---------- Hold, approval, start, return


NUMBER = count(1)


def another(site):
    user = get_user_model().objects.create_user(f"admin-{next(NUMBER)}", password="x")
    Membership.objects.create(user=user, site=site, role="admin")
    return user


BOXES = {"boxes": "on"}


def test_boxes_that_were_not_shown_change_nothing_and_those_shown_do(site, protocol, admin, page):
    client = signed_in(admin)
    turn(client, page, alpha="0,03")
    assert Policy.objects.get(version=2).automate
    turn(client, page, alpha="0,03", base_version=2, boxes="on", hold_on_alarm="on")
    turned = policy.current(site, protocol)
    assert (turned.version, turned.automate, turned.hold_on_alarm) == (3, True, True)
    turn(client, page, alpha="0,03", base_version=3, **BOXES)
    assert not policy.current(site, protocol).hold_on_alarm


def act(client, page, action, version, reason="Deriva."):
    return client.post(page, {"action": action, "reason": reason, "base_version": version})


def schedule(client, page, days=2, **changes):
    ahead = timezone.localtime() + timedelta(days=days)
    return turn(client, page, starts_at=f"{ahead:%Y-%m-%dT%H:%M}", **changes)


def test_a_hold_keeps_what_is_in_force_and_not_what_was_scheduled(site, protocol, admin, page):
    client = signed_in(admin)
    schedule(client, page)
    assert act(client, page, "hold", 2, reason=" ").status_code == 422
    assert act(client, page, "hold", 2).status_code == 302
    held = policy.current(site, protocol)
    assert (held.version, held.alpha, held.automate, held.reason) == (3, 0.02, False, "Deriva.")
    turn(client, page, alpha="0,03", base_version=3, **BOXES)
    assert not policy.current(site, protocol).automate
    assert act(client, page, "lift", 3).status_code == 409
    assert act(client, page, "lift", 4).status_code == 302
    lifted = policy.current(site, protocol)
    assert (lifted.version, lifted.alpha, lifted.automate) == (5, 0.03, True)
    assert act(client, page, "lift", 5).status_code == 422


def test_a_hold_waits_for_nobody_and_its_lift_for_a_second_administrator(site, protocol, admin, page):
    client, other = signed_in(admin), another(site)
    turn(client, page, alpha="0,02", second_approver="on", **BOXES)
    act(client, page, "hold", 2)
    assert not policy.current(site, protocol).automate
    act(client, page, "lift", 3)
    assert Proposal.objects.get().automate and not policy.current(site, protocol).automate
    assert other.username in client.get(page).content.decode()


def test_one_administrator_cannot_ask_for_a_second(site, protocol, admin, page):
    client, other = signed_in(admin, "en"), another(site)
    get_user_model().objects.filter(pk=other.pk).update(is_active=False)
    refused = turn(client, page, second_approver="on", **BOXES)
    assert refused.status_code == 422 and Policy.objects.count() == 1
    assert 'id="id_second_approver-error"' in refused.content.decode()


def test_a_reader_holds_lifts_and_cancels_nothing(reader, page):
    client = signed_in(reader)
    assert 'name="action"' not in client.get(page).content.decode()
    assert {act(client, page, step, 1).status_code for step in ("hold", "lift", "cancel")} == {403}
    assert Policy.objects.count() == 1


def test_a_scheduled_version_is_moved_forward_cancelled_and_told_as_never_in_force(
    site, protocol, admin, page
):
    client = signed_in(admin, "en")
    assert schedule(client, page, days=400).status_code == 422
    assert act(client, page, "cancel", 1).status_code == 422
    assert schedule(client, page, days=9).status_code == 302
    same = timezone.localtime(policy.latest(site, protocol).starts_at)
    assert turn(client, page, base_version=2, starts_at=f"{same:%Y-%m-%dT%H:%M}").status_code == 422
    assert schedule(client, page, days=20, base_version=2).status_code == 422
    assert schedule(client, page, days=3, base_version=2).status_code == 302
    assert act(client, page, "cancel", 3).status_code == 302
    now = policy.current(site, protocol)
    assert (now.version, now.alpha, policy.latest(site, protocol)) == (4, 0.02, now)
    html = client.get(reverse("triage:dial-versions", args=[site.slug, protocol.slug])).content.decode()
    assert html.count("replaced, never in force") == 2


def test_a_scheduled_version_is_postponed_by_cancelling_it_and_scheduling_anew(site, protocol, admin, page):
    client = signed_in(admin, "en")
    schedule(client, page, days=3)
    refused = schedule(client, page, days=20, base_version=2)
    assert refused.status_code == 422 and "Cancel it first." in refused.content.decode()
    assert act(client, page, "cancel", 2).status_code == 302
    assert schedule(client, page, days=20, base_version=3).status_code == 302
    begun = Policy.objects.filter(starts_at__lte=timezone.now() + timedelta(days=10)).order_by("-version")
    assert [row.version for row in begun] == [3, 2, 1] and begun[0].alpha == 0.02
    last = policy.latest(site, protocol)
    assert (last.version, last.alpha, last.waits) == (4, 0.05, True)


def test_a_proposal_is_approved_by_another_and_never_by_its_author(site, protocol, admin, page):
    first, second = signed_in(admin), signed_in(another(site))
    assert turn(first, page, alpha="0,02", second_approver="on", **BOXES).status_code == 302
    assert turn(first, page, base_version=2).status_code == 302
    proposed = Proposal.objects.get()
    assert (policy.current(site, protocol).version, proposed.alpha) == (2, 0.05)
    decide = reverse("triage:dial-proposal", args=[site.slug, protocol.slug, proposed.pk])
    assert first.post(decide, {"decision": "approve"}).status_code == 403
    assert turn(second, page, alpha="0,1", base_version=2).status_code == 409
    assert second.post(decide, {"decision": "decline"}).status_code == 422
    assert second.post(decide, {"decision": "withdraw"}).status_code == 403
    assert Proposal.objects.get().closed_at is None
    assert second.post(decide, {"decision": "approve"}).status_code == 302
    turned = policy.current(site, protocol)
    assert (turned.version, turned.alpha, turned.author, turned.approver) == (
        3,
        0.05,
        admin,
        second_of(site, admin),
    )
    assert Proposal.objects.get().policy == turned
    assert second.post(decide, {"decision": "approve"}).status_code == 409
    verbs = list(
        AuditEvent.objects.filter(verb__startswith="policy.").order_by("id").values_list("verb", flat=True)
    )
    assert verbs == ["policy.open", "policy.turn", "policy.propose", "policy.turn"]


def second_of(site, admin):
    return (
        get_user_model().objects.exclude(pk=admin.pk).get(memberships__site=site, memberships__role="admin")
    )


@pytest.mark.parametrize(("own", "decision"), [(True, "withdraw"), (False, "decline")])
def test_a_closed_proposal_leaves_the_dial_as_it_was(site, protocol, admin, page, own, decision):
    first, second = signed_in(admin), signed_in(another(site))
    turn(first, page, alpha="0,02", second_approver="on", **BOXES)
    turn(first, page, base_version=2)
    decide = reverse("triage:dial-proposal", args=[site.slug, protocol.slug, Proposal.objects.get().pk])
    answer = (first if own else second).post(decide, {"decision": decision, "remark": "No en agosto."})
    assert answer.status_code == 302
    closed = Proposal.objects.get()
    assert closed.closed_at and closed.policy is None and closed.remark == "No en agosto."
    assert policy.current(site, protocol).version == 2
    assert AuditEvent.objects.filter(verb=f"policy.{decision}").count() == 1
    assert turn(first, page, alpha="0,1", base_version=2).status_code == 302
    assert Proposal.objects.filter(closed_at=None).count() == 1


def test_a_proposal_against_a_version_that_is_no_longer_the_last_cannot_be_approved(
    site, protocol, admin, page
):
    first, second = signed_in(admin), signed_in(another(site))
    turn(first, page, alpha="0,02", second_approver="on", **BOXES)
    turn(first, page, base_version=2)
    policy.hold(site, protocol, reason="Deriva.")
    decide = reverse("triage:dial-proposal", args=[site.slug, protocol.slug, Proposal.objects.get().pk])
    html = second.get(reverse("triage:dial-versions", args=[site.slug, protocol.slug])).content.decode()
    assert 'value="approve"' not in html and 'value="decline"' in html
    assert second.post(decide, {"decision": "approve"}).status_code == 409
    assert not policy.current(site, protocol).automate and Proposal.objects.get().closed_at is None


def test_who_only_reads_decides_nothing(site, protocol, admin, lead, page):
    another(site)
    turn(signed_in(admin), page, alpha="0,02", second_approver="on", **BOXES)
    turn(signed_in(admin), page, base_version=2)
    where = [site.slug, protocol.slug]
    client = signed_in(lead)
    decide = reverse("triage:dial-proposal", args=[*where, Proposal.objects.get().pk])
    assert client.post(decide, {"decision": "decline", "remark": "x"}).status_code == 403
    typed = {"version": 1, "reason": "x", "base_version": 2}
    assert client.post(reverse("triage:dial-versions", args=where), typed).status_code == 403
    assert "<button" not in re.search(
        r"<main.*</main>", client.get(reverse("triage:dial-versions", args=where)).content.decode(), re.S
    )[0].replace('<button class="button">', "")
    assert policy.latest(site, protocol).version == 2


def test_a_start_lies_ahead_and_the_version_waits_for_it(site, protocol, admin, page):
    client = signed_in(admin)
    assert turn(client, page, starts_at="2020-01-01T08:00").status_code == 422
    ahead = timezone.localtime() + timedelta(days=2)
    assert turn(client, page, starts_at=f"{ahead:%Y-%m-%dT%H:%M}").status_code == 302
    assert (policy.current(site, protocol).version, policy.latest(site, protocol).version) == (1, 2)
    html = client.get(page).content.decode()
    assert (
        field(html, "base_version") == "2" and field(html, "alpha") == "0,02" and 'data-alpha="0.02"' in html
    )
    turn(client, page, alpha="0,07", base_version=2)
    assert policy.current(site, protocol).version == 3


def test_two_versions_side_by_side_and_the_way_back(site, protocol, admin, page):
    client, versions = signed_in(admin), reverse("triage:dial-versions", args=[site.slug, protocol.slug])
    turn(client, page, alpha="0,005")
    html = client.get(versions, {"version": 1}).content.decode()
    assert "Return to version 1." in html or "versión 1" in html
    changed = re.findall(r'<tr class="changed"><th scope="row">([^<]*)', html)
    assert len(changed) == 1 and "α" in changed[0]
    cells = re.findall(r'<td class="number">(\d+)</td>', html.split("</thead>")[1].split("</tbody>")[0])
    assert cells == ["1", "1"] and ">2 " in html.split("</thead>")[1]
    late = client.post(versions, {"version": 1, "reason": "Vuelta.", "base_version": 1})
    assert late.status_code == 409 and Policy.objects.count() == 2
    assert client.post(versions, {"version": 1, "reason": "Vuelta.", "base_version": 2}).status_code == 302
    back = policy.current(site, protocol)
    assert (back.version, policy.settings_of(back)) == (3, policy.settings_of(Policy.objects.get(version=1)))
    assert client.post(versions, {"version": 1, "reason": "Otra.", "base_version": 3}).status_code == 422
    assert client.post(versions, {"version": 99, "reason": "x", "base_version": 3}).status_code == 404


def test_a_link_may_propose_values(admin, page):
    html = signed_in(admin).get(page, {"alpha": "0.07", "floor": "0.02"}).content.decode()
    assert (field(html, "alpha"), field(html, "floor"), Policy.objects.count()) == ("0,07", "0,02", 1)

"""The page of calibrations: what it says, who may do what, and what lands in line."""

from __future__ import annotations

import pytest

from reviews import recalibration
from tests.reviews.audit import arrive, calibrated, read, sampled, turn
from tests.reviews.conftest import url
from triage import tasks
from triage.access import Workplace
from triage.models import Calibration, Membership, Task

pytestmark = pytest.mark.django_db


@pytest.fixture
def here(site, protocol, admin):
    return Workplace(site, protocol, Membership.objects.get(user=admin))


def sent(client, here, action, **more):
    return client.post(url("calibrations", here), {"action": action, "reason": "Otro hospital."} | more)


def test_a_reader_is_told_whose_page_it_is(signed_in, here, reader):
    assert signed_in(reader).get(url("calibrations", here)).status_code == 403


def test_without_a_release_it_says_what_to_do(signed_in, here, lead):
    page = signed_in(lead).get(url("calibrations", here)).content.decode()
    assert "install_release" in page


def test_an_audit_rate_of_nothing_is_told_with_the_way_to_the_dial(signed_in, here, lead):
    calibrated(here.protocol)
    turn(here.site, here.protocol, 0.0)
    response = signed_in(lead).get(url("calibrations", here))
    assert response.context["labels"]["need"].reads > 0
    assert f"/{here.site.slug}/{here.protocol.slug}/dial/" in response.content.decode().split("<main")[1]


def test_it_says_what_is_missing_and_what_holds(signed_in, here, lead, reader):
    sampled(here.site, here.protocol, reader, n=40)
    late, truth = arrive(here.site, here.protocol, 10, seed=4)
    drawn = [i for i, row in enumerate(late) if row.lot < 0.5]
    read([late[i] for i in drawn[1:]], truth[drawn[1:]], reader, turn(here.site, here.protocol, 0.5))
    response = signed_in(lead).get(url("calibrations", here))
    facts = response.context["labels"]
    assert not facts["need"].enough and facts["sample"].open_weeks == 1
    shares = [one["guaranteed"] for one in response.context["active"]["labels"]]
    assert shares == pytest.approx([95, 95])
    assert [one["holds"] for one in response.context["active"]["labels"]] == [True, True]


def test_enough_labels_are_put_in_line_and_the_calibration_is_shown(signed_in, here, admin, reader):
    sampled(here.site, here.protocol, reader)
    client = signed_in(admin)
    assert sent(client, here, "recalibrate").status_code == 302
    task = Task.objects.get()
    assert (task.kind, task.site, task.by, task.params) == (
        "recalibrate",
        here.site,
        admin,
        {"reason": "Otro hospital."},
    )
    assert client.get(url("calibrations", here)).context["waiting"][0]["task"] == task
    assert tasks.drain() == 1
    facts = client.get(url("calibrations", here)).context
    assert facts["active"]["own"] and facts["active"]["row"].by == admin
    [shared] = facts["former"]
    assert not shared["own"] and facts["behind"] == 0
    assert sent(client, here, "return", calibration=shared["row"].pk).status_code == 302
    assert tasks.drain() == 1
    assert not client.get(url("calibrations", here)).context["active"]["own"]


def test_too_few_are_refused_at_the_page(signed_in, here, admin, reader):
    sampled(here.site, here.protocol, reader, n=40)
    assert sent(signed_in(admin), here, "recalibrate").status_code == 409
    assert not Task.objects.exists()


def test_a_reason_is_asked_for(signed_in, here, admin, reader):
    sampled(here.site, here.protocol, reader)
    assert sent(signed_in(admin), here, "recalibrate", reason=" ").status_code == 422
    assert sent(signed_in(admin), here, "burn").status_code == 422


@pytest.mark.parametrize("action", ["recalibrate", "return", "train"])
def test_a_lead_sees_and_does_nothing(signed_in, here, lead, reader, action):
    sampled(here.site, here.protocol, reader)
    assert sent(signed_in(lead), here, action, calibration=1).status_code == 403
    assert not Task.objects.exists()


def test_only_who_governs_the_protocol_trains(signed_in, here, admin, reader, other_site):
    sampled(here.site, here.protocol, reader)
    assert sent(signed_in(admin), here, "train").status_code == 302
    assert Task.objects.get().kind == "train"
    turn(other_site, here.protocol, 0.1)
    assert sent(signed_in(admin), here, "train").status_code == 403


def test_another_sites_calibration_is_not_there(signed_in, here, admin, reader, other_site):
    rows, *_ = sampled(here.site, here.protocol, reader)
    theirs = Calibration.objects.create(
        release=rows[0].release,
        site=other_site,
        counts=[1, 1],
        typical_counts=[1, 1],
        arrays=b"",
        held_out=b"",
    )
    assert sent(signed_in(admin), here, "return", calibration=theirs.pk).status_code == 404
    assert theirs not in recalibration.former(here.site, rows[0].release)

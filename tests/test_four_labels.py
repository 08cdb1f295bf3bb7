"""A protocol of four labels on every page and in every export: its own words, and never those of a question with two."""

from __future__ import annotations

import io
import itertools
import re
import zipfile
from datetime import timedelta

import numpy as np
import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from safetensors.numpy import load, save

from mlcore import decision
from mlcore.calibrate import Calibration as Ranks
from reviews import exports, readings, recalibration, replay, watching
from reviews.formats import FORMS, MUST, NEVER
from reviews.models import Adjudication, Label
from tests import factories
from tests.reviews import audit
from tests.reviews.conftest import answer, signed_in  # noqa: F401
from tests.reviews.test_instrument import read_out
from triage import policy
from triage.access import Workplace
from triage.models import Calibration, Membership, Policy, Prediction, Protocol, Release

pytestmark = pytest.mark.django_db
FORBIDDEN = re.compile(
    r"\b(?:(?:posi|nega)tiv[eo]?[as]?|suspect\w*|suspici\w+|sospech\w+|HIV|VIH|NPV|PPV)\b", re.I
)
SAID = re.compile(r"(?:title|placeholder|aria-label|alt|data-[\w-]+|value)=\"([^\"]*)\"")
RATE = 0.25
NOTES = ("The pump stopped and the patient died.", "Alarm heard; the device was replaced.")


def held_out(n: int = 400) -> dict[str, np.ndarray]:
    """Calibration cases of four labels, ranked; Other (0) is often beside the others in the set."""
    random = np.random.default_rng(8)
    truth = np.repeat(range(4), n // 4)
    p_values = random.uniform(0, 0.03, (n, 4))
    p_values[np.arange(n), truth] = random.uniform(0.01, 1, n)
    p_values[:, 0] = np.minimum(p_values[:, 0] + random.uniform(0, 0.06, n), 1)
    ranked = decision.rank(p_values, p_values)
    numbers = {"typicality": random.uniform(0, 1, n), "weight": np.take([1.6, 1.2, 0.9, 0.3], truth)}
    return {"truth": truth, "p_values": p_values, **ranked._asdict(), **numbers}


def calibration(protocol) -> Ranks:
    random, truth = np.random.default_rng(3), np.repeat(range(4), 120)
    logits = random.normal(size=(480, 4)) + 4 * np.eye(4)[truth]
    return Ranks.fit(protocol.labels, logits, np.abs(random.normal(size=(480, 4))), truth, 1.0)


@pytest.fixture
def place(site, lead):
    """A site of device reports that has drawn a quarter of its cases for ten weeks."""
    protocol, begun = Protocol.objects.get(slug="maude-severity-en"), timezone.now() - timedelta(weeks=10)
    facts = policy.FIRST | {"audit_rate": RATE, "reason": "x", "at": begun, "starts_at": begun}
    Policy.objects.create(site=site, protocol=protocol, version=1, **facts)
    return Workplace(site, protocol, Membership.objects.get(user=lead))


@pytest.fixture
def worked(place, reader):
    """Cases of every outcome and label, read, judged, audited, watched, with another release beside the active one."""
    random, n = np.random.default_rng(5), 240
    runner_up = np.where(random.random(n) < 0.7, random.uniform(0, 0.01, n), random.uniform(0, 0.3, n))
    credibility = np.maximum(runner_up, random.uniform(0, 1, n))
    rows = factories.predictions(place.site, place.protocol, credibility, runner_up, random.uniform(0, 1, n))
    label = random.integers(0, 4, n)
    for i, row in enumerate(rows):
        row.label, row.lot, row.at = int(label[i]), float(random.random()), timezone.now() - timedelta(weeks=8 * i / n, hours=1)  # fmt: skip
    Prediction.objects.bulk_update(rows, ["label", "lot", "at"])
    truth = np.where(random.random(n) < 0.9, label, random.integers(0, 4, n))
    read_out(place, reader, rows, truth, lambda row: row.lot < RATE)
    card = {"figures": {"f1.Death": {"value": 0.7, "low": 0.6, "high": 0.8, "n": 40}}}
    Release.objects.update(card=card)
    Calibration.objects.update(held_out=save(held_out()), arrays=calibration(place.protocol).to_bytes())
    _challenged(place, rows[:60])
    _read_twice(place, reader)
    factories.alarm(place.site, place.protocol, kind="missed", measure="Death", facts={"rate": 0.08, "low": 0.04, "high": 0.13, "alpha": 0.02, "of_class": None, "read": 40, "automatic": 160, "version": 1})  # fmt: skip
    watching.look(place.site, place.protocol)
    return place


def _challenged(place, rows):
    other = Release.objects.create(protocol=place.protocol, name="otro", sha256="ab" * 32, card={})
    ranks = {"counts": [200] * 4, "typical_counts": [150] * 4, "arrays": b"", "held_out": b""}
    calibration = Calibration.objects.create(release=other, **ranks)
    for row in Prediction.objects.filter(pk__in=[row.pk for row in rows]):
        row.pk, row._state.adding, row.current = None, True, False
        row.release, row.calibration, row.label = other, calibration, (row.label + 1) % 4
        row.save()


def _read_twice(place, reader):
    """Thirty pairs of readings, one apart in a few; two disagreements for a lead, with evidence of several labels."""
    other = get_user_model().objects.create_user("lectora-b")
    Membership.objects.create(user=other, site=place.site, role="reader")
    for i in range(30):
        standing = factories.prediction(
            factories.case(place.site, place.protocol, *NOTES), 0.6, 0.3, 0.5, label=i % 4
        )
        second = (i + (i % 5 == 0)) % 4
        for user, given, mode in ((reader, i % 4, "assisted"), (other, second, "blind")):
            mark = [
                {"note": standing.note_ids[0], "start": 0, "end": 8, "label": place.protocol.labels[given]}
            ]
            factories.review(standing, user, given, double=user == reader, mode=mode, evidence=mark)
        readings.settle(standing)


def said(page: str) -> str:
    """What a page says to eyes and ears; not the values that a form sends."""
    page = re.sub(
        r"<script\b.*?</script>|<option value=\"[^\"]*\"|<input type=\"hidden\"[^>]*>", " ", page, flags=re.S
    )
    return " ".join([re.sub(r"<[^>]*>", " ", page), *SAID.findall(page)])


def addresses(place):
    """Every page of the workplace, with the queries that make it say more."""
    where = [place.site.slug, place.protocol.slug]
    named = ("dial", "dial-versions", "intake", "releases", "background", "keys")
    yield from (reverse(f"triage:{name}", args=where) for name in named)
    yield reverse("triage:dial-preview", args=where) + "?alpha=0.05&floor=0.01"
    yield reverse("triage:dial-versions", args=where) + "?version=1"
    own = [
        "queue",
        "queue-mine",
        "queue-team",
        "adjudications",
        "agreement",
        "dial-instruments",
        "dial-changes",
    ]
    own += ["progress", "watch", "reading-settings", "words", "export", "calibrations", "webhooks"]
    yield from (reverse(f"reviews:{name}", args=where) for name in own)
    yield reverse("reviews:dial-instruments", args=where) + "?per_thousand=50&side=target&floor=0.01"
    yield reverse("reviews:dial-changes", args=where) + "?alpha=0.2&floor=0.01"
    other = Release.objects.get(protocol=place.protocol, active=False)
    yield reverse("reviews:comparison", args=where) + f"?release={other.pk}"
    yield reverse("reviews:adjudications-case", args=[*where, Adjudication.objects.earliest("pk").pk])
    dial = policy.outcome_under(policy.current(place.site, place.protocol))
    standing = policy.standing(place.site, place.protocol).filter(labelled=False).alias(outcome=dial)
    for outcome in decision.NAMES:
        found = standing.filter(outcome=outcome).earliest("pk")
        yield reverse("reviews:queue-case", args=[*where, found.case_id])
    yield reverse("reviews:queue-case", args=[*where, Label.objects.latest("pk").case_id])


@pytest.mark.parametrize("language", ["es", "en"])
@pytest.mark.parametrize("who", ["reader", "lead", "admin"])
def test_no_page_speaks_of_two_labels(worked, request, signed_in, language, who):  # noqa: F811
    client: Client = signed_in(request.getfixturevalue(who))
    client.cookies["django_language"] = language
    wrong = {}
    for address in addresses(worked):
        response = client.get(address)
        if response.status_code == 403 and who != "admin":
            continue
        assert response.status_code == 200, address
        if found := FORBIDDEN.findall(said(response.content.decode())):
            wrong[address] = found
    assert wrong == {}


@pytest.mark.parametrize(
    ("form", "with_notes"),
    [
        (form, one)
        for form in FORMS
        for one in (False, True)
        if FORMS[form].notes not in ((NEVER,) if one else (MUST,))
    ],
)
def test_no_export_speaks_of_two_labels(worked, form, with_notes):
    with io.BytesIO() as file:
        exports.write(file, worked.protocol, [worked.site], form, with_notes=with_notes)
        written = file.getvalue()
    if zipfile.is_zipfile(io.BytesIO(written)):
        with zipfile.ZipFile(io.BytesIO(written)) as folder:
            written = b"".join(folder.read(name) for name in folder.namelist())
    text = written.decode(errors="replace")
    assert FORBIDDEN.findall(text) == []
    assert "Malfunction" in text and "Death" in text


def test_four_keys_judge_a_case_and_its_disagreement(worked, reader, lead, signed_in):  # noqa: F811
    """The gravest answer is key 1, for reader and lead alike; each stores the label it names."""
    for verdict, label in (("Death", 3), ("Other", 0)):
        standing = factories.prediction(factories.case(worked.site, worked.protocol, *NOTES), 0.6, 0.3, 0.5)
        address = reverse("reviews:queue-case", args=["norte", worked.protocol.slug, standing.case_id])
        client = signed_in(reader)
        assert client.get(address).status_code == 200
        client.post(address, answer(standing.case, reader, verdict))
        assert Label.objects.get(case=standing.case_id).label == label
    judged = reverse("reviews:adjudications-case", args=["norte", worked.protocol.slug, Adjudication.objects.earliest("pk").pk])  # fmt: skip
    page = signed_in(lead).get(judged, headers={"accept-language": "en"}).content.decode()
    keys = re.findall(r"<kbd>(\d)</kbd><span>(.*?)</span>", page)
    assert keys == [("1", "Death"), ("2", "Injury"), ("3", "Malfunction"), ("4", "Other")]


def test_a_site_recalibrates_and_replays_four_labels(site, reader, monkeypatch):
    def draw(random, n, centre=1.4):
        truth = random.integers(0, 4, n)
        logits = 2 * centre * np.eye(4)[truth] + random.normal(size=(n, 4))
        return logits, np.abs(random.normal(size=(n, 4))) + 2 * (1 - np.eye(4)[truth]), truth

    monkeypatch.setattr(audit, "draw", draw)
    protocol = Protocol.objects.get(slug="maude-severity-en")
    rows, _truth, _dial = audit.sampled(site, protocol, reader, n=320)
    made = recalibration.make(site, protocol, by=None, reason="Another hospital.")
    kept = load(bytes(Calibration.objects.get(pk=made["calibration"]).held_out))
    assert kept["p_values"].shape == (len(kept["truth"]), 4)
    assert Prediction.objects.filter(current=True, calibration=made["calibration"]).count() == len(rows)
    checks = replay.everything([site], [protocol])
    differ = {
        name: check.differ for name, check in checks.items() if name != "propensities"
    }  # this fixture's are made up
    assert set(differ.values()) == {0} and checks["predictions"].checked == 2 * len(rows)


def test_agreement_of_ordered_labels_counts_the_steps(worked, lead, signed_in):  # noqa: F811
    address = reverse("reviews:agreement", args=["norte", worked.protocol.slug])
    page = signed_in(lead).get(address, headers={"accept-language": "en"}).content.decode()
    assert "linear weights" in page and "ordinal" in page


def test_the_page_of_releases_shows_what_stands_beside_each_label(worked, lead):
    from triage import dial

    calibration = Calibration.objects.get(release__active=True)
    found, cases = dial.sets(worked, calibration), held_out()
    assert [one["alpha"] for one in found] == [0.01, 0.02, 0.05]
    for one, (t, c) in itertools.product(found, itertools.product(range(4), range(4))):
        name, n, cells = one["rows"][t]
        inside = cases["p_values"][cases["truth"] == t, c] > one["alpha"]
        assert (name, n) == (worked.protocol.label_names[t], 100)
        assert cells[c].value == pytest.approx(inside.mean())
        assert cells[c].low <= cells[c].value <= cells[c].high


def test_costs_are_compared_to_a_hundredth_of_a_reading(worked, lead, signed_in):  # noqa: F811
    """A reading costs 0.01 of a false one here."""
    other = Release.objects.get(protocol=worked.protocol, active=False)
    address = reverse("reviews:comparison", args=[worked.site.slug, worked.protocol.slug])
    page = (
        signed_in(lead)
        .get(address, {"release": other.pk}, headers={"accept-language": "en"})
        .content.decode()
    )
    cost = page.split("Cost a case, shadow less active</dt>")[1].split("</div>")[0]
    assert len(re.findall(r"-?\d+\.\d{4}\b", cost)) == 3, cost


def test_of_several_targets_each_has_its_own_figures_on_the_dial(worked, admin, signed_in):  # noqa: F811
    from triage import dial

    Protocol.objects.filter(pk=worked.protocol.pk).update(targets=["Injury", "Death"])
    client, where = signed_in(admin), ["norte", worked.protocol.slug]
    asked = {"alpha": "0.05", "floor": "0.01"}
    then = client.get(reverse("triage:dial-preview", args=where), asked).json()["calibration"]["then"]
    calibration = Calibration.objects.get(release__active=True).pk
    for label, name in ((2, "Injury"), (3, "Death")):
        alone = dial.at_setting(calibration, 0.05, 0.01, (label,))
        assert {key: then[f"{key}/{name}"] for key in dial.OF_TARGET} == {
            key: alone[key] for key in dial.OF_TARGET
        }
    page = client.get(reverse("triage:dial", args=where), headers={"accept-language": "en"}).content.decode()
    for name in ("Injury", "Death"):
        assert f'data-calibration="tpdr/{name}"' in page and f"TPDR of «{name}»" in page

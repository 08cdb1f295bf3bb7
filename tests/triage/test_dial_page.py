"""The dial page through the real view: who turns it, what a refusal keeps, what everyone sees."""

import json
import re

import numpy as np
import pytest
from django.test import Client
from django.urls import reverse
from safetensors.numpy import save

from tests import factories
from triage import jobs, policy
from triage.models import Calibration, Policy

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
    totals = {sum(curve[name][i] for name in policy.OUTCOMES) for i in range(len(curve["alpha"]))}
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
    assert "No se ha guardado nada" in answer.content.decode()
    assert Policy.objects.count() == 1

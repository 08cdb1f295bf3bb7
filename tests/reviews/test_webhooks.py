"""Labels told to another system: in the label's transaction, signed, tried again, never text. Against a real server."""

import contextlib
import hashlib
import hmac
import json
import socket
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django.db import transaction
from django.utils import timezone

from mlcore.errors import DataError
from reviews import adjudication, jobs, queue, webhooks
from reviews.models import Delivery, Label, Webhook
from tests.reviews.conftest import ambiguous, cleaned, url
from triage.access import Workplace
from triage.models import AuditEvent

pytestmark = pytest.mark.django_db


def tell(label, event):
    return webhooks.tell(label.review.prediction, label, event)


@pytest.fixture(autouse=True)
def _no_queue(monkeypatch, settings):
    settings.WEBHOOK_HOSTS = ["127.0.0.1"]
    monkeypatch.setattr(jobs, "wake_deliveries", lambda: None)


@pytest.fixture
def listener():
    """A server that answers with ``answers`` in turn (the last for ever) and keeps what it heard."""
    heard, answers = [], [204]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            content = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append((self.path, dict(self.headers), content))
            self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.heard, server.answers = heard, answers
    server.url = f"http://127.0.0.1:{server.server_port}/hook"
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def admin_place(place, admin):
    return Workplace(place.site, place.protocol, admin.memberships.get())


@pytest.fixture
def hook(admin_place, admin, listener):
    made = webhooks.add(admin_place, admin, listener.url)
    webhooks.switch(made, admin, True)
    made.refresh_from_db()
    return made


def labelled(place, reader) -> Label:
    case = ambiguous(place, "Muguet kanarienvogel.")
    queue.hold(case.pk, reader)
    adjudication.decide(place, reader, case, cleaned(case, reader))
    return Label.objects.get(case=case)


def due() -> None:
    Delivery.objects.update(due_at=timezone.now())


def test_a_label_is_told_signed_and_without_text(place, reader, hook, listener):
    label = labelled(place, reader)
    tell(label, "given")
    assert webhooks.drain() == 1
    [(path, headers, content)] = listener.heard
    told = json.loads(content)
    row = Delivery.objects.get()
    assert path == "/hook" and headers["Content-Type"] == "application/json"
    assert told == {
        "event": "given",
        "site": "norte",
        "protocol": "hiv-suspicion-es",
        "case": label.case_id,
        "case_id": told["case_id"],
        "label_id": label.pk,
        "label": "suspicion",
        "provenance": "single",
        "at": label.at.isoformat(),
        "delivery": row.pk,
    }
    assert len(told["case_id"]) == 32
    moment, digest = (part.split("=")[1] for part in headers["X-Centinela-Signature"].split(","))
    signed = hmac.new(hook.secret.encode(), f"{moment}.".encode() + content, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(signed, digest)
    assert (row.status, row.tries, row.answer) == ("ready", 1, 204)


def test_the_id_told_is_the_one_exported(place, reader, hook):
    from reviews import rows

    label = labelled(place, reader)
    tell(label, "given")
    [row] = rows.rows(place.protocol, [place.site])
    assert webhooks.body(Delivery.objects.get())["case_id"] == row["case_id"]


def test_off_by_default_and_once_a_label_and_event(place, reader, admin_place, admin, listener):
    made = webhooks.add(admin_place, admin, listener.url)
    label = labelled(place, reader)
    Delivery.objects.all().delete()
    assert tell(label, "given") == 0 and not Delivery.objects.exists()
    webhooks.switch(made, admin, True)
    for event in ("given", "given", "withdrawn"):
        tell(label, event)
    assert list(Delivery.objects.order_by("pk").values_list("event", flat=True)) == ["given", "withdrawn"]
    webhooks.switch(made, admin, False)
    assert webhooks.drain() == 0 and not listener.heard


def test_a_label_that_is_rolled_back_is_not_told(place, reader, hook):
    label = labelled(place, reader)
    Delivery.objects.all().delete()
    with pytest.raises(RuntimeError), transaction.atomic():
        tell(label, "given")
        raise RuntimeError
    assert not Delivery.objects.exists()


def test_it_is_tried_again_later_each_time_and_given_up_after_eight(place, reader, hook, listener):
    listener.answers[:] = [500]
    tell(labelled(place, reader), "given")
    waits = []
    for tries in range(1, 9):
        assert webhooks.drain() == 0
        row = Delivery.objects.get()
        assert row.tries == tries and row.answer == 500 and row.failure == "HTTP 500"
        waits.append(round((row.due_at - timezone.now()) / timedelta(minutes=1)))
        due()
    assert waits == [1, 5, 15, 60, 180, 480, 1440, 1440]
    assert row.status == "failed"
    assert webhooks.drain() == 0 and len(listener.heard) == 8


def test_a_later_yes_ends_it(place, reader, hook, listener):
    listener.answers[:] = [503, 200]
    tell(labelled(place, reader), "given")
    webhooks.drain()
    assert webhooks.drain() == 0 and len(listener.heard) == 1
    due()
    assert webhooks.drain() == 1
    assert Delivery.objects.get().failure == ""


def test_no_redirect_is_followed_and_silence_is_a_failure(place, reader, hook, listener, monkeypatch):
    listener.answers[:] = [307]
    tell(labelled(place, reader), "given")
    webhooks.drain()
    assert [path for path, *_ in listener.heard] == ["/hook"]
    assert Delivery.objects.get().answer == 307
    monkeypatch.setattr(webhooks, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        Webhook.objects.update(url=f"http://127.0.0.1:{silent.getsockname()[1]}/")
        due()
        webhooks.drain()
    row = Delivery.objects.get()
    assert (row.answer, row.failure, row.tries) == (None, "ReadTimeout", 2)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "x",
        "ftp://h/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://",
        "https://user:pw@h/",
        "http://h:x/",
        "http://[::1/",
        "http://h/" + "a" * 500,
        "//h/",
        "https://:pw@example.org/",
        "https://@example.org/",
        "https://example.org/\0",
        "https://ex\ud800.org/",
        "https://a..example.org/",
        f"https://{'a' * 64}.org/",
        f"https://{'é' * 60}.org/",
        "https://a b/",
        "https://xn--/",
    ],
)
def test_only_plain_web_addresses(admin_place, admin, address):
    with pytest.raises(DataError, match="http"):
        webhooks.add(admin_place, admin, address)


def test_the_page_is_the_admins_and_shows_a_secret_once(place, admin, lead, signed_in, listener):
    assert signed_in(lead).get(url("webhooks", place)).status_code == 403
    client = signed_in(admin)
    made = client.post(url("webhooks", place), {"url": listener.url})
    hook = Webhook.objects.get()
    assert not hook.active and hook.secret in made.content.decode()
    assert hook.secret not in client.get(url("webhooks", place)).content.decode()
    assert client.post(url("webhooks", place), {"url": "ftp://x/"}).status_code == 422
    one = url("webhook", place, hook.pk)
    assert signed_in(lead).post(one, {"action": "on"}).status_code == 404
    client.post(one, {"action": "on"})
    assert Webhook.objects.get().active
    client.post(one, {"action": "test"})
    assert json.loads(listener.heard[0][2])["event"] == "test"
    verbs = set(AuditEvent.objects.filter(verb__startswith="webhook").values_list("verb", flat=True))
    assert verbs == {"webhook.add", "webhook.on", "webhook.test"}


def test_a_withdrawn_label_says_when(place, reader, hook):
    label = labelled(place, reader)
    label.withdrawn_at = timezone.now()
    label.save()
    Delivery.objects.all().delete()
    tell(label, "withdrawn")
    told = webhooks.body(Delivery.objects.select_related("label").get())
    assert told["at"] == label.withdrawn_at.isoformat() != label.at.isoformat()


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.9.9.9", "[::1]", "0.0.0.0", "[::]", "169.254.169.254", "[::ffff:127.0.0.1]"]
)
def test_this_machine_and_its_link_are_refused_unless_allowed(admin_place, admin, settings, address):
    settings.WEBHOOK_HOSTS = []
    with pytest.raises(DataError, match="WEBHOOK_HOSTS"):
        webhooks.add(admin_place, admin, f"http://{address}/")
    settings.WEBHOOK_HOSTS = [address.strip("[]")]
    assert webhooks.add(admin_place, admin, f"http://{address}/").pk


def test_a_name_that_leads_home_later_is_refused_when_it_is_sent(place, reader, hook, listener, settings):
    settings.WEBHOOK_HOSTS = []
    tell(labelled(place, reader), "given")
    assert webhooks.drain() == 0 and not listener.heard
    assert Delivery.objects.get().failure == "BadAddress"


@pytest.mark.parametrize(
    "address", ["http://a/\0", "http://ex\u2100..org/", f"http://{'a' * 70}.org/", "http://[::1", ""]
)
def test_a_bad_address_in_the_table_is_a_failed_try(hook, address):
    hook.url = address
    answer, failure = webhooks.post(hook, {})
    assert answer is None and failure


def test_an_answer_that_drips_is_given_up(hook, monkeypatch):
    """Each byte within the time of a step, all of them beyond that of the whole."""
    monkeypatch.setattr(webhooks, "DEADLINE", 0.3)
    done = threading.Event()

    def drip(server):
        with server.accept()[0] as other:
            while not done.wait(0.05):
                other.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: _quietly(drip, server))
        thread.start()
        hook.url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        assert webhooks.post(hook, {})[0] is None
        done.set()
        thread.join(5)
        assert not thread.is_alive()


def _quietly(act, *args):
    with contextlib.suppress(OSError):
        act(*args)


def test_a_given_label_that_still_waits_is_dropped_once_its_withdrawal_is_told(place, reader, hook, listener):
    label = labelled(place, reader)
    tell(label, "given")
    listener.answers[:] = [500]
    webhooks.drain()
    listener.answers[:] = [200]
    tell(label, "withdrawn")
    assert webhooks.drain() == 1
    assert list(Delivery.objects.values_list("event", "status")) == [("withdrawn", "ready")]
    tell(label, "given")
    assert webhooks.drain() == 0 and not Delivery.objects.filter(event="given").exists()
    assert [json.loads(content)["event"] for *_, content in listener.heard] == ["given", "withdrawn"]


def test_a_webhook_is_deleted_with_what_it_had_to_tell_and_the_trail_says_so(
    place, reader, admin, lead, hook, signed_in
):
    label = labelled(place, reader)
    tell(label, "withdrawn")
    one = url("webhook", place, hook.pk)
    assert signed_in(lead).post(one, {"action": "remove"}).status_code == 404
    client = signed_in(admin)
    assert client.post(one, {"action": "remove"}).status_code == 302
    assert not Webhook.objects.exists() and not Delivery.objects.exists()
    assert Label.objects.filter(pk=label.pk).exists()
    event = AuditEvent.objects.get(verb="webhook.remove")
    assert event.actor == admin and event.details == {"url": hook.url, "waiting": 2, "deliveries": 2}
    assert client.post(one, {"action": "remove"}).status_code == 404
    assert tell(label, "given") == 0


@pytest.fixture
def names(monkeypatch, settings):
    """A name server that says where hook.example is once, and then leads elsewhere."""
    settings.WEBHOOK_HOSTS = ["hook.example"]
    asked, real = [], socket.getaddrinfo

    def once(host, *args, **kwargs):
        if host != "hook.example":
            return real(host, *args, **kwargs)
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "127.0.0.2", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", once)
    return asked


def test_the_address_that_was_checked_is_the_one_that_is_called(hook, listener, names):
    hook.url = f"http://hook.example:{listener.server_port}/hook"
    assert webhooks.post(hook, {}) == (204, "")
    assert names == ["hook.example"]
    [(_path, headers, _content)] = listener.heard
    assert headers["Host"] == f"hook.example:{listener.server_port}"


def test_a_certificate_is_asked_for_by_the_hosts_name(hook, names):
    heard = []

    def greet(server):
        with server.accept()[0] as other:
            heard.append(other.recv(4096))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: _quietly(greet, server))
        thread.start()
        hook.url = f"https://hook.example:{server.getsockname()[1]}/"
        assert webhooks.post(hook, {})[0] is None
        thread.join(5)
    assert heard and b"hook.example" in heard[0]


def test_where_one_address_takes_no_call_the_next_is_called(hook, listener, monkeypatch, settings):
    settings.WEBHOOK_HOSTS = ["hook.example"]
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *a, **k: [
            one for name in ("127.0.0.2", "127.0.0.1") for one in real(name, *a, **k)
        ] if host == "hook.example" else real(host, *a, **k),
    )  # fmt: skip
    hook.url = f"http://hook.example:{listener.server_port}/hook"
    assert webhooks.post(hook, {}) == (204, "")
    assert len(listener.heard) == 1

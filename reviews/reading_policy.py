"""How a protocol is read: with the model's view or blind, and which share of cases by two readers."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from mlcore.errors import CentinelaError
from triage import audit
from triage.access import Workplace, sites_using
from triage.models import AuditEvent, Protocol, Site

VERB = "protocol.reading"


class ReadingMoved(CentinelaError):
    """Somebody else changed it since the page was opened."""


@transaction.atomic
def change(place: Workplace, user: Any, wanted: dict[str, Any]) -> Protocol:
    """Set both (the cleaned data of a ReadingForm); an event with old and new in the trail of every site it holds at.

    ReadingMoved when they are not what the page showed, or nothing would change.
    """
    protocol = Protocol.objects.select_for_update().get(pk=place.protocol.pk)
    old = {"reading": protocol.reading, "double_share": protocol.double_share}
    new = {name: wanted[name] for name in old}
    if old != {name: wanted[f"was_{name}"] for name in old}:
        raise ReadingMoved(
            _("Somebody else changed how this protocol is read. Look at it as it is now, then decide again.")
        )
    if old == new:
        raise ReadingMoved(_("Nothing was saved: this is how the protocol is read already."))
    protocol.reading, protocol.double_share = new["reading"], new["double_share"]
    protocol.save(update_fields=list(new))
    for site in sites_using(protocol).union(Site.objects.filter(pk=place.site.pk)):
        details = {"old": old, "new": new, "reason": wanted["reason"]}
        audit.record(VERB, protocol, site=site, actor=user, details=details)
    return protocol


def past(place: Workplace) -> QuerySet[AuditEvent]:
    """The changes of this protocol, the latest first."""
    events = AuditEvent.objects.filter(
        site=place.site, object_type="triage.protocol", object_id=str(place.protocol.pk), verb=VERB
    )
    return events.select_related("actor").order_by("-pk")

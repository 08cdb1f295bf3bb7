"""`manage.py watch`: look now, and say what was found."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.utils import translation

from mlcore.errors import DataError
from reviews import watch_page, watching
from triage.management.command import SentenceCommand
from triage.models import Alarm, Policy, Protocol, Release, Site


class Command(SentenceCommand):
    """`manage.py watch [--site S] [--protocol P] [--json]`: every place in use, or those named."""

    help = (
        "Looks whether what arrives is still what was calibrated for and whether automation misses too much; "
        "raises alarms as the workers' own hourly look does."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--site", help="slug of a site; all of them without it")
        parser.add_argument("--protocol", help="slug of a protocol; all that are used without it")
        parser.add_argument("--json", action="store_true", help="figures instead of sentences")

    def handle(self, *args: Any, **options: Any) -> None:
        places = _places(options["site"], options["protocol"])
        with translation.override("en"):
            found = [_look(site, protocol) for site, protocol in places]
        if options["json"]:
            self.stdout.write(json.dumps(found, indent=2, ensure_ascii=False))
            return
        for place in found:
            self.stdout.write(f"{place['site']} · {place['protocol']}")
            for sentence in place["sentences"]:
                self.stdout.write(f"  {sentence}")


def _places(site: str | None, protocol: str | None) -> list[tuple[Site, Protocol]]:
    for model, slug in ((Site, site), (Protocol, protocol)):
        if slug and not model.objects.filter(slug=slug).exists():
            raise DataError(f"No {model.__name__.lower()} is called «{slug}»: check the spelling.")
    used = Policy.objects.filter(version=1).select_related("site", "protocol").order_by("site", "protocol")
    used = used.filter(site__slug=site) if site else used
    used = used.filter(protocol__slug=protocol) if protocol else used
    if not used:
        raise DataError("No protocol is in use there yet: import notes first.")
    return [(one.site, one.protocol) for one in used]


def _look(site: Site, protocol: Protocol) -> dict[str, Any]:
    new = watching.look(site, protocol)
    alarms = list(
        Alarm.objects.filter(site=site, protocol=protocol).select_related("release", "held", "seen_by")
    )
    release = Release.objects.filter(protocol=protocol, active=True).first()
    weeks = watch_page.stored(site, protocol, release)
    return {
        "site": site.slug,
        "protocol": protocol.slug,
        "sentences": watch_page.sentences(site, protocol, alarms),
        "new_alarms": [
            {"kind": one.kind, "measure": one.measure, "week": one.week.isoformat(), "figures": one.facts}
            for one in new
        ],
        "streams": {
            name: stream["bets"]["log_m"] for name, stream in (weeks[-1]["streams"] if weeks else {}).items()
        },
        "checks": next((week["checks"] for week in reversed(weeks) if week["checks"]), None),
        "missed": weeks[-1]["missed"] if weeks else None,
    }

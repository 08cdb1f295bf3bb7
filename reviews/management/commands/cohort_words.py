"""The words of groups of cases against calibration (paper, C.1 stage 4, Figures 2 and C1), as files."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from django.db import transaction
from plotly import graph_objects as go
from tqdm import tqdm

from mlcore import cohort as words_of
from mlcore import page, records
from mlcore.errors import DataError
from reviews import selectors
from triage import audit, cohorts
from triage.access import Workplace
from triage.cohorts import CohortWords
from triage.management.command import SentenceCommand
from triage.models import Membership, Protocol, Release, Site

SEED = 13
NAMES = {
    "right": "Automatic, right",
    "wrong": "Automatic, wrong",
    "ambiguous": "Deferred: ambiguous",
    "novel": "Deferred: without precedent",
    "atypical": "Deferred: atypical",
}


class Command(SentenceCommand):
    """`manage.py cohort_words --protocol P --site S --output FOLDER`."""

    help = "Writes the words each group of cases goes by beside calibration's: words.html and words.json."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--protocol", required=True)
        parser.add_argument("--site", required=True)
        parser.add_argument(
            "--from", dest="since", type=date.fromisoformat, help="scored on this day or later"
        )
        parser.add_argument(
            "--to", dest="until", type=date.fromisoformat, help="scored on this day or before"
        )
        parser.add_argument(
            "--baseline",
            type=Path,
            help="explain calibration anew: the file the release was trained from, or labelled cases it never saw",
        )
        parser.add_argument("--cases", type=int, default=300, help="explain at most so many of it (300)")
        parser.add_argument("--ask", action="store_true", help="have the workers explain cases that lack it")
        parser.add_argument("--output", type=Path, required=True, help="folder to write into")

    def handle(self, *, protocol: str, site: str, output: Path, **options: Any) -> None:
        place = _place(protocol, site)
        if options["baseline"]:
            self._baseline(place.protocol, options["baseline"], options["cases"])
        period = {"since": options["since"], "until": options["until"]}
        labels = selectors.labels(place)
        found = {
            name: cohorts.words(place.site, place.protocol, name, labels, **period)
            for name in cohorts.COHORTS
        }
        for name, group in found.items():
            self.stdout.write(f"{NAMES[name]}: {group.explained} of {group.members} cases explained")
            if options["ask"]:
                asked = cohorts.ask(place.site, place.protocol, name, labels, **period)
                self.stdout.write(f"  {asked} more asked for; run this again when the workers are done")
        _write(output, place, found, period)
        self.stdout.write(
            f"Written to {output}: words.html, words.json. They hold words of notes, each from {words_of.LEAST_CASES} "
            "cases or more."
        )

    def _baseline(self, protocol: Protocol, file: Path, most: int) -> None:
        release = Release.objects.filter(protocol=protocol, active=True).first()
        if release is None:
            raise DataError(f"No release of {protocol.slug} is installed: install one first.")
        cases, weights = cohorts.calibration_of(release, records.load(file, protocol.spec))
        whose = "the release's calibration cases" if weights is not None else "all cases of the file"
        drawn = np.random.default_rng(SEED).permutation(len(cases))[: max(most, 1)]
        with tqdm(total=len(drawn), desc="explained", unit="case", file=sys.stderr) as bar:
            made = cohorts.baseline(
                release,
                [cases[i] for i in drawn],
                None if weights is None else weights[drawn].tolist(),
                lambda done: bar.update(done - bar.n),
            )
        self.stdout.write(f"Calibration: {made.cases} of {whose} explained, {len(made.words)} words kept")


def _place(protocol: str, site: str) -> Workplace:
    asked, at = Protocol.objects.filter(slug=protocol).first(), Site.objects.filter(slug=site).first()
    for found, slug, known in ((asked, protocol, Protocol), (at, site, Site)):
        if found is None:
            names = ", ".join(known.objects.order_by("slug").values_list("slug", flat=True)) or "none yet"
            raise DataError(f"{known.__name__} {slug!r} is not known: use one of {names}.")
    return Workplace(at, asked, Membership(site=at))


def _write(
    folder: Path, place: Workplace, found: Mapping[str, CohortWords], period: Mapping[str, date | None]
) -> None:
    """Both files, recorded before the first word leaves."""
    dates = {name: day and day.isoformat() for name, day in period.items()}
    counts = {name: [group.explained, group.members] for name, group in found.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with transaction.atomic():
            audit.record(
                "cohort.words",
                place.protocol,
                site=place.site,
                actor=None,
                details={**dates, "cases": counts},
            )
            document = {"protocol": place.protocol.slug, "site": place.site.slug, **dates}
            groups = {name: _document(group) for name, group in found.items()}
            (folder / "words.json").write_text(
                json.dumps({**document, "groups": groups}, ensure_ascii=False, indent=1) + "\n", "utf-8"
            )
            (folder / "words.html").write_text(_page(place, found), "utf-8")
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise DataError(f"{folder} cannot be written ({error.strerror}): name another --output.") from None


def _document(group: CohortWords) -> dict[str, Any]:
    return {**asdict(group), "rows": [asdict(row) for row in words_of.kept(group.rows)]}


def _page(place: Workplace, found: Mapping[str, CohortWords]) -> str:
    parts = [
        page.paragraph(
            "Solid bars: what the model goes by in the group (orange towards the target, blue against it, grey both "
            "ways). Hatched bars: the same word in calibration. Words of fewer than "
            f"{words_of.LEAST_CASES} cases are left out."
        )
    ]
    for name, group in found.items():
        parts.append(f"<h2>{page.text(NAMES[name])}</h2>")
        rows = words_of.kept(group.rows)
        said = f"n = {group.explained} of {group.members} cases explained; " + (
            "calibration was never explained: run with --baseline."
            if group.baseline is None
            else f"calibration n = {group.baseline}."
        )
        names = {"group": NAMES[name], "baseline": "Calibration", "score": "weight of the word"}
        drawn = words_of.figure(rows, names, group.baseline is not None)
        parts.append(page.figure(go.Figure(drawn), said) if rows else page.paragraph(said, "muted"))
    return page.document(f"Words by group: {place.protocol.slug}, {place.site.slug}", parts)

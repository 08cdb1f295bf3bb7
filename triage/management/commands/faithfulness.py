"""Deletion and insertion curves of a bundle over a file of notes, without any database."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mlcore import bundle, protocols, records
from triage.management.command import SentenceCommand


class Command(SentenceCommand):
    """`manage.py faithfulness --bundle FOLDER --notes FILE`."""

    help = "Measures whether the words a bundle's explanations name move it more than attention's, or random ones."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--bundle", type=Path, required=True, help="folder that `train` wrote")
        parser.add_argument("--notes", type=Path, required=True, help="JSONL or CSV, gzipped or not")
        parser.add_argument("--cases", type=int, default=200, help="records drawn at random (200)")
        parser.add_argument("--seed", type=int, default=13)
        parser.add_argument("--json", type=Path, help="also write the figures to this file")

    def handle(self, *, notes: Path, cases: int, seed: int, **options: Any) -> None:
        folder = options["bundle"]
        bundle.verify(folder)
        spec = protocols.get(str(bundle.read_card(folder).get("protocol")))
        found = records.load(notes, spec)
        from mlcore.faithfulness import faithfulness
        from mlcore.scorer import Scorer

        scorer = Scorer.load(folder, verify=False)
        with tqdm(total=min(cases, len(found)), desc="followed", unit="case", file=sys.stderr) as bar:
            figures = faithfulness(
                scorer, [r.texts for r in found], cases, seed, lambda done: bar.update(done - bar.n)
            )
        for name, figure in figures.items():
            interval = f"({figure.low:.3f} to {figure.high:.3f}), n = {figure.n}"
            self.stdout.write(f"{name:<36} {figure.value:8.3f} {interval}")
        if options["json"]:
            written = {name: figure._asdict() for name, figure in figures.items()}
            options["json"].write_text(json.dumps(written, indent=2) + "\n", "utf-8")

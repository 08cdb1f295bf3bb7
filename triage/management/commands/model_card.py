"""Write the model card of a bundle; needs no database."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from mlcore import bundle, model_card, protocols
from mlcore.errors import DataError
from triage.management.command import SentenceCommand


class Command(SentenceCommand):
    help = "Write the model card of a bundle (Markdown), from its card and, where given, an evaluation of it."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("bundle", type=Path, help="folder that `train` wrote")
        parser.add_argument("--metrics", type=Path, help="metrics.json that `evaluate` wrote of this bundle")
        parser.add_argument("--output", type=Path, help="file to write (shown instead)")

    def handle(self, **options: Any) -> None:
        folder, output = options["bundle"], options["output"]
        sha256 = bundle.verify(folder)
        card = bundle.read_card(folder)
        spec = protocols.get(str(card.get("protocol")))
        found = options["metrics"] and _figures(options["metrics"])
        text = model_card.render(card, bundle.load_arrays(folder), sha256, spec, found)
        if output is None:
            self.stdout.write(text, ending="")
            return
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise DataError(f"{output} cannot be written ({error.strerror}): name another file.") from None
        self.stdout.write(f"Written to {output}.")


def _figures(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{path} is no metrics.json: give the one that evaluate wrote of this bundle.")
    return found

"""Screening questions: what is asked of a case, with which answers, at which cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlcore.errors import DataError


@dataclass(frozen=True)
class ProtocolSpec:
    """One screening question with its ordered answers.

    labels: K answers, least severe first; targets and critical are subsets of them.
    unit: what one case is, a patient with all notes or a single note.
    cost_automatic: (K, K) penalties, rows the truth, columns the label given without a reader.
    cost_defer: (K,) penalties of handing a case of each true label to a reader.
    names: language -> {"protocol": …, label: …}, the words shown to people.
    """

    slug: str
    language: Literal["es", "en"]
    labels: tuple[str, ...]
    targets: tuple[str, ...]
    critical: tuple[str, ...]
    unit: Literal["patient", "note"]
    cost_automatic: tuple[tuple[float, ...], ...]
    cost_defer: tuple[float, ...]
    names: dict[str, dict[str, str]]

    @property
    def target_indices(self) -> tuple[int, ...]:
        """Positions in `labels` of what is being looked for."""
        return tuple(self.labels.index(target) for target in self.targets)

    @property
    def watched(self) -> tuple[str, ...]:
        """The labels whose misses are told one by one: the critical ones, the targets where none is."""
        return self.critical or self.targets

    @property
    def target_name(self) -> str:
        """What is being looked for, in English: «Death»; several joined by commas."""
        return ", ".join(self.names["en"][target] for target in self.targets)

    def label_index(self, value: object) -> int:
        """Position in `labels` of a label, of its position, or of its name in any language.

        Raises DataError listing the labels when the value is none of these.
        """
        if isinstance(value, str):
            index = self._by_name().get(value.strip().casefold())
            if index is not None:
                return index
        index = _whole_number(value)
        if index is not None and 0 <= index < len(self.labels):
            return index
        known = ", ".join(f"{i} or {label}" for i, label in enumerate(self.labels))
        raise DataError(f"A label of {self.slug} must be one of: {known}.")

    def _by_name(self) -> dict[str, int]:
        named = {names[label]: i for names in self.names.values() for i, label in enumerate(self.labels)}
        named |= {label: i for i, label in enumerate(self.labels)}
        return {name.casefold(): i for name, i in named.items()}


def _whole_number(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() else None


HIV_SUSPICION_ES = ProtocolSpec(
    slug="hiv-suspicion-es",
    language="es",
    labels=("non_suspicion", "suspicion"),
    targets=("suspicion",),
    critical=(),
    unit="patient",
    # Morales-Sánchez et al. 2026, section 3.5: FN 1, FP 0.5, deferred positive 0.5, deferred negative 0.25.
    cost_automatic=((0.0, 0.5), (1.0, 0.0)),
    cost_defer=(0.25, 0.5),
    names={
        "es": {
            "protocol": "Sospecha de infección por VIH",
            "non_suspicion": "Sin sospecha",
            "suspicion": "Sospecha",
        },
        "en": {
            "protocol": "Suspicion of HIV infection",
            "non_suspicion": "No suspicion",
            "suspicion": "Suspicion",
        },
    },
)

MAUDE_SEVERITY_EN = ProtocolSpec(
    slug="maude-severity-en",
    language="en",
    labels=("Other", "Malfunction", "Injury", "Death"),
    targets=("Death",),
    critical=("Death",),
    unit="note",
    # Our own, argued in docs/severity.md: 1 is a death settled as «Other»; a reading costs 0.01, whatever is read.
    cost_automatic=(
        (0.00, 0.02, 0.05, 0.10),
        (0.05, 0.00, 0.03, 0.08),
        (0.40, 0.30, 0.00, 0.05),
        (1.00, 0.90, 0.80, 0.00),
    ),
    cost_defer=(0.01, 0.01, 0.01, 0.01),
    names={
        "es": {
            "protocol": "Gravedad de incidentes con productos sanitarios",
            "Other": "Otro",
            "Malfunction": "Fallo de funcionamiento",
            "Injury": "Lesión",
            "Death": "Muerte",
        },
        "en": {
            "protocol": "Severity of medical device events",
            "Other": "Other",
            "Malfunction": "Malfunction",
            "Injury": "Injury",
            "Death": "Death",
        },
    },
)

ADE_EN = ProtocolSpec(
    slug="ade-en",
    language="en",
    labels=("no_ade", "ade"),
    targets=("ade",),
    critical=(),
    unit="note",
    cost_automatic=((0.0, 0.5), (1.0, 0.0)),
    cost_defer=(0.25, 0.5),
    names={
        "es": {
            "protocol": "Reacción adversa a medicamentos",
            "no_ade": "Sin reacción adversa",
            "ade": "Reacción adversa",
        },
        "en": {"protocol": "Adverse drug event", "no_ade": "No adverse event", "ade": "Adverse event"},
    },
)

SHIPPED: dict[str, ProtocolSpec] = {spec.slug: spec for spec in (HIV_SUSPICION_ES, MAUDE_SEVERITY_EN, ADE_EN)}


def get(slug: str) -> ProtocolSpec:
    """The shipped protocol of that name. Raises DataError naming the known ones."""
    try:
        return SHIPPED[slug]
    except KeyError:
        known = ", ".join(SHIPPED)
        raise DataError(f"Protocol {slug!r} is not known: use one of {known}.") from None

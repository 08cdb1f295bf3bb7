"""A seeded cohort of invented Spanish hospital patients, for the demo, the tests and the benchmarks.

The label is «documented clinical suspicion»; the hidden signal is the EuroTEST (2016) indicator conditions, and the
words that would give it away (the virus, its serology, its treatment) never occur. Everything in it is made up.

The tables of `synthetic_texts` hold templates: `{analgesico}` draws from `LEXICON`, `{3..9}` and `{1.5..2.5}` draw
numbers, `<a|b|>` draws one branch and `@` is the ending of the patient's gender. A vignette reads
`Specialty audience: complaint // examination // diagnosis // plan`; without an audience it fits any adult.
`_settle` fills a vignette for one patient, `_compose` makes a note of it and `_write` is the hurried hand.
"""

import random
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache

from mlcore.errors import DataError
from triage import synthetic_texts as texts

FIRST_DAY, LAST_DAY = date(1998, 1, 1), date(2023, 12, 31)


@dataclass(frozen=True)
class Note:
    """One clinical note, text exactly as typed."""

    text: str
    written_at: date
    specialty: str


@dataclass(frozen=True)
class Patient:
    """One invented patient; `kind` ("clear", "ambiguous", "foreign:…") is for tests and never exported."""

    patient_id: str
    notes: tuple[Note, ...]
    label: int
    kind: str


@dataclass(frozen=True)
class Vignette:
    """One coherent problem as a doctor would write it down, still with its slots."""

    specialty: str
    audience: str
    complaint: str
    examination: str
    diagnosis: str
    plan: str


@dataclass(frozen=True)
class Persona:
    """Who the notes are about: the sex and the band ("adult", "elder" or "child") decide what may be written."""

    sex: str
    band: str

    @property
    def audiences(self) -> frozenset[str]:
        """The vignette audiences that fit this person."""
        if self.band == "child":
            return frozenset({"niño"})
        if self.sex == "varón":
            return frozenset({"", "varón", "mayor"} if self.band == "elder" else {"", "varón"})
        return frozenset({"", "mayor"} if self.band == "elder" else {"", "mujer"})


def _lines(block: str) -> tuple[str, ...]:
    """One template a line; indented lines continue the one above."""
    return tuple(" ".join(part.split()) for part in re.split(r"\n(?=\S)", block.strip()))


def _vignettes(block: str) -> tuple[Vignette, ...]:
    """The vignettes of a block, see the module's description for their form."""
    return tuple(_vignette(line) for line in _lines(block))


def _vignette(line: str) -> Vignette:
    head, body = line.split(": ", 1)
    found = re.fullmatch(r"(.+?)(?: (varón|mujer|mayor|niño))?", head)
    assert found is not None
    complaint, examination, diagnosis, plan = body.split(" // ")
    return Vignette(found[1], found[2] or "", complaint, examination, diagnosis, plan)


LEXICON = {name: tuple(words.split("|")) for name, words in texts.LEXICON.items()}
OPENINGS, CLOSINGS, LABS = _lines(texts.OPENINGS), _lines(texts.CLOSINGS), _lines(texts.LABS)
HISTORY = {name: _lines(block) for name, block in texts.HISTORY.items()}
EXAM = {band: _lines(block) for band, block in texts.EXAM.items()}
TABLES = {
    "routine": _vignettes(texts.ROUTINE),
    "indicator": _vignettes(texts.INDICATORS),
    "weak": _vignettes(texts.WEAK),
    "distractor": _vignettes(texts.DISTRACTORS),
}
FOREIGN = {kind: _lines(block) for kind, block in texts.FOREIGN.items()}

_SLOT = re.compile(r"\{([^{}]+)\}|<([^<>]*)>")
_RANGE = re.compile(r"(\d+(?:\.\d+)?)\.\.(\d+(?:\.\d+)?)")


def _expand(rng: random.Random, template: str) -> str:
    """Fill every slot of a template, the slots inside the drawn words too."""

    def fill(match: re.Match[str]) -> str:
        branches: str | None = match[2]
        if branches is not None:
            return rng.choice(branches.split("|"))
        slot: str = match[1]
        numbers = _RANGE.fullmatch(slot)
        return rng.choice(LEXICON[slot]) if numbers is None else _number(rng, *numbers.groups())

    while _SLOT.search(template):
        template = _SLOT.sub(fill, template)
    return template


def _number(rng: random.Random, low: str, high: str) -> str:
    if "." not in low:
        return str(rng.randint(int(low), int(high)))
    return f"{rng.uniform(float(low), float(high)):.1f}".replace(".", rng.choice(",,."))


def _settle(rng: random.Random, vignette: Vignette) -> Vignette:
    """The vignette with its slots filled, so that every note about it tells the same story."""
    said = (vignette.complaint, vignette.examination, vignette.diagnosis, vignette.plan)
    return Vignette(vignette.specialty, vignette.audience, *(_expand(rng, part) for part in said))


def _maybe(rng: random.Random, chance: float, *sentences: str) -> list[str]:
    return list(sentences) if rng.random() < chance else []


def _some(rng: random.Random, pool: tuple[str, ...], most: int) -> str:
    return ". ".join(rng.sample(pool, min(len(pool), rng.randint(1, most))))


def _beside(pool: tuple[str, ...], problem: Vignette) -> tuple[str, ...]:
    """The lines of the pool that do not contradict the problem, without their patterns."""
    said = f"{problem.complaint} {problem.examination} {problem.diagnosis}"
    split = (line.rpartition(" = ") for line in pool)
    return tuple(line for pattern, _, line in split if not pattern or not re.search(pattern, said))


def _compose(
    rng: random.Random, person: Persona, problem: Vignette, history: tuple[str, ...], wordy: int
) -> str:
    """One vignette as a note; `history` is what this patient's past holds, `wordy` (1–9) how much else is typed."""
    past = _some(rng, history, 1 + wordy)
    parts = [
        *_maybe(rng, 0.22 * wordy, rng.choice(OPENINGS)),
        *_maybe(rng, 0.25 * wordy, f"<AP: |Antecedentes: |A.P.: |AP.- |>{past}"),
        f"<EA: |MC: |Enf actual: |EA.- ||>{problem.complaint}",
        f"<EF: |Expl: |E.F.: |A la exploración: |>{problem.examination}",
        *_maybe(rng, 0.2 * wordy, _some(rng, _beside(EXAM[person.band], problem), wordy)),
        *_maybe(
            rng,
            0.2 * wordy if person.band != "child" else 0.0,
            f"<PC: |Pruebas: ||>{_some(rng, _beside(LABS, problem), wordy)}",
        ),
        f"<JC: |Dx: |ID: |Juicio clínico: |>{problem.diagnosis}",
        *_maybe(rng, 0.85, f"<Tto: |Plan: |Rec: |P/ |>{problem.plan}"),
        *_maybe(rng, 0.6, "{control}"),
        *_maybe(rng, 0.1 * wordy, rng.choice(CLOSINGS)),
    ]
    return _join(rng, person, parts)


def _compose_follow_up(rng: random.Random, person: Persona, problem: Vignette, wordy: int) -> str:
    """A short later note about a problem noted before."""
    parts = [
        f"<Revisión de |Acude a control por |Seguimiento: |Cita telefónica, |Rev. >{problem.diagnosis}",
        "{mejor}",
        *_maybe(rng, 0.5, _some(rng, _beside(EXAM[person.band], problem), wordy)),
        *_maybe(rng, 0.4 if person.band != "child" else 0.0, _some(rng, _beside(LABS, problem), 2)),
        *_maybe(rng, 0.5, f"<Plan: |Tto: |P/ |>{problem.plan}"),
        "{control}",
    ]
    return _join(rng, person, parts)


def _join(rng: random.Random, person: Persona, parts: list[str]) -> str:
    filled = [_expand(rng, part).rstrip(". ") for part in parts]
    text = rng.choice((". ", ". ", "\n", ".\n", " - ")).join(filled) + rng.choice((".", ".", ""))
    if person.sex == "varón":
        return text.replace("r@", "r").replace("@", "o")
    return text.replace("@", "a")


def _write(rng: random.Random, text: str) -> str:
    """The same text from a hurried hand: lost accents, one letter case, a few slips; placeholders survive."""
    habit = rng.random()
    pieces = re.split(r"(\[[A-Z]+\])", text)
    pieces[::2] = [_habit(piece, habit) for piece in pieces[::2]]
    for _ in range(int(rng.expovariate(1.2))):
        spot = 2 * rng.randrange(len(pieces[::2]))
        pieces[spot] = _slip(rng, pieces[spot])
    return "".join(pieces)


def _habit(text: str, habit: float) -> str:
    if habit < 0.14:
        decomposed = unicodedata.normalize("NFD", text)
        text = unicodedata.normalize("NFC", re.sub(r"(?<=[aeiouAEIOU])\u0301", "", decomposed))
    if habit < 0.04 or habit > 0.96:
        return text.upper()
    return text.lower() if 0.1 < habit < 0.2 else text


def _slip(rng: random.Random, text: str) -> str:
    """Swap, drop or double one letter inside a long word."""
    words = [match.start() for match in re.finditer(r"[^\W\d_]{6,}", text)]
    if not words:
        return text
    at = rng.choice(words) + rng.randint(1, 4)
    a, b = text[at], text[at + 1]
    return text[:at] + rng.choice((b + a, b, a + a + b)) + text[at + 2 :]


def _garble(rng: random.Random, text: str) -> str:
    """What a bad scan makes of a text."""
    wrong = {
        "a": "@",
        "e": "c",
        "i": "1",
        "l": "|",
        "o": "0",
        "s": "5",
        "n": "ri",
        "m": "rn",
        "r": "~",
        " ": "  ",
    }
    return "".join(wrong.get(c, c) if rng.random() < 0.3 else "" if rng.random() < 0.08 else c for c in text)


@cache
def _pool(table: str, person: Persona) -> tuple[Vignette, ...]:
    return tuple(vignette for vignette in TABLES[table] if vignette.audience in person.audiences)


@dataclass(frozen=True)
class Mix:
    """How one sort of patient comes about: relative weights, each list read by position."""

    bands: tuple[float, float, float]  # adult, elder, child
    signals: dict[str, tuple[float, ...]]  # table → weight of drawing 0, 1, 2, … of its vignettes
    past: dict[str, tuple[float, ...]]  # "risk" or "benign" → weight of drawing 0, 1, 2, … of its lines


MIXES = {
    ("clear", 1): Mix(
        bands=(0.90, 0.10, 0.0),
        signals={"indicator": (0.02, 0.20, 0.43, 0.35), "weak": (0.6, 0.4), "distractor": (0.75, 0.25)},
        past={"risk": (0.40, 0.35, 0.25), "benign": (0.8, 0.2)},
    ),
    ("clear", 0): Mix(
        bands=(0.62, 0.30, 0.08),
        signals={"indicator": (0.985, 0.015), "weak": (0.94, 0.06), "distractor": (0.45, 0.38, 0.17)},
        past={"risk": (0.96, 0.04), "benign": (0.55, 0.30, 0.15)},
    ),
    ("ambiguous", 0): Mix(
        bands=(0.85, 0.15, 0.0),
        signals={"weak": (0.0, 0.75, 0.25), "distractor": (0.7, 0.3)},
        past={"risk": (0.8, 0.2), "benign": (0.7, 0.3)},
    ),
}
MIXES["ambiguous", 1] = MIXES["ambiguous", 0]
# How much a doctor types beside the problem itself, one tuple a habit; a note draws from it.
WORDY = ((1, 1, 1, 2, 2, 3), (1, 2, 2, 3, 4), (2, 3, 4, 4, 9))


def _count(rng: random.Random, weights: tuple[float, ...]) -> int:
    return rng.choices(range(len(weights)), weights)[0]


def _persona(rng: random.Random, mix: Mix) -> Persona:
    return Persona(rng.choice(("varón", "mujer")), rng.choices(("adult", "elder", "child"), mix.bands)[0])


def _history(rng: random.Random, person: Persona, mix: Mix) -> tuple[str, ...]:
    """What this patient's notes may say of the past, filled once so that they agree with one another."""
    lines = rng.sample(HISTORY[person.band], rng.randint(3, 6))
    for table, weights in mix.past.items() if person.band != "child" else ():
        lines += rng.sample(HISTORY[table], _count(rng, weights))
    return tuple(_expand(rng, line) for line in lines)


def _signals(rng: random.Random, person: Persona, mix: Mix) -> list[Vignette]:
    """The vignettes that make this patient more than routine."""
    drawn = []
    for table, weights in mix.signals.items():
        pool = _pool(table, person)
        drawn += rng.sample(pool, min(len(pool), _count(rng, weights)))
    return drawn


def _days(rng: random.Random, count: int) -> list[date]:
    """`count` different days in order, most within a few years of one another."""
    span = min(count + int(rng.expovariate(1 / 900)), (LAST_DAY - FIRST_DAY).days)
    start = FIRST_DAY + timedelta(days=rng.randint(0, (LAST_DAY - FIRST_DAY).days - span))
    return [start + timedelta(days=day) for day in sorted(rng.sample(range(span + 1), count))]


def _native_notes(rng: random.Random, mix: Mix) -> list[tuple[str, str]]:
    """The (specialty, text) of each note of an ordinary patient, in order."""
    person = _persona(rng, mix)
    history = _history(rng, person, mix)
    signals = [_settle(rng, vignette) for vignette in _signals(rng, person, mix)]
    room = 1 + int(rng.expovariate(0.29)) % 9 - len(signals)
    fillers = rng.choices(_pool("routine", person), k=max(room, 0 if signals else 1))
    problems = signals + [_settle(rng, vignette) for vignette in fillers]
    rng.shuffle(problems)
    habit = rng.choice(WORDY)
    notes = []
    for place, problem in enumerate(problems):
        wordy = rng.choice(habit)
        if place and problem not in signals and rng.random() < 0.3:
            problem = rng.choice(problems[:place])
            text = _compose_follow_up(rng, person, problem, wordy)
        else:
            text = _compose(rng, person, problem, history, wordy)
        notes.append((problem.specialty, _write(rng, text)))
    return notes


def _foreign_notes(rng: random.Random, what: str) -> list[tuple[str, str]]:
    """The (specialty, text) of each note of an out-of-distribution patient, now and then beside a routine one."""
    routine = _native_notes(rng, MIXES["clear", 0])[:1] if rng.random() < 0.25 else []
    specialty, *sentences = FOREIGN[what]
    if what == "ocr":
        return [(specialty, _garble(rng, text)) for _, text in _native_notes(rng, MIXES["clear", 0])]
    return routine + [(specialty, _excerpt(rng, sentences)) for _ in range(rng.choice((1, 1, 2, 3)))]


def _excerpt(rng: random.Random, sentences: list[str]) -> str:
    places = sorted(rng.sample(range(len(sentences)), rng.randint(len(sentences) // 2, len(sentences))))
    return _expand(rng, rng.choice((" ", "\n")).join(sentences[place] for place in places))


def _patient(rng: random.Random, patient_id: str, label: int, kind: str) -> Patient:
    what = kind.removeprefix("foreign:")
    written = _native_notes(rng, MIXES[kind, label]) if what == kind else _foreign_notes(rng, what)
    days = _days(rng, len(written))
    notes = (Note(text, day, specialty) for (specialty, text), day in zip(written, days, strict=True))
    return Patient(patient_id, tuple(notes), label, kind)


def _plan(
    rng: random.Random, n: int, suspects: float, ambiguous: float, foreign: float
) -> list[tuple[int, str]]:
    """The (label, kind) of each patient, in random order, with the shares met to the patient."""
    odd = [(0, f"foreign:{rng.choice(tuple(FOREIGN))}") for _ in range(round(n * foreign))]
    unsure = [(rng.randint(0, 1), "ambiguous") for _ in range(round(n * ambiguous))]
    clear = n - len(odd) - len(unsure)
    positive = min(clear, max(0, round(n * suspects) - sum(label for label, _ in unsure)))
    plan = odd + unsure + [(1, "clear")] * positive + [(0, "clear")] * (clear - positive)
    rng.shuffle(plan)
    return plan


def generate(
    n: int,
    seed: int,
    *,
    suspects: float = 0.16,
    ambiguous: float = 0.10,
    foreign: float = 0.05,
    prefix: str = "P",
) -> Iterator[Patient]:
    """Yield `n` patients, the same ones for the same arguments.

    `suspects` is the share of label 1 over everybody, `ambiguous` the share with one weak indicator whose label is a
    coin's, `foreign` the share of out-of-distribution patients (label 0, none when 0). Pseudonyms, `prefix`-12345,
    are unique within a call; give two sites different prefixes.
    """
    if min(n, suspects, ambiguous, foreign) < 0 or ambiguous + foreign > 1 or suspects > 1:
        raise DataError("The cohort's size and shares must not be negative, and its shares must not pass 1.")
    rng = random.Random(seed)
    plan = _plan(rng, n, suspects, ambiguous, foreign)
    numbers = rng.sample(range(10_000, 10_000 + max(90_000, n)), n)
    for number, (label, kind) in zip(numbers, plan, strict=True):
        yield _patient(rng, f"{prefix}-{number}", label, kind)


def as_record(patient: Patient, labelled: bool) -> dict[str, object]:
    """The patient as one line of an import file, with its label only when `labelled`."""
    notes = [
        {
            "text": note.text,
            "written_at": note.written_at.isoformat(),
            "specialty": note.specialty,
            "note_id": f"{patient.patient_id}-{place}",
        }
        for place, note in enumerate(patient.notes, start=1)
    ]
    record: dict[str, object] = {"patient_id": patient.patient_id, "notes": notes}
    return record | {"label": patient.label} if labelled else record

"""What a text shows before anyone reads it: its length, and how thick it is with cues that make a reading hard.

The lists are our own, from the field's everyday vocabulary: negation and hedging words as NegEx and ConText name their
kinds (Chapman et al. 2001; Harkema et al. 2009), drugs by the WHO's stems for international non-proprietary names
(«The use of stems in the selection of INN», 2018) beside units of a dose, events by what reports of harm call it. They
count, they do not understand: «no» counts in «no improvement» and in «no pain» alike.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np

Language = Literal["es", "en"]
PER = 100  # words

# Without accents, as the text is read. «*» stands for any ending, and before a stem for any beginning.
CUES: dict[Language, dict[str, str]] = {
    "es": {
        "negation": "no, sin, ni, niega*, negaba*, negativ*, nunca, tampoco, ningun*, ausencia, ausente*, descart*",
        "hedging": "posible*, posiblemente, probable*, probablemente, sospech*, sugiere*, sugestiv*, sugerente*, "
        "compatible*, impresiona, parece*, podria*, dudos*, aparente*, orientad*, valorar, presunt*",
        "drugs": "*cilina, *micina, *floxacino, *prazol, *conazol, *sartan, *olol, *dipino, *statina, *parina, "
        "*profeno, *caina, *zepam, *gliptina, *metasona, *nisona, *nisolona, *mab, *tinib, *ciclina, *formina, "
        "*platino, *taxel, cef*, insulina*, aspirina, paracetamol, metamizol, morfina, farmac*, medica*, mg, mcg, "
        "comprimido*, dosis, antibiotic*, corticoid*",
        "events": "advers*, reaccion*, toxic*, alergi*, exantema*, erupcion*, nausea*, vomit*, hemorrag*, sangr*, "
        "infeccion*, infectad*, sepsis, shock, complicac*, empeora*, ictus, infarto*, ingres*, fallec*, muerte, exitus, "
        "intoxicac*, sobredosis, lesion*",
    },
    "en": {
        "negation": "no, not, nor, none, never, neither, without, cannot, denie*, deny*, negative*, absent, absence, "
        "*n't",
        "hedging": "possibl*, probabl*, likely, unlikely, suspect*, suspicion, suggest*, may, might, could, appear*, "
        "seem*, consistent, unclear, unknown, undetermined, questionabl*, alleged*, reportedly, approximately",
        "drugs": "*cillin, *mycin, *floxacin, *prazole, *conazole, *sartan, *olol, *dipine, *statin, *parin, *profen, "
        "*caine, *zepam, *gliptin, *methasone, *nisone, *nisolone, *mab, *tinib, *cycline, *formin, *platin, *taxel, "
        "cef*, insulin*, aspirin, acetaminophen, morphine, warfarin, drug*, medication*, mg, mcg, tablet*, dose*, "
        "dosage*, antibiotic*, steroid*",
        "events": "advers*, reaction*, toxic*, allerg*, rash*, nausea*, vomit*, hemorrhag*, haemorrhag*, bleed*, bled, "
        "infect*, sepsis, shock, complication*, worsen*, stroke*, infarct*, hospitali*, died, death*, expired, "
        "deceased, overdose*, injur*, malfunction*, fail*, fractur*, broke*, leak*, rupture*, explant*, burn*",
    },
}
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
NUMBER = re.compile(r"\d+(?:[.,/:]\d+)*")
SLASHED = re.compile(r"\b[^\W\d_]{1,2}/[^\W\d_]{0,2}(?=\W|$)")
SHORT = re.compile(r"\b[^\W\d_]{2,5}\b")
VOWELS = frozenset("aeiouy")
NAMES = ("words", "notes", "negation", "hedging", "numbers", "abbreviations", "drugs", "events")


def text_features(notes: Sequence[str], language: Language) -> dict[str, float]:
    """By name (NAMES): log(1 + words), log(1 + notes), then how many of each cue stand in a hundred words.

    abbreviations: slashed («s/p», «c/o»), of two to five letters without a vowel («pt», «htn»), or in capitals where most
    of the text is not.
    """
    plain = _plain("\n".join(notes))
    lower = plain.lower().replace("’", "'")
    count = len(WORD.findall(lower))
    found = {name: len(pattern.findall(lower)) for name, pattern in _patterns(language).items()}
    found |= {"numbers": len(NUMBER.findall(plain)), "abbreviations": _abbreviations(plain)}
    dense = {name: PER * found[name] / max(count, 1) for name in NAMES[2:]}
    return {"words": float(np.log1p(count)), "notes": float(np.log1p(len(notes))), **dense}


def _plain(text: str) -> str:
    """The text without its accents."""
    apart = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in apart if not unicodedata.combining(letter))


@cache
def _patterns(language: Language) -> dict[str, re.Pattern[str]]:
    return {name: _pattern(words) for name, words in CUES[language].items()}


def _pattern(words: str) -> re.Pattern[str]:
    stems = (re.escape(word).replace(r"\*", r"\w*") for word in words.split(", "))
    return re.compile(rf"\b(?:{'|'.join(stems)})\b")


def _abbreviations(plain: str) -> int:
    shouted = 2 * sum(letter.isupper() for letter in plain) > sum(letter.isalpha() for letter in plain)
    short: list[str] = SHORT.findall(plain)
    found = [not VOWELS & set(word.lower()) or (word.isupper() and not shouted) for word in short]
    return len(SLASHED.findall(plain)) + sum(found)

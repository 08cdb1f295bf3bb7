"""The invented cohort: reproducible, varied, free of giveaways, and about as hard as it says."""

import json
import random
import re
import time
import unicodedata
from datetime import date
from io import BytesIO
from itertools import product

import numpy as np
import pytest

from mlcore import protocols, records
from mlcore.errors import DataError
from triage import synthetic

GIVEAWAY = re.compile(
    r"\b(vih|hiv|sida|aids|targa|cd ?4)\b|retrovir|carga viral|viral load|inmunodeficien|serolog"
)


@pytest.fixture(scope="module")
def cohort() -> list[synthetic.Patient]:
    return list(synthetic.generate(2000, seed=11))


def plain(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))


def texts(patients) -> list[str]:
    return [note.text for patient in patients for note in patient.notes]


def test_the_same_seed_gives_the_same_patients():
    first, again, other = (list(synthetic.generate(60, seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert not set(texts(first)) & set(texts(other))


def test_pseudonyms_are_unique_and_carry_the_prefix(cohort):
    north = [patient.patient_id for patient in synthetic.generate(300, seed=11, prefix="N")]
    assert len({patient.patient_id for patient in cohort}) == 2000
    assert all(re.fullmatch(r"N-\d{5}", name) for name in north)


def test_shares_are_met_to_the_patient(cohort):
    kinds = [patient.kind.partition(":")[0] for patient in cohort]
    assert sum(patient.label for patient in cohort) == 320
    assert (kinds.count("ambiguous"), kinds.count("foreign")) == (200, 100)
    assert {patient.label for patient in cohort if patient.kind.startswith("foreign")} == {0}
    unsure = [patient.label for patient in cohort if patient.kind == "ambiguous"]
    assert 0.4 < np.mean(unsure) < 0.6


def test_every_foreign_kind_occurs_and_only_when_asked(cohort):
    assert {f"foreign:{kind}" for kind in synthetic.FOREIGN} <= {patient.kind for patient in cohort}
    assert {patient.kind for patient in synthetic.generate(300, seed=1, foreign=0)} == {"clear", "ambiguous"}


@pytest.mark.parametrize(
    "wrong", [{"n": -1}, {"suspects": 1.1}, {"foreign": -0.1}, {"ambiguous": 0.6, "foreign": 0.6}]
)
def test_impossible_shares_are_refused(wrong):
    with pytest.raises(DataError, match="shares"):
        list(synthetic.generate(**({"n": 10, "seed": 0} | wrong)))


def test_no_word_gives_the_label_away(cohort):
    assert [found[0] for text in texts(cohort) if (found := GIVEAWAY.search(plain(text)))] == []


def test_no_template_holds_a_giveaway():
    tables = vars(synthetic.texts)
    everything = plain(" ".join(str(tables[name]) for name in tables if name.isupper()))
    assert len(everything) > 30_000
    assert GIVEAWAY.search(everything) is None


@pytest.mark.parametrize("table", synthetic.TABLES)
def test_every_vignette_fills_into_a_clean_note(table):
    rng = random.Random(5)
    people = [synthetic.Persona(*pair) for pair in product(("varón", "mujer"), ("adult", "elder", "child"))]
    for person, wordy in product(people, (1, 9)):
        for vignette in synthetic._pool(table, person):
            problem = synthetic._settle(rng, vignette)
            text = synthetic._compose(rng, person, problem, synthetic.HISTORY[person.band], wordy)
            assert not re.search(r"[{}<>@|]|\.\.| [.,]|  ", text), text


def test_templates_offer_no_unknown_slot():
    tables = vars(synthetic.texts)
    named = {
        slot for name in tables if name.isupper() for slot in re.findall(r"\{([a-z]+)\}", str(tables[name]))
    }
    assert named <= set(synthetic.LEXICON)
    assert "analgesico" in named


def test_children_are_seen_by_paediatricians_only(cohort):
    seen = [{note.specialty for note in patient.notes} for patient in cohort if patient.kind == "clear"]
    young = [specialties for specialties in seen if "Pediatría" in specialties]
    assert len(young) > 50
    assert all(specialties == {"Pediatría"} for specialties in young)


def test_only_women_see_a_gynaecologist():
    assert "Ginecología" not in {
        vignette.specialty
        for table, band in product(synthetic.TABLES, ("adult", "elder", "child"))
        for vignette in synthetic._pool(table, synthetic.Persona("varón", band))
    }


def test_endings_follow_the_gender():
    man, woman = (synthetic.Persona(sex, "adult") for sex in ("varón", "mujer"))
    parts = ["Ingresad@", "fumador@"]
    words = [set(re.findall(r"\w+", synthetic._join(random.Random(0), who, parts))) for who in (man, woman)]
    assert words == [{"Ingresado", "fumador"}, {"Ingresada", "fumadora"}]


def test_a_line_that_contradicts_the_problem_is_left_out():
    problem = synthetic.Vignette(
        "M. Interna", "", "Bultos", "Adenopatías axilares", "Linfadenopatía", "Biopsia"
    )
    assert synthetic._beside(("denopat = Sin adenopatías", "BEG"), problem) == ("BEG",)


def test_slips_and_habits_leave_placeholders_alone():
    rng = random.Random(2)
    text = "Paciente de [EDAD] años remitido desde [HOSPITAL] por adenopatías cervicales dolorosas"
    written = [synthetic._write(rng, text) for _ in range(300)]
    assert all(re.findall(r"\[\w+\]", typed) == ["[EDAD]", "[HOSPITAL]"] for typed in written)
    assert len(set(written)) > 50
    assert text in written
    assert any(typed != text and plain(typed) == plain(text) for typed in written)
    assert any(plain(typed) != plain(text) for typed in written)


def test_notes_are_dated_in_order_within_the_years(cohort):
    for patient in cohort:
        days = [note.written_at for note in patient.notes]
        assert 1 <= len(days) <= 9
        assert days == sorted(set(days))
        assert date(1998, 1, 1) <= days[0] and days[-1] <= date(2023, 12, 31)
    assert {note.written_at.year for patient in cohort for note in patient.notes} == set(range(1998, 2024))


def test_notes_rarely_repeat(cohort):
    written = texts(cohort)
    assert 1 - len(set(written)) / len(written) < 0.01


def test_length_specialties_and_placeholders_look_like_a_hospital(cohort):
    words = [sum(len(note.text.split()) for note in patient.notes) for patient in cohort]
    assert 120 < np.mean(words) < 300
    assert np.percentile(words, 99) > 3 * np.median(words)
    assert len({note.specialty for patient in cohort for note in patient.notes}) >= 20
    assert {"[EDAD]", "[HOSPITAL]", "[FECHA]", "[MEDICO]", "[LOCALIDAD]", "[GENERO]"} <= set(
        re.findall(r"\[[A-Z]+\]", " ".join(texts(cohort)))
    )


def test_two_thousand_patients_take_seconds():
    start = time.process_time()
    assert len(list(synthetic.generate(500, seed=9))) == 500
    assert time.process_time() - start < 1.0


def test_a_record_is_read_back_by_the_import_form(cohort):
    spec = protocols.get("hiv-suspicion-es")
    lines = "".join(json.dumps(synthetic.as_record(patient, True)) + "\n" for patient in cohort[:50])
    read = list(records.read(BytesIO(lines.encode()), "cohort.jsonl", spec))
    assert [(r.patient_id, r.label) for r in read] == [(p.patient_id, p.label) for p in cohort[:50]]
    assert [[n.text for n in r.notes] for r in read] == [[n.text for n in p.notes] for p in cohort[:50]]
    assert read[0].notes[0].note_id == f"{cohort[0].patient_id}-1"
    assert read[0].notes[0].written_at == cohort[0].notes[0].written_at


def test_an_unlabelled_record_keeps_the_answer_to_itself(cohort):
    record = synthetic.as_record(cohort[0], labelled=False)
    assert set(record) == {"patient_id", "notes"}
    assert set(record["notes"][0]) == {"text", "written_at", "specialty", "note_id"}


def test_words_alone_learn_much_but_not_all():
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline

    train, test = (list(synthetic.generate(n, seed=n, foreign=0.0)) for n in (2000, 600))
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, min_df=2), LogisticRegression(C=10, class_weight="balanced")
    )
    model.fit(["\n".join(texts([p])) for p in train], [p.label for p in train])
    score = model.decision_function(["\n".join(texts([p])) for p in test])
    label = np.array([p.label for p in test])
    unsure = np.array([p.kind == "ambiguous" for p in test])
    assert 0.92 < roc_auc_score(label, score) < 0.98
    assert roc_auc_score(label[~unsure], score[~unsure]) > 0.95
    assert np.median(score[~unsure & (label == 0)]) < np.median(score[unsure])
    assert np.median(score[unsure]) < np.median(score[~unsure & (label == 1)])

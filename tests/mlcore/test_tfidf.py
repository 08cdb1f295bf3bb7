"""The linear release: its rows are scikit-learn's, a case is the mean of its notes, and it explains itself without attention."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from mlcore import attribution, bundle, metrics, protocols, tfidf, train
from mlcore.errors import DataError, ModelError
from mlcore.records import NoteText, Record
from mlcore.scorer import Scorer
from tests.mlcore.conftest import COMMON, OTHER, SPEC, SUSPECT, cases

SEVERITY = protocols.MAUDE_SEVERITY_EN


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("tfidf") / "bundle"
    train.train(cases(240, 2), SPEC, tfidf.NAME, found)
    return found


@pytest.fixture(scope="module")
def scorer(folder):
    return Scorer.load(folder)


@pytest.fixture(scope="module")
def fresh():
    return cases(40, 9)


def test_a_row_is_that_of_scikit_learns_own_vectorisers():
    notes = [note.text for record in cases(60, 4) for note in record.notes]
    terms, counts = tfidf._terms([notes], 2, 1)
    new = [record.texts[0] for record in cases(5, 6)] + ["", "ñandú"]
    common = {"min_df": 2, "sublinear_tf": True}
    both = (
        TfidfVectorizer(ngram_range=(1, 2), strip_accents="unicode", **common),
        TfidfVectorizer(ngram_range=(3, 5), analyzer="char_wb", **common),
    )
    seen = np.hstack([v.fit_transform(notes).toarray() for v in both])
    expected = np.hstack([v.transform(new).toarray() for v in both])
    assert terms.rows(new)[0].toarray() == pytest.approx(expected, abs=1e-6)
    assert tfidf.weighted(counts, terms.idf)[0].toarray() == pytest.approx(seen, abs=1e-6)


def test_a_case_is_the_mean_of_its_notes_by_their_lengths(scorer):
    notes = ["candidiasis oral recurrente", "fiebre y tos seca y dolor abdominal intenso", "  "]
    scores, embeddings, (weights,) = scorer.score_records([notes])
    x, lengths = scorer.encoder.rows(notes[:2])
    assert weights == pytest.approx(lengths / lengths.sum(), abs=1e-6)
    pooled = weights @ x.toarray()
    assert scores.logits[0] == pytest.approx(
        pooled @ scorer.encoder.weights + scorer.head.intercept, abs=1e-5
    )
    directions = pooled[scorer.encoder.columns] @ scorer.encoder.directions
    assert embeddings[0] == pytest.approx(directions, abs=1e-5)


def test_notes_without_a_known_term_count_alike():
    assert tfidf.note_weights(np.zeros(4, np.float32)).tolist() == [0.25] * 4
    assert tfidf.note_weights(np.zeros(0, np.float32)).tolist() == []


def test_a_window_is_a_whole_note(scorer):
    notes = ["Fiebre.", "", " \n", "😀 e\u0301dema"]
    windows = scorer.windows(notes)
    assert [(w.note, w.start, w.end) for w in windows] == [(0, 0, 7), (3, 0, 8)]
    assert [tfidf.text_of(w) for w in windows] == ["Fiebre.", "😀 e\u0301dema"]
    assert [(w.note, w.end) for w in scorer.windows(["", " "])] == [(0, 0)]
    assert scorer.encode([]).shape == (0, scorer.encoder.width)
    with pytest.raises(DataError, match="no notes"):
        scorer.windows([])


def test_the_same_bits_in_any_company_and_from_stored_bytes(scorer, fresh):
    texts = [record.texts for record in fresh]
    together, embeddings, _ = scorer.score_records(texts)
    for i in (0, 7, 23):
        vectors = scorer.encode(scorer.windows(texts[i]))
        stored = np.frombuffer(vectors.tobytes(), "<f4").reshape(vectors.shape)
        alone, own, _ = scorer.score([stored])
        for name in ("logits", "p_values", "distances", "typicality"):
            assert (getattr(alone, name)[0] == getattr(together, name)[i]).all()
        assert (own[0] == embeddings[i]).all()


def test_odd_text_is_scored_like_any_other(scorer):
    odd = [
        ["\u0301"],
        ["x" * 5000],
        ["<script>" * 300],
        ["مرحبا 你好"],
        ["a\u202eb", "fiebre"],
        ["\ud800 tos"],
        [""],
    ]
    scores, _, _ = scorer.score_records(odd)
    assert np.isfinite(scores.logits).all()
    assert (scores.p_values > 0).all()
    assert (scores.logits[-1] == scorer.head.intercept).all()


def test_it_tells_the_invented_classes_apart(scorer, fresh):
    scores, _, _ = scorer.score_records([record.texts for record in fresh])
    truth = np.array([record.label for record in fresh])
    assert metrics.auroc(scores.probabilities[:, 1], truth == 1) > 0.95


def test_the_bundle_is_sealed_and_holds_nothing_that_runs(folder, tmp_path):
    bundle.verify(folder)
    kinds = {path.suffix for path in folder.rglob("*") if path.is_file() and path.name != bundle.SUMS}
    assert kinds == {".json", ".safetensors"}
    card = bundle.read_card(folder)
    assert (card["kind"], card["epochs"], card["encoder"]["source"]) == (tfidf.NAME, [], "tfidf")
    assert card["chosen"]["strength"] in tfidf.STRENGTHS
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    terms = json.loads((copy / tfidf.TERMS).read_text())
    (copy / tfidf.TERMS).write_text(json.dumps(terms | {"words": terms["words"][1:]}))
    with pytest.raises(ModelError, match="do not fit"):
        Scorer.load(copy, verify=False)
    (copy / tfidf.TERMS).write_text("[]")
    with pytest.raises(ModelError, match="cannot be read"):
        Scorer.load(copy, verify=False)


def test_scoring_and_explaining_need_no_torch(folder):
    program = (
        "import sys; from pathlib import Path; from mlcore.scorer import Scorer; from mlcore import attribution\n"
        f"s = Scorer.load(Path({str(folder)!r})); s.score_records([['fiebre y muguet']])\n"
        "[attribution.explain(s, ['fiebre y candidiasis oral'], m) for m in attribution.METHODS]\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_is_loaded_is_what_was_trained(tmp_path, fresh):
    records = cases(160, 3)
    labels = np.array([record.label for record in records])
    groups = [record.patient_id for record in records]
    clock = train.Clock(lambda stage, done, total: None)
    model = tfidf.fit_model(
        records, labels, groups, SPEC, train.TrainConfig(), np.arange(120), np.arange(120, 160), clock
    )
    model.save(tmp_path)
    terms, head = tfidf.load(tmp_path)
    texts = [record.texts for record in fresh]
    again = tfidf.Model(terms, head, model.temperature, model.chosen).outputs(texts)
    ours = model.outputs(texts)
    assert (again.logits == ours.logits).all()
    assert (again.embeddings == ours.embeddings).all()


def test_terms_and_directions_come_from_the_fitting_share_alone():
    records = cases(160, 3)
    marked = [
        *records[:120],
        *(Record(r.patient_id, [NoteText("Wolframio.")], r.label, r.line) for r in records[120:]),
    ]
    labels = np.array([record.label for record in marked])
    clock = train.Clock(lambda stage, done, total: None)
    groups = [record.patient_id for record in marked]
    parts = (np.arange(120), np.arange(120, 160))
    ours = tfidf.fit_model(marked, labels, groups, SPEC, train.TrainConfig(), *parts, clock).encoder
    other = tfidf.fit_model(records, labels, groups, SPEC, train.TrainConfig(), *parts, clock).encoder
    assert ours.words == other.words
    assert (ours.idf == other.idf).all()
    assert (ours.directions == other.directions).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_the_regression_is_the_primal_ones(classes, monkeypatch):
    """At a fine tolerance the dual solver comes where the primal one does; at its own, near it."""
    rng = np.random.default_rng(classes)
    y = np.arange(150) % classes
    x = rng.normal(size=(150, 12)) + (y[:, None] == np.arange(12) % classes)
    primal = {"C": 1.0, "class_weight": "balanced", "solver": "liblinear", "tol": 1e-8}
    expected = [LogisticRegression(**primal).fit(x, y == c).decision_function(x) for c in range(classes)]
    for tolerance, apart in ((tfidf.SOLVER["tol"], 0.5), (1e-6, 1e-3)):
        monkeypatch.setitem(tfidf.SOLVER, "tol", tolerance)
        weights, intercept = tfidf.regression(x, y, classes, 1.0)
        logits = x @ weights + intercept
        found = [logits[:, 1] - logits[:, 0]] if classes == 2 else logits.T
        for own, naive in zip(found, expected[-len(found) :], strict=True):
            assert own == pytest.approx(naive, abs=apart)


def test_the_strength_is_the_best_out_of_fold():
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    x = rng.normal(size=(120, 30)) + y[:, None] * np.r_[0.4, np.zeros(29)]
    fold = np.arange(120) // 2 % tfidf.FOLDS
    seen = []
    chosen, logits = tfidf.choose(x, y, fold, SPEC, seen.append)
    tried = {row["strength"]: row[chosen["metric"]] for row in chosen["tried"]}
    assert tried[chosen["strength"]] == max(tried.values()) == chosen["value"]
    assert metrics.average_precision(expit(logits[:, 1] - logits[:, 0]), y == 1) == pytest.approx(
        chosen["value"]
    )
    out = fold == 1
    weights, intercept = tfidf.regression(x[~out], y[~out], 2, chosen["strength"])
    assert (logits[out] == x[out] @ weights + intercept).all()
    assert seen == list(range(1, len(tfidf.STRENGTHS) * tfidf.FOLDS + 1))


def test_four_classes(tmp_path):
    rng = np.random.default_rng(8)
    telling = ["query", "broke screen", "burn infection", "patient died"]
    made = [
        Record(
            str(i),
            [NoteText(" ".join([*rng.choice(COMMON, 12), telling[i % 4]]))],
            i % 4,
            i + 1,
        )
        for i in range(240)
    ]
    card = train.train(made, SEVERITY, tfidf.NAME, tmp_path / "bundle")
    assert card["chosen"]["metric"] == "average precision of Death"
    scorer = Scorer.load(tmp_path / "bundle")
    scores, _, _ = scorer.score_records([["fiebre leve patient died"], ["control normal broke screen"]])
    assert [SEVERITY.labels[c] for c in scores.label] == ["Death", "Malfunction"]
    found = attribution.explain(scorer, ["fiebre leve patient died"])
    assert found.words[0].sign == "toward"
    assert "fiebre leve patient died"[found.words[0].start : found.words[0].end] in {"died", "patient"}


def test_a_label_of_one_group_cannot_be_learned():
    y = np.arange(60) % 3 // 2
    groups = ["one" if label else str(i) for i, label in enumerate(y)]
    with pytest.raises(DataError, match="labelled suspicion are of fewer than two groups"):
        tfidf._folds(y, groups, SPEC, 13)


def test_notes_of_hardly_a_word_cannot_be_learned_from():
    with pytest.raises(DataError, match="Hardly a word"):
        tfidf._terms([["a b"] * 30], 2, 1)
    with pytest.raises(DataError, match="Hardly a word"):
        tfidf._terms([["lluvia", "lluvia", *(f"palabra{i}" for i in range(30))]], 2, 1)


# What hides a word.


@pytest.fixture(scope="module")
def record():
    return [
        "Paciente acude a control. Fiebre leve; candidiasis oral recurrente.",
        "Niega alergias. Herpes zóster, tos.",
    ]


def margin(scorer, notes):
    logits = scorer.score_records([notes])[0].logits[0]
    return logits[1] - logits[0]


@pytest.mark.parametrize(("method", "hidden"), [("deletion", ""), ("mask", tfidf.UNKNOWN)])
def test_hiding_a_word_is_writing_the_note_without_it(scorer, record, method, hidden):
    found = attribution.explain(scorer, record, method)
    assert found.attentions
    assert len(found.words) == sum(len(attribution.words_of(text)) for text in record)
    for word in found.words:
        notes = list(record)
        text = notes[word.note]
        notes[word.note] = text[: word.start] + hidden * (word.end - word.start) + text[word.end :]
        fall = margin(scorer, record) - margin(scorer, notes)
        assert word.margin == pytest.approx(fall, abs=1e-5)
        far = [scorer.score_records([n])[0].distances[0, found.label] for n in (record, notes)]
        assert word.distance == pytest.approx(far[0] - far[1], abs=1e-4)
    assert sum(word.importance for word in found.words) == pytest.approx(1)


@pytest.mark.parametrize("method", attribution.METHODS)
def test_planted_evidence_is_found_and_signed(scorer, method):
    text = " ".join([*COMMON[:20], "candidiasis", *COMMON[20:30], "herpes"])
    found = attribution.explain(scorer, [text], method, top=6)
    named = {text[w.start : w.end]: w.sign for w in found.words}
    assert named["candidiasis"] == named["herpes"] == "toward"
    text = " ".join([*COMMON[:20], "fractura", *COMMON[20:30]])
    named = {text[w.start : w.end]: w.sign for w in attribution.explain(scorer, [text], method, top=6).words}
    assert named["fractura"] == "away"
    assert set(named) & (set(SUSPECT) | set(OTHER))


def test_shares_add_up_to_the_logits(scorer):
    """Words apart by a sign hold all characters and single words of a note; only pairs are nobody's."""
    text = "candidiasis fiebre tos"
    (window,) = scorer.windows([text])
    found = scorer.encoder.shares(window, attribution.words_of(text))
    x = scorer.encoder.rows([text])[0].toarray()[0]
    pairs = np.array([" " in word for word in scorer.encoder.words] + [False] * len(scorer.encoder.letters))
    assert found.sum(axis=0) == pytest.approx(x[~pairs] @ scorer.encoder.weights[~pairs])
    twice = "tos fiebre tos"
    (window,) = scorer.windows([twice])
    first, _, last = scorer.encoder.shares(window, attribution.words_of(twice))
    assert first == pytest.approx(last)


def test_shares_of_a_case_add_up_to_its_margin(scorer):
    notes = ["candidiasis fiebre tos", "herpes leve tos seca"]
    case = attribution.read(scorer, notes)
    shares = attribution.shares(scorer, scorer.encoder, case)
    x = scorer.encoder.rows(notes)[0].toarray()
    x[:, : len(scorer.encoder.words)] *= [" " in word for word in scorer.encoder.words]
    x[:, len(scorer.encoder.words) :] = 0
    pairs = case.weights @ x @ scorer.encoder.weights
    left = margin(scorer, notes) - margin(scorer, [""]) - (pairs[1] - pairs[0])
    assert sum(shares.values()) == pytest.approx(left, abs=1e-5)


def test_the_nearest_and_a_blank_case(scorer, folder):
    known = {
        k.removeprefix("held_out."): v
        for k, v in bundle.load_arrays(folder).items()
        if k.startswith("held_out.")
    }
    found = attribution.explain(scorer, ["Fiebre y candidiasis oral."], known=known)
    assert len(found.nearest) == 2 * attribution.NEAREST
    assert [round(part.weight, 6) for part in found.windows] == [1.0]
    for method in attribution.METHODS:
        assert attribution.explain(scorer, [""], method).words == []


def test_no_case_to_validate_on_costs_nothing():
    records = cases(120, 7)
    labels = np.array([record.label for record in records])
    groups, none = [record.patient_id for record in records], np.array([], dtype=np.int64)
    clock = train.Clock(lambda stage, done, total: None)
    model = tfidf.fit_model(records, labels, groups, SPEC, train.TrainConfig(), np.arange(120), none, clock)
    assert model.outputs([records[0].texts]).logits.shape == (1, 2)

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AutoModel, MambaConfig, MambaModel

from mlcore import attribution, bundle, chunks, mil
from mlcore.attribution import DEFAULT, HIDINGS, Phrase, explain, occlude
from mlcore.calibrate import Calibration
from mlcore.distance import MultiCentroid, normalise
from mlcore.encoder import Encoder
from mlcore.errors import DataError
from mlcore.scorer import Scorer
from tests.mlcore.conftest import COMMON, SPEC, SUSPECT, cases


def made_up(encoder, seed=0):
    """A scorer around an encoder: a head of random weights, a distance and a calibration of random cases."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    head = mil.Head(encoder.width, 2, 16).eval()
    records = cases(40, 5)
    head.standardise(torch.from_numpy(encoder.encode([w for r in records for w in windows_of(encoder, r)])))
    with torch.no_grad():
        head.classifier.weight.mul_(10)
    vectors = [torch.from_numpy(encoder.encode(windows_of(encoder, r))) for r in records]
    logits, embeddings, _ = mil.predict(head, vectors)
    truth = np.arange(40) % 2
    distance = MultiCentroid().fit(embeddings, truth, 2)
    far = distance.distances(embeddings) + rng.random((40, 2)) * 1e-3
    calibration = Calibration.fit(SPEC.labels, logits, far, truth, 1.0)
    return Scorer(
        encoder, head, calibration, distance, {"labels": list(SPEC.labels), "targets": list(SPEC.targets)}
    )


def windows_of(encoder, record):
    return chunks.kept(record.texts, encoder.tokenizer)


@pytest.fixture(scope="module")
def scorer(trained):
    return Scorer.load(trained)


@pytest.fixture(scope="module")
def deep(roberta):
    """A RoBERTa of two layers, whose words all see one another."""
    return made_up(Encoder.load(roberta))


@pytest.fixture(scope="module")
def blind(roberta, tmp_path_factory):
    """An encoder of a kind that has no attentions: a state-space model."""
    folder = tmp_path_factory.mktemp("mamba")
    torch.manual_seed(1)
    config = MambaConfig(vocab_size=600, hidden_size=32, num_hidden_layers=2, state_size=4)
    MambaModel(config).save_pretrained(folder)
    Encoder.load(roberta).tokenizer.save_pretrained(folder)
    return made_up(Encoder.load(folder))


@pytest.fixture(scope="module")
def notes():
    """A note of several windows and a short one."""
    texts = next(r.texts for r in cases(9, 31, words=220) if r.label == 1 and len(r.notes) > 1)
    return [" ".join(texts), texts[0]]


def margin(scorer, vectors):
    logits = scorer.score([vectors])[0].logits[0]
    return logits[1] - logits[0]


def without(scorer, notes, spans, how):
    """The record's windows with the words at these places hidden, by a loop over every token of every window."""
    changed = []
    for window in scorer.windows(notes):
        ids = []
        for token, (start, end) in zip(window.ids, window.offsets, strict=True):
            hidden = any(n == window.note and end > start and a <= start < b for n, a, b in spans)
            if not hidden:
                ids.append(token)
            elif how == "mask":
                ids.append(scorer.encoder.tokenizer.mask_token_id)
        changed.append(dataclasses.replace(window, ids=ids))
    return changed


def naive(scorer, notes, spans, how):
    """Fall of margin and distance: the whole record encoded again, one window at a time, nothing kept."""
    before = np.concatenate([scorer.encoder.encode([w], "fp32") for w in scorer.windows(notes)])
    windows = without(scorer, notes, spans, how)
    after = np.concatenate([scorer.encoder.encode([w], "fp32") for w in windows])
    first, then = (scorer.score([vectors])[0] for vectors in (before, after))
    label = first.label[0]
    return margin(scorer, before) - margin(scorer, after), first.distances[0, label] - then.distances[
        0, label
    ]


def place(word):
    return (word.note, word.start, word.end)


def test_words_are_exact_places_in_the_text_as_written():
    text = "Niña: CD4 <200, e\u0301dema 😀 y T/A 120-80; «PCR(-)» +++ 5,3%\u200b."
    words = [text[a:b] for a, b in attribution.words_of(text)]
    assert " ".join(words) == "Niña CD4 < 200 e\u0301dema 😀 y T A 120 80 PCR +++ 5 3 %"


def test_the_words_of_a_case_are_words_of_its_notes(scorer, notes):
    found = explain(scorer, notes, top=30)
    assert len(found.words) == 30 and len({place(w) for w in found.words}) == 30
    for word in found.words:
        assert (word.start, word.end) in attribution.words_of(notes[word.note])
    importances = [w.importance for w in found.words]
    assert importances == sorted(importances, reverse=True) and 0 < sum(importances) <= 1
    assert np.isclose(sum(part.weight for part in found.windows), 1)
    assert found.method == DEFAULT and found.attentions


def test_offsets_hold_across_emoji_and_combining_marks(scorer):
    text = "😀😀 e\u0301dema e\u0301 candidiasis 😀 recurrente"
    found = explain(scorer, ["fiebre alta", text])
    words = {text[w.start : w.end] for w in found.words if w.note == 1}
    assert {"e\u0301dema", "candidiasis", "recurrente"} <= words


def test_importance_is_transformers_own_attention_by_the_formula(deep, roberta, notes):
    """Last layer, eager, one window at a time: half the first row and half the mean row, over heads, times the weight."""
    windows = deep.windows(notes)
    weights = deep.score([deep.encode(windows)])[2][0]
    model = AutoModel.from_pretrained(roberta, attn_implementation="eager").eval()
    attention = []
    for window in windows:
        with torch.no_grad():
            heads = model(torch.tensor([window.ids]), output_attentions=True).attentions[-1][0].numpy()
        rows = np.mean(list(heads), axis=0)
        attention.append((rows[0] + rows.mean(axis=0)) / 2)
    shares = {}
    for n, text in enumerate(notes):
        for start, end in attribution.words_of(text):
            per_window = []
            for w, a, weight in zip(windows, attention, weights, strict=True):
                inside = [i for i, (s, e) in enumerate(w.offsets) if e > s and start <= s < end]
                if w.note == n and inside:
                    per_window.append(a[inside].sum() * weight)
            shares[n, start, end] = np.mean(per_window)
    total = sum(shares.values())
    assert any(a.note == b.note for a, b in pairwise(windows)), "windows must overlap"
    for word in explain(deep, notes).words:
        assert word.importance == pytest.approx(shares[place(word)] / total, rel=1e-4)


@pytest.mark.parametrize("how", HIDINGS)
@pytest.mark.parametrize("kind", ["scorer", "deep"])
def test_batched_and_cached_equals_naive(request, kind, how, notes, monkeypatch):
    monkeypatch.setattr(attribution, "PHRASE_GAIN", -9.0)
    own = request.getfixturevalue(kind)
    stored = own.encoder.encode(own.windows(notes), "fp32")
    found = explain(own, notes, how, top=25, vectors=stored)
    assert found.noise_floor < 1e-3
    for word in found.words:
        fall, nearer = naive(own, notes, [place(word)], how)
        assert word.margin == pytest.approx(fall, abs=1e-4)
        assert word.distance == pytest.approx(nearer, abs=1e-4)
        assert word.sign == ("toward" if fall > 0 else "away") or abs(fall) <= found.noise_floor + 1e-6
    for phrase in found.phrases:
        spans = [
            (phrase.note, a, b)
            for a, b in attribution.words_of(notes[phrase.note])
            if phrase.start <= a and b <= phrase.end
        ]
        assert len(spans) == phrase.words
        fall, nearer = naive(own, notes, spans, how)
        assert (phrase.margin, phrase.distance) == (
            pytest.approx(fall, abs=1e-4),
            pytest.approx(nearer, abs=1e-4),
        )


def test_telling_words_speak_for_the_target(scorer):
    text = " ".join([*COMMON[:20], "candidiasis", *COMMON[20:], "herpes"])
    signs = {text[w.start : w.end]: w.sign for w in explain(scorer, [text]).words}
    assert signs["candidiasis"] == "toward" and signs["herpes"] == "toward"
    assert any(word in SUSPECT for word in signs)


def test_below_the_noise_the_sign_is_undetermined(scorer, notes, monkeypatch):
    monkeypatch.setattr(attribution, "LEAST_FLOOR", 1e9)
    found = explain(scorer, notes, top=5)
    assert found.noise_floor == 1e9 and all(w.sign is None for w in found.words) and not found.phrases
    monkeypatch.setattr(attribution, "LEAST_FLOOR", 0.0)
    assert all(w.sign in ("toward", "away") for w in explain(scorer, notes, top=5).words if w.margin)


def test_the_floor_is_ten_times_what_company_alone_changes(deep, notes, monkeypatch):
    monkeypatch.setattr(attribution, "LEAST_FLOOR", 0.0)
    encode, shift = deep.encoder.encode, 1e-3
    alone = lambda w, p="auto": encode(w, p) + (shift if len(w) == 1 else 0)  # noqa: E731
    monkeypatch.setattr(deep.encoder, "encode", alone)
    stored = encode(deep.windows(notes), "fp32")
    found = explain(deep, notes, top=200, vectors=stored)
    heaviest = int(np.argmax([part.weight for part in found.windows]))
    moved = stored.copy()
    moved[heaviest] += shift
    assert found.noise_floor == pytest.approx(10 * abs(margin(deep, stored) - margin(deep, moved)), rel=0.05)


def test_only_touched_windows_are_encoded_again_and_in_fp32(scorer, notes, monkeypatch):
    windows = scorer.windows(notes)
    stored = scorer.encode(windows)
    counted = []
    encode = scorer.encoder.encode
    monkeypatch.setattr(
        scorer.encoder, "encode", lambda w, p="auto": counted.append((len(w), p)) or encode(w, p)
    )
    found = explain(scorer, notes, top=3, vectors=stored)
    holds = [
        {
            i
            for i, w in enumerate(windows)
            if any(w.note == x.note and x.start <= s < x.end for s, e in w.offsets if e > s)
        }
        for x in found.words
    ]
    touched = set().union(*holds)
    assert len(touched) < len(windows)
    assert counted == [(len(touched) + sum(map(len, holds)), "fp32"), (1, "fp32")]


def test_stored_vectors_of_less_precision_cancel_out(deep, notes):
    """Rounded vectors of untouched windows stand on both sides of the comparison, so no sign is theirs."""
    exact = deep.encoder.encode(deep.windows(notes), "fp32")
    rounded = torch.from_numpy(exact).bfloat16().float().numpy()
    of_exact, of_rounded = (explain(deep, notes, top=20, vectors=v) for v in (exact, rounded))
    assert not np.array_equal(exact, rounded)
    largest = max(abs(w.margin) for w in of_exact.words)
    signs = {place(w): w.sign for w in of_rounded.words}
    margins = {place(w): w.margin for w in of_rounded.words}
    shared = [w for w in of_exact.words if place(w) in signs]
    assert len(shared) > 15
    assert all(w.margin == pytest.approx(margins[place(w)], abs=0.02 * largest) for w in shared)
    assert all(w.sign == signs[place(w)] for w in shared if abs(w.margin) > 0.02 * largest)


@pytest.mark.parametrize("vectors", [np.zeros((1, 32), np.float32), np.zeros((40, 7), np.float32)])
def test_vectors_of_another_record_are_refused(scorer, notes, vectors):
    with pytest.raises(DataError, match="do not fit"):
        explain(scorer, notes, vectors=vectors)


def test_another_method_is_refused(scorer):
    with pytest.raises(DataError, match="'shap'"):
        explain(scorer, ["fiebre"], "shap")


@pytest.mark.parametrize("how", HIDINGS)
def test_a_phrase_carries_what_none_of_its_words_does(scorer, monkeypatch, how):
    """Either of two words is enough, so that hiding one shows nothing and hiding both shows all."""
    text = "paciente con vértigo catarata. acude herpes dolor"
    tokens = scorer.encoder.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    placed = list(zip(tokens["input_ids"], tokens["offset_mapping"], strict=True))
    enough = {t for t, (start, _) in placed if 13 <= start < 29} - {
        t for t, (start, _) in placed if start >= 29
    }

    def either(windows, precision="auto"):
        there = [float(bool(enough & set(w.ids))) for w in windows]
        return np.repeat(np.array(there, np.float32)[:, None], scorer.encoder.width, axis=1)

    monkeypatch.setattr(scorer.encoder, "encode", either)
    found = explain(scorer, [text], how)
    (phrase,) = found.phrases
    assert text[phrase.start : phrase.end] == "vértigo catarata" and phrase.words == 2
    assert abs(phrase.margin) > 1e-3 and phrase.beyond == pytest.approx(abs(phrase.margin))
    assert all(w.margin == 0 and w.sign is None for w in found.words)


def test_no_phrase_crosses_a_full_stop_and_none_overlaps_a_stronger_one(scorer, monkeypatch):
    monkeypatch.setattr(attribution, "PHRASE_GAIN", -9.0)
    monkeypatch.setattr(attribution, "LEAST_FLOOR", -9.0)
    text = "dolor leve. fiebre alta tos seca"
    phrases = explain(scorer, [text]).phrases
    for phrase in phrases:
        assert "." not in text[phrase.start : phrase.end]
    spans = sorted((p.start, p.end) for p in phrases)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert [p.beyond for p in phrases] == sorted((p.beyond for p in phrases), reverse=True)


def test_beyond_counts_only_words_that_work_the_same_way():
    phrase = attribution._phrase(((0, 0, 3), (0, 4, 7)), -1.0, 0.5, [-0.3, 0.4], 0.01)
    assert phrase == Phrase(0, 0, 7, 2, -1.0, 0.5, "away", pytest.approx(0.7))


def test_nearest_cases_by_the_distance_own_metric(scorer, notes):
    rng = np.random.default_rng(4)
    width = len(scorer.distance.cholesky_)
    known = {
        "embedding": rng.normal(size=(30, width)).astype(np.float32),
        "truth": np.arange(30) % 2,
        "label": rng.integers(0, 2, 30),
    }
    found = explain(scorer, notes, top=1, known=known).nearest
    own = scorer.score([scorer.encoder.encode(scorer.windows(notes), "fp32")])[1]
    precision = np.linalg.inv(scorer.distance.cholesky_ @ scorer.distance.cholesky_.T)
    apart = normalise(known["embedding"].astype(float)) - normalise(own)
    far = np.sqrt(np.einsum("nd,de,ne->n", apart, precision, apart))
    expected = []
    for label in (0, 1):
        rows = [int(i) for i in np.argsort(far) if known["truth"][i] == label][:3]
        expected += [(label, int(known["label"][i]), pytest.approx(far[i], rel=1e-6)) for i in rows]
    assert [(n.label, n.given, n.distance) for n in found] == expected


def test_a_bundle_without_kept_embeddings_names_no_neighbours(scorer, notes):
    assert explain(scorer, notes, top=1, known={"truth": np.array([0, 1])}).nearest == []


def test_the_bundle_s_own_calibration_cases_are_near(scorer, trained, notes):
    arrays = bundle.load_arrays(trained)
    known = {name.removeprefix("held_out."): a for name, a in arrays.items() if name.startswith("held_out.")}
    near = explain(scorer, notes, top=1, known=known).nearest
    assert [n.label for n in near] == [0, 0, 0, 1, 1, 1]
    assert all(a.distance <= b.distance for a, b in pairwise(near) if a.label == b.label)


@pytest.mark.parametrize("how", HIDINGS)
def test_without_attentions_occlusion_alone_chooses_the_words(blind, how):
    assert not attribution.gives_attentions(blind.encoder)
    text = " ".join([*COMMON, "candidiasis"])
    found = explain(blind, [text], how, top=5)
    assert not found.attentions
    falls = {span: abs(naive(blind, [text], [(0, *span)], how)[0]) for span in attribution.words_of(text)}
    assert {(w.start, w.end) for w in found.words} == set(sorted(falls, key=lambda s: -falls[s])[:5])
    for word in found.words:
        assert word.margin == pytest.approx(naive(blind, [text], [place(word)], how)[0], abs=1e-4)


def test_screening_hides_a_word_everywhere_and_encodes_no_more_than_its_share(blind, monkeypatch):
    """The word of two places is hidden in both; the words of fewest windows are tried first."""
    text = "fiebre fiebre tos"
    case = attribution.read(blind, [text])
    importance = attribution._screened(blind, case, "mask")
    both = occlude(blind, case, [((0, 0, 6), (0, 7, 13))], "mask").margin[0]
    assert importance[0, 0, 6] == importance[0, 7, 13] == pytest.approx(abs(both) / 2, rel=1e-3)
    counted = []
    encode = blind.encoder.encode
    monkeypatch.setattr(
        blind.encoder, "encode", lambda w, p="auto": counted.append((len(w), p)) or encode(w, p)
    )
    monkeypatch.setattr(attribution, "SCREENED", 30)
    long = cases(3, 8, words=700)[0].texts
    found = explain(blind, long, top=4)
    assert len(found.words) == 4
    screened, alone, *rest = counted[1:]
    assert screened[1] == alone[1] == "auto" and screened[0] <= 30 + len(found.windows)
    assert all(precision == "fp32" for _, precision in rest)


def test_a_record_of_one_word(scorer, deep):
    for how in HIDINGS:
        for own in (scorer, deep):
            found = explain(own, ["candidiasis"], how)
            (word,) = found.words
            assert (word.note, word.start, word.end, word.importance) == (0, 0, 11, 1.0)
            assert word.margin == pytest.approx(naive(own, ["candidiasis"], [(0, 0, 11)], how)[0], abs=1e-4)
            assert not found.phrases and len(found.windows) == 1


def test_a_record_of_64_full_windows(deep):
    text = " ".join(word for r in cases(110, 12, words=200) for word in r.texts[0].split())
    stored = deep.encoder.encode(deep.windows([text]), "fp32")
    assert len(stored) == 64 and max(len(w.ids) for w in deep.windows([text])) == 384
    found = explain(deep, [text], top=8, vectors=stored)
    assert len(found.words) == 8 and len(found.windows) == 64
    read = [(w.start, w.end) for w in found.windows]
    assert all(any(a <= w.start < b for a, b in read) for w in found.words), "words cut out are never shown"


def test_a_record_of_stop_words_alone_is_explained_like_any_other(scorer):
    found = explain(scorer, ["de la y el en que"])
    assert len(found.words) == 6 and np.isclose(sum(w.importance for w in found.words), 1)


@pytest.mark.parametrize("notes", [["... \u0301"], [""], ["", " \n"], ["--- ; ()"]])
@pytest.mark.parametrize("method", attribution.METHODS)
def test_a_record_without_words_has_none(scorer, notes, method):
    found = explain(scorer, notes, method)
    assert found.words == [] and found.phrases == [] and len(found.windows) == 1
    assert found.noise_floor == attribution.LEAST_FLOOR

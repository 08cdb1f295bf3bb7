import numpy as np
import pytest
import torch

from mlcore import attribution, counterview
from mlcore.attribution import explain, occlude
from mlcore.encoder import Encoder
from mlcore.scorer import Scorer
from tests.mlcore.conftest import COMMON, cases
from tests.mlcore.test_attribution import made_up, margin, place


@pytest.fixture(scope="module", params=["compact", "roberta"])
def scorer(request, trained, roberta):
    return Scorer.load(trained) if request.param == "compact" else made_up(Encoder.load(roberta))


@pytest.fixture(scope="module")
def notes():
    return next(r.texts for r in cases(9, 31, words=120) if r.label == 1 and len(r.notes) > 1)


def test_mask_token_occlusion_is_captum_s_feature_ablation(scorer, notes):
    ours, captums = (explain(scorer, notes, method, top=20) for method in ("mask", "ablation"))
    assert [place(w) for w in ours.words] == [place(w) for w in captums.words]
    for a, b in zip(ours.words, captums.words, strict=True):
        assert b.margin == pytest.approx(a.margin, abs=1e-5)
        assert b.distance is None and b.importance == a.importance
        assert a.sign == b.sign or abs(a.margin) <= 1e-5 + max(ours.noise_floor, captums.noise_floor)
    assert captums.phrases == [] and captums.windows == ours.windows


def test_gradients_of_a_window_sum_to_what_masking_all_its_words_does(scorer, notes):
    """Completeness (Sundararajan et al. 2017, proposition 1), of each window with the others as they are."""
    case = attribution.read(scorer, notes)
    found, floor = counterview.gradients(scorer, case)
    assert set(found) == set(case.places)
    total = 0.0
    for i in range(len(case.windows)):
        changed = case.vectors.copy()
        positions = [p for held in case.places.values() for p in held.get(i, [])]
        hidden = attribution.hide(case.windows[i], positions, "mask", scorer.encoder.mask_id)
        changed[i] = scorer.encoder.encode([hidden], "fp32")[0]
        total += margin(scorer, case.vectors) - margin(scorer, changed)
    assert sum(found.values()) == pytest.approx(total, abs=floor * np.sqrt(len(found)) + 1e-4)


def test_integrated_gradients_by_hand(roberta):
    """Trapezoids, from mask tokens to the words: gradient times the way gone, by autograd alone."""
    scorer = made_up(Encoder.load(roberta))
    case = attribution.read(scorer, [" ".join(COMMON[:12])])
    found, _ = counterview.gradients(scorer, case)
    encoder = scorer.encoder
    table = encoder.model.get_input_embeddings()
    ids = torch.tensor([case.windows[0].ids])
    masked = ids.clone()
    masked[0, [p for held in case.places.values() for p in held[0]]] = encoder.mask_id
    first, last = table(masked).detach(), table(ids).detach()
    grads, shares = [], torch.linspace(0, 1, 101)
    for share in shares:
        at = (first + share * (last - first)).requires_grad_()
        handle = table.register_forward_hook(lambda *_, at=at: at)
        vector = encoder._vectors(encoder.model, ids, torch.ones_like(ids, dtype=torch.bool))
        handle.remove()
        counterview.margin(scorer, vector[None])[0].backward()
        grads.append(at.grad)
    mean = torch.trapezoid(torch.stack(grads), shares, dim=0)
    tokens = (mean * (last - first)).sum(-1)[0]
    for span, held in case.places.items():
        assert found[span] == pytest.approx(float(tokens[held[0]].sum()), abs=2e-3)


def test_words_are_ranked_by_their_gradients(scorer, notes):
    found = explain(scorer, notes, "gradients", top=10)
    sizes = [abs(w.margin) for w in found.words]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == 10
    assert all(w.distance is None for w in found.words)
    assert all((w.sign == "toward") == (w.margin > 0) for w in found.words if w.sign)
    assert all(w.sign is None for w in found.words if abs(w.margin) <= found.noise_floor)


def test_only_the_heaviest_windows_are_followed(scorer, notes, monkeypatch):
    monkeypatch.setattr(counterview, "HEAVIEST", 1)
    case = attribution.read(scorer, notes)
    heaviest = int(np.argmax(case.weights))
    assert set(counterview.gradients(scorer, case)[0]) == {
        s for s, held in case.places.items() if heaviest in held
    }


def test_ablation_of_a_long_record_is_of_fewer_words(scorer, notes, monkeypatch):
    monkeypatch.setattr(counterview, "ABLATED", 3 * len(scorer.windows(notes)))
    assert len(explain(scorer, notes, "ablation").words) == 3


def test_both_views_agree_with_occlusion_on_a_telling_word(trained):
    scorer = Scorer.load(trained)
    text = " ".join([*COMMON[:20], "candidiasis", *COMMON[20:]])
    start = text.index("candidiasis")
    case = attribution.read(scorer, [text])
    span = (0, start, start + len("candidiasis"))
    assert occlude(scorer, case, [(span,)], "deletion").margin[0] > 0
    for method in ("gradients", "ablation"):
        signs = {place(w): w.sign for w in explain(scorer, [text], method).words}
        assert signs[span] == "toward"

import numpy as np
import pytest
import torch

from mlcore import mil
from mlcore.errors import ModelError


def make(kind="spectral"):
    torch.manual_seed(1)
    made = mil.Head(8, 3, hidden=5, attention=4, kind=kind)
    made.standardise(torch.randn(50, 8) * 3 + 1)
    made.log_prior.copy_(torch.tensor([-0.1, -2.0, -4.0]))
    return made.eval()


@pytest.fixture
def head():
    return make()


@pytest.fixture
def vectors():
    torch.manual_seed(2)
    return [torch.randn(n, 8) for n in (1, 4, 64, 2)]


def naive(head, x):
    """One case in numpy, from the weights alone."""
    layers = {"dense": head.dense, "classifier": head.classifier}
    if head.kind != "baseline":
        layers |= {name: getattr(head.attention, name) for name in ("value", "gate", "score")}
    w = {name: layer.weight.detach().double().numpy() for name, layer in layers.items()}
    b = {name: 0 if layer.bias is None else layer.bias.detach().numpy() for name, layer in layers.items()}
    x = (x.double().numpy() - head.centre.numpy()) / head.scale.numpy()
    score = np.ones(len(x))
    if head.kind != "baseline":
        gate = 1 / (1 + np.exp(-(x @ w["gate"].T + b["gate"])))
        score = np.exp((np.tanh(x @ w["value"].T + b["value"]) * gate) @ w["score"][0])
    weights = score / score.sum()
    z = torch.tensor(weights @ x @ w["dense"].T + b["dense"])
    embedding = torch.nn.functional.gelu(z).numpy()
    return embedding @ w["classifier"].T + b["classifier"] + head.log_prior.numpy(), embedding, weights


@pytest.mark.parametrize("kind", mil.KINDS)
def test_the_head_by_its_equations(vectors, kind):
    head = make(kind)
    logits, embeddings, weights = mil.predict(head, vectors)
    for i, x in enumerate(vectors):
        expected = naive(head, x)
        np.testing.assert_allclose(logits[i], expected[0], atol=1e-5)
        np.testing.assert_allclose(embeddings[i], expected[1], atol=1e-5)
        np.testing.assert_allclose(weights[i], expected[2], atol=1e-6)


def test_padding_changes_nothing(head, vectors):
    alone = mil.predict(head, vectors)
    with torch.no_grad():
        logits, embeddings, weights = head(*mil.bag(vectors))
    np.testing.assert_allclose(logits, alone[0], atol=1e-6)
    np.testing.assert_allclose(embeddings, alone[1], atol=1e-6)
    for row, own in zip(weights.numpy(), alone[2], strict=True):
        np.testing.assert_allclose(row[: len(own)], own, atol=1e-6)
        assert (row[len(own) :] == 0).all() and np.isclose(row.sum(), 1)


def test_the_order_of_windows_does_not_matter(head, vectors):
    turned = [v.flip(0) for v in vectors]
    np.testing.assert_allclose(mil.predict(head, vectors)[0], mil.predict(head, turned)[0], atol=1e-5)


def trained(kind):
    head = make(kind).train()
    optimiser = torch.optim.SGD(head.parameters(), lr=0.5)
    for _ in range(30):
        optimiser.zero_grad()
        logits = head(torch.randn(4, 3, 8), torch.ones(4, 3, dtype=torch.bool))[0]
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 1])).backward()
        optimiser.step()
    return head.eval()


def norms(head):
    """Largest singular value of every dense layer but the classifier, by SVD."""
    layers = (head.attention.value, head.attention.gate, head.dense)
    return np.array([np.linalg.norm(layer.weight.detach().numpy().astype(float), 2) for layer in layers])


def test_each_dense_layer_of_a_trained_spectral_head_keeps_within_its_bound(vectors):
    """After training the power iteration is behind, always on the side above the bound: settling makes it exact."""
    head = trained("spectral")
    assert (norms(head) > 1).any()
    head.settle()
    np.testing.assert_allclose(norms(head), 1, atol=1e-5)
    again = mil.Head(8, 3, hidden=5, attention=4).eval()
    again.load_state_dict(head.state_dict())
    mil.predict(again, vectors)
    np.testing.assert_allclose(norms(again), 1, atol=1e-5)
    assert (norms(trained("standard")) > 1.2).any()


def test_an_embedding_moves_no_further_than_the_bound_allows(head):
    """For a single window: GELU's slope is at most 1.13, and the window is scaled by the head's constants."""
    head.settle()
    x, y = torch.randn(2, 200, 1, 8)
    mask = torch.ones(200, 1, dtype=torch.bool)
    with torch.no_grad():
        moved = (head(x, mask)[1] - head(y, mask)[1]).norm(dim=1)
    assert (moved <= 1.13 * ((x - y) / head.scale)[:, 0].norm(dim=1) + 1e-5).all()


def test_passes_are_the_same_for_a_seed_and_a_case_s_own(head, vectors):
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    first = mil.passes(head, vectors, 7, seed=1)
    assert torch.rand(1) == expected, "torch's own random state is left as it was"
    assert first.shape == (7, 4, 3) and (first == mil.passes(head, vectors, 7, seed=1)).all()
    assert (first[:, 2] == mil.passes(head, vectors[2:3], 7, seed=1)[:, 0]).all()
    assert (first != mil.passes(head, vectors, 7, seed=2)).any()
    assert (first.std(axis=0) > 0).all()


@pytest.mark.parametrize("kind", mil.KINDS)
def test_passes_scatter_around_the_logits_of_the_whole_head(kind):
    """With a linear embedding dropout keeps the mean; GELU bends it little where embeddings are large and positive."""
    head = make(kind)
    with torch.no_grad():
        head.dense.bias.fill_(30.0)
    torch.manual_seed(3)
    x = [torch.randn(2, 8)]
    drawn, whole = mil.passes(head, x, 4000, seed=0)[:, 0], mil.predict(head, x)[0][0]
    assert drawn.std() > 0
    np.testing.assert_allclose(drawn.mean(axis=0), whole, atol=4 * drawn.std() / np.sqrt(4000) + 0.02)


def test_logits_that_are_not_finite_are_refused(head, vectors):
    vectors[2][5, 1] = torch.nan
    with pytest.raises(
        ModelError, match="1 of 4 cases have logits that are not finite numbers, the first at position 2"
    ):
        mil.predict(head, vectors)
    with pytest.raises(ModelError, match="not finite"):
        mil.passes(head, vectors, 3, seed=0)


def test_an_unknown_head_is_refused():
    with pytest.raises(ModelError, match="use one of baseline, standard, spectral"):
        mil.Head(8, 2, kind="other")


def test_weights_reload_bit_for_bit(head, vectors, tmp_path):
    class Ungated:
        gate = None

    before = mil.predict(head, vectors)
    mil.save(tmp_path / "head.safetensors", Ungated(), head)
    again = mil.Head(8, 3, hidden=5, attention=4).eval()
    mil.load(tmp_path / "head.safetensors", Ungated(), again)
    after = mil.predict(again, vectors)
    assert (before[0] == after[0]).all() and (before[1] == after[1]).all()
    assert all((a == b).all() for a, b in zip(before[2], after[2], strict=True))


def test_weights_of_another_shape_are_refused(head, tmp_path):
    class Ungated:
        gate = None

    mil.save(tmp_path / "head.safetensors", Ungated(), head)
    with pytest.raises(ModelError, match="do not fit"):
        mil.load(tmp_path / "head.safetensors", Ungated(), mil.Head(8, 2, hidden=5, attention=4))

import numpy as np
import pytest
import torch

from mlcore import mil
from mlcore.errors import ModelError


@pytest.fixture
def head():
    torch.manual_seed(1)
    made = mil.Head(8, 3, hidden=5, attention=4)
    made.standardise(torch.randn(50, 8) * 3 + 1)
    made.log_prior.copy_(torch.tensor([-0.1, -2.0, -4.0]))
    return made.eval()


@pytest.fixture
def vectors():
    torch.manual_seed(2)
    return [torch.randn(n, 8) for n in (1, 4, 64, 2)]


def naive(head, x):
    """One case in numpy, from the weights alone."""
    w = {k: v.detach().double().numpy() for k, v in head.state_dict().items()}
    dense = head.dense.weight.detach().double().numpy()
    x = (x.double().numpy() - w["centre"]) / w["scale"]
    tanh = np.tanh(x @ w["attention.value.weight"].T + w["attention.value.bias"])
    gate = 1 / (1 + np.exp(-(x @ w["attention.gate.weight"].T + w["attention.gate.bias"])))
    score = np.exp((tanh * gate) @ w["attention.score.weight"][0])
    weights = score / score.sum()
    z = torch.tensor(weights @ x @ dense.T + w["dense.bias"])
    embedding = torch.nn.functional.gelu(z).numpy()
    return embedding @ w["classifier.weight"].T + w["classifier.bias"] + w["log_prior"], embedding, weights


def test_the_head_by_its_equations(head, vectors):
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


def test_the_dense_layer_keeps_spectral_norm_one_through_training(head):
    head.train()
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(30):
        optimiser.zero_grad()
        logits = head(torch.randn(4, 3, 8), torch.ones(4, 3, dtype=torch.bool))[0]
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 1])).backward()
        optimiser.step()
    head.eval()
    norm = np.linalg.norm(head.dense.weight.detach().numpy(), 2)
    assert 0.95 < norm < 1.05
    standard = mil.Head(8, 3, hidden=5, kind="standard")
    with torch.no_grad():
        standard.dense.weight.mul_(10)
    assert np.linalg.norm(standard.dense.weight.detach().numpy(), 2) > 2


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

"""The arithmetic of the experiments against closed forms and numbers by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from notebooks.experiments import analysis


@pytest.fixture
def g():
    return torch.Generator().manual_seed(1)


def test_paired_differences_by_hand():
    mean, error = analysis.paired([3.0, 5.0, 10.0], [1.0, 4.0, 7.0])  # 2, 1, 3
    assert (mean, error) == (2.0, pytest.approx(1 / math.sqrt(3)))
    assert analysis.numbers("3.0 5.25") == [3.0, 5.25]
    mean, error = analysis.paired([3.0], [1.0])
    assert mean == 2 and math.isnan(error)
    common = [0.1, 7.0, -3.0]  # what both share falls out, however much scenes differ
    both = ([3 + c for c in common], [1 + c for c in common])
    assert analysis.paired(*both)[1] == pytest.approx(0, abs=1e-12)


def test_error_parts_into_bias_and_variance(g):
    """Draws clean + 0.3 + 0.2 noise: bias 0.09 and variance 0.04, from few draws or many."""
    clean = torch.rand(4, 3, 32, 32, generator=g)
    for draws in (2, 16):
        noise = torch.randn(draws, *clean.shape, generator=g)
        found = analysis.bias_variance(clean + 0.3 + 0.2 * noise, clean)
        assert found["bias"] == pytest.approx(0.09, abs=2e-3)
        assert found["variance"] == pytest.approx(0.04, abs=2e-3)
        assert found["error"] == pytest.approx(found["bias"] + found["variance"], rel=1e-6)
    alone = analysis.bias_variance(clean[None] + 0.3, clean)
    assert alone["variance"] == 0 and alone["bias"] == pytest.approx(0.09)


def test_share_left_is_the_weight_of_y(g):
    x0, y, other = torch.randn(3, 2, 16, 8, 8, generator=g).double()
    assert analysis.share_left(x0 + 0.3 * (y - x0), x0, y) == pytest.approx(0.3)
    gap = y - x0
    across = other - (other * gap).sum() / gap.square().sum() * gap  # at right angles to y - x0
    assert analysis.share_left(x0 + 0.3 * gap + across, x0, y) == pytest.approx(0.3)


def test_sharpness_by_hand():
    stripes = torch.zeros(1, 3, 2, 4)
    stripes[..., 1::2] = 1  # every row: 3 steps of 1; two rows, three channels
    assert analysis.gradient_energy(stripes).item() == 18
    assert analysis.sharpness(0.5 * stripes, stripes) == pytest.approx(0.25)


def test_gmsd_of_equal_shifted_and_spoilt_pictures(g):
    clean = torch.rand(2, 3, 32, 32, generator=g) * 0.5
    assert torch.equal(analysis.gmsd(clean, clean), torch.zeros(2))
    # An offset has no gradient but at the frame, which is padded with black.
    inner = analysis.gmsd(F.pad(clean, (8,) * 4), F.pad(clean + 0.0, (8,) * 4))
    assert inner.max() == 0
    noise = torch.randn(clean.shape, generator=g)
    little, much = (analysis.gmsd((clean + k * noise).clamp(0, 1), clean) for k in (0.02, 0.2))
    assert (little > 0).all() and (little < much).all()


def test_frechet_of_gaussians_in_closed_form(g):
    """On the diagonal |m|^2 + |a - b|^2, of N(0, a^2) and N(m, b^2); turning changes nothing."""
    n = torch.randn(20_000, 3, generator=g).double()
    root = torch.linalg.cholesky(torch.cov(n.T))
    n = (n - n.mean(0)) @ torch.linalg.inv(root).T  # mean 0 and covariance 1, exactly
    a = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    b = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
    shift = torch.tensor([0.3, 0.0, -0.4], dtype=torch.float64)
    found = analysis.frechet(n * a, n * b + shift)
    assert found == pytest.approx(0.25 + (a - b).square().sum().item(), rel=1e-9)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=g).double()).Q
    turned = analysis.frechet(n * a @ turn, (n * b + shift) @ turn)
    assert turned == pytest.approx(found, rel=1e-9)
    assert analysis.frechet(n, n) == pytest.approx(0, abs=1e-9)


def test_classifier_tells_what_differs_and_nothing_else(g):
    one, two = (torch.rand(64, 3, 32, 32, generator=g) * 0.5 for _ in range(2))
    assert analysis.two_sample_accuracy(one, two + 0.3, steps=60) > 0.9
    assert abs(analysis.two_sample_accuracy(one, two, steps=60) - 0.5) < 0.25


def test_colour_finds_gain_and_offset(g):
    clean = torch.rand(2, 3, 8, 8, generator=g)
    gain = torch.tensor([0.5, 0.25, 0.8])[:, None, None]
    offset = torch.tensor([0.1, 0.3, 0.0])[:, None, None]
    fit = analysis.colour_fit(gain * clean + offset, clean)
    assert torch.allclose(fit[:, 0], 1 / gain.flatten(), atol=1e-3)
    assert torch.allclose(fit[:, 1], -(offset / gain).flatten(), atol=1e-3)
    assert torch.allclose(analysis.colour_apply(fit, gain * clean + offset), clean, atol=1e-4)
    noisy = (clean + 0.1 * torch.randn(clean.shape, generator=g)).repeat(1, 1, 256, 256)
    many = analysis.colour_fit(noisy, clean.repeat(1, 1, 256, 256))  # eight million pixels
    few = analysis.colour_fit(noisy[..., :8, :8], clean)
    assert torch.allclose(many, few, atol=1e-4)


def test_ridge_finds_a_convolution_and_is_numpys(g):
    y = torch.randn(6, 2, 8, 8, generator=g)
    kernel = 0.2 * torch.randn(2, 2, 3, 3, generator=g)
    bias = torch.tensor([0.3, -0.2])
    x0 = y + F.conv2d(F.pad(y, (1,) * 4, mode="replicate"), kernel, bias)
    found = analysis.ridge(y, x0, 0)
    assert found.numel() == 2 * 2 * 9 + 2
    assert torch.allclose(analysis.ridge_apply(found, y), x0, atol=1e-4)

    rows = analysis.patches(y).double().numpy()
    target = (x0 - y).movedim(1, 3).reshape(-1, 2).double().numpy()
    penalty = np.diag([0.7 * len(rows)] * 18 + [0])
    want = np.linalg.solve(rows.T @ rows + penalty, rows.T @ target)
    assert np.allclose(analysis.ridge(y, x0, 0.7).numpy(), want, atol=1e-5)
    far = analysis.ridge_apply(analysis.ridge(y, x0, 1e9), y)  # nothing but the offset is left
    assert torch.allclose(far - y, (x0 - y).mean((0, 2, 3), keepdim=True).expand_as(y), atol=1e-3)

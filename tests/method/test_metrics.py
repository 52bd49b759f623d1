"""PSNR and SSIM against literal forms that share no code with ours."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from tinybridge.metrics import Score, measures, psnr, ssim, temporal_difference


def pictures(*shape):
    g = torch.Generator().manual_seed(0)
    a = torch.rand(shape, generator=g)
    return a, (a + 0.1 * torch.randn(shape, generator=g)).clamp(0, 1)


def test_psnr_is_its_definition():
    a, b = pictures(3, 3, 20, 17)
    both = zip(a.numpy(), b.numpy(), strict=True)
    expected = [10 * math.log10(1 / np.square(x - y).mean()) for x, y in both]
    assert np.allclose(psnr(a, b), expected, rtol=1e-6)
    assert psnr(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.1)).item() == pytest.approx(20)
    assert torch.isinf(psnr(a, a)).all()


def literal_ssim(a, b, size):
    """Window by window, as in the paper, for one channel [H, W]."""
    k = np.arange(size) - size // 2
    w = np.exp(-(k[:, None] ** 2 + k[None] ** 2) / (2 * 1.5**2))
    w, values = w / w.sum(), []
    for i in range(a.shape[0] - size + 1):
        for j in range(a.shape[1] - size + 1):
            p, q = a[i : i + size, j : j + size], b[i : i + size, j : j + size]
            mp, mq = (w * p).sum(), (w * q).sum()
            vp, vq = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum()
            cov = (w * (p - mp) * (q - mq)).sum()
            value = (2 * mp * mq + 1e-4) * (2 * cov + 9e-4)
            values.append(value / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return np.mean(values)


@pytest.mark.parametrize("height, width, size", [(20, 17, 11), (11, 30, 11), (8, 30, 7), (1, 1, 1)])
def test_ssim_is_its_definition(height, width, size):
    a, b = pictures(2, 3, height, width)
    for k in range(2):
        x, y = a[k].double().numpy(), b[k].double().numpy()
        expected = np.mean([literal_ssim(x[c], y[c], size) for c in range(3)])
        assert ssim(a, b)[k].item() == pytest.approx(expected, abs=1e-10)
    assert torch.allclose(ssim(a, a), torch.ones(2, dtype=torch.float64))


def test_ssim_agrees_with_scikit_image():
    a, b = pictures(2, 3, 40, 33)
    for k in range(2):
        _, full = structural_similarity(
            a[k].double().numpy(), b[k].double().numpy(), channel_axis=0, data_range=1,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True,
        )  # fmt: skip
        expected = full[:, 5:-5, 5:-5].mean()
        assert ssim(a, b)[k].item() == pytest.approx(expected, abs=1e-6)
        assert ssim(a, b.flip(2))[k].item() != pytest.approx(expected, abs=1e-2)


def test_clips_are_measured_frame_by_frame():
    a, b = pictures(2, 3, 4, 20, 17)  # [B, C, T, H, W]
    for measure in (psnr, ssim):
        each = torch.stack([measure(a[:, :, t], b[:, :, t]) for t in range(4)], 1)  # [B, T]
        torch.testing.assert_close(measure(a, b), each.mean(1))
        assert not torch.allclose(measure(a, b.flip(2)), each.mean(1))


def test_temporal_difference_is_its_definition():
    a, _ = pictures(2, 3, 4, 5, 6)
    expected = [np.abs(x[:, 1:] - x[:, :-1]).mean() for x in a.double().numpy()]
    assert np.allclose(temporal_difference(a), expected)
    still = a[:, :, :1].expand(-1, -1, 4, -1, -1)
    assert (temporal_difference(still) == 0).all()
    ramp = 0.1 * torch.arange(4.0).view(1, 1, 4, 1, 1).expand(1, 3, -1, 5, 5)
    assert temporal_difference(ramp).item() == pytest.approx(0.1)


def test_a_score_is_what_the_frames_say():
    """Against numpy and scikit-image, frame by frame; the restored one in 8 bit."""
    g = torch.Generator().manual_seed(1)
    clean, degraded, restored = (torch.rand(4, 3, 24, 20, generator=g) for _ in range(3))
    score = Score()
    for frames in zip(degraded, restored, clean, strict=True):
        score.add(*frames)
    row = score.row()
    eight = np.round(restored.double().numpy() * 255) / 255
    for of, frames in (("_degraded", degraded.double().numpy()), ("", eight)):
        target = clean.double().numpy()
        each = [
            10 * math.log10(1 / np.square(a - b).mean())
            for a, b in zip(frames, target, strict=True)
        ]
        assert row["psnr" + of] == pytest.approx(np.mean(each), abs=1e-9)
        assert row["change" + of] == pytest.approx(np.abs(np.diff(frames, axis=0)).mean(), abs=1e-9)
    assert row["change_clean"] == pytest.approx(np.abs(np.diff(target, axis=0)).mean(), abs=1e-9)
    a, b = (torch.from_numpy(k) for k in (eight, target))
    assert row["ssim"] == pytest.approx(ssim(a, b).mean().item(), abs=1e-9)
    single = Score()
    single.add(degraded[0], restored[0], clean[0])
    assert list(single.row()) == ["psnr_degraded", "ssim_degraded", "psnr", "ssim"]


def test_an_equal_frame_does_not_make_a_mean_infinite():
    """A black intro: two frames of three are their targets, the third is at 20 dB."""
    clean = torch.zeros(3, 3, 12, 12)
    shown = clean.clone()
    shown[2] = 0.1
    score = Score()
    for frame, target in zip(shown, clean, strict=True):
        score.add(frame, frame, target)
    expected = (100 + 100 + 20) / 3
    assert score.row()["psnr_degraded"] == pytest.approx(expected)
    clip, goal = shown.transpose(0, 1)[None], clean.transpose(0, 1)[None]  # [1, 3, T, H, W]
    assert psnr(clip, goal).item() == pytest.approx(expected)
    assert measures(clip, goal)["psnr"] == pytest.approx(expected)
    assert measures(shown, clean)["psnr"] == pytest.approx(expected)  # pictures

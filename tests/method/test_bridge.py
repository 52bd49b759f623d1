"""The bridges against closed forms, an oracle that knows the truth, and the authors' update."""

import pytest
import torch

from tinybridge import bridge
from tinybridge.bridge import BRIDGES

T0, T_MIN = 0.4, 1e-4
INSIDE = torch.linspace(1e-3, 0.3999, 97, dtype=torch.float64)


def latents(*shape, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=dtype) for _ in range(3)]


def close(a, b, tolerance):
    error = (a - b).abs().max() / b.abs().max()
    assert error <= tolerance, f"relative error {error:.2e} > {tolerance:.0e}"


@pytest.mark.parametrize("name", BRIDGES)
def test_every_training_state_is_one_the_flow_model_knows(name):
    a, b, c, s = BRIDGES[name].coefficients(INSIDE, T0)
    close(c, s, 0)
    close(a + b, 1 - s, 1e-14)
    assert (s > 0).all() and (s <= INSIDE + 1e-15).all()


def test_closed_forms_of_naive_and_desired():
    a, b, c, s = BRIDGES["naive"].coefficients(INSIDE, T0)
    assert (a == 0).all() and (b == 1 - INSIDE).all() and (c == INSIDE).all()
    a, b, c, s = BRIDGES["desired"].coefficients(INSIDE, T0)
    close(a, (1 - INSIDE) * (1 - INSIDE / T0), 1e-15)
    close(b, (1 - INSIDE) * INSIDE / T0, 1e-15)
    assert (c == INSIDE).all() and (s == INSIDE).all()


def test_ddbm_is_the_diffusion_bridge_of_zhou_et_al_divided_by_mean_plus_deviation():
    alpha, sigma, alpha_T, sigma_T = 1 - INSIDE, INSIDE, 1 - T0, T0
    snr, snr_T = (alpha / sigma) ** 2, (alpha_T / sigma_T) ** 2
    of_y = snr_T / snr * alpha / alpha_T  # eq. 8, on x_T = alpha_T y
    of_x0 = alpha * (1 - snr_T / snr)
    deviation = (sigma**2 * (1 - snr_T / snr)).sqrt()
    total = alpha + deviation
    a, b, c, s = BRIDGES["ddbm"].coefficients(INSIDE, T0)
    close(a, of_x0 / total, 1e-12)
    close(b, of_y * alpha_T / total, 1e-12)
    close(c, deviation / total, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_end_points(dtype):
    t0, zero = torch.tensor(T0, dtype=dtype), torch.tensor(0.0, dtype=dtype)
    for name in ("naive", "desired"):
        a, b, c, s = BRIDGES[name].coefficients(t0, t0)
        assert a == 0 and b == 1 - t0 and c == t0 == s
    assert [k.item() for k in BRIDGES["ddbm"].coefficients(t0, t0)] == [0, 1, 0, 0]
    for name in ("ddbm", "desired"):
        assert [k.item() for k in BRIDGES[name].coefficients(zero, T0)] == [1, 0, 0, 0]
    near = torch.tensor([T0 - 1e-7, T0, T0 + 1e-7], dtype=dtype)
    assert all(k.isfinite().all() for k in BRIDGES["ddbm"].coefficients(near, T0))


@pytest.mark.parametrize("name", BRIDGES)
@pytest.mark.parametrize("shape", [(3, 4, 6, 5), (2, 4, 3, 6, 5)])
def test_corrupt_broadcasts_over_pictures_and_clips(name, shape):
    x0, y, eps = latents(*shape)
    t = torch.linspace(0.05, 0.35, shape[0], dtype=torch.float64)
    x_t, s = bridge.corrupt(BRIDGES[name], x0, y, t, eps, T0)
    for k in range(shape[0]):
        a, b, c, level = BRIDGES[name].coefficients(t[k], T0)
        close(x_t[k], a * x0[k] + b * y[k] + c * eps[k], 1e-14)
        assert s[k] == level


@pytest.mark.parametrize("name", BRIDGES)
@pytest.mark.parametrize("steps", [2, 3, 20])
@pytest.mark.parametrize("shape", [(2, 4, 6, 5), (2, 4, 3, 6, 5)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_with_an_oracle_every_bridge_ends_at_x0(name, steps, shape, dtype, tolerance):
    x0, y, eps = latents(*shape, dtype=dtype)

    def oracle(x, s):
        s = s.view(-1, *[1] * (x.ndim - 1))
        return torch.where(s > 0, (x - x0) / s.clamp(min=1e-12), torch.zeros_like(x))

    close(bridge.sample(BRIDGES[name], oracle, y, steps, noise=eps), x0, tolerance)


def test_ddbm_cannot_correct_anything_in_one_step():
    x0, y, eps = latents(2, 4, 6, 5)
    out = bridge.sample(BRIDGES["ddbm"], lambda x, s: 1e3 * torch.ones_like(x), y, 1, noise=eps)
    assert torch.equal(out, y)


def fake_velocity(x, s):
    return torch.sin(3 * x) + s.view(-1, *[1] * (x.ndim - 1)) * x


def test_desired_is_the_authors_update_written_out():
    _, y, eps = latents(2, 4, 6, 5)
    ts = [T0 + (T_MIN - T0) * k / 19 for k in range(20)]
    x = (1 - T0) * y + T0 * eps
    for t, t_next in zip(ts, ts[1:] + [None], strict=True):
        v = fake_velocity(x, torch.full((2,), t, dtype=x.dtype))
        x0_hat = x - t * v
        if t_next is not None:
            eps_hat = (x - (1 - t) * (1 - t / T0) * x0_hat - (1 - t) * (t / T0) * y) / t
            mean = (1 - t_next / T0) * x0_hat + (t_next / T0) * y
            x = (1 - t_next) * mean + t_next * eps_hat
    close(bridge.sample(BRIDGES["desired"], fake_velocity, y, noise=eps), x0_hat, 1e-12)


def test_naive_samples_with_the_euler_method_of_the_flow():
    _, y, eps = latents(2, 4, 6, 5)
    ts = bridge.times(T0, T_MIN, 12)
    x = (1 - T0) * y + T0 * eps
    for t, t_next in zip(ts, [*ts[1:], 0.0], strict=True):
        x = x + (t_next - t) * fake_velocity(x, t.expand(2))
    close(bridge.sample(BRIDGES["naive"], fake_velocity, y, 12, noise=eps), x, 1e-12)


def test_a_callback_is_shown_every_state_and_its_estimate():
    _, y, eps = latents(2, 4, 6, 5)
    shown = []
    for name in BRIDGES:
        shown.clear()
        out = bridge.sample(
            BRIDGES[name], fake_velocity, y, 5, noise=eps, callback=lambda *k: shown.append(k)
        )
        ts = bridge.times(T0, T_MIN, 5)
        assert [k for k, *_ in shown] == list(range(5))
        assert torch.equal(torch.stack([t for _, t, *_ in shown]), ts)
        assert torch.equal(shown[0][2], bridge.start(BRIDGES[name], y, eps, ts[0]))
        for _, t, x, x0_hat in shown:
            s = BRIDGES[name].sampling(t, T0).s
            assert torch.equal(x0_hat, x - s * fake_velocity(x, s.expand(2)))
        assert torch.equal(shown[-1][3], out)


def test_coefficients_have_names_and_stay_a_tuple():
    for name in BRIDGES:
        for at in (BRIDGES[name].coefficients(INSIDE, T0), BRIDGES[name].sampling(INSIDE, T0)):
            a, b, c, s = at
            assert a is at.a and b is at.b and c is at.c and s is at.s


@pytest.mark.parametrize("name, first", [("naive", T0), ("ddbm", 0.0), ("desired", T0)])
def test_the_model_is_called_steps_times_from_the_first_level_downwards(name, first):
    _, y, eps = latents(2, 4, 6, 5)
    seen = []

    def velocity(x, s):
        seen.append(s)
        return torch.zeros_like(x)

    bridge.sample(BRIDGES[name], velocity, y, 7, noise=eps)
    assert len(seen) == 7 and all(s.shape == (2,) for s in seen)
    assert seen[0][0].item() == first
    assert all(s[0] > 0 for s in seen[1:])


def test_sampling_visits_the_training_states_of_desired_but_not_of_naive():
    x0, y, eps = latents(2, 4, 6, 5)

    def largest_distance(name):
        distances = []

        def oracle(x, s):
            t = bridge.times(T0, T_MIN, 10)[len(distances)].expand(2)
            trained, _ = bridge.corrupt(BRIDGES[name], x0, y, t, eps, T0)
            distances.append((trained - x).abs().max())
            s = s.view(-1, 1, 1, 1)
            return torch.where(s > 0, (x - x0) / s.clamp(min=1e-12), torch.zeros_like(x))

        bridge.sample(BRIDGES[name], oracle, y, 10, noise=eps)
        return max(distances)

    assert largest_distance("desired") < 1e-9
    assert largest_distance("naive") > 0.5
    assert largest_distance("ddbm") > 0.1  # its first step, told s = 0, takes y for x0_hat


def test_a_batch_restores_like_its_parts_and_seeds_decide():
    _, y, eps = latents(3, 4, 6, 5)
    whole = bridge.sample(BRIDGES["ddbm"], fake_velocity, y, 5, noise=eps)
    parts = [
        bridge.sample(BRIDGES["ddbm"], fake_velocity, y[k : k + 1], 5, noise=eps[k : k + 1])
        for k in range(3)
    ]
    assert torch.equal(whole, torch.cat(parts))
    draws = [
        bridge.sample(
            BRIDGES["desired"], fake_velocity, y, 5, generator=torch.Generator().manual_seed(k)
        )
        for k in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_losses_are_per_sample_and_related_by_the_square_of_s():
    x0, y, eps = latents(3, 4, 6, 5)
    t = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    x_t, s = bridge.corrupt(BRIDGES["desired"], x0, y, t, eps)
    truth = (x_t - x0) / s.view(-1, 1, 1, 1)
    off = truth + torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64).view(-1, 1, 1, 1)
    close(bridge.loss(off, x_t, x0, s), torch.tensor([0, 0.2**2, 0.6**2]).double(), 1e-7)
    close(bridge.loss(off, x_t, x0, s, "velocity"), torch.tensor([0, 1, 4]).double(), 1e-7)
    assert bridge.loss(off, x_t, x0, torch.zeros(3).double(), "velocity").isfinite().all()
    with pytest.raises(ValueError, match="cosine"):
        bridge.loss(off, x_t, x0, s, "cosine")


def test_times_are_drawn_in_range_and_by_generator():
    draw = [bridge.draw_times(4096, generator=torch.Generator().manual_seed(k)) for k in (0, 0, 1)]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])
    assert draw[0].min() >= T_MIN and draw[0].max() <= T0
    assert abs(draw[0].mean() - 0.2) < 0.01
    late = bridge.draw_times(4096, power=3.0, generator=torch.Generator().manual_seed(0))
    assert abs(late.mean() - 0.1) < 0.01


def test_the_model_is_told_the_authors_grids():
    ts = bridge.times(0.4, 1e-4, 20)
    wan = "399 378 357 336 315 294 273 252 231 210 189 168 147 126 104 83 62 41 20 0"
    flux = "400 379 358 337 316 295 274 253 232 211 190 168 147 126 105 84 63 42 21 1"
    for dtype in (torch.float32, torch.float64):
        told = bridge.grid_wan(ts.to(dtype)) * 1000
        assert [round(k) for k in told.tolist()] == [int(k) for k in wan.split()]
        told = bridge.grid_flux(ts.to(dtype)) * 1000
        assert [round(k) for k in told.tolist()] == [int(k) for k in flux.split()]


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"t0": 0.0}, {"t0": 1.0}, {"t_min": 0.4}, {"t_min": 0.0}]
)
def test_impossible_times_are_refused(wrong):
    with pytest.raises(ValueError, match="is needed"):
        bridge.times(**wrong)

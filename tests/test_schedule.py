"""Where a scheduler puts its steps decides how much of the data's variance its samples have."""

from itertools import pairwise

import pytest
import torch

from synthaug.diffusion.schedule import DECIDED, clipped_timesteps, make_scheduler, quiet_numpy
from synthaug.errors import UserError

CONFIG = {
    "_class_name": "DPMSolverMultistepScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
# Of the latents of radiographs: the brightness of a film has a variance near 1000, its finest grain one of 0.25.
VARIANCES = torch.tensor([1000.0, 175.0, 10.0, 1.0, 0.25], dtype=torch.float64)


def sampled_variance(name: str, steps: int = 20, films: int = 20_000) -> torch.Tensor:
    """Variance of samples over that of the data, for normal data whose best prediction is known: a line through 0."""
    draws = torch.Generator().manual_seed(0)
    with quiet_numpy():
        scheduler = make_scheduler(CONFIG, name)
        scheduler.set_timesteps(steps)
        x = torch.randn(len(VARIANCES), films, generator=draws, dtype=torch.float64)
        how = {"generator": draws} if name.startswith("sde") else {}
        for time in scheduler.timesteps:
            kept = scheduler.alphas_cumprod[int(time)].double()
            alpha, sigma = kept.sqrt(), (1 - kept).sqrt()
            gain = alpha * VARIANCES / (kept * VARIANCES + 1 - kept)
            velocity = (alpha * x - gain[:, None] * x) / sigma
            x = scheduler.step(velocity, time, x, return_dict=False, **how)[0]
    return x.var(1) / VARIANCES


@pytest.mark.parametrize("name", ["dpmsolver++-lu", "sde-dpmsolver++-lu"])
def test_even_steps_keep_the_variance_of_large_shapes_and_of_grain(name: str) -> None:
    assert (sampled_variance(name) - 1).abs().max() < 0.1


def test_steps_where_films_are_decided_keep_the_variance_with_half_of_them() -> None:
    few, even = (sampled_variance(f"sde-dpmsolver++-{name}", steps=20) for name in ("clipped", "lu"))
    assert (few - 1).abs().max() < 0.07
    assert (few - 1).abs().max() < 0.75 * (even - 1).abs().max()


@pytest.mark.parametrize("steps", [1, 2, 3, 20, 40, 200, 1000])
def test_clipped_steps_differ_and_fall_between_the_levels(steps: int) -> None:
    scheduler = make_scheduler(CONFIG, "dpmsolver++-clipped")
    with quiet_numpy():
        scheduler.set_timesteps(steps)
    times = scheduler.timesteps.tolist()
    assert len(times) == steps and times[0] == 999 and min(times) >= 0
    assert all(later < earlier for earlier, later in pairwise(times))
    if 2 < steps < 50:
        assert scheduler.sigmas[1] == pytest.approx(DECIDED[0], rel=0.05)
        assert scheduler.sigmas[-2] == pytest.approx(DECIDED[1], rel=0.3)


def test_clipped_steps_of_a_schedule_that_ends_before_pure_noise() -> None:
    scheduler = make_scheduler({**CONFIG, "rescale_betas_zero_snr": False}, "dpmsolver++-clipped")
    with quiet_numpy():
        scheduler.set_timesteps(20)
    ratios = scheduler.sigmas[:-2] / scheduler.sigmas[1:-1]
    assert scheduler.timesteps[0] == 999 and ratios.max() < 1.15 * ratios.median()


def test_more_clipped_steps_than_timesteps_are_a_mistake() -> None:
    with pytest.raises(UserError, match="1001"):
        clipped_timesteps(torch.linspace(0.99, 0.01, 1000), 1001)


def test_trailing_steps_lose_variance_at_both_ends() -> None:
    kept = sampled_variance("dpmsolver++")
    assert kept[0] < 0.7 and kept[-1] < 0.85
    assert (sampled_variance("dpmsolver++", steps=500) - 1).abs().max() < 0.05

"""Where a scheduler puts its steps decides how much of the data's variance its samples have."""

import pytest
import torch

from synthaug.diffusion.schedule import make_scheduler, quiet_numpy

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


def test_trailing_steps_lose_variance_at_both_ends() -> None:
    kept = sampled_variance("dpmsolver++")
    assert kept[0] < 0.7 and kept[-1] < 0.85
    assert (sampled_variance("dpmsolver++", steps=500) - 1).abs().max() < 0.05

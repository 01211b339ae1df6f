"""The sampler against diffusers' own pipeline, and what images may and may not depend on."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.schedulers import scheduling_dpmsolver_multistep
from tiny_checkpoint import LATENTS, SIZE, build, tiny_card

from synthaug.diffusion import Checkpoint, load_checkpoint, noise, resolve, sample
from synthaug.diffusion import sampler as rungs
from synthaug.diffusion.feature_cache import cached_features
from synthaug.diffusion.noise import generator
from synthaug.diffusion.schedule import AS_SAVED, SCHEDULERS, make_scheduler, quiet_numpy
from synthaug.errors import UnknownNameError, UserError

PROMPTS = ["chest radiograph: pleural effusion", "chest radiograph: no finding", "chest radiograph"]
SEEDS = [(7, 0), (7, 1), (7, 2)]
SHAPE = (LATENTS, SIZE // 4, SIZE // 4)
# Grey levels that batches of other sizes may differ by, float32; stated in the sampler's docstring.
TOLERANCE = 2


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """So small a model loses more to a second thread than it gains."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint, device="cpu", dtype="float32")


def piped(
    checkpoint: Checkpoint, scheduler: str, steps: int, scale: float, rescale: float = 0.0
) -> np.ndarray:
    """What diffusers' pipeline draws from the same latents: float (B, H, W), 0 to 255."""
    pipeline = checkpoint.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler(checkpoint.scheduler_config, scheduler)
    with quiet_numpy():
        images = pipeline(
            PROMPTS,
            latents=torch.stack([noise(seed, index, SHAPE) for seed, index in SEEDS]),
            generator=[generator(seed, index, "steps") for seed, index in SEEDS],
            num_inference_steps=steps,
            guidance_scale=scale,
            guidance_rescale=rescale,
            output_type="np",
        ).images
    return images.mean(-1) * 255


@pytest.mark.parametrize("scheduler", [*SCHEDULERS, AS_SAVED])
def test_exact_mode_equals_the_diffusers_pipeline(tiny: Checkpoint, scheduler: str) -> None:
    theirs = piped(tiny, scheduler, steps=5, scale=3.0)
    ours = sample(
        tiny, PROMPTS, SEEDS, scheduler=scheduler, num_inference_steps=5, guidance_scale=3.0, exact=True
    )
    assert theirs.std() > 5
    # 0.5 is the rounding to uint8; the rest is float32 noise.
    assert np.abs(ours[:, 0] - theirs).max() <= 0.51


@pytest.mark.parametrize("rescale", [0.4, 1.0])
def test_rescaled_guidance_is_that_of_diffusers(tiny: Checkpoint, rescale: float) -> None:
    how = {"scheduler": "ddim", "num_inference_steps": 5, "guidance_scale": 6.0, "exact": True}
    ours = sample(tiny, PROMPTS, SEEDS, guidance_rescale=rescale, **how)
    assert np.abs(ours[:, 0] - piped(tiny, "ddim", 5, 6.0, rescale)).max() <= 0.51
    assert np.abs(ours.astype(int) - sample(tiny, PROMPTS, SEEDS, **how)).max() > 2
    with pytest.raises(UserError, match="guidance_rescale 2: expected 0"):
        sample(tiny, PROMPTS, SEEDS, guidance_rescale=2.0)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_guidance_may_leave_the_brightness_to_the_prompt(tiny: Checkpoint, share: float) -> None:
    def reached(**given: float) -> torch.Tensor:
        settings = resolve(
            tiny, scheduler="ddim", num_inference_steps=1, guidance_interval=(0.0, 1.0), **given
        )
        with quiet_numpy(), torch.inference_mode():
            latents = torch.stack([noise(*seed, SHAPE) for seed in SEEDS])
            text, away = rungs.embed(tiny, PROMPTS), rungs.embed(tiny, [""] * len(PROMPTS))
            return rungs.denoise(tiny, latents, text, away, settings, [])

    def level(latents: torch.Tensor) -> torch.Tensor:
        return latents.mean((2, 3), keepdim=True)

    free, whole = reached(guidance_scale=1.0), reached(guidance_scale=6.0)
    ours = reached(guidance_scale=6.0, guidance_mean=share)
    assert (level(whole) - level(free)).abs().max() > 0.01
    # One step is linear in the prediction: means lie between those without and with guidance, all else is as guided.
    torch.testing.assert_close(level(ours), torch.lerp(level(free), level(whole), share), atol=1e-4, rtol=0)
    torch.testing.assert_close(ours - level(ours), whole - level(whole), atol=1e-4, rtol=0)


def test_noise_scale_multiplies_the_noise_of_the_solver(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"scheduler": "sde-dpmsolver++", "num_inference_steps": 5}
    ours = sample(tiny, PROMPTS, SEEDS, noise_scale=1.3, **how)
    drawn = scheduling_dpmsolver_multistep.randn_tensor
    monkeypatch.setattr(
        scheduling_dpmsolver_multistep, "randn_tensor", lambda *args, **named: 1.3 * drawn(*args, **named)
    )
    louder = sample(tiny, PROMPTS, SEEDS, **how)
    monkeypatch.undo()
    assert np.array_equal(ours, louder)
    assert not np.array_equal(ours, sample(tiny, PROMPTS, SEEDS, **how))
    with pytest.raises(UserError, match="is for schedulers whose names begin with 'sde-'"):
        sample(tiny, PROMPTS, SEEDS, scheduler="ddim", noise_scale=1.3)


def test_a_checkpoints_noise_scale_is_for_its_own_solver(tiny: Checkpoint) -> None:
    card = tiny.card.model_copy(update={"scheduler": "sde-dpmsolver++", "noise_scale": 1.2})
    louder = replace(tiny, card=card)
    assert resolve(louder).noise_scale == 1.2
    assert resolve(louder, scheduler="ddim").noise_scale == 1


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample"])
def test_exact_mode_for_other_prediction_types_and_colour(tmp_path: Path, prediction_type: str) -> None:
    folder = build(tmp_path / "c", image_channels=3, prediction_type=prediction_type, zero_snr=False)
    checkpoint = load_checkpoint(folder, device="cpu", dtype="float32")
    theirs = piped(checkpoint, "dpmsolver++", steps=4, scale=1.0)
    ours = sample(
        checkpoint,
        PROMPTS,
        SEEDS,
        scheduler="dpmsolver++",
        num_inference_steps=4,
        guidance_scale=1.0,
        exact=True,
    )
    assert ours.shape == (3, 1, SIZE, SIZE)
    assert theirs.std() > 5
    assert np.abs(ours[:, 0] - theirs).max() <= 0.51


def test_zero_terminal_snr_starts_from_pure_noise_without_nan(tiny: Checkpoint) -> None:
    with quiet_numpy(), torch.inference_mode():
        scheduler = make_scheduler(tiny.scheduler_config, "dpmsolver++")
        scheduler.set_timesteps(6)
        assert scheduler.timesteps[0] == 999
        assert scheduler.alphas_cumprod[-1] < 1e-6
        latents = torch.stack([noise(*seed, SHAPE) for seed in SEEDS])
        text = rungs.embed(tiny, PROMPTS)
        generators = [generator(*seed, "steps") for seed in SEEDS]
        out = rungs.denoise(tiny, latents, text, text, resolve(tiny), generators)
    assert torch.isfinite(out).all()
    assert out.std() > 0.1


@pytest.mark.parametrize("scheduler", ["dpmsolver++", "sde-dpmsolver++", "euler_ancestral", "ddpm"])
def test_images_do_not_depend_on_their_batch(tiny: Checkpoint, scheduler: str) -> None:
    together = sample(tiny, PROMPTS, SEEDS, scheduler=scheduler)
    alone = [sample(tiny, [p], [s], scheduler=scheduler)[0] for p, s in zip(PROMPTS, SEEDS, strict=True)]
    backwards = sample(tiny, PROMPTS[::-1], SEEDS[::-1], scheduler=scheduler)[::-1]
    for other in (np.stack(alone), backwards):
        assert np.abs(together.astype(int) - other.astype(int)).max() <= TOLERANCE
    assert np.abs(together[0].astype(int) - together[1].astype(int)).mean() > 2 * TOLERANCE


def test_noise_is_a_function_of_seed_and_index() -> None:
    torch.manual_seed(3)
    first = noise(0, 5, SHAPE)
    torch.manual_seed(4)
    assert torch.equal(first, noise(0, 5, SHAPE))
    others = [noise(0, 6, SHAPE), noise(1, 5, SHAPE), noise(5, 0, SHAPE)]
    assert all(not torch.equal(first, other) for other in others)
    many = torch.stack([noise(0, index, SHAPE) for index in range(200)])
    assert abs(many.mean()) < 0.02 and abs(many.std() - 1) < 0.02
    assert not torch.equal(
        torch.randn(4, generator=generator(0, 0, "steps")), torch.randn(4, generator=generator(0, 0))
    )


def test_guidance_interval_halves_the_cost_outside_and_scale_one_is_off(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    predict = rungs.predict

    def counted(checkpoint, latents, time, text):
        sizes.append(len(latents))
        return predict(checkpoint, latents, time, text)

    monkeypatch.setattr(rungs, "predict", counted)
    sample(tiny, PROMPTS, SEEDS, num_inference_steps=8, guidance_scale=2.0, guidance_interval=(0.25, 0.75))
    assert sizes == [3, 3, 6, 6, 6, 6, 3, 3]
    sizes.clear()
    off = sample(
        tiny, PROMPTS, SEEDS, num_inference_steps=8, guidance_scale=1.0, guidance_interval=(0.0, 1.0)
    )
    assert sizes == [3] * 8
    outside = sample(
        tiny, PROMPTS, SEEDS, num_inference_steps=8, guidance_scale=5.0, guidance_interval=(0.5, 0.5)
    )
    assert np.array_equal(off, outside)


def test_kept_features_spare_the_coarse_levels_and_leave_the_network_as_it_was(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {"mid": 0, "last": 0}
    for name, block in (("mid", tiny.unet.mid_block), ("last", tiny.unet.up_blocks[-1])):
        forward = block.forward

        def counted(*args, name=name, forward=forward, **more):
            runs[name] += 1
            return forward(*args, **more)

        monkeypatch.setattr(type(block), "forward", lambda self, *a, run=counted, **m: run(*a, **m))
    how = {"num_inference_steps": 8, "guidance_scale": 2.0, "guidance_interval": (0.0, 1.0)}
    plain = sample(tiny, PROMPTS, SEEDS, **how)
    assert runs == {"mid": 8, "last": 8}
    kept = sample(tiny, PROMPTS, SEEDS, feature_interval=2, **how)
    assert runs == {"mid": 8 + 4, "last": 8 + 8}
    # Guidance ends in the middle of a pair of steps: the batch halves, and what was kept does not fit.
    sample(tiny, PROMPTS, SEEDS, feature_interval=2, **(how | {"guidance_interval": (0.0, 0.375)}))
    assert runs == {"mid": 8 + 4 + 5, "last": 8 + 8 + 8}
    apart = np.abs(plain.astype(int) - kept.astype(int))
    assert 0 < apart.mean() < plain.std()
    monkeypatch.undo()
    assert not any("forward" in vars(block) for block in tiny.unet.modules())
    assert np.array_equal(plain, sample(tiny, PROMPTS, SEEDS, feature_interval=1, **how))


def test_kept_features_of_the_same_input_give_the_same_output(tiny: Checkpoint) -> None:
    latents = torch.stack([noise(*seed, SHAPE) for seed in SEEDS])
    time, text = torch.tensor(500), rungs.embed(tiny, PROMPTS)
    with torch.inference_mode(), cached_features(tiny.unet, 2) as begin:
        begin(0)
        full = rungs.predict(tiny, latents, time, text)
        begin(1)
        assert torch.equal(rungs.predict(tiny, latents, time, text), full)
        other = rungs.predict(tiny, latents * 0.9, time, text)
        begin(2)
        right = rungs.predict(tiny, latents * 0.9, time, text)
    assert not torch.equal(other, right)  # only the fine level saw the change,
    assert (other - right).abs().mean() < (full - right).abs().mean()  # and that is most of it


def test_each_prompt_is_encoded_once(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    encode = rungs._encode
    monkeypatch.setattr(
        rungs, "_encode", lambda checkpoint, prompt: encoded.append(prompt) or encode(checkpoint, prompt)
    )
    tiny.embeddings.clear()
    first = rungs.embed(tiny, ["a", "b", "a"])
    assert encoded == ["a", "b"]
    assert torch.equal(first[0], first[2]) and not torch.equal(first[0], first[1])
    rungs.embed(tiny, ["b", "a"])
    assert encoded == ["a", "b"]


def test_long_prompts_are_cut_with_a_warning(tiny: Checkpoint) -> None:
    with pytest.warns(UserWarning, match="longer than 77 tokens"):
        rungs.embed(tiny, ["effusion " * 40])


def test_parts_of_a_negative_prompt_are_averaged(tiny: Checkpoint) -> None:
    parts = ["chest radiograph, AP view", "chest radiograph"]
    mean = torch.stack([rungs.embed(tiny, [part])[0] for part in parts]).mean(0)
    found = rungs.blended(tiny, [" | ".join(parts), parts[0]])
    torch.testing.assert_close(found[0], mean)
    assert torch.equal(found[1], rungs.embed(tiny, parts[:1])[0])
    thrice = rungs.blended(tiny, [" | ".join([parts[0]] * 3 + [parts[1]])])[0]
    torch.testing.assert_close(
        thrice, torch.lerp(rungs.embed(tiny, parts[1:])[0], rungs.embed(tiny, parts[:1])[0], 0.75)
    )
    drawn = sample(tiny, PROMPTS, SEEDS, negative_prompts=" | ".join(parts))
    assert not np.array_equal(drawn, sample(tiny, PROMPTS, SEEDS, negative_prompts=parts[0]))
    assert np.array_equal(drawn, sample(tiny, PROMPTS, SEEDS, negative_prompts=[" | ".join(parts)] * 3))


def test_negative_prompts_one_for_all_or_one_each(tiny: Checkpoint) -> None:
    one = sample(tiny, PROMPTS, SEEDS, negative_prompts="blurred")
    each = sample(tiny, PROMPTS, SEEDS, negative_prompts=["blurred"] * 3)
    assert np.array_equal(one, each)
    assert not np.array_equal(one, sample(tiny, PROMPTS, SEEDS))


def test_shift_and_scaling_come_from_the_configuration(tiny: Checkpoint) -> None:
    latents = torch.stack([noise(*seed, SHAPE) for seed in SEEDS])
    plain = rungs.decode(tiny, latents * 0.7)
    before = dict(tiny.vae.config)
    tiny.vae.register_to_config(scaling_factor=1.9, shift_factor=0.25)
    shifted = rungs.decode(tiny, (latents - 0.25) * 1.9)
    tiny.vae.register_to_config(**before)
    assert np.abs(plain.astype(int) - shifted.astype(int)).max() <= 1


def test_other_image_sizes_and_an_empty_batch(tiny: Checkpoint) -> None:
    assert sample(tiny, PROMPTS[:1], SEEDS[:1], image_size=48).shape == (1, 1, 48, 48)
    assert sample(tiny, [], []).shape == (0, 1, SIZE, SIZE)


def test_settings_come_from_the_card(tiny: Checkpoint) -> None:
    card = tiny_card()
    settings = resolve(tiny)
    assert settings.guidance_scale == card.guidance_scale
    assert settings.guidance_interval == card.guidance_interval
    assert settings.num_inference_steps == card.num_inference_steps
    assert resolve(tiny, num_inference_steps=9).num_inference_steps == 9


@pytest.mark.parametrize(
    "wrong, flag",
    [
        ({"guidance_scale": 0.5}, "--guidance-scale"),
        ({"guidance_scale": float("nan")}, "--guidance-scale"),
        ({"num_inference_steps": 0}, "--num-inference-steps"),
        ({"image_size": 30}, "--image-size"),
        ({"guidance_interval": (0.5, 0.2)}, "guidance_interval"),
        ({"feature_interval": 0}, "feature_interval"),
    ],
)
def test_wrong_settings_name_the_flag(tiny: Checkpoint, wrong: dict, flag: str) -> None:
    with pytest.raises(UserError, match=flag):
        sample(tiny, PROMPTS, SEEDS, **wrong)


def test_unknown_scheduler_suggests_the_nearest(tiny: Checkpoint) -> None:
    with pytest.raises(UnknownNameError, match=r"dpmsolver\+\+"):
        sample(tiny, PROMPTS, SEEDS, scheduler="dpmsolver")
    with pytest.raises(UserError, match="2 seeds"):
        sample(tiny, PROMPTS, SEEDS[:2])

"""The parts of adaptation, each against a closed form."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from synthaug import imagenet
from synthaug.adaptation import captions, latents
from synthaug.adaptation.autoencoding import (
    AutoencoderRecipe,
    AutoencoderRoute,
    AutoencoderShape,
    build_autoencoder,
)
from synthaug.adaptation.batches import draws, share
from synthaug.adaptation.denoising import DiffusionRecipe, DiffusionRoute, LogNormal, quantiles
from synthaug.adaptation.latents import AugmentationRecipe
from synthaug.adaptation.loop import LoopRecipe
from synthaug.adaptation.power import power_distance
from synthaug.adaptation.principal_components import fit, read_encoder, write_encoder
from synthaug.adaptation.small_text_encoder import TextEncoderShape, build_text_encoder, train_tokenizer
from synthaug.errors import UnknownNameError
from synthaug.prompts import render, words
from synthaug.record import Record

NAN = float("nan")


def textured(count: int = 3, size: int = 64, seed: int = 0) -> np.ndarray:
    """Smooth random images, uint8 (count, 1, size, size)."""
    noise = torch.randn((count, 1, size, size), generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool2d(noise, 7, 1, 3)
    low, high = smooth.min(), smooth.max()
    return ((smooth - low) / (high - low) * 255).round().to(torch.uint8).numpy()


def test_components_are_those_of_the_singular_value_decomposition() -> None:
    images = textured(size=8, count=40)
    x = images.reshape(40, 64) / 127.5 - 1
    components = fit(images, 5, whitening=0.0, blocks=40_000)
    directions = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:5]
    ours = components.filters.reshape(5, 64).numpy()
    ours = ours / np.linalg.norm(ours, axis=1, keepdims=True)
    # Blocks are drawn with replacement, so the leading directions agree up to sampling and sign.
    assert np.abs((ours[:2] * directions[:2]).sum(1)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("whitening", [0.0, 0.65, 1.0])
def test_latents_have_unit_mean_square_and_whitening_levels_them(whitening: float) -> None:
    images = textured(8, 128)
    components = fit(images, 6, whitening=whitening, blocks=100_000)
    z = components.encode(torch.from_numpy(images) / 127.5 - 1)
    assert float(z.square().mean()) == pytest.approx(1, rel=0.25)
    spread = z.std((0, 2, 3))
    if whitening == 1.0:
        assert float(spread.max() / spread.min()) < 1.5
    else:
        assert float(spread[0] / spread[-1]) > 1.5


def test_the_written_encoder_is_the_linear_map() -> None:
    images = textured()
    shape = AutoencoderShape(latent_channels=16)
    vae = build_autoencoder(shape, images)
    pixels = torch.from_numpy(images) / 127.5 - 1
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
    expected = fit(images, 16, whitening=shape.whitening).encode(pixels)
    torch.testing.assert_close(posterior.mean, expected, atol=2e-3, rtol=0)
    assert float(posterior.std.max()) < 1e-6


def test_the_components_are_read_back_from_their_encoder_and_from_no_other() -> None:
    images = textured()
    vae = build_autoencoder(AutoencoderShape(latent_channels=16), images)
    pixels = torch.from_numpy(images) / 127.5 - 1
    found = read_encoder(vae.half())  # as checkpoints are stored
    assert found is not None
    with torch.no_grad():
        expected = vae.float().encode(pixels).latent_dist.mean
        torch.testing.assert_close(found.encode(pixels), expected, atol=5e-3, rtol=0)
        vae.encoder.mid_block.resnets[0].conv2.weight[0, 0, 1, 1] = 0.01
    assert read_encoder(vae) is None
    assert read_encoder(build_autoencoder(AutoencoderShape(encoder="trained"), images)) is None
    narrow = AutoencoderShape(encoder="trained", widths=(8, 8, 8, 16), latent_channels=8)
    assert read_encoder(build_autoencoder(narrow, images)) is None


def test_an_encoder_too_narrow_for_the_components_is_refused() -> None:
    images = textured()
    vae = build_autoencoder(
        AutoencoderShape(encoder="trained", widths=(8, 8, 8, 16), latent_channels=8), images
    )
    with pytest.raises(ValueError, match="cannot hold 8 components"):
        write_encoder(vae, fit(images, 8, blocks=1000))


def test_power_distance_of_a_gain_is_twice_its_logarithm() -> None:
    real = torch.randn(2, 1, 32, 32, generator=draws(0, 0))
    assert float(power_distance(real, real)) == 0
    assert float(power_distance(3 * real, real)) == pytest.approx(2 * math.log(3), rel=1e-3)


class Made(torch.nn.Module):
    """In place of an autoencoder: the same pixels for any."""

    def __init__(self, pixels: torch.Tensor):
        super().__init__()
        self.pixels = pixels

    def forward(self, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pixels, torch.zeros(())


def test_the_perceptual_loss_reads_the_maps_of_the_named_network_and_is_zero_on_equal_films() -> None:
    images = textured()
    shape = {"steps": 1, "batch_size": 2, "crop": 32, "film_sizes": (64,), "learning_rate": 1e-3}
    recipe = AutoencoderRecipe(**shape, perceptual_stages=4, adversary=0.0, power=0.0)
    vae = build_autoencoder(AutoencoderShape(latent_channels=16), images)
    route = AutoencoderRoute(vae, recipe, [images], fit(images, 16))
    batch = route.batch(0, 0, 1)
    network, fake = imagenet.features(4, recipe.perceptual_network), batch.pixels.flip(0)
    expected = torch.stack(
        [
            (a / a.norm(dim=1, keepdim=True) - b / b.norm(dim=1, keepdim=True)).square().sum(1).mean()
            for a, b in zip(*(network(x.expand(-1, 3, -1, -1)) for x in (fake, batch.pixels)), strict=True)
        ]
    ).mean()

    def perceptual(made: torch.Tensor) -> torch.Tensor:
        route.players["autoencoder"] = Made(made)
        found = route.loss("autoencoder", batch, 0)
        assert found is not None
        return found[1]["perceptual"]

    torch.testing.assert_close(perceptual(fake), expected, atol=1e-4, rtol=1e-3)
    assert float(perceptual(batch.pixels)) == 0


def test_a_perceptual_network_without_weights_is_refused_by_name() -> None:
    shape = {"steps": 1, "batch_size": 1, "crop": 32, "film_sizes": (64,), "learning_rate": 1e-3}
    recipe = AutoencoderRecipe(**shape, perceptual_network="vgg")
    images = textured()
    with pytest.raises(UnknownNameError, match="vgg"):
        AutoencoderRoute(build_autoencoder(AutoencoderShape(latent_channels=16), images), recipe, [images])


def test_the_tokenizer_spells_prompts_in_whole_words_and_any_text_in_some_tokens() -> None:
    tokenizer = train_tokenizer(words(), 32)
    assert tokenizer.tokenize("chest radiograph: pleural effusion") == [
        "chest</w>",
        "radiograph</w>",
        ":</w>",
        "pleural</w>",
        "effusion</w>",
    ]
    assert tokenizer.decode(tokenizer("zürich ✓").input_ids, skip_special_tokens=True).strip() == "zürich ✓"
    longest = render({"pleural_effusion": 1, "cardiomegaly": 1, "atelectasis": 1}, view="PA", age=60, sex="F")
    assert len(tokenizer(longest).input_ids) <= tokenizer.model_max_length
    encoder = build_text_encoder(TextEncoderShape(width=16, layers=1, heads=2), tokenizer)
    assert encoder(tokenizer("chest", return_tensors="pt").input_ids).last_hidden_state.shape == (1, 3, 16)


def test_every_process_learns_the_same_tokenizer() -> None:
    code = (
        "import hashlib, json; from synthaug.prompts import words; "
        "from synthaug.adaptation.small_text_encoder import train_tokenizer as t; "
        "print({hashlib.sha256(json.dumps(t(words(), 32).get_vocab(), sort_keys=True).encode()).hexdigest() for _ in range(40)})"
    )
    told = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert told[0] == told[1] and told[0].count("'") == 2  # one digest, whichever process and time


def test_captions_never_name_what_is_unknown_and_sometimes_leave_out_what_is_known() -> None:
    record = Record(
        "a", {"pleural_effusion": 1, "cardiomegaly": 0, "edema": NAN, "no_finding": 0}, view="AP", age=61
    )
    recipe = captions.CaptionRecipe()
    drawn = [captions.draw(record, recipe, draws(0, step)) for step in range(400)]
    assert not any("edema" in text or "female" in text for text in drawn)
    named = np.mean(["pleural effusion" in text for text in drawn])
    assert 0.6 < named < 0.85  # name_finding times what dropout leaves: 0.72
    assert 0.05 < np.mean([text == "" for text in drawn]) < 0.17
    assert any("no cardiomegaly" in text for text in drawn)
    assert drawn == [captions.draw(record, recipe, draws(0, step)) for step in range(400)]


def test_no_finding_stands_alone() -> None:
    record = Record("a", {"no_finding": 1, "pleural_effusion": 0})
    certain = captions.CaptionRecipe(dropout=0, name_finding=1, name_absent=1)
    assert captions.draw(record, certain, draws(0, 0)) == "chest radiograph: no finding"


def test_the_first_copy_of_a_film_is_the_film_and_the_cache_answers_again(tmp_path) -> None:
    images = textured(4, 96)
    calls = []

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        calls.append(len(pixels))
        return pixels[:, :, ::8, ::8]

    recipe = AugmentationRecipe(copies=3)
    first = latents.cache(tmp_path, images, 96, encode, "identity", recipe)
    assert first.shape == (4, 3, 1, 12, 12)
    plain = (torch.from_numpy(images).float() / 127.5 - 1)[:, :, ::8, ::8].half()
    torch.testing.assert_close(first[:, 0], plain)
    assert not torch.equal(first[:, 1], first[:, 2])
    made = len(calls)
    torch.testing.assert_close(latents.cache(tmp_path, images, 96, encode, "identity", recipe), first)
    assert len(calls) == made
    latents.cache(tmp_path, images[:2], 96, encode, "identity", recipe)
    assert len(calls) > made


def test_rates_rise_and_fall_to_zero() -> None:
    recipe = LoopRecipe(steps=100, batch_size=1, learning_rate=1.0, warmup=10, decay=0.5)
    assert recipe.rate(0) == pytest.approx(0.1)
    assert recipe.rate(30) == 1.0
    assert recipe.rate(75) == pytest.approx(0.5)
    assert recipe.rate(100) == 0


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_the_processes_share_a_batch_without_loss(world: int) -> None:
    rows = [row for rank in range(world) for row in range(8)[share(8, rank, world)]]
    assert rows == list(range(8))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_of_a_perfect_prediction_is_zero(prediction: str) -> None:
    scheduler = DDPMScheduler(prediction_type=prediction, rescale_betas_zero_snr=prediction == "v_prediction")

    class Oracle(torch.nn.Module):
        """Knows the latents, so it can answer exactly."""

        frozen_text = False

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.latents = torch.zeros(())

        def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            kept = scheduler.alphas_cumprod[timesteps][:, None, None, None]
            noise = (noisy - kept.sqrt() * self.latents) / (1 - kept).sqrt()
            return (
                noise if prediction == "epsilon" else kept.sqrt() * noise - (1 - kept).sqrt() * self.latents
            )

    oracle = Oracle()
    stored = torch.randn(4, 1, 2, 4, 4, generator=draws(1, 1)).half()
    records = [Record(str(i), {"pleural_effusion": float(i % 2)}) for i in range(4)]
    recipe = DiffusionRecipe(
        steps=1, batch_size=8, learning_rate=1.0, balance={"pleural_effusion": 1000.0}, min_snr=5
    )
    tokenizer = train_tokenizer(words(), 32)
    route = DiffusionRoute(oracle, tokenizer, scheduler, stored, records, recipe, captions.CaptionRecipe())
    batch = route.batch(0, 0, 1)
    oracle.latents = batch.latents
    assert float(route.loss("unet", batch, 0)[0]) == pytest.approx(0, abs=1e-6)
    oracle.latents = batch.latents + 1
    assert float(route.loss("unet", batch, 0)[0]) > 0.1
    positives = stored[1::2].float().flatten(0, 1)
    assert all(any(torch.equal(z, known) for known in positives) for z in batch.latents)  # balance: x 1000


def test_timesteps_are_uniform_or_log_normal_in_the_noise_level() -> None:
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", rescale_betas_zero_snr=True)
    kept = scheduler.alphas_cumprod.double()
    alpha, sigma = kept.sqrt(), (1 - kept).sqrt()
    numbers = (torch.arange(100_000) + 0.5) / 100_000
    uniform = torch.searchsorted(quantiles(alpha, sigma, None), numbers, right=True)
    assert torch.equal(torch.bincount(uniform, minlength=1000), torch.full((1000,), 100))
    shape = LogNormal(mean=-0.5, std=1.2, share=0.8)
    drawn = torch.searchsorted(quantiles(alpha, sigma, shape), numbers, right=True)
    assert int(drawn.max()) == 999  # pure noise is never left out
    level = (sigma / alpha).log()
    for bound in (-2.0, -0.5, 1.0):
        # The share below a noise level, by the normal distribution's own integral.
        below = 0.8 * 0.5 * (1 + math.erf((bound + 0.5) / 1.2 / math.sqrt(2))) + 0.2 * float(
            (level <= bound).double().mean()
        )
        assert float((level[drawn] <= bound).double().mean()) == pytest.approx(below, abs=0.01)

"""Diversity, alignment, reconstruction and sharpness against torchmetrics, transformers, closed forms and simulation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_checkpoint import tiny_tokenizer
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from synthaug.datasets import RealRadiographs, SyntheticRadiographs
from synthaug.errors import DataError
from synthaug.evaluation.alignment import alignment, load_text_image_model
from synthaug.evaluation.diversity import SIZE, diversity, pair_mean, similarities
from synthaug.evaluation.intervals import mean_interval
from synthaug.evaluation.reconstruction import coherence, psnr, reconstruct, reconstruction
from synthaug.evaluation.similarity import ms_ssim, pyramid, ssim
from synthaug.evaluation.spectrum import BANDS, Profiles, power, profiles, ratio_intervals


def textures(count: int, size: int = SIZE, seed: int = 0) -> np.ndarray:
    """Smooth films with grain, alike in their large parts."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    films = [
        110 + 60 * np.sin(5 * x + rng.normal(0, 0.4)) * np.cos(4 * y) + rng.normal(0, 12, (size, size))
        for _ in range(count)
    ]
    return np.stack(films).clip(0, 255).astype(np.uint8)[:, None]


def test_ms_ssim_is_torchmetrics() -> None:
    films = textures(6)
    first, second = films[:3], films[3:]
    found = ms_ssim(pyramid(first), pyramid(second))
    for i in range(3):
        pair = (torch.from_numpy(block[i : i + 1]).double() / 255 for block in (first, second))
        expected = multiscale_structural_similarity_index_measure(*pair, data_range=1.0, normalize="relu")
        assert found[i] == pytest.approx(float(expected), abs=1e-5)
    matrix = similarities(films, batch=2)
    np.testing.assert_allclose(matrix[[0, 1, 2], [3, 4, 5]], found, atol=1e-5)
    np.testing.assert_allclose(matrix, matrix.T)
    order = np.array([3, 1, 5, 0, 2, 4])
    np.testing.assert_allclose(similarities(films[order], batch=7), matrix[order][:, order], atol=1e-5)
    with pytest.raises(DataError, match="161 pixels"):
        pyramid(films[..., :160, :160])


def test_ssim_is_torchmetrics() -> None:
    films = textures(4, 40)
    found = ssim(films[:2], films[2:])
    for i in range(2):
        pair = (torch.from_numpy(films[j : j + 1]).double() / 255 for j in (i, i + 2))
        assert found[i] == pytest.approx(
            float(structural_similarity_index_measure(*pair, data_range=1.0)), abs=1e-5
        )
    assert ssim(films, films) == pytest.approx(1)


def test_the_pair_mean_of_a_sum_is_the_closed_form() -> None:
    # h(i, j) = z_i + z_j has the mean 2 z̄, and its jackknife error is that of 2 z̄.
    z = np.random.default_rng(0).normal(size=25)
    found = pair_mean(z[:, None] + z)
    assert found.value == pytest.approx(2 * z.mean())
    assert found.error == pytest.approx(2 * z.std(ddof=1) / 5)


def test_intervals_of_pairs_and_of_grouped_means_hold_what_they_promise() -> None:
    rng = np.random.default_rng(1)
    pairs = means = 0
    for _ in range(400):
        z = rng.normal(size=20)
        found = pair_mean(np.exp(-((z[:, None] - z) ** 2)))
        pairs += found.low <= 1 / np.sqrt(5) <= found.high
        values = np.repeat(rng.normal(size=15), 3) + 0.3 * rng.normal(size=45)
        grouped = mean_interval(values, np.repeat(np.arange(15), 3).tolist())
        means += grouped.low <= 0 <= grouped.high
    assert 0.9 <= pairs / 400 <= 0.99 and 0.9 <= means / 400 <= 0.99


def test_diversity_is_told_prompt_by_prompt(tiny_shards: Path, tiny_nih: Path) -> None:
    drawn, real = SyntheticRadiographs(tiny_shards), RealRadiographs(tiny_nih)
    metrics = diversity(drawn.subset(range(20)), real)
    assert {m.subgroup for m in metrics} == {
        "chest radiograph: pleural effusion",
        "chest radiograph: no finding",
    }
    effusion = next(m for m in metrics if "effusion" in (m.subgroup or ""))
    chosen = drawn.subset([i for i in range(20) if i % 2])
    expected = pair_mean(similarities(chosen.images_array(SIZE)))
    assert effusion.value == pytest.approx(expected.value, abs=1e-6) and effusion.n == 10
    assert effusion.floor is None, "five real patients with effusion are too few for ten films"
    few = diversity(drawn.subset(range(9)), real)
    assert all(m.value is None and "8 are needed" in (m.reason or "") for m in few)


def colon_tokenizer() -> CLIPTokenizer:
    """The tiny tokenizer with a colon, which the prompts of the drawn shards have."""
    known = tiny_tokenizer().get_vocab()
    vocabulary = {**known, ":": len(known), ":</w>": len(known) + 1}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-clip")
    tokenizer = colon_tokenizer()
    torch.manual_seed(0)
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **shared,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 77,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**shared, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"crop_size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.3, 0.3, 0.3]}'
    )
    return folder


def test_alignment_is_the_cosine_of_clip(tiny_clip: Path, tiny_shards: Path) -> None:
    drawn = SyntheticRadiographs(tiny_shards)
    source = load_text_image_model(tiny_clip, "cpu")
    metrics = {m.name: m for m in alignment(source, drawn, drawn.keys)}
    model = CLIPModel.from_pretrained(tiny_clip).eval()
    prompts = [record.prompt for record in drawn.records]
    tokens = colon_tokenizer()(prompts, padding=True, return_tensors="pt")
    pixels = (torch.from_numpy(drawn.images_array(32)).float().repeat(1, 3, 1, 1) / 255 - 0.5) / 0.3
    with torch.no_grad():
        seen = model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels
        )
    cosines = (seen.image_embeds @ seen.text_embeds.T).numpy()
    found = metrics["image-text alignment"]
    assert found.value == pytest.approx(np.diag(cosines).mean(), abs=1e-5) and found.n == 24
    other = np.array([cosines[i, (i + 1) % 24] for i in range(24)]).mean()
    assert found.floor == pytest.approx(other, abs=1e-5)
    choice = metrics["image-text choice"]
    assert choice.floor == 0.5 and choice.value == pytest.approx(
        np.mean([cosines[i, i] >= cosines[i, (i + 1) % 24] for i in range(24)])
    )
    turned = drawn.subset(range(23, -1, -1))
    again = {m.name: m for m in alignment(source, turned, turned.keys)}
    assert again["image-text alignment"].value == pytest.approx(found.value, abs=1e-5)
    few = drawn.subset(range(3))
    assert "8 are needed" in (alignment(source, few, few.keys)[0].reason or "")


def test_a_folder_that_is_no_text_image_model_is_named(tiny_clip: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--text-model .*not a CLIP-like folder"):
        load_text_image_model(tmp_path)
    for path in tiny_clip.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = (tmp_path / "config.json").read_text().replace("{", '{"auto_map": {"AutoModel": "x.Y"},', 1)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(DataError, match="remote code"):
        load_text_image_model(tmp_path)


class Scaled(torch.nn.Module):
    """An autoencoder that keeps a film up to a factor of its contrast around grey."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))
        self.config = type("Config", (), {"in_channels": 3})()

    def encode(self, pixels: torch.Tensor) -> object:
        assert pixels.shape[1] == 3
        mean = type("Posterior", (), {"mean": pixels})()
        return type("Encoded", (), {"latent_dist": mean})()

    def decode(self, latents: torch.Tensor) -> object:
        return type("Decoded", (), {"sample": latents * self.factor})()


def test_reconstruction_is_the_closed_form() -> None:
    films = textures(16, 256)
    half = reconstruct(Scaled(0.5), films)
    np.testing.assert_allclose(half, ((films.astype(float) - 127.5) / 2 + 127.5), atol=0.6)
    metrics = {
        m.name: m
        for m in reconstruction(Scaled(0.5), {"PA": films}, {"PA": [str(i) for i in range(16)]}, "x")
    }
    mean_square = ((half.astype(float) - films) ** 2).mean((1, 2, 3))
    assert metrics["VAE PSNR"].value == pytest.approx((10 * np.log10(255**2 / mean_square)).mean(), abs=1e-6)
    for band in BANDS:
        assert metrics[f"VAE power {band}"].value == pytest.approx(0.25, rel=0.02)
        assert metrics[f"VAE coherence {band}"].value == pytest.approx(1, abs=0.01)
    assert metrics["VAE MS-SSIM"].value < 0.95  # type: ignore[operator]
    exact = {m.name: m for m in reconstruction(Scaled(1.0), {"PA": films}, {"PA": ["a"] * 16}, "x")}
    assert exact["VAE MS-SSIM"].value == pytest.approx(1, abs=1e-4) and exact["VAE MS-SSIM"].low is None
    assert exact["VAE SSIM"].value == pytest.approx(1, abs=1e-4) and exact["VAE RMSE"].value < 0.6  # type: ignore[operator]
    small = {
        m.name: m for m in reconstruction(Scaled(0.5), {"PA": films[..., :96, :96]}, {"PA": ["a"] * 16}, "x")
    }
    assert (
        "five scales need 161" in (small["VAE MS-SSIM"].reason or "") and small["VAE SSIM"].value is not None
    )
    assert psnr(films, films)[0] == pytest.approx(10 * np.log10(255**2 * 12))
    noise = np.random.default_rng(0).integers(0, 255, films.shape).astype(np.uint8)
    assert coherence(noise, films)["64-100"] < 0.5
    thin = reconstruction(Scaled(1.0), {"AP": films[:3]}, {"AP": list("abc")}, "x")
    assert all(m.value is None and "3 real AP films; 16" in (m.reason or "") for m in thin)


def test_the_embedded_kind_of_autoencoder_is_read(
    tiny_checkpoint: Path, tiny_radiographs: Callable[..., tuple]
) -> None:
    from synthaug.diffusion import load_checkpoint

    images, _ = tiny_radiographs(3, 32)
    vae = load_checkpoint(tiny_checkpoint, "cpu", "float32").vae
    whole, single = reconstruct(vae, images), reconstruct(vae, images, batch_size=1)
    assert whole.shape == images.shape and whole.dtype == np.uint8
    assert np.abs(whole.astype(int) - single).max() <= 1


def test_intervals_of_power_hold_what_they_promise() -> None:
    rng = np.random.default_rng(2)
    hit = np.zeros(5)
    for _ in range(100):
        sides = []
        for count, level in ((30, 0.8), (60, 1.0)):
            own = rng.normal(0, 0.4, (count, 1))  # how much power a film has
            grain = [rng.normal(0, 0.2, (count, width)) for width in (127, 3, 3)]
            sides.append(Profiles(level * np.exp(own + grain[0]), np.exp(grain[1]), np.exp(grain[2])))
        clusters = [str(i) for i in range(30)], [str(i) for i in range(60)]
        found = ratio_intervals(sides[0], sides[1], clusters)
        hit += [e.low <= true <= e.high for e, true in zip(found, [0.8] * 4 + [1.03], strict=True)]
    assert (hit >= 90).all(), hit


def test_power_is_that_of_its_definition_film_by_film() -> None:
    films = textures(5, 256)
    frequency = np.fft.fftfreq(256) * 256
    radius = np.hypot(frequency[:, None], frequency).round()
    window = np.hanning(256)[:, None] * np.hanning(256)
    found = profiles(power(films))
    for i, film in enumerate(films[:, 0].astype(float)):
        spectrum = np.abs(np.fft.fft2((film - film.mean()) * window)) ** 2
        np.testing.assert_allclose(
            found.rings[i, [0, 40, 126]], [spectrum[radius == k].mean() for k in (1, 41, 127)], rtol=1e-5
        )
        line = np.r_[spectrum[64, :9], spectrum[:9, 64]].mean()
        assert found.lines[i, 1] == pytest.approx(line, rel=1e-5)

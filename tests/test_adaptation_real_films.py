"""The seven routes on real films: the loss falls, a kill changes no bit, the result generates, wrong data are refused."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from adapted import UNSUPPORTED, of_another_architecture, remembered
from diffusers import DDPMScheduler
from safetensors.torch import load_file
from tiny_checkpoint import SIZE

from synthaug.adaptation import films as film
from synthaug.adaptation.adapt import adapt
from synthaug.adaptation.route import Execution, Progress
from synthaug.adaptation.routes import load_recipe
from synthaug.datasets import RealRadiographs
from synthaug.diffusion import load_checkpoint
from synthaug.diffusion.checkpoint import Checkpoint
from synthaug.diffusion.schedule import quiet_numpy
from synthaug.errors import CheckpointError, DataError
from synthaug.generation.films import generate

OF_A_BASE = ("unet", "unet_text_encoder", "lora", "textual_inversion", "text_projection", "vae")
ROUTES = (*OF_A_BASE, "from_scratch")
FINDINGS = ["no_finding", "pneumothorax"]
STEPS, SAVED = 24, 12
EACH = 8  # films of each finding
NOISES = 4  # of each film, at different times
CHANGES: dict[str, dict] = {
    # A few vectors move a U-Net of random weights little: larger steps.
    "textual_inversion": {"training.learning_rate": 0.05, "captions.dropout": 0.0},
    "vae": {"training.learning_rate": 1e-2, "training.adversary_from": SAVED},
}


@pytest.fixture(scope="module")
def parts(films: Path) -> dict[str, RealRadiographs]:
    """Eight films with a pneumothorax and eight without a finding to learn from, and as many of other patients."""

    def some(split: str) -> RealRadiographs:
        held = RealRadiographs(films / "nih-sample", split=split, splits_file="nih-sample", min_age=18)
        return held.subset(film.for_findings(held.records, FINDINGS, EACH, seed=0))

    return {split: some(split) for split in ("generator", "detector")}


@pytest.fixture(scope="module")
def start(parts: dict[str, RealRadiographs], tiny_checkpoint: Path) -> Callable[..., Iterator[Progress]]:
    """`start(route, out)` begins a route on the films of part generator."""

    def run(
        route: str, out: Path, changes: dict | None = None, base: Path = tiny_checkpoint, **how: int
    ) -> Iterator[Progress]:
        own: dict = {"findings": FINDINGS, **CHANGES.get(route, {})}
        if route == "from_scratch":
            own |= {"autoencoder_training.steps": STEPS, "legs.0.steps": STEPS, "legs.1.steps": STEPS}
        else:
            own |= {"per_finding": None, "training.steps": STEPS}
        if route not in ("from_scratch", "vae"):
            own |= {"validation": 0.0, "training.batch_size": 8}
        return adapt(
            load_recipe(f"{route}_smoke", own | (changes or {})),
            [parts["generator"]],
            out,
            model=None if route == "from_scratch" else str(base),
            text_encoder=str(base / "text_encoder") if route == "text_projection" else None,
            execution=Execution("cpu", "float32", **({"save_every": SAVED} | how)),
        )

    return run


@pytest.fixture(scope="module")
def made(start: Callable, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, list]]:
    """`made(route)` -> folder and steps of one run that nothing interrupted."""
    return remembered(start, tmp_path_factory)


@torch.no_grad()
def errors(checkpoint: Checkpoint, unseen: RealRadiographs, route: str) -> list[np.ndarray]:
    """Errors (n,) of each film in a batch that never changes: of its reconstruction, of its denoising, or both."""
    size, vae = checkpoint.image_size, checkpoint.vae
    pixels = torch.from_numpy(unseen.images_array(size, "squash")).float() / 127.5 - 1
    found = []
    latents = vae.encode(pixels).latent_dist.mean
    if route in ("vae", "from_scratch"):
        found.append((vae.decode(latents).sample - pixels).abs().mean((1, 2, 3)).numpy())
    if route == "vae":
        return found
    with quiet_numpy():
        schedule = DDPMScheduler.from_config(checkpoint.scheduler_config)
    texts = [
        checkpoint.spell(
            f"chest radiograph: {'pneumothorax' if r.labels['pneumothorax'] == 1 else 'no finding'}"
        )
        for r in unseen.records
    ]
    length = checkpoint.text_encoder.config.max_position_embeddings
    tokens = checkpoint.tokenizer(
        texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    hidden = checkpoint.text_encoder(tokens.input_ids).last_hidden_state
    clean = latents * vae.config.scaling_factor
    each = []
    for number, time in enumerate(torch.linspace(0, 999, NOISES).long()):
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(number))
        times = time.expand(len(clean))
        seen = checkpoint.unet(schedule.add_noise(clean, noise, times), times, hidden).sample
        each.append((seen - schedule.get_velocity(clean, noise, times)).square().mean((1, 2, 3)))
    return [*found, torch.stack(each).mean(0).numpy()]


@pytest.mark.parametrize("route", ROUTES)
def test_errors_on_films_of_other_patients_fall(
    parts: dict, start: Callable, made: Callable, tiny_checkpoint: Path, tmp_path: Path, route: str
) -> None:
    before = tiny_checkpoint
    if route == "from_scratch":  # it has no base: what it is after one step
        before = tmp_path / "begun"
        list(start(route, before, max_steps=1))
    pair = [
        errors(load_checkpoint(folder, "cpu", "float32"), parts["detector"], route)
        for folder in (before, made(route)[0])
    ]
    assert len(pair[0]) == (2 if route == "from_scratch" else 1)
    for first, last in zip(*pair, strict=True):
        fall = first - last  # equal films, noises and times on both sides
        assert len(fall) == 2 * EACH
        assert fall.mean() > 5 * fall.std(ddof=1) / np.sqrt(len(fall)), (first.mean(), last.mean())


@pytest.mark.parametrize("route", ROUTES)
def test_what_was_stopped_and_went_on_is_equal_to_the_bit(
    start: Callable, made: Callable, tmp_path: Path, route: str
) -> None:
    out, whole = made(route)
    stopped = start(route, tmp_path / "cut")
    before = [
        next(stopped) for _ in range(len(whole) - STEPS + SAVED + 3)
    ]  # three beyond the last saved state
    stopped.close()
    after = list(start(route, tmp_path / "cut"))
    assert [*before[: len(whole) - len(after)], *after] == whole and len(after) == STEPS - SAVED
    paths = [path.relative_to(out) for path in out.rglob("*.safetensors") if "base" not in path.parts]
    assert any("training" in path.parts for path in paths) and not all(
        "training" in path.parts for path in paths
    )
    for path in paths:
        ours, theirs = load_file(tmp_path / "cut" / path), load_file(out / path)
        assert ours.keys() == theirs.keys()
        assert not [name for name in theirs if not torch.equal(ours[name], theirs[name])], path


@pytest.mark.parametrize("route", ROUTES)
def test_the_result_generates(made: Callable, tmp_path: Path, route: str) -> None:
    out, _ = made(route)
    label = "pleural_effusion" if route == "vae" else "pneumothorax"  # a decoder learns no finding
    drawn = generate(label, count=2, model=str(out), out=tmp_path / "films", device="cpu")
    size = 64 if route == "from_scratch" else SIZE
    images = drawn.images_array(size, "squash")
    assert images.shape == (2, 1, size, size) and drawn[0][0].size == (size, size)
    assert images[0].std() > 1 and not np.array_equal(images[0], images[1])
    assert [record.labels[label] for record in drawn.records] == [1, 1]


@pytest.mark.parametrize("route", ROUTES)
def test_a_finding_without_a_film_is_refused(start: Callable, tmp_path: Path, route: str) -> None:
    with pytest.raises(DataError, match=r"asks for 1 films of hernia, found 0 .*pneumothorax 8"):
        next(start(route, tmp_path / "o", {"findings": ["no_finding", "hernia"]}))


@pytest.mark.parametrize("route", OF_A_BASE)
def test_a_base_of_another_architecture_is_refused(
    start: Callable, tiny_checkpoint: Path, tmp_path: Path, route: str
) -> None:
    folder = of_another_architecture(tiny_checkpoint, tmp_path / "xl")
    with pytest.raises(CheckpointError, match=UNSUPPORTED):
        next(start(route, tmp_path / "o", base=folder))

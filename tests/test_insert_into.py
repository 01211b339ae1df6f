"""Given films: the way back to them is exact, outside the mask they are kept, and their folder tells no patient."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from synthaug import cli, shards
from synthaug.datasets import RealRadiographs, SyntheticRadiographs
from synthaug.diffusion import load_checkpoint, resolve, sample
from synthaug.diffusion.inversion import encode, invert
from synthaug.diffusion.pairs import _Walker, change_films, known_prediction
from synthaug.diffusion.region import Region, soft_mask
from synthaug.diffusion.sampler import decode
from synthaug.errors import DataError, OutputFolderError, UserError
from synthaug.generation.insert import InsertRecipe, insert

ABSENT, PRESENT = "chest radiograph: no finding", "chest radiograph: pleural effusion"
SEEDS = [(3, 0), (3, 1)]


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path):
    return load_checkpoint(tiny_checkpoint, "cpu", "float32")


@pytest.fixture(scope="module")
def drawn(tiny_radiographs) -> np.ndarray:
    return tiny_radiographs(2, size=32)[0]


def walker_of(checkpoint, settings) -> _Walker:
    return _Walker(checkpoint, settings, SEEDS, "", [ABSENT] * 2, [PRESENT] * 2)


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon", "sample"])
@pytest.mark.parametrize("scheduler", ["dpmsolver++", "ddim", "deis", "euler", "heun", "unipc"])
def test_the_known_prediction_leads_back_to_the_film(tiny, scheduler: str, kind: str) -> None:
    config = {**tiny.scheduler_config, "prediction_type": kind}
    if kind == "epsilon":
        config["rescale_betas_zero_snr"] = False  # pure noise and a prediction of noise would say nothing
    checkpoint = replace(tiny, scheduler_config=config)
    walker = walker_of(checkpoint, resolve(checkpoint, num_inference_steps=5, scheduler=scheduler))
    film = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ready = walker.scheduler()
    start = ready.add_noise(film, walker.noise(), ready.timesteps[:1].expand(2))
    end, _ = walker.walk(start, lambda used, z, step: known_prediction(used, z, film, step))
    # DEIS stops at the noise level of timestep 0, 0.03, and adds no prediction of that.
    assert torch.allclose(end, film, atol=0.15 if scheduler == "deis" else 2e-3)


def test_inversion_finds_the_noise_that_draws_the_film(tiny, drawn: np.ndarray) -> None:
    settings = resolve(tiny, num_inference_steps=100, scheduler="ddim", guidance_scale=1.0)
    walker = walker_of(tiny, settings)
    film = encode(tiny, drawn)
    found = invert(tiny, film, walker.without.toward, settings, 99)
    ready = walker.scheduler()
    time = ready.timesteps[1:2].expand(2)

    def again(noise: torch.Tensor) -> float:
        z = ready.add_noise(film, noise, time)
        for step in range(1, 100):
            v = walker.following(walker.without)(ready, z, step)
            z = ready.step(v, ready.timesteps[step], z, return_dict=False)[0]
        return float((z - film).norm() / film.norm())

    with torch.inference_mode():
        assert again(found) < 0.1 < 0.5 < again(walker.noise())


@pytest.mark.parametrize("method", ["inversion", "img2img", "inpaint"])
@pytest.mark.parametrize("side", [None, "left", "right"])
def test_a_film_is_kept_outside_the_mask_and_on_the_other_side(
    tiny, drawn: np.ndarray, method: str, side: str | None
) -> None:
    settings = resolve(tiny, num_inference_steps=5, guidance_scale=6.0)
    region = Region(strength=0.8, threshold=0.3, side=side)  # type: ignore[arg-type]
    texts = [ABSENT] * 2, [PRESENT] * 2
    pairs = change_films(tiny, drawn, *texts, SEEDS, settings, region=region, method=method)  # type: ignore[arg-type]
    outside = pairs.mask == 0
    assert np.array_equal(pairs.without, drawn) and outside.mean() > 0.2
    assert np.array_equal(pairs.present[outside], drawn[outside])
    assert (pairs.present != drawn).any(axis=(1, 2, 3)).all()
    if side == "left":  # the patient's left is at the image's right
        assert outside[..., :16].all()
    if side == "right":
        assert outside[..., 16:].all()
    same = change_films(tiny, drawn, *texts[:1] * 2, SEEDS, settings, region=Region(mask=np.ones((32, 32))))
    assert np.abs(same.present.astype(int) - drawn).max() <= 1


def test_inpainting_draws_the_place_anew_and_nothing_else(tiny, drawn: np.ndarray) -> None:
    settings = resolve(tiny, num_inference_steps=4, guidance_scale=4.0, scheduler="sde-dpmsolver++")
    region = Region(strength=1.0, mask=np.ones((32, 32)))
    texts = [ABSENT] * 2, [PRESENT] * 2
    pairs = change_films(tiny, drawn, *texts, SEEDS, settings, region=region, method="inpaint")
    # At strength 1 nothing of the film is left in the noise of the first step: the place is what the prompt draws by itself.
    how = {"num_inference_steps": 4, "guidance_scale": 4.0, "scheduler": "sde-dpmsolver++"}
    alone = sample(tiny, [PRESENT] * 2, SEEDS, guidance_interval=settings.guidance_interval, **how)
    change = alone.astype(int) - decode(tiny, encode(tiny, drawn))
    expected = np.clip(drawn + change, 0, 255)
    inside = pairs.mask == 255
    assert inside.mean() > 0.2 and np.abs(pairs.present - expected)[inside].max() <= 3
    # With a zone what lies outside is the film to the grey level, whatever the solver adds.
    region = Region(strength=0.75, zone="lower")
    pairs = change_films(tiny, drawn, *texts, SEEDS, settings, region=region, method="inpaint")
    assert np.array_equal(pairs.present[..., :8, :], drawn[..., :8, :])
    assert (pairs.present[..., 16:, :] != drawn[..., 16:, :]).mean() > 0.3


def test_a_given_mask_is_kept_to_the_pixel_and_fades_inside(tiny, drawn: np.ndarray) -> None:
    given = np.zeros((32, 32), np.uint8)
    given[9:23, 3:21] = 1
    settings = resolve(tiny, num_inference_steps=3, guidance_scale=6.0)
    region = Region(strength=1.0, mask=given)
    pairs = change_films(tiny, drawn, [ABSENT] * 2, [PRESENT] * 2, SEEDS, settings, region=region)
    assert ((pairs.mask > 0) <= (given > 0)).all() and (pairs.mask[:, 0, 13:19, 7:17] == 255).all()
    # Scale 4: nine neighbours in a row, of which the pixel at the edge has five inside: 2 * 5 / 9 - 1.
    soft = soft_mask(torch.ones(1, 1, 8, 8), region, 32)
    assert soft[0, 0, 16, 20] == pytest.approx(1 / 9) and soft[0, 0, 16, 19] == pytest.approx(3 / 9)
    # The film and not its decoding is what is changed.
    decoded = decode(tiny, encode(tiny, drawn))
    assert np.abs(decoded.astype(int) - drawn).mean() > 5


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({"mask": np.zeros((32, 32))}, "--mask: found no pixel above 0"),
        ({"side": "up"}, "--side up"),
        ({"threshold": 0.0}, "--threshold 0"),
    ],
)
def test_regions_that_cannot_be(region: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Region(**region)


def test_masks_that_do_not_fit_the_film(tiny, drawn: np.ndarray) -> None:
    settings = resolve(tiny, num_inference_steps=2)
    thin = np.zeros((32, 32))
    thin[5] = 1
    for mask, message in (
        (np.ones((16, 16)), r"--mask: found \(16, 16\)"),
        (thin, "as wide as 4 pixels of 32"),
    ):
        with pytest.raises(UserError, match=message):
            change_films(tiny, drawn, [ABSENT] * 2, [PRESENT] * 2, SEEDS, settings, region=Region(mask=mask))


def test_a_folder_of_real_films(tiny_checkpoint: Path, tiny_nih: Path, tmp_path: Path) -> None:
    recipe = InsertRecipe(label="effusion", count=5, shard_size=3, num_inference_steps=2)
    out = insert(recipe, tmp_path / "o", str(tiny_checkpoint), "cpu", 2, into=tiny_nih)
    before, after = RealRadiographs(out / "before", views="all"), SyntheticRadiographs(out / "after")
    assert shards.verify(out / "before") == [] == shards.verify(out / "after")
    source = RealRadiographs(tiny_nih, image_size=32)
    assert before.keys == after.keys == [f"{i:09d}" for i in range(5)]
    for i in range(5):
        record = after.records[i]
        assert record.provenance["source"]["key"] == source.keys[i]
        assert np.array_equal(before.image(i), source.image(i))
        with Image.open(out / "masks" / f"{i:09d}.png") as picture:
            equal = np.asarray(picture) == 0
        assert np.array_equal(before.image(i)[equal], after.image(i)[equal])
        assert before.records[i].labels["no_finding"] == 1 and before.records[i].view == source.views[i]
        assert (record.labels["pleural_effusion"], record.labels["no_finding"]) == (1, 0)
        for one in (record, before.records[i]):
            assert (one.patient, one.age, one.sex) == (None, None, None)
    assert str(tiny_nih) not in "".join(path.read_text() for path in out.rglob("*.json"))
    assert "still shows the person" in (out / "README.md").read_text()
    # The same command resumes, to the same bytes; other films are refused.
    first = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for name in ("before/shard-000001.tar", "after/shard-000000.tar", "after/manifest.json"):
        (out / name).unlink()
    insert(recipe, out, str(tiny_checkpoint), "cpu", 2, into=tiny_nih)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == first
    with pytest.raises(OutputFolderError, match="films"):
        insert(recipe, out, str(tiny_checkpoint), "cpu", into=tiny_nih / "images")


def test_films_that_have_the_finding_are_left_out(
    tiny_checkpoint: Path, tiny_nih: Path, tmp_path: Path
) -> None:
    recipe = InsertRecipe(label="effusion", num_inference_steps=1)
    out = insert(recipe, tmp_path / "o", str(tiny_checkpoint), "cpu", 8, into=tiny_nih)
    # Of 24 films the ten of patients 6 to 10 have an effusion.
    assert len(SyntheticRadiographs(out / "after")) == 14
    with pytest.raises(DataError, match="have pleural_effusion already"):
        insert(recipe, tmp_path / "p", str(tiny_checkpoint), "cpu", into=_only_effusions(tiny_nih, tmp_path))


def test_one_part_of_a_split_alone(tiny_checkpoint: Path, tiny_nih: Path, tmp_path: Path) -> None:
    films = sorted(path.stem for path in (tiny_nih / "images").iterdir())
    rows = [f"{name},{'one' if number < 3 else 'other'}" for number, name in enumerate(films)]
    (tmp_path / "parts.csv").write_text("\n".join(["image,part", *rows]))
    split = ["--split", "one", "--splits-file", str(tmp_path / "parts.csv")]
    flags = ["insert", "--label", "effusion", "--num-inference-steps", "1", "--device", "cpu"]
    flags += ["--model", str(tiny_checkpoint), "--out", str(tmp_path / "o")]
    assert cli.main([*flags, "--into", str(tiny_nih), *split]) == 0
    after = SyntheticRadiographs(tmp_path / "o" / "after")
    assert [record.provenance["source"]["key"] for record in after.records] == films[:3]


@pytest.mark.parametrize("into", [None, "images"])
def test_a_split_needs_films_that_it_can_name(
    tiny_checkpoint: Path, tiny_nih: Path, tmp_path: Path, into: str | None
) -> None:
    recipe = InsertRecipe(label="effusion")
    given = None if into is None else sorted((tiny_nih / into).iterdir())[0]
    with pytest.raises(UserError, match="--split one: is for"):
        insert(recipe, tmp_path / "o", str(tiny_checkpoint), "cpu", into=given, split="one")


def _only_effusions(nih: Path, home: Path) -> Path:
    folder = home / "films" / "effusion"
    folder.mkdir(parents=True)
    for path in sorted((nih / "images").glob("90000006*.png")):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder.parent


def test_one_file_through_the_command(
    tiny_checkpoint: Path, tiny_nih: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = sorted((tiny_nih / "images").glob("*.png"))[0]
    mask = np.zeros((96, 96), np.uint8)
    mask[40:90, 50:90] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    given = ["insert", "--label", "effusion", "--num-inference-steps", "2", "--model", str(tiny_checkpoint)]
    given += ["--device", "cpu", "--out", str(tmp_path / "o")]
    assert (
        cli.main([*given, "--into", str(film), "--mask", str(tmp_path / "mask.png"), "--side", "left"]) == 0
    )
    assert cli.main([*given, "--method", "inversion"]) == 2
    assert "add --into DIR" in capsys.readouterr().err
    given[-1] = str(tmp_path / "p")
    assert cli.main([*given, "--into", str(film), "--method", "inpaint", "--zone", "any"]) == 2
    assert "add --zone lower or upper, or --mask FILE" in capsys.readouterr().err
    recipe = (tmp_path / "o" / "recipe.yaml").read_text()
    assert "side: left" in recipe and "count: 1" in recipe and "strength: 0.75" in recipe
    with Image.open(tmp_path / "o" / "masks" / "000000000.png") as picture:
        assert not np.asarray(picture)[:, :16].any() and np.asarray(picture)[16:28, 18:28].any()
    assert json.loads((tmp_path / "o" / "after" / "manifest.json").read_text())["member"] == "after"

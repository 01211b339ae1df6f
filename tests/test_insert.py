"""Pairs: equal outside the mask, different inside, of one seed; their folder is a data set."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from synthaug import cli, shards
from synthaug.datasets import SyntheticRadiographs
from synthaug.diffusion import load_checkpoint, resolve, sample
from synthaug.diffusion.pairs import sample_pairs
from synthaug.diffusion.region import Region, changed_region, zone_mask
from synthaug.errors import LabelError, OutputFolderError, UserError
from synthaug.generation.insert import InsertRecipe, insert

ABSENT, PRESENT = "chest radiograph: no finding", "chest radiograph: pleural effusion"
SEEDS = [(3, 0), (3, 1)]


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path):
    return load_checkpoint(tiny_checkpoint, "cpu", "float32")


@pytest.mark.parametrize("scheduler", ["dpmsolver++", "ddim", "euler_ancestral"])
def test_members_are_equal_outside_the_mask_and_differ_inside(tiny, scheduler: str) -> None:
    settings = resolve(tiny, num_inference_steps=6, guidance_scale=4.0, scheduler=scheduler)
    pairs = sample_pairs(tiny, [ABSENT] * 2, [PRESENT] * 2, SEEDS, settings, region=Region(0.8, 0.3, 0.2))
    outside = pairs.mask == 0
    assert 0.2 < outside.mean() < 0.8
    assert np.array_equal(pairs.without[outside], pairs.present[outside])
    assert (pairs.without != pairs.present).mean() > 0.02
    # The member without is the film that the prompt without draws by itself from this seed.
    how = {"num_inference_steps": 6, "guidance_scale": 4.0, "scheduler": scheduler}
    alone = sample(tiny, [ABSENT] * 2, SEEDS, guidance_interval=settings.guidance_interval, **how)
    assert np.abs(alone.astype(int) - pairs.without).max() <= 2


def test_each_member_is_led_away_from_its_own_negative_prompt(tiny) -> None:
    how = {"num_inference_steps": 4, "guidance_scale": 4.0, "scheduler": "ddim"}
    how |= {"guidance_rescale": 0.7, "guidance_mean": 0.5}
    settings = resolve(tiny, **how)
    region = Region(strength=1.0, area=1.0, mask=np.ones((32, 32), np.uint8))
    pairs = sample_pairs(tiny, [ABSENT], [PRESENT], SEEDS[:1], settings, [(PRESENT, ABSENT)], region)
    expected = [
        sample(
            tiny, [own], SEEDS[:1], negative_prompts=away, guidance_interval=settings.guidance_interval, **how
        )
        for own, away in ((ABSENT, PRESENT), (PRESENT, ABSENT))
    ]
    assert np.abs(pairs.without.astype(int) - expected[0]).max() <= 2
    # A region of the whole film is soft at its edge; inside it the member with is the film that its prompt draws.
    inside = pairs.mask == 255
    assert inside.mean() > 0.2
    assert np.abs(pairs.present.astype(int) - expected[1])[inside].max() <= 3


def test_equal_prompts_give_equal_members(tiny) -> None:
    settings = resolve(tiny, num_inference_steps=4)
    pairs = sample_pairs(tiny, [ABSENT], [ABSENT], SEEDS[:1], settings, region=Region(area=1.0))
    assert np.abs(pairs.without.astype(int) - pairs.present).max() <= 2


def test_the_region_is_where_the_difference_is() -> None:
    difference = torch.zeros(1, 1, 16, 16)
    difference[..., 4:8, 9:13] = 5.0
    mask = changed_region(difference, Region(threshold=0.6))
    # 3 x 3 means of a square of fives are 5 inside, 10/3 along its sides, 20/9 at its corners; one latent is grown.
    expected = torch.zeros(16, 16)
    expected[3:9, 8:14] = 1
    expected[[3, 3, 8, 8], [8, 13, 8, 13]] = 0
    assert torch.equal(mask[0, 0], expected)


def test_the_folder_holds_both_members_and_resumes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    recipe = InsertRecipe(label="effusion", count=3, shard_size=2, num_inference_steps=3, view="PA")
    seen: list[tuple[int, int]] = []
    out = insert(
        recipe, tmp_path / "o", str(tiny_checkpoint), "cpu", 2, lambda done, total: seen.append((done, total))
    )
    assert seen == [(2, 3), (3, 3)] and shards.verify(out) == []
    films = SyntheticRadiographs(out, findings=["no_finding", "pleural_effusion"])
    assert films.labels.tolist() == [[1, 0], [0, 1]] * 3 and films.views == ["PA"] * 6
    for i in range(0, 6, 2):
        first, second = films.records[i].provenance, films.records[i + 1].provenance
        assert (first["pair"], first["member"], second["member"]) == (i // 2, "without", "with")
        mask = (out / "masks" / f"{i + 1:09d}.png").read_bytes()
        assert second["mask_sha256"] == hashlib.sha256(mask).hexdigest()
        with Image.open(out / "masks" / f"{i + 1:09d}.png") as picture:
            equal = np.asarray(picture) == 0
        assert np.array_equal(films.image(i)[equal], films.image(i + 1)[equal])
        with Image.open(out / "differences" / f"{i + 1:09d}.png") as picture:
            apart = np.asarray(picture).astype(int)
        assert np.array_equal(apart, np.abs(films.image(i).astype(int) - films.image(i + 1)))
    before = {path.name: path.read_bytes() for path in out.glob("shard*")}
    for name in ("shard-000001.tar", "shard-000001.index", "manifest.json"):
        (out / name).unlink()
    insert(recipe, out, str(tiny_checkpoint), "cpu", 2)
    assert {path.name: path.read_bytes() for path in out.glob("shard*")} == before
    with pytest.raises(OutputFolderError, match="strength"):
        insert(recipe.model_copy(update={"strength": 0.5}), out, str(tiny_checkpoint), "cpu")
    assert json.loads((out / "manifest.json").read_text())["pairs"] == 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"label": "no_finding"}, LabelError, "can insert pleural_effusion"),
        ({"label": "hernia"}, LabelError, "can insert pleural_effusion"),
        ({"strength": 1.5}, UserError, "--strength 1.5"),
        ({"area": 0.0}, UserError, "--area 0"),
        ({"view": "oblique"}, UserError, "unknown view 'oblique'"),
    ],
)
def test_what_cannot_be_inserted(
    tiny_checkpoint: Path, tmp_path: Path, change: dict, error: type[Exception], message: str
) -> None:
    recipe = InsertRecipe(label="pleural_effusion", count=1, num_inference_steps=2).model_copy(update=change)
    with pytest.raises(error, match=message):
        insert(recipe, tmp_path / "o", str(tiny_checkpoint), "cpu")
    assert not (tmp_path / "o").exists()  # nothing was begun: the mended command is not refused


def test_the_command(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--label", "effusion", "--count", "1", "--num-inference-steps", "2", "--device", "cpu"]
    assert cli.main(["insert", *flags, "--model", str(tiny_checkpoint), "--out", str(tmp_path / "o")]) == 0
    assert "preview.png" in capsys.readouterr().out and (tmp_path / "o" / "preview.png").exists()


@pytest.mark.parametrize("steps", ["lu", "clipped"])
def test_the_checkpoints_solver_draws_and_inpaints_and_inversion_takes_one_without_noise(
    tiny_checkpoint: Path, tiny_nih: Path, tmp_path: Path, steps: str
) -> None:
    model = shutil.copytree(tiny_checkpoint, tmp_path / "noisy")
    noisy = {"scheduler": f"sde-dpmsolver++-{steps}", "noise_scale": 1.1}
    (model / "synthaug.json").write_text(
        json.dumps(json.loads((model / "synthaug.json").read_text()) | noisy)
    )
    recipe = InsertRecipe(label="effusion", count=1, num_inference_steps=3, guidance_scale=5, view="AP")
    out = insert(recipe, tmp_path / "out", model=str(model), device="cpu")
    film = next(iter(SyntheticRadiographs(out).records)).provenance
    assert (film["scheduler"], film["guidance_without"]) == (noisy["scheduler"], 3)
    # The member without is what its prompt draws by itself, led half as far, with the noise that the checkpoint asks for.
    checkpoint = load_checkpoint(model, "cpu")
    prompt = "chest radiograph, AP view: no finding"
    alone = sample(
        checkpoint, [prompt], [(0, 0)], negative_prompts="", num_inference_steps=3, guidance_scale=3
    )
    assert np.abs(SyntheticRadiographs(out).image(0).astype(int) - alone[0, 0]).max() <= 2
    for method, solver in (("inpaint", noisy["scheduler"]), ("inversion", "dpmsolver++")):
        how = recipe.model_copy(update={"method": method})
        into = insert(how, tmp_path / method, model=str(model), device="cpu", into=tiny_nih)
        record = SyntheticRadiographs(into / "after").records[0]
        assert record.provenance["scheduler"] == solver


def test_a_zone_fades_and_a_side_halves_it() -> None:
    lower = zone_mask(Region(zone="lower"), 32)[0, 0]
    assert not lower[:8].any() and (lower[16:, 6:26] == 1).all() and 0 < lower[11, 16] < 1
    assert torch.equal(lower, lower.flip(1)) and (lower.diff(dim=0) >= 0).all()
    assert torch.equal(zone_mask(Region(zone="upper"), 32)[0, 0], lower.flip(0))
    left = zone_mask(Region(zone="lower", side="left"), 32)[0, 0]  # which is at the image's right
    assert not left[:, :16].any() and (left[16:, 22:26] == 1).all()
    # In pixels it is the same place, finer.
    fine = torch.nn.functional.avg_pool2d(zone_mask(Region(zone="lower"), 256), 8)[0, 0]
    assert fine.allclose(lower, atol=0.02)
    with pytest.raises(UserError, match="--zone middle: expected lower or upper, or any"):
        Region(zone="middle")  # type: ignore[arg-type]


@pytest.mark.parametrize(("zone", "recorded"), [(None, "lower"), ("upper", "upper"), ("any", "any")])
def test_a_pair_differs_in_its_zone_alone(
    tiny_checkpoint: Path, tmp_path: Path, zone: str | None, recorded: str
) -> None:
    recipe = InsertRecipe(label="effusion", count=2, num_inference_steps=4, zone=zone)  # type: ignore[arg-type]
    films = SyntheticRadiographs(insert(recipe, tmp_path / "o", str(tiny_checkpoint), "cpu"))
    assert films.records[1].provenance["zone"] == recorded and films.views == ["PA", "PA", "AP", "AP"]
    for without, present in ((0, 1), (2, 3)):
        differ = (films.image(without) != films.image(present)).any(axis=1)
        if recorded != "any":
            far = differ[:8] if recorded == "lower" else differ[-8:]
            assert differ.sum() > 8 and not far.any()

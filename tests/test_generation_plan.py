"""What `generate` is asked for: conditions, formats, settings, and bad input."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from generated import EFFUSION, content, draw

from synthaug import images
from synthaug.diffusion import load_checkpoint
from synthaug.errors import (
    CheckpointError,
    LabelError,
    RecipeError,
    UnknownNameError,
    UserError,
)
from synthaug.generation import GenerateRecipe, PlanEntry, generate
from synthaug.generation.plan import make_recipe
from synthaug.shards import ShardSet


def test_default_folder_is_named_after_finding_and_digest(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    out = draw(tiny_checkpoint, None, dry_run=True)
    plan = capsys.readouterr().out
    assert out.parent == Path(".") and out.name.startswith("pleural_effusion-") and len(out.name) == 25
    assert list(tmp_path.iterdir()) == []
    for fact in (
        "10 films",
        "3 shards",
        "MB",
        f"recipe {out.name[-8:]}",
        "chest radiograph: pleural effusion",
    ):
        assert fact in plan
    assert draw(tiny_checkpoint, None, count=2).is_dir()


def test_several_conditions_share_their_label_keys(tiny_checkpoint: Path, tmp_path: Path) -> None:
    plan = (
        PlanEntry(labels={EFFUSION: 1.0}, view="PA", count=2),
        PlanEntry(labels={"no_finding": 1.0}, sex="F", age=63.0, count=1),
        PlanEntry(prompt="a photo of a lung", count=1),
    )
    recipe = GenerateRecipe(plan=plan, seed=3, shard_size=3)
    (tmp_path / "mine.yaml").write_text(recipe.to_yaml())
    out = generate(recipe=tmp_path / "mine.yaml", model=tiny_checkpoint, out=tmp_path / "out", device="cpu")
    records = list(ShardSet(out).records())
    assert [record.prompt for record in records] == [
        *["chest radiograph, PA view: pleural effusion"] * 2,
        "chest radiograph, female, 60s: no finding",
        "a photo of a lung",
    ]
    assert [list(record.to_json()["labels"].items()) for record in records] == [
        *[[("no_finding", 0.0), (EFFUSION, 1.0)]] * 2,
        [("no_finding", 1.0), (EFFUSION, 0.0)],
        [("no_finding", None), (EFFUSION, None)],
    ]
    assert (records[2].sex, records[2].age, records[0].view) == ("F", 63.0, "PA")
    # The resolved recipe is a recipe: run again elsewhere, it is the same run.
    again = generate(recipe=out / "recipe.yaml", model=tiny_checkpoint, out=tmp_path / "again", device="cpu")
    assert content(again) == content(out)


def test_formats_sizes_and_settings_are_recorded(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = draw(
        tiny_checkpoint,
        tmp_path / "out",
        count=2,
        format="jpeg",
        image_size=48,
        guidance_scale=1,
        num_inference_steps=2,
        negative_prompt="blurred",
        labels=[EFFUSION, "no_finding=0"],
    )
    record, data = ShardSet(out)[0]
    assert images.read(data).shape == (48, 48)
    fields = record.to_json()
    assert (fields["negative_prompt"], fields["guidance_scale"], fields["num_inference_steps"]) == (
        "blurred",
        1.0,
        2,
    )
    assert fields["labels"] == {"no_finding": 0.0, EFFUSION: 1.0}
    assert yaml.safe_load((out / "recipe.yaml").read_text())["image_size"] == 48


def test_guidance_leads_away_from_the_same_view(tiny_checkpoint: Path, tmp_path: Path) -> None:
    plan = tuple(PlanEntry(labels={EFFUSION: 1.0}, view=view, count=1) for view in ("PA", "AP", None))
    away = "chest radiograph[, {view} view]"
    how = {"negative_prompt": away, "num_inference_steps": 1, "image_size": 32}
    out = generate(
        recipe=GenerateRecipe(plan=plan, **how), model=tiny_checkpoint, out=tmp_path / "out", device="cpu"
    )
    written = [record.to_json()["negative_prompt"] for record, _ in ShardSet(out)]
    assert written == ["chest radiograph, PA view", "chest radiograph, AP view", "chest radiograph"]
    one = {**how, "negative_prompt": "chest radiograph, AP view"}
    same = generate(
        recipe=GenerateRecipe(plan=plan, **one), model=tiny_checkpoint, out=tmp_path / "one", device="cpu"
    )
    films = [[images.read(data) for _, data in ShardSet(folder)] for folder in (out, same)]
    equal = [bool((a == b).all()) for a, b in zip(*films, strict=True)]
    assert equal == [False, True, False]


def test_guidance_leads_away_from_what_the_film_must_not_show(tiny_checkpoint: Path) -> None:
    plan = (
        PlanEntry(labels={EFFUSION: 1.0}, view="PA", count=1),
        PlanEntry(labels={"no_finding": 1.0}, count=1),
        PlanEntry(prompt="chest radiograph", count=1),
    )
    recipe = GenerateRecipe(plan=plan, negative_prompt="chest radiograph[, {view} view][: {contrary}]")
    resolved = recipe.resolved(load_checkpoint(tiny_checkpoint, "cpu", "float32"))
    assert [entry.negative_prompt for entry in resolved.plan] == [
        "chest radiograph, PA view: no finding",
        "chest radiograph: pleural effusion",
        "chest radiograph",
    ]


@pytest.mark.parametrize(
    "wrong, error, message",
    [
        ({"labels": "plural_effusion"}, UnknownNameError, "pleural_effusion"),
        ({"labels": "edema"}, LabelError, "it knows no_finding, pleural_effusion"),
        ({"labels": [EFFUSION, "pleural_effusion=0"]}, LabelError, "both as 1 and as 0"),
        ({"labels": [EFFUSION, "no_finding"]}, LabelError, "no_finding"),
        ({"labels": None}, UserError, "--label FINDING or --prompt"),
        ({"count": 0}, UserError, "--count 0"),
        ({"batch_size": 0}, UserError, "--batch-size 0"),
        ({"shard_size": 0}, RecipeError, "shard_size"),
        ({"seed": -1}, RecipeError, "seed"),
        ({"format": "bmp"}, UnknownNameError, "format"),
        ({"view": "lateral"}, UserError, "it knows PA, AP"),
        ({"view": "top"}, UnknownNameError, "view"),
        ({"sex": "X"}, UnknownNameError, "sex"),
        ({"age": 900}, UserError, "--age 900"),
        ({"image_size": 33}, UserError, "--image-size"),
        ({"device": "tpu"}, UserError, "--device"),
        ({"model": "/nowhere"}, CheckpointError, "/nowhere"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    tiny_checkpoint: Path, tmp_path: Path, wrong: dict, error: type[UserError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        draw(tiny_checkpoint, tmp_path / "out", **wrong)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_free_prompt_passes_through_with_any_label(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = draw(tiny_checkpoint, tmp_path / "out", labels="edema", prompt="kerley lines", count=1)
    record, _ = ShardSet(out)[0]
    assert record.prompt == "kerley lines" and record.labels == {"edema": 1.0}


def test_a_finding_that_is_refused_says_why(tiny_checkpoint: Path, tmp_path: Path) -> None:
    refusing = load_checkpoint(tiny_checkpoint)
    refusing = replace(
        refusing, card=refusing.card.model_copy(update={"refused": {"edema": "AUROC .71 only"}})
    )
    with pytest.raises(LabelError, match=r"does not offer it: AUROC \.71 only; it knows no_finding"):
        make_recipe("edema", 1).resolved(refusing)

"""Pairs of films, without and with a finding, into a folder of shards; the same command resumes.

The members without are drawn from a seed, or are films given with `into`. `synthaug.diffusion.pairs` says how a member
comes to its finding, `synthaug.generation.insert_folder` what the folder holds. Each record's provenance names its pair,
its member, its source where there is one, and the SHA-256 of the mask.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pydantic import Field

from synthaug import __version__, images, prompts
from synthaug.diffusion import Checkpoint, Settings, load_checkpoint, resolve
from synthaug.diffusion.pairs import Method, Pairs, change_films, sample_pairs
from synthaug.diffusion.region import Region, Side, Zone
from synthaug.diffusion.schedule import without_noise
from synthaug.errors import LabelError, UserError
from synthaug.findings import NO_FINDING, canonical, check
from synthaug.generation import insert_folder as folder
from synthaug.generation.insert_source import SourceFilm, digest_of, read_mask, source_films
from synthaug.generation.plan import KEY
from synthaug.recipes import Recipe
from synthaug.record import Record
from synthaug.shards import ShardEntry, lock

# By inversion and img2img a given film holds its anatomy by its course; else it is lost at 1.
STRENGTHS: dict[Method | None, float] = {None: 0.85, "inpaint": 0.75, "img2img": 1.0, "inversion": 1.0}
# Where gravity or anatomy puts a finding in the upright chest.
ZONES: dict[str, Zone] = {
    "pleural_effusion": "lower",
    "costophrenic_angle_blunting": "lower",
    "hemidiaphragm_elevation": "lower",
    "pneumoperitoneum": "lower",
    "apical_pleural_thickening": "upper",
}

Progress = Callable[[int, int], None]


class InsertRecipe(Recipe):
    """What to draw; None takes the checkpoint's value, or all films given, when a run begins."""

    label: str
    count: int | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0)
    strength: float | None = None
    threshold: float = 0.5
    area: float = 0.4
    side: Side | None = None
    zone: Zone | Literal["any"] | None = None
    method: Method | None = None
    view: str | None = None
    age: float | None = None
    sex: str | None = None
    image_size: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_without: float | None = None
    shard_size: int = Field(default=100, gt=0)
    checkpoint: dict[str, str] | None = None
    films: str | None = None  # SHA-256 of the films given
    mask: str | None = None  # SHA-256 of the mask given


def insert(
    recipe: InsertRecipe,
    out: Path,
    model: str = "embedded",
    device: str = "auto",
    batch_size: int = 4,
    on_progress: Progress | None = None,
    into: Path | None = None,
    mask: Path | None = None,
    split: str | None = None,
    splits_file: str = "nih-sample",
) -> Path:
    """Draw `recipe.count` pairs into `out`, by default 16, or one for each film of `into`.

    Args:
        recipe: the finding, and how far the members may part.
        out: the folder; a begun one is resumed.
        model: whose films.
        batch_size: pairs at once; films of other batch sizes differ by rounding.
        on_progress: called with (pairs done, pairs in all).
        into: films that the finding is inserted into: a folder or one file.
        mask: a picture whose bright pixels alone may change.
        split: the part of `splits_file` whose films of `into` are taken; all when None.
        splits_file: "nih-sample", or a CSV of image,part.

    Returns:
        The folder.

    Raises:
        LabelError: the checkpoint was not trained on the finding.
        OutputFolderError: the folder was made by another recipe, or holds other files.
        DataError: no film to insert into, or one that cannot be read.
        UserError: a setting that cannot be.
    """
    checkpoint = load_checkpoint(model, device)
    finding = canonical(recipe.label)
    if finding == NO_FINDING or finding not in checkpoint.findings:
        known = ", ".join(name for name in checkpoint.findings if name != NO_FINDING)
        raise LabelError(f"--label {recipe.label}: {checkpoint.name} can insert {known or 'no finding'}")
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: expected 1 or more")
    if recipe.method and into is None:
        raise UserError(f"--method {recipe.method}: is for given films; add --into DIR, or leave it out")
    zone = recipe.zone or ZONES.get(finding, "any")
    method, placed = recipe.method, zone != "any" or mask is not None
    if into is not None and method is None:
        method = "inpaint" if placed else "inversion"
    if method == "inpaint" and not placed:
        raise UserError(
            f"--method inpaint: needs a place; add --zone {' or '.join(get_args(Zone))}, or --mask FILE"
        )
    strength = STRENGTHS[method] if recipe.strength is None else recipe.strength
    region = Region(
        strength, recipe.threshold, recipe.area, recipe.side, None if zone == "any" or mask else zone
    )
    # Inversion and img2img are exact with a solver that adds no noise of its own, on the timesteps of the schedule.
    settings = resolve(
        checkpoint,
        guidance_scale=recipe.guidance_scale,
        num_inference_steps=recipe.num_inference_steps,
        scheduler=without_noise(checkpoint.card.scheduler) if method in ("img2img", "inversion") else None,
        image_size=recipe.image_size,
    )
    # A finding that is drawn into half of a film has less far to go from a member without that is led half as far itself.
    half = 1 + (settings.guidance_scale - 1) / 2
    if mask is not None:
        region = replace(region, mask=read_mask(mask, settings.image_size))
    if split is not None and into is None:
        raise UserError(f"--split {split}: is for given films; add --into DIR, or leave it out")
    given = source_films(into, finding, split, splits_file)[: recipe.count] if into is not None else None
    recipe = recipe.model_copy(
        update={
            "label": finding,
            "strength": strength,
            "count": (recipe.count or 16) if given is None else len(given),
            "method": method,
            "films": None if given is None else digest_of(given),
            "mask": None if region.mask is None else hashlib.sha256(region.mask.tobytes()).hexdigest(),
            "zone": region.zone or "any",
            "image_size": settings.image_size,
            "num_inference_steps": settings.num_inference_steps,
            "guidance_scale": settings.guidance_scale,
            "guidance_without": (recipe.guidance_without or half) if given is None else None,
            "checkpoint": {"name": checkpoint.name, "sha256": checkpoint.sha256},
        }
    )
    run = _Run(recipe, checkpoint, settings, region, given, out)
    run.texts(None)  # a view or sex that no prompt has is refused before anything is written
    folder.check_folder(out, recipe)
    with lock(out):
        folder.begin(out, recipe, given is not None)
        entries: list[list[ShardEntry]] = []
        for number, first in enumerate(range(0, run.count, recipe.shard_size)):
            part = range(first, min(first + recipe.shard_size, run.count))
            kept = folder.existing(out, number, len(part), given is not None)
            if kept is None:
                kept = folder.write(out, number, run.draw(part, batch_size, on_progress), given is not None)
            entries.append(kept)
        folder.finish(out, recipe, checkpoint, entries)
    return out


class _Run:
    """A resolved recipe at work."""

    def __init__(
        self,
        recipe: InsertRecipe,
        checkpoint: Checkpoint,
        settings: Settings,
        region: Region,
        given: list[SourceFilm] | None,
        out: Path,
    ) -> None:
        self.recipe, self.checkpoint, self.settings, self.region = recipe, checkpoint, settings, region
        self.given, self.out, self.count = given, out, recipe.count or 0

    def texts(self, view: str | None) -> tuple[str, str]:
        """The prompts without and with the finding, of a view that the checkpoint knows or the recipe's."""
        recipe, checkpoint = self.recipe, self.checkpoint
        absent = {NO_FINDING: 1.0} if NO_FINDING in checkpoint.findings else {}
        without, present = (
            prompts.render(labels, self._shown(view), recipe.age, recipe.sex, checkpoint.template)
            for labels in (absent, {recipe.label: 1.0})
        )
        return without, present

    def away(self, view: str | None) -> tuple[str, str]:
        """The negative prompts without and with the finding: each member is led away from what the other shows."""
        recipe, card = self.recipe, self.checkpoint.card
        without, present = (
            prompts.negative(card.negative_prompt, self._shown(view), recipe.age, recipe.sex, contrary)
            for contrary in (
                prompts.contrary({NO_FINDING: 1.0}, [recipe.label]),
                prompts.contrary({recipe.label: 1.0}, ()),
            )
        )
        return without, present

    def _shown(self, view: str | None) -> str | None:
        return view if view in self.checkpoint.views else self.recipe.view

    def view(self, index: int) -> str | None:
        """Of a pair: its film's, the recipe's, or in turn the checkpoint's. A finding would else change the view with it."""
        if self.given:
            return self.given[index].view
        views = self.checkpoint.views
        return self.recipe.view or (views[index % len(views)] if views else None)

    def draw(
        self, pairs: range, batch_size: int, on_progress: Progress | None
    ) -> list[tuple[folder.Sample, folder.Sample]]:
        """The encoded members of these pairs, held until their shard is written."""
        drawn: list[tuple[folder.Sample, folder.Sample]] = []
        for start in range(pairs.start, pairs.stop, batch_size):
            part = range(start, min(start + batch_size, pairs.stop))
            views = [self.view(index) for index in part]
            texts = [self.texts(view) for view in views]
            away = [self.away(view) for view in views]
            found = self._batch(part, texts, away)
            for place, pair in enumerate(part):
                films = found.without[place, 0], found.present[place, 0]
                drawn.append(self._members(pair, films, found.mask[place, 0], texts[place]))
            if on_progress:
                on_progress(part.stop, self.count)
        return drawn

    def _batch(self, part: range, texts: Sequence[tuple[str, str]], away: Sequence[tuple[str, str]]) -> Pairs:
        without, present = [text[0] for text in texts], [text[1] for text in texts]
        seeds = [(self.recipe.seed, index) for index in part]
        if self.given is None:
            scale = self.recipe.guidance_without
            return sample_pairs(
                self.checkpoint, without, present, seeds, self.settings, away, self.region, scale
            )
        films = np.stack([self.given[index].pixels(self.settings.image_size) for index in part])[:, None]
        method = self.recipe.method or "inpaint"
        return change_films(
            self.checkpoint, films, without, present, seeds, self.settings, away, self.region, method
        )

    def _members(
        self, pair: int, films: tuple[np.ndarray, np.ndarray], mask: np.ndarray, texts: tuple[str, str]
    ) -> tuple[folder.Sample, folder.Sample]:
        recipe, settings = self.recipe, self.settings
        source = self.given[pair] if self.given else None
        keys = [KEY.format(pair)] * 2 if source else [KEY.format(2 * pair), KEY.format(2 * pair + 1)]
        facts: dict[str, Any] = {
            "pair": pair,
            "inserted": recipe.label,
            **folder.write_pictures(self.out, keys[1], films, mask),
            "strength": recipe.strength,
            "threshold": recipe.threshold,
            "area": recipe.area,
            "side": recipe.side,
            "zone": recipe.zone,
            "method": recipe.method,
            "seed": recipe.seed,
            "guidance_scale": settings.guidance_scale,
            "guidance_without": recipe.guidance_without,
            "num_inference_steps": settings.num_inference_steps,
            "scheduler": settings.scheduler,
            "checkpoint": recipe.checkpoint,
            "synthaug_version": __version__,
        }
        if source is None:
            labels = {NO_FINDING: 1.0, recipe.label: 0.0}
        else:
            labels = source.labels
            facts["source"] = {
                "key": source.key,
                "synthetic": source.synthetic,
                "pixels_sha256": hashlib.sha256(films[0].tobytes()).hexdigest(),
            }
        names = ("before", "after") if source else ("without", "with")
        members = []
        for number, (name, film) in enumerate(zip(names, films, strict=True)):
            changed = number == 1
            known = {**labels, NO_FINDING: 0.0, recipe.label: 1.0} if changed else labels
            record = Record(
                key=keys[number],
                labels=check(known),
                view=self.view(pair),
                age=None if source else recipe.age,
                sex=None if source else recipe.sex,
                prompt=texts[number] if changed or source is None else None,
                synthetic=changed or source is None or source.synthetic,
                provenance={"member": name, **facts},
            )
            members.append((record, images.encode(film), "png"))
        return members[0], members[1]

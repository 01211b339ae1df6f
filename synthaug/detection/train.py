"""Training of a detector: a generator of step records over any number of data sets.

Conventions: the loss is binary cross-entropy over known labels only (NaN is masked). Batch and augmentation of a step are
functions of (seed, step) alone, so a run that was cut off goes on exactly where it stopped. Everything that is chosen
(which step to keep, thresholds, temperature) is chosen on validation patients.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synthaug.detection.augment import augment
from synthaug.detection.calibration import auroc_by_finding
from synthaug.detection.detector import (
    Detector,
    DetectorConfig,
    build_detector,
    digest_of,
    load_detector,
    uses_bf16,
)
from synthaug.detection.films import Films, RadiographData, hold, known_patients, split_films
from synthaug.detection.finishing import finish
from synthaug.detection.linear import train_linear
from synthaug.detection.loss import masked_sums, positive_weights, sampling_weights
from synthaug.detection.predict import logits
from synthaug.detection.processes import Processes, processes
from synthaug.detection.recipe import StepRecord, TrainRecipe
from synthaug.detection.training_state import TrainingState, average, load_state, save_state
from synthaug.errors import DataError, DetectorError, TrainingDivergedError


def train_detector(
    data: RadiographData | Iterable[RadiographData],
    arch: str | None = None,
    recipe: TrainRecipe | None = None,
    out: str | Path = "detector",
    *,
    validation: RadiographData | Iterable[RadiographData] | None = None,
    device: str = "auto",
    save_every: int = 200,
    facts: dict[str, Any] | None = None,
    begin_from: str | Path | None = None,
) -> Iterator[StepRecord]:
    """Train a detector and write it to `out`; the same call again resumes a run that was cut off.

    Several devices: call it in each process that `accelerate launch` started (`processes`).

    Arguments: `data` one or more data sets (real, synthetic, mixed); `arch` replaces the recipe's; `validation` the films
    to choose by (default: a part of the patients of `data`); `facts` more entries for `config.training`; `begin_from` a
    detector folder of the same network whose weights are the start, in place of the recipe's.
    Raises `DataError` without films or findings to learn, `UnknownNameError` for an unknown architecture or finding,
    `TrainingDivergedError`. Yields one record a step; the folder is complete when the iterator ends.
    """
    recipe = recipe or TrainRecipe()
    if arch is not None:
        recipe = recipe.model_copy(update={"arch": arch})
    train, held_out = _two_parts(data, validation, recipe)
    if recipe.head == "linear":
        if begin_from is not None:
            raise DetectorError(
                "begin_from: a linear head has one solution, wherever it starts; leave it out"
            )
        return train_linear(train, held_out, recipe, Path(out), processes(device), facts or {})
    begun = None if begin_from is None else load_detector(begin_from)
    return _train(train, held_out, recipe, Path(out), processes(device), save_every, facts or {}, begun)


def _two_parts(data: Any, validation: Any, recipe: TrainRecipe) -> tuple[Films, Films]:
    films = hold(data, recipe.image_size, recipe.findings, recipe.fit)
    if validation is None:
        inside, outside = split_films(films, recipe.validation_fraction, recipe.seed)
        films, held_out = films.subset(inside), films.subset(outside)
    else:
        held_out = hold(validation, recipe.image_size, films.findings, recipe.fit)
        shared = (set(known_patients(films)) & set(known_patients(held_out))) - {None}
        if shared:
            raise DataError(
                f"{len(shared)} patients are in both the training and the validation films; split by patient"
            )
    taught, chosen_by = _teachable(films, held_out)
    return (taught, chosen_by) if recipe.findings is None else (films, held_out)


def _teachable(films: Films, held_out: Films) -> tuple[Films, Films]:
    """Keep the findings that the training films show both present and absent."""
    kept = [f for f in films.findings if {0.0, 1.0} <= set(films.column(f).tolist())]
    if not kept:
        raise DataError(
            f"nothing to learn: none of {', '.join(films.findings) or 'no finding'} is both present and absent in the films"
        )
    columns = [films.findings.index(f) for f in kept]
    return tuple(  # type: ignore[return-value]
        Films(part.images, part.labels[:, columns], tuple(kept), part.patients, part.keys)
        for part in (films, held_out)
    )


def learning_rate(step: int, recipe: TrainRecipe) -> float:
    """Linear warm-up, then half a cosine down to zero; `step` counts from 0."""
    warm = max(1, round(recipe.warmup * recipe.steps))
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, recipe.steps - warm)))


def _parameter_groups(detector: Detector, decay: float) -> list[dict[str, Any]]:
    """Norms and biases are not decayed."""
    matrices = [p for p in detector.parameters() if p.dim() > 1]
    vectors = [p for p in detector.parameters() if p.dim() <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]


def _train(
    train: Films,
    held_out: Films,
    recipe: TrainRecipe,
    out: Path,
    place: Processes,
    save_every: int,
    facts: dict[str, Any],
    begun: Detector | None,
) -> Iterator[StepRecord]:
    config = DetectorConfig(
        arch=recipe.arch,
        findings=train.findings,
        image_size=recipe.image_size,
        fit=recipe.fit,
        normalisation=recipe.normalisation,
    )
    detector = build_detector(
        config, recipe.start if begun is None else "random", recipe.seed, recipe.dropout
    )
    if begun is not None:
        _take_over(detector, begun)
    device = place.device
    detector = detector.to(device, memory_format=torch.channels_last)
    config = detector.config
    optimizer = torch.optim.AdamW(
        _parameter_groups(detector, recipe.weight_decay),
        lr=recipe.learning_rate,
        betas=(0.9, 0.99),
        fused=True,
    )
    state = TrainingState(detector, optimizer)
    identity = {"recipe": recipe.digest(), "films": train.digest(), "validation": held_out.digest()}
    if begun is not None:
        identity["start"] = digest_of(begun)
    load_state(out, state, identity)
    trained, mine = place.wrap(detector), place.mine(recipe.batch_size)
    mixed = uses_bf16(detector, device)
    draw = sampling_weights(train.labels) if recipe.balance == "sampling" else None
    positive = torch.from_numpy(positive_weights(train.labels, recipe.balance)).to(device)
    emphasis = torch.tensor([recipe.emphasis.get(f, 1.0) for f in train.findings], device=device)

    while state.step < recipe.steps:
        step = state.step
        rate = learning_rate(step, recipe)
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = np.random.default_rng([recipe.seed, step]).choice(len(train), recipe.batch_size, p=draw)
        generator = torch.Generator().manual_seed((recipe.seed << 32) + step)
        images = augment(torch.from_numpy(train.images[chosen]).to(device), recipe.augmentation, generator)
        labels = torch.from_numpy(train.labels[chosen]).to(device)
        trained.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((recipe.seed << 32) + step)
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                scores = trained(images[mine].contiguous(memory_format=torch.channels_last))
            total, weight = masked_sums(
                scores.float(), labels[mine], positive, emphasis, recipe.label_smoothing
            )
            # Gradients are averaged over processes: each gives its share of the sum, as if there were one.
            loss = place.world * total / place.total(weight).clamp(min=1e-9)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), recipe.clip)
        optimizer.step()
        value = (place.total(loss) / place.world).item()
        if not math.isfinite(value):
            raise TrainingDivergedError(
                f"{out}: the loss is {value} at step {step + 1}; lower learning_rate ({recipe.learning_rate})"
            )
        state.step += 1
        average(state.averaged, detector, min(recipe.ema, state.step / (state.step + 10)))
        measured, best = None, False
        if place.first and (state.step % recipe.validate_every == 0 or state.step == recipe.steps):
            measured = auroc_by_finding(
                logits(state.averaged, held_out.images), held_out.labels, held_out.findings
            )
            best = state.consider(_selection(measured, recipe.select))
        if place.first and state.step % save_every == 0 and state.step < recipe.steps:
            save_state(out, state, identity)
        yield StepRecord(state.step, recipe.steps, value, rate, measured, best)

    if place.first:
        final = state.kept() if recipe.keep == "best" else state.averaged
        seen = {**facts, "films": len(train), "patients": len(set(train.patients)), "processes": place.world}
        finish(final, config, held_out, recipe, out, seen)
        state.discard(out)
    place.wait()


def _take_over(detector: Detector, begun: Detector) -> None:
    """Start from another detector's weights. Raises `DetectorError` where it is another network or has other findings."""
    for name in ("arch", "findings"):
        ours, theirs = getattr(detector.config, name), getattr(begun.config, name)
        if ours != theirs:
            raise DetectorError(f"begin_from: found a detector with {name} {theirs}, expected {ours}")
    detector.network.load_state_dict(begun.network.state_dict())
    detector.config = detector.config.model_copy(update={"start": f"detector {digest_of(begun)[:8]}"})


def _selection(measured: dict[str, float], select: Sequence[str]) -> float:
    values = [v for f, v in measured.items() if not select or f in select]
    return float(np.mean(values)) if values else 0.0

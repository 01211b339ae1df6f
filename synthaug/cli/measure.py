"""`synthaug evaluate` and `synthaug benchmark`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from synthaug import findings
from synthaug.cli import flags, terminal
from synthaug.cli.report import command_line
from synthaug.cli.terminal import say
from synthaug.errors import UserError


def evaluate(
    *,
    synthetic: Annotated[list[str], flags.Many],
    out: flags.Report,
    real: flags.Real = None,
    generator_data: Annotated[list[str] | None, flags.Many] = None,
    detector: Annotated[list[str] | None, flags.Many] = None,
    finding: flags.Findings = None,
    split: str = "validation",
    extractor: Annotated[list[str] | None, flags.Many] = None,
    empty_prompt: str | None = None,
    text_model: Path | None = None,
    model: str | None = None,
    controls: int | None = None,
    guidance_scales: Annotated[list[float] | None, flags.Many] = None,
    rate: float = 0.01,
    exclude: Path | None = None,
    cache: Path | None = None,
    min_age: float | None = None,
    show_real: Annotated[bool, flags.Switch] = False,
    device: flags.Device = "auto",
) -> None:
    """Are synthetic films true to their labels, like real ones, and no copies? Figures and a report.

    Parameters
    ----------
    synthetic
        Folders of synthetic films, or URLs, read as one: present and absent films may lie apart.
    generator_data
        Folders of the films that the generator was trained on; of films that the split names, its part "generator".
    detector
        Detectors that judge the labels: "embedded" (the default) or folders; a certificate needs two architectures.
    split
        Part of the packaged split "nih-sample" of the real films, where it names them; "all" takes all.
    extractor
        Features to compare films by: imagenet, embedded, pixels, or the folder of a detector or DINOv2 model.
    empty_prompt
        Folder of films drawn without a prompt, as a control of the labels; with the seeds of the labelled films.
    text_model
        Folder of a CLIP-like model, to measure image-text alignment.
    model
        Checkpoint that drew the films: "embedded" or a folder. Its autoencoder is measured on the real films.
    controls
        Draw the controls with --model, so many films a label: without a prompt, and at each of --guidance-scales.
    guidance_scales
        Scales at which fidelity is shown beside coverage, with --controls; by default 1 2 4 8. 1 is a control.
    rate
        Share of innocent films that the privacy audit may list.
    exclude
        Folder for shards without the films that the audit lists.
    cache
        Folder that keeps features between runs.
    min_age
        Leave out real films of patients not known to be this old.
    show_real
        Put real films into the report, which then must stay where they may be seen.
    """
    from synthaug.datasets import RealRadiographs, open_radiographs
    from synthaug.evaluation.controls import SCALES
    from synthaug.evaluation.evaluate import Options
    from synthaug.evaluation.evaluate import evaluate as run
    from synthaug.evaluation.results import table
    from synthaug.report.page import write_page

    given: dict[str, Any] = {
        "--synthetic": [Path(folder).name for folder in synthetic],
        "--real": real and Path(real).name,
        "--generator-data": [Path(folder).name for folder in generator_data or []],
        "--detector": [Path(name).name for name in detector or []],
        "--finding": finding,
        "--split": split,
        "--extractor": [Path(name).name for name in extractor or []],
        "--empty-prompt": empty_prompt and Path(empty_prompt).name,
        "--text-model": text_model and text_model.name,
        "--model": model and Path(model).name,
        "--controls": controls,
        "--guidance-scales": guidance_scales,
        "--rate": rate,
        "--min-age": min_age,
    }
    options = Options(
        extractors=extractor or (),
        generator_data=[RealRadiographs(folder) for folder in generator_data or []],
        # Films of a prompt alone name no finding; a column of unknown labels opens them.
        empty_prompt=open_radiographs(empty_prompt, findings="no_finding") if empty_prompt else None,
        text_model=text_model,
        model=model,
        controls=controls,
        guidance_scales=guidance_scales or SCALES,
        rate=rate,
        exclude=exclude,
        cache=cache,
        device=device,
        show_real=show_real,
        command=command_line("evaluate", given),
    )
    films = [open_radiographs(folder) for folder in synthetic]
    unseen = RealRadiographs(real, min_age=min_age) if real else None
    wanted = [findings.canonical(name) for name in finding] if finding else None
    results = run(films, unseen, detector or "embedded", wanted, out, split, options, terminal.note)
    page = write_page(out, results)
    say(table(results.metrics))
    say(f"{page}: written, beside results.json")


def benchmark(
    *,
    out: flags.Report,
    real: Annotated[str | None, Parameter(help="Folder of real films, or medmnist:chestmnist.")] = None,
    synthetic: flags.Synthetic = None,
    model: str | None = None,
    count: int | None = None,
    adapt: str | None = None,
    adapt_set: Annotated[list[str] | None, flags.Many] = None,
    generator_data: str | None = None,
    finding: str | None = None,
    claim: Literal["transfer", "closed"] | None = None,
    judge: Literal["test", "validation"] | None = None,
    depth: Literal["frozen", "full", "both"] | None = None,
    arms: Annotated[list[str] | None, flags.Many] = None,
    sizes: Annotated[list[str] | None, flags.Many] = None,
    seeds: int | None = None,
    arch: flags.Arch = None,
    extractor: str | None = None,
    drop_leaks: Annotated[bool, flags.Switch] = False,
    device: flags.Device = "auto",
    recipe: flags.Recipe | None = None,
    overrides: flags.Overrides = None,
    engine: flags.Engine = "local",
    address: flags.Address = None,
    workers: flags.Workers = None,
    threads: flags.Threads = None,
    dry_run: Annotated[bool, flags.Switch] = False,
) -> None:
    """Do synthetic films help? Arms x sizes x draws on the same real test films; the same command resumes.

    Without --real: a demonstration on drawn pictures, which is no evidence.

    Parameters
    ----------
    model
        Draws the synthetic films into OUT in place of --synthetic: "embedded", a checkpoint folder or a hub id.
    count
        Films a label that --model draws; by default 200.
    adapt
        Recipe by which --claim closed adapts --model on each arm's own films; by default lora_few_shot.
    adapt_set
        KEY=VALUE in place of that recipe's: training.steps=300.
    generator_data
        Films that the generator was trained on; by default part generator of the first-day split.
    finding
        The finding to detect; by default pleural_effusion.
    claim
        transfer: a ready generator that saw other films. closed: adapted on the real arm's own films only, by the study
        itself from a --model that never saw the finding, or beforehand on all of them (--generator-data, --sizes all).
    judge
        validation rehearses the study and leaves the test films closed; by default test.
    depth
        frozen: logistic regression on frozen features, minutes. full: every cell is trained. By default frozen.
    arms
        Arms to train, for the depths asked for; by default all for frozen, four for full.
    sizes
        Real films a label, or "all"; by default 10 25 50 100 250 all for frozen, 50 all for full.
    seeds
        Draws of a subset and a training seed, for each arm and size; by default 5.
    extractor
        Frozen network: imagenet (the default), embedded or a detector folder.
    drop_leaks
        Leave films out of training and validation that meet those of another side, in place of stopping.
    dry_run
        Guard the films, time a few steps, and print cells and hours; train nothing.
    """
    from synthaug.benchmark.conclude import conclude, verdict
    from synthaug.benchmark.cost import costs, in_words
    from synthaug.benchmark.study import open_study, run_study
    from synthaug.datasets import open_radiographs
    from synthaug.diffusion.device import choose_device
    from synthaug.engines import open_engine
    from synthaug.report.page import write_page

    given = locals()
    wanted = _study_recipe(given)
    films = None if real is None else _real_films(real)
    taught = open_radiographs(generator_data) if generator_data else None
    price: list[Any] = []
    if model is None:
        if extra := [flag for flag, value in (("--count", count), ("--adapt", adapt)) if value is not None]:
            raise UserError(f"{' and '.join(extra)}: belongs to --model, which is missing")
        study = open_study(films, [open_radiographs(folder) for folder in synthetic or []], taught, wanted)
    else:
        if films is None or synthetic:
            raise UserError(
                "--model draws the synthetic films beside --real; leave out --synthetic and pass --real"
            )
        wanted = _with_generator(wanted, model, count, adapt, adapt_set)
        # Stand-ins first: what leaks is found before anything is learnt or drawn.
        study = open_study(films, _stand_ins(wanted, films), taught, wanted)
        if dry_run:
            price = _price(wanted, films, model, out, device)
        else:
            study = open_study(films, _own_films(wanted, films, model, out, device), taught, wanted)
    for (level, arm, size), reason in study.reasons.items():
        terminal.note(f"{level}, {arm}, {size}: not run: {reason}")
    if dry_run:
        say(in_words([*price, *costs(study, out, device)]))
        return
    auto = lambda: choose_device("auto").type  # noqa: E731
    with open_engine(engine, address, workers, auto) as opened, terminal.bar("benchmark", "cells") as advance:
        for step in run_study(study, out, device, opened, threads):
            advance(step.done, step.total, step.note)
    results = conclude(study, out, _benchmark_line(given))
    page = write_page(out, results)
    say(f"{results.protocol}\n\n{verdict(results)}\n\n{page}: written, beside results.json")
    if real is not None and wanted.judge == "test":
        terminal.note("the test part was opened: write that down, and choose nothing by these figures")


def _benchmark_line(given: dict[str, Any]) -> str:
    """The command of a study, folders by name alone; where and on what it ran is left out."""
    places = ("real", "model", "generator_data", "extractor", "recipe")
    named = {name: given[name] and Path(given[name]).name for name in places}
    named["synthetic"] = [Path(folder).name for folder in given["synthetic"] or []]
    order = "real synthetic model count adapt adapt_set generator_data finding claim judge depth arms sizes seeds arch"
    asked = [*order.split(), "extractor", "recipe"]
    line = {f"--{name.replace('_', '-')}": named.get(name, given[name]) for name in asked}
    return (
        command_line("benchmark", line | {"--set": given["overrides"]})
        + " --drop-leaks" * given["drop_leaks"]
    )


def _with_generator(
    wanted: Any, model: str, count: int | None, adapt: str | None, adapt_set: list[str] | None
) -> Any:
    """The recipe with what is known of the generator."""
    from synthaug.benchmark.drawing import open_generator
    from synthaug.recipes import parse_overrides

    if adapt and wanted.claim != "closed":
        raise UserError(
            "--adapt: only --claim closed adapts a generator; --claim transfer takes --model as it is"
        )
    if count is not None and count < 2:
        raise UserError(f"--count {count}: expected 2 or more films a label")
    changes = parse_overrides(adapt_set or [])
    found = open_generator(model, count or 200, adapt, changes, wanted.finding, wanted.claim)
    return wanted.model_copy(update={"generator": found})


def _arms(wanted: Any, films: Any) -> list[Any] | None:
    """The films of each draw for a closed claim; None where one ready generator serves all."""
    from synthaug.benchmark.drawing import arms_films

    if not wanted.adapted_inside:
        return None
    return list(arms_films(films, wanted.finding, wanted.judge, wanted.draws))


def _stand_ins(wanted: Any, films: Any) -> list[Any]:
    from synthaug.benchmark.drawing import planned

    arms = _arms(wanted, films)
    return list(planned(wanted.finding, wanted.generator.count, 1 if arms is None else len(arms)))


def _price(wanted: Any, films: Any, model: str, out: Path, device: str) -> list[Any]:
    from synthaug.benchmark.cost import generator_costs

    return list(generator_costs(wanted.generator, model, wanted.finding, _arms(wanted, films), out, device))


def _own_films(wanted: Any, films: Any, model: str, out: Path, device: str) -> list[Any]:
    """The films that the study's own generators draw into OUT."""
    from synthaug.benchmark import drawing

    generator, finding, arms = wanted.generator, wanted.finding, _arms(wanted, films)
    with terminal.bar("generator", "steps") as advance:
        steps = (
            drawing.draw(model, finding, generator.count, out / "synthetic", 0, device)
            if arms is None
            else drawing.adapt_inside(generator, model, arms, finding, out, device)
        )
        for told in steps:
            advance(told.done, told.total, told.note)
    folders = [out / "synthetic"] if arms is None else [drawing.folder_of(out, a) / "films" for a, _ in arms]
    return [one for folder in folders for one in drawing.films_of(folder, finding)]


def _study_recipe(given: dict[str, Any]) -> Any:
    """The recipe that the flags of `benchmark` ask for."""
    from synthaug.benchmark.arms import check_arm
    from synthaug.benchmark.study import DEMONSTRATION, FULL, Grid, StudyRecipe
    from synthaug.recipes import parse_overrides

    demonstration = given["real"] is None
    base = (
        StudyRecipe.load(given["recipe"])
        if given["recipe"]
        else DEMONSTRATION
        if demonstration
        else StudyRecipe()
    )
    values: dict[str, Any] = {
        "finding": findings.canonical(given["finding"]) if given["finding"] else None,
        "claim": given["claim"],
        "judge": given["judge"],
        "extractor": given["extractor"],
        "drop_leaks": given["drop_leaks"] or None,
        "train.arch": given["arch"],
        "seeds": None if given["seeds"] is None else list(range(given["seeds"])),
    }
    depth = given["depth"]
    grids = {"frozen": base.frozen, "full": base.full}
    if depth is not None:
        standard = {"frozen": Grid(), "full": FULL}
        asked = ("frozen", "full") if depth == "both" else (depth,)
        grids = {name: (grids[name] or standard[name]) if name in asked else None for name in grids}
    for name, grid in grids.items():
        if grid is not None and (given["arms"] or given["sizes"]):
            sizes = [_size(text) for text in given["sizes"]] if given["sizes"] else grid.sizes
            for arm in given["arms"] or ():
                check_arm(arm)
            grid = grid.model_copy(update={"sizes": tuple(sizes), "arms": tuple(given["arms"] or grid.arms)})
        values[name] = grid.model_dump(mode="json") if grid is not None else None
    kept = {key: value for key, value in values.items() if value is not None or key in grids}
    return base.with_overrides({**kept, **parse_overrides(given["overrides"] or [])})


def _size(text: str) -> int | str:
    if text == "all":
        return text
    if not text.isdecimal() or int(text) < 2:
        raise UserError(f'--sizes {text}: expected "all" or 2 or more real films a label')
    return int(text)


def _real_films(source: str) -> Any:
    from synthaug.benchmark.medmnist import PREFIX, open_medmnist
    from synthaug.datasets import open_radiographs

    return open_medmnist(source) if source.startswith(PREFIX) else open_radiographs(source)

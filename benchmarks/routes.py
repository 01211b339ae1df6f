"""The routes of adaptation side by side, from one base toward children's films, which it has never seen.

    python benchmarks/routes.py --data pediatric-pneumonia [--steps 120] [--batch-size 16] [--image-size 256]
        [--routes unet lora ...] [--few-shot ROUTE ...] [--count 50] [--num-inference-steps N] [--model embedded] [--out routes]

The films are those of Kermany et al. 2018; its folder `test` stays closed. People are told apart by the names of the files
(person1000_virus_1681 is person1000), and each is in one part: GENERATOR + GENERATOR films (normal, pneumonia) teach the routes,
others teach the judge, an EfficientNet-Lite0, and films of the folder `val` alone say how good the judge is. All routes take
equal films, captions, batches and steps, each in a process of its own, whose peak memory counts; rates are those of RATES and
were not tuned. Then each result, and the base, draw COUNT films with pneumonia and COUNT without, equal noises for all, and the
judge reads them; what a route gains over the base has an interval of its own, since noises are paired. KID beside the judge's
validation films. The same command goes on where it was stopped; the table is that of `synthaug adapt --compare`, its figure
`OUT/losses.png`, all figures are in `OUT/results.json`, each run's own in `OUT/RUN/evaluation`.
"""

import argparse
import multiprocessing
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from synthaug.adaptation import runs
from synthaug.adaptation.adapt import adapt
from synthaug.adaptation.route import Execution
from synthaug.adaptation.routes import load_recipe
from synthaug.datasets import RealRadiographs, SyntheticRadiographs
from synthaug.detection import load_detector
from synthaug.detection.train import TrainRecipe, train_detector
from synthaug.diffusion.checkpoint import load_checkpoint, save_as_saved
from synthaug.diffusion.components import INDEX
from synthaug.evaluation.features import extractor, features
from synthaug.evaluation.intervals import crossed_bootstrap, estimate
from synthaug.evaluation.label_fidelity import Scored, fidelity_metrics, label_fidelity, noise_clusters, score
from synthaug.evaluation.resemblance import resemblance
from synthaug.evaluation.results import Metric, Results, table
from synthaug.generation import generate

FINDING = "pneumonia"
ROUTES = ("unet", "unet_text_encoder", "lora", "textual_inversion", "text_projection")
RATES = {
    "unet": 2e-4,
    "unet_text_encoder": 2e-4,
    "lora": 2e-3,
    "textual_inversion": 1e-2,
    "text_projection": 1e-3,
}
OF_A_ROUTE = {
    "textual_inversion": {
        "tokens": [
            {"token": "<pneumonia>", "words": "pneumonia", "vectors": 4},
            {"token": "<lung-xray>", "words": "chest radiograph", "vectors": 4},
        ]
    },
    "text_projection": {"trains": "projection"},
}
GENERATOR, DETECTOR, VALIDATION = 600, 250, 150  # films of each label


def parts(films: RealRadiographs) -> dict[str, RealRadiographs]:
    """The films by part, as many of both labels, each person in one part."""
    people = np.array([person(key) for key in films.keys])
    folders = np.array([record.provenance["split"] for record in films.records])
    labels = films.relabel([FINDING]).labels[:, 0]
    taken: dict[str, list[int]] = {"generator": [], "detector": [], "validation": []}
    for label in (0, 1):
        seen: set[str] = set()
        for name, folder, count in (
            ("validation", "validation", VALIDATION),
            ("detector", "train", DETECTOR),
            ("generator", "train", GENERATOR),
        ):
            fitting = (labels == label) & (folders == folder) & ~np.isin(people, list(seen))
            order = np.random.default_rng(0).permutation(np.unique(people[fitting]))
            chosen: list[int] = []
            for owner in order:
                if len(chosen) >= count:
                    break
                chosen += np.flatnonzero(fitting & (people == owner)).tolist()
                seen.add(str(owner))
            taken[name] += chosen[:count]
    return {name: films.subset(np.sort(indices)) for name, indices in taken.items()}


def person(key: str) -> str:
    """Who is on a film, by the name that the collection gave it."""
    name = Path(key).name
    found = re.match(r"person\d+|(NORMAL2-)?IM-\d+", name)
    return found[0] if found else name


def train_judge(films: dict[str, RealRadiographs], out: Path) -> None:
    """An EfficientNet-Lite0 from ImageNet weights, unless it is there; its steps resume."""
    if (out / "config.json").exists():
        return
    recipe = TrainRecipe(
        arch="tf_efficientnet_lite0",
        findings=("no_finding", FINDING),
        image_size=160,
        start="imagenet",
        steps=100,
        batch_size=16,
        learning_rate=6e-4,
        ema=0.97,
        dropout=0.2,
        validate_every=50,
        select=(FINDING,),
    )
    for step in train_detector([films["detector"]], recipe=recipe, out=out, validation=[films["validation"]]):
        if step.step % 25 == 0:
            print(f"judge {step.step}/{step.steps} loss {step.loss:.3f}", flush=True)


def adapt_by(recipe_name: str, film: RealRadiographs, given: argparse.Namespace, out: Path) -> None:
    """One route, under equal films, captions, batch and steps."""
    route = recipe_name.removesuffix("_few_shot")
    few = recipe_name.endswith("_few_shot")
    changes = {
        "findings": ["no_finding", FINDING],
        "captions": {"name_finding": 1.0, "name_absent": 0.0},
        "augmentation.copies": 8 if few else 2,
        "validation": 0.0 if few else 0.05,
        "image_size": given.image_size,
        "training": {
            "steps": given.steps,
            "batch_size": given.batch_size,
            "learning_rate": RATES[route],
            "warmup": 10,
            "decay": 0.5,
            "ema": 0.95,
            "weight_decay": 0.0 if route == "textual_inversion" else 0.01,
        },
        **OF_A_ROUTE.get(route, {}),
    }
    if few:
        changes["prior"] = None
    recipe = load_recipe(recipe_name, changes)
    share_latents(out)
    execution = Execution(save_every=given.steps, compiled=given.compile)
    for progress in adapt(recipe, [film], out, model=given.model, execution=execution):
        if progress.record.step % 20 == 0:
            print(f"{recipe_name} {progress.record.step}/{progress.steps}", flush=True)


def share_latents(out: Path) -> None:
    """Links to what other routes cached; names are digests of all that latents depend on, so equal films are encoded once."""
    own = out / "training" / "latents"
    own.mkdir(parents=True, exist_ok=True)
    for path in out.parent.glob("*/training/latents/latents-*.safetensors"):
        if not (own / path.name).exists():
            os.link(path, own / path.name)


def in_a_process_of_its_own(*arguments: object) -> None:
    """`adapt_by`, so that its peak memory is no other route's."""
    child = multiprocessing.get_context("spawn").Process(target=adapt_by, args=arguments)
    child.start()
    child.join()
    if child.exitcode:
        raise SystemExit(child.exitcode)


def gain(own: Scored, base: Scored, arm: str) -> Metric:
    """AUROC over the base's, with the noises, which both have in common, resampled."""
    arms = {"own": own.scores[None], "base": base.scores[None]}
    values, draws = crossed_bootstrap(arms, base.labels, base.clusters)
    found = estimate(values["own"] - values["base"], draws["own"] - draws["base"])
    return Metric(
        name="label AUROC over the base's",
        finding=FINDING,
        arm=arm,
        value=found.value,
        low=found.low,
        high=found.high,
        n=len(base.labels),
    )


def claim(model: str, out: Path) -> str:
    """A copy of the base whose card names the finding, so that it can be asked for what it was not taught."""
    if (out / INDEX).exists():
        return str(out)
    base = load_checkpoint(model, "cpu", "float32")
    known = base.card.model_copy(update={"findings": (*base.findings, FINDING)})
    return str(save_as_saved(out, replace(base, card=known)))


def written(out: Path, metrics: list[Metric], given: argparse.Namespace) -> None:
    """The figures as results.json, where `synthaug adapt --compare` finds those of a run."""
    protocol = (
        f"{given.count} + {given.count} films, no gate; judge trained on {2 * DETECTOR} films of other people"
    )
    settings = vars(given) | {"out": given.out.name, "data": Path(given.data).name}
    Results(kind="evaluate", protocol=protocol, settings=settings, metrics=metrics).write(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--routes", nargs="*", default=list(ROUTES), choices=ROUTES)
    parser.add_argument("--few-shot", nargs="*", default=[], choices=ROUTES)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--num-inference-steps", type=int, help="the checkpoint's when left out")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("routes"))
    given = parser.parse_args()

    films = parts(RealRadiographs(given.data))
    train_judge(films, given.out / "judge")
    judge = load_detector(given.out / "judge")
    names = [*(f"{route}_few_shot" for route in given.few_shot), *given.routes]
    network, cache = extractor("imagenet"), given.out / "features"
    real = features(network, films["validation"], cache)
    owners = [person(key) for key in films["validation"].keys]
    scored = score(judge, [films["validation"]], FINDING)
    metrics = fidelity_metrics(scored, FINDING, judge.config.threshold(FINDING), "real")
    found_by: dict[str, Scored] = {}
    for name in ["base", *names]:
        if name != "base":
            in_a_process_of_its_own(name, films["generator"], given, given.out / name)
        model = claim(given.model, given.out / name) if name == "base" else str(given.out / name)
        drawn = []
        for seed, label in enumerate((FINDING, "no_finding"), start=100):
            folder = given.out / "films" / f"{name}-{label}"
            generate(
                label,
                count=given.count,
                seed=seed,
                out=folder,
                model=model,
                image_size=given.image_size,
                num_inference_steps=given.num_inference_steps,
            )
            drawn.append(SyntheticRadiographs(folder, findings=("no_finding", FINDING)))
        own = label_fidelity(judge, drawn, FINDING, name)
        found_by[name] = score(judge, drawn, FINDING)
        own += [gain(found_by[name], found_by["base"], name)] if name != "base" else []
        clusters = [cluster for one in drawn for cluster in noise_clusters(one)]
        pixels = np.concatenate([one.images_array(given.image_size, "squash") for one in drawn])
        near = resemblance(features(network, pixels, cache), clusters, real, owners, arm=name)
        own += [metric for metric in near if metric.name == "KID"]
        written(given.out / name / "evaluation", own, given)
        print(table(own), flush=True)
        metrics += own
        written(given.out, metrics, given)
    print(runs.compare([given.out / name for name in names]))
    runs.draw([given.out / name for name in names], given.out / "losses.png")
    print(table(metrics))


if __name__ == "__main__":
    main()

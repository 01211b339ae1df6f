"""Real and synthetic films shuffled on numbered sheets for a person's eye, and the score of the answers.

    python benchmarks/blinded.py --real NIH --synthetic FOLDER ... [--count 20] [--part validation] [--seed 0] --out BLINDED
    python benchmarks/blinded.py --out BLINDED --answers "1r 2s 3s ..."

COUNT films of each side, PA and AP in equal numbers where both have them, and of each folder alike, at 256 px, twenty a
sheet. `key.csv` says which is which: read the sheets and write the answers (r real, s synthetic) before it is opened. The sheets
hold real films: keep them.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image

from synthaug.datasets import RealRadiographs, SyntheticRadiographs
from synthaug.evaluation.intervals import wilson
from synthaug.images import contact_sheet

SIZE, A_SHEET = 256, 20


def chosen(data: object, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` films of a data set, its views in turn, as (count, 1, 256, 256)."""
    views = np.array([view or "" for view in data.views])
    queues = [list(rng.permutation(np.flatnonzero(views == view))) for view in sorted(set(views.tolist()))]
    picked = []
    while len(picked) < count and any(queues):
        picked += [queue.pop() for queue in queues if queue][: count - len(picked)]
    return data.subset(picked).images_array(SIZE, "squash")


def build(real: str, synthetic: list[str], part: str, count: int, seed: int, out: Path) -> None:
    """Write the sheets and the key."""
    rng = np.random.default_rng(seed)
    films = {"r": chosen(RealRadiographs(real, split=part, splits_file="nih-sample", min_age=18), count, rng)}
    shares = [len(share) for share in np.array_split(np.arange(count), len(synthetic))]
    folders = [SyntheticRadiographs(folder) for folder in synthetic]
    films["s"] = np.concatenate([chosen(data, n, rng) for data, n in zip(folders, shares, strict=True)])
    truth = np.repeat(list(films), [len(images) for images in films.values()])
    order = rng.permutation(len(truth))
    shuffled = np.concatenate(list(films.values()))[order]
    out.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(order), A_SHEET):
        numbers = range(start, min(start + A_SHEET, len(order)))
        page = contact_sheet(shuffled[numbers], columns=5, captions=[str(n + 1) for n in numbers])
        Image.fromarray(page).save(out / f"sheet-{start // A_SHEET + 1}.png")
    with open(out / "key.csv", "w", newline="") as file:
        csv.writer(file).writerows([("number", "truth"), *((n + 1, truth[i]) for n, i in enumerate(order))])


def score(out: Path, answers: str) -> None:
    """The confusion table, and the share of right answers with its Wilson interval."""
    with open(out / "key.csv", newline="") as file:
        key = {row["number"]: row["truth"] for row in csv.DictReader(file)}
    said = {word[:-1]: word[-1] for word in answers.split()}
    table = {(truth, word): 0 for truth in "rs" for word in "rs"}
    for number, truth in key.items():
        table[truth, said[number]] += 1
    right = table["r", "r"] + table["s", "s"]
    low, high = wilson(right, len(key))
    print("truth      said real   said synthetic")
    print(f"real       {table['r', 'r']:9d}   {table['r', 's']:14d}")
    print(f"synthetic  {table['s', 'r']:9d}   {table['s', 's']:14d}")
    print(f"right {right} of {len(key)}: {right / len(key):.3f} ({low:.3f} to {high:.3f}); chance is .5")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real")
    parser.add_argument("--synthetic", nargs="+")
    parser.add_argument("--part", choices=("validation", "test"), default="validation")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--answers")
    given = parser.parse_args()
    if given.answers:
        score(given.out, given.answers)
    elif given.real and given.synthetic:
        build(given.real, given.synthetic, given.part, given.count, given.seed, given.out)
    else:
        parser.error("give --real and --synthetic, or --answers")


if __name__ == "__main__":
    main()

from pathlib import Path
from synthaug.adaptation.adapt import adapt
from synthaug.adaptation.route import Execution
from synthaug.adaptation.routes import load_recipe
from synthaug.datasets import RealRadiographs
from synthaug.diffusion import load_checkpoint, sample


def test_x(tiny_nih, tiny_checkpoint, tmp_path):
    for rank in (None, 4):
        out = tmp_path / str(rank)
        steps = list(
            adapt(
                load_recipe("distill_smoke", {"rank": rank}),
                [RealRadiographs(tiny_nih)],
                out,
                model=str(tiny_checkpoint),
                execution=Execution(device="cpu", precision="float32", save_every=4),
            )
        )
        for p in steps:
            print(p)
        c = load_checkpoint(out, "cpu", "float32")
        print(c.card, c.scheduler_config)
        print(sample(c, ["a"], [(0, 0)]).std())

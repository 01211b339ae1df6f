import math
from importlib.resources import files

import pytest

from synthaug.errors import RecipeError, UnknownNameError
from synthaug.recipes import Recipe, differences, packaged, parse_overrides, read_yaml


class Optimizer(Recipe):
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)


class Train(Recipe):
    findings: list[str]
    steps: int = 10
    weight: float | None = None
    optimizer: Optimizer = Optimizer()
    stages: tuple[Optimizer, ...] = ()


def write(path, text):
    path.write_text(text)
    return path


def test_a_recipe_reads_back_its_own_yaml(tmp_path):
    recipe = Train(findings=["edema"], optimizer=Optimizer(lr=1e-4), stages=(Optimizer(),))
    assert Train.load(write(tmp_path / "r.yaml", recipe.to_yaml())) == recipe


def test_the_digest_is_of_the_resolved_values():
    short = Train.from_values({"findings": ["edema"]})
    spelled = Train.from_values({"steps": 10, "findings": ["edema"], "optimizer": {"lr": 0.001}})
    assert short.digest() == spelled.digest()
    assert short.digest() != Train(findings=["edema"], steps=11).digest()
    assert len(short.digest()) == 64


def test_the_digest_is_pinned():
    # Folders written by earlier versions are resumed by this digest: it may not drift.
    assert Optimizer().digest() == "1d933ca1c8db5c366fd20e7e1186a5f9429fbba96569b923a3283e345a062383"


def test_overrides_reach_into_inner_keys(tmp_path):
    path = write(tmp_path / "r.yaml", "findings: [edema]\noptimizer: {lr: 1e-4}\n")
    assert Train.load(path).optimizer.lr == 1e-4
    recipe = Train.load(path, {"optimizer.betas": [0.8, 0.9], "steps": 5})
    assert (recipe.optimizer.lr, recipe.optimizer.betas, recipe.steps) == (1e-4, (0.8, 0.9), 5)
    with pytest.raises(RecipeError, match=r"'steps' holds 5, not further keys"):
        Train.load(path, {"steps": 5, "steps.more": 1})


def test_parse_overrides_reads_yaml_values():
    assert parse_overrides(["a.lr=1e-4", "b=[x, y]", "c=null", "d=3", "e=x=y"]) == {
        "a.lr": 1e-4,
        "b": ["x", "y"],
        "c": None,
        "d": 3,
        "e": "x=y",
    }
    for text in ("lr", "=3", "a=[1"):
        with pytest.raises(RecipeError):
            parse_overrides([text])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("findings: [edema]\nstep: 3", "unknown key 'step', did you mean 'steps'?"),
        ("findings: [edema]\noptimizer: {lrr: 3}", "unknown key 'optimizer.lrr', did you mean 'lr'?"),
        ("findings: [edema]\nstages: [{bettas: 3}]", "unknown key 'stages.0.bettas', did you mean 'betas'?"),
        ("steps: 3", "the key 'findings' is missing"),
        ("findings: [edema]\nsteps: '3'", "steps: found '3'"),
        ("findings: [edema]\nsteps: 3.5", "steps: found 3.5"),
        ("findings: [edema]\nfindings: [mass]", "'findings' is given twice"),
        ("findings: [edema", "not YAML"),
        ("- a", "found list, expected `key: value` lines"),
        ("3: a", "expected `key: value` lines"),
        ("findings: !!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_by_name(tmp_path, text, message):
    path = write(tmp_path / "r.yaml", text)
    with pytest.raises(RecipeError) as caught:
        Train.load(path)
    assert message in str(caught.value)
    assert "r.yaml" in str(caught.value)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        Train.load(tmp_path / "none.yaml")
    with pytest.raises(UnknownNameError, match="unknown recipe 'no-such-recipe'"):
        Train.load("no-such-recipe")


def test_the_packaged_recipes_are_yaml_mappings():
    folder = files("synthaug").joinpath("recipes")
    assert packaged() == sorted(path.name[:-5] for path in folder.iterdir() if path.name.endswith(".yaml"))
    assert all(read_yaml(name) for name in packaged())


def test_an_unknown_number_stays_unknown():
    recipe = Train.from_values({"findings": [], "weight": math.nan})
    assert recipe.values()["weight"] is None
    assert recipe.digest() == Train(findings=[]).digest()


def test_a_recipe_is_frozen():
    with pytest.raises(Exception, match="frozen"):
        Train(findings=[]).steps = 3


def test_differences_names_dotted_keys():
    a = {"seed": 0, "plan": [{"count": 1, "view": "PA"}], "same": {"x": [1]}, "w": math.nan}
    b = {"seed": 1, "plan": [{"count": 2, "view": "PA"}], "same": {"x": [1]}, "w": None, "extra": {}}
    assert differences(a, b) == ["seed", "plan.0.count", "extra"]
    assert differences(a, a) == []

import pickle

import pytest

from synthaug import errors
from synthaug.errors import FailureError, SynthaugError, UnknownNameError, UserError, nearest

TREE = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and value.__module__ == errors.__name__
]


def test_every_error_is_a_user_mistake_or_a_failure():
    assert all(issubclass(error, SynthaugError) for error in TREE) and len(TREE) > 12
    leaves = [error for error in TREE if error is not SynthaugError]
    assert all(issubclass(error, UserError) != issubclass(error, FailureError) for error in leaves)
    assert {error.exit_code for error in TREE if issubclass(error, UserError)} == {2}
    assert {error.exit_code for error in TREE if issubclass(error, FailureError)} == {1}


def test_the_docstring_draws_the_whole_tree():
    assert [error.__name__ for error in TREE if error.__name__ not in errors.__doc__] == []


@pytest.mark.parametrize(
    ("kind", "name", "known", "message"),
    [
        (
            "finding",
            "plural_effusion",
            ["edema", "pleural_effusion"],
            "unknown finding 'plural_effusion'; did you mean 'pleural_effusion'? "
            "`synthaug findings` lists them",
        ),
        ("model", "qqqq", ["embedded"], "unknown model 'qqqq'; `synthaug models` lists them"),
        ("fit", "corp", ["crop", "pad"], "unknown fit 'corp'; did you mean 'crop'? known: crop, pad"),
        ("recipe", "x", [], "unknown recipe 'x'; known: none"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(kind, name, known, message):
    assert str(UnknownNameError(kind, name, known)) == message


def test_an_unknown_name_survives_pickling():
    error = pickle.loads(pickle.dumps(UnknownNameError("fit", "corp", ["crop"])))
    assert (error.kind, error.name, error.known) == ("fit", "corp", ("crop",))


def test_nearest_does_not_mind_case():
    assert nearest("PNEUMOTORAX", ["Pneumothorax", "pneumonia"]) == "Pneumothorax"
    assert nearest("zebra", ["Pneumothorax"]) is None

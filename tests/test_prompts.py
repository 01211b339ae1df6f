import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthaug.errors import LabelError, UnknownNameError
from synthaug.findings import FINDINGS
from synthaug.prompts import TEMPLATES, age_words, contrary, negative, render, words
from synthaug.record import VIEWS


@pytest.mark.parametrize(
    ("labels", "known", "prompt"),
    [
        (
            {"cardiomegaly": 0, "Effusion": 1},
            {"view": "PA", "age": 64, "sex": "F"},
            "chest radiograph, PA view, female, 60s: pleural effusion, no cardiomegaly",
        ),
        ({}, {}, "chest radiograph"),
        ({}, {"view": "lateral"}, "chest radiograph, lateral view"),
        ({"edema": math.nan}, {"sex": "M"}, "chest radiograph, male"),
        ({"no_finding": 1, "edema": 0}, {"view": "AP"}, "chest radiograph, AP view: no finding"),
        ({"no_finding": 0}, {}, "chest radiograph"),
        ({"mass": 1, "edema": 1}, {"age": 95}, "chest radiograph, 90s and over: edema, mass"),
        (
            {"effusion": 1},
            {"template": "lung_xray"},
            "a photo of a lung xray with a visible pleural effusion",
        ),
        ({"no_finding": 1}, {"template": "lung_xray"}, "a photo of a lung xray"),
        (
            {"mass": 1, "edema": 1, "hernia": 0},
            {"template": "lung_xray", "view": "PA"},
            "a photo of a lung xray with a visible edema and mass",
        ),
        ({"edema": 1}, {"template": "film[ of {positives}]", "view": "PA"}, "film of edema"),
    ],
)
def test_render(labels, known, prompt):
    assert render(labels, **known) == prompt


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (None, ""),
        (math.nan, ""),
        (0, "under 20"),
        (19.9, "under 20"),
        (20, "20s"),
        (64, "60s"),
        (89, "80s"),
        (90, "90s and over"),
        (104, "90s and over"),
    ],
)
def test_ages_are_decades(age, text):
    assert age_words(age) == text


@pytest.mark.parametrize("known", [{"view": "PAA"}, {"sex": "female"}, {"template": "radiogaph"}])
def test_unknown_names_are_refused(known):
    with pytest.raises(UnknownNameError):
        render({}, **known)


def test_contradicting_labels_are_refused():
    with pytest.raises(LabelError):
        render({"no_finding": 1, "edema": 1})


@given(
    st.dictionaries(st.sampled_from(FINDINGS[1:]), st.sampled_from([1.0, 0.0, math.nan]), max_size=5),
    st.none() | st.sampled_from(VIEWS),
    st.none() | st.floats(0, 110),
    st.none() | st.sampled_from("FM"),
    st.sampled_from(sorted(TEMPLATES)),
)
def test_words_holds_every_word_of_every_prompt(labels, view, age, sex, template):
    known = {word for fragment in words() for word in fragment.split()}
    assert set(re.split(r"[ ,:]+", render(labels, view, age, sex, template))) <= known


def test_words_says_each_fragment_once():
    assert len(words()) == len(set(words()))
    assert {"no pleural effusion", "chest radiograph", "60s", "female", "no finding"} <= set(words())


def test_a_negative_prompt_takes_the_films_own_view_sex_and_age() -> None:
    text = "chest radiograph[, {view} view][, {sex}][, {age}]"
    assert negative(text, "AP", 63, "F") == "chest radiograph, AP view, female, 60s"
    assert negative(text) == "chest radiograph"
    assert negative("") == ""
    assert negative("blurred", "AP") == "blurred"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"pleural_effusion": 1.0}, ("no finding",)),
        ({"pleural_effusion": 1.0, "edema": 0.0}, ("no finding",)),
        ({"no_finding": 1.0}, ("pleural effusion", "edema")),
        ({"edema": 0.0}, ("edema",)),
        ({"edema": float("nan")}, ()),
        ({}, ()),
    ],
)
def test_a_negative_prompt_may_name_what_the_film_must_not_show(
    labels: dict[str, float], expected: tuple[str, ...]
) -> None:
    offered = ("no_finding", "pleural_effusion", "edema")
    assert contrary(labels, offered) == expected
    away = negative("chest radiograph[, {view} view][: {contrary}]", "PA", contrary=expected)
    view = "chest radiograph, PA view"
    assert away == (" | ".join(f"{view}: {one}" for one in expected) or view)
    assert negative("chest radiograph", contrary=expected) == "chest radiograph"


def test_a_prompt_has_nothing_contrary() -> None:
    assert (
        render({"edema": 1.0}, template="radiograph[: {findings}][, not {contrary}]") == "radiograph: edema"
    )

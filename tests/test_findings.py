import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthaug.errors import LabelError, UnknownNameError
from synthaug.findings import (
    ALIASES,
    FINDINGS,
    NO_FINDING,
    canonical,
    check,
    matrix,
    parse_label,
    title,
    vector,
)

# The label lists that the data sets publish, in their own spelling.
NIH = """Atelectasis|Cardiomegaly|Consolidation|Edema|Effusion|Emphysema|Fibrosis|Hernia|Infiltration|Mass|
Nodule|Pleural_Thickening|Pneumonia|Pneumothorax|No Finding"""
CHEXPERT = """No Finding|Enlarged Cardiomediastinum|Cardiomegaly|Lung Opacity|Lung Lesion|Edema|Consolidation|
Pneumonia|Atelectasis|Pneumothorax|Pleural Effusion|Pleural Other|Fracture|Support Devices"""
VINDR = """Aortic enlargement|Atelectasis|Calcification|Cardiomegaly|Clavicle fracture|Consolidation|Edema|
Emphysema|Enlarged PA|ILD|Infiltration|Lung Opacity|Lung cavity|Lung cyst|Mediastinal shift|Nodule/Mass|
Pleural effusion|Pleural thickening|Pneumothorax|Pulmonary fibrosis|Rib fracture|Other lesion|COPD|Lung tumor|
Pneumonia|Tuberculosis|Other disease|No finding"""
PADCHEST = """normal|pleural effusion|cardiomegaly|infiltrates|alveolar pattern|interstitial pattern|
pneumonia|pneumothorax|laminar atelectasis|scoliosis|kyphosis|aortic elongation|air trapping|hiatal hernia|
pulmonary edema|costophrenic angle blunting|vertebral degenerative changes|apical pleural thickening"""
PUBLISHED = "|".join((NIH, CHEXPERT, VINDR, PADCHEST)).replace("\n", "").split("|")

labels_of_any_kind = st.dictionaries(
    st.sampled_from(FINDINGS), st.sampled_from([1.0, 0.0, math.nan]), max_size=6
)


@pytest.mark.parametrize("name", [*PUBLISHED, "Lung Opacity", "Normal"])
def test_the_names_of_the_public_data_sets_are_known(name):
    assert canonical(name) in FINDINGS


def test_the_vocabulary_is_tidy():
    names = [(other.lower(), finding) for finding, others in ALIASES.items() for other in (finding, *others)]
    assert len(dict(names)) == len(names)
    assert FINDINGS[0] == NO_FINDING
    assert all(finding.isidentifier() and finding == finding.lower() for finding in FINDINGS)


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("Effusion", "pleural_effusion"),
        (" pleural-EFFUSION ", "pleural_effusion"),
        ("Pleural  Effusion", "pleural_effusion"),
        ("Oedema", "edema"),
        ("Normal", "no_finding"),
        ("ILD", "interstitial_lung_disease"),
    ],
)
def test_canonical_minds_neither_case_nor_space(name, finding):
    assert canonical(name) == finding


def test_an_unknown_finding_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'pleural_effusion'"):
        canonical("plural_effusion")


def test_titles_read_as_words():
    assert title("effusion") == "pleural effusion"
    assert title("copd") == "COPD"


def test_parse_label():
    assert parse_label("Effusion") == ("pleural_effusion", 1.0)
    assert parse_label("pleural_effusion=1") == ("pleural_effusion", 1.0)
    assert parse_label("pleural_effusion = 0") == ("pleural_effusion", 0.0)
    with pytest.raises(LabelError, match=r"'maybe'.*edema=0"):
        parse_label("edema=maybe")
    with pytest.raises(LabelError, match="found ''"):
        parse_label("edema=")


def test_check_names_orders_and_fills():
    assert list(check({"edema": 0, "Effusion": True, "No Finding": None}).items()) == [
        ("no_finding", 0.0),
        ("edema", 0.0),
        ("pleural_effusion", 1.0),
    ]
    assert check({"no_finding": 1, "edema": math.nan}) == {"no_finding": 1.0, "edema": 0.0}
    assert check({"effusion": None, "pleural_effusion": 1}) == {"pleural_effusion": 1.0}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"no_finding": 1, "edema": 1, "effusion": 1}, "no_finding is 1 and so is edema, pleural_effusion"),
        ({"effusion": 1, "pleural_effusion": 0}, "given both as 1 and as 0"),
        ({"edema": 0.5}, "edema: found 0.5, expected 1"),
        ({"edema": -1}, "edema: found -1"),
        ({"edema": "yes"}, "edema: found 'yes'"),
    ],
)
def test_contradictions_and_other_values_are_refused(labels, message):
    with pytest.raises(LabelError, match=message):
        check(labels)


def test_vector_fills_what_no_finding_settles():
    findings = ["no_finding", "edema", "Effusion"]
    np.testing.assert_array_equal(vector({"no_finding": 1}, findings), np.float32([1, 0, 0]))
    np.testing.assert_array_equal(vector({"fracture": 1}, findings), np.float32([0, np.nan, np.nan]))
    np.testing.assert_array_equal(vector({"no_finding": 0, "edema": 0}, findings), np.float32([0, 0, np.nan]))
    assert vector({}, findings).dtype == np.float32


def test_matrix_stacks_vectors():
    np.testing.assert_array_equal(matrix([{"edema": 1}, {}], ["edema"]), np.float32([[1], [np.nan]]))
    assert matrix([], ["edema", "mass"]).shape == (0, 2)


@given(labels_of_any_kind)
def test_a_contradiction_is_no_finding_beside_a_finding_and_nothing_else(labels):
    contradicts = labels.get(NO_FINDING) == 1 and any(v == 1 for f, v in labels.items() if f != NO_FINDING)
    if contradicts:
        with pytest.raises(LabelError):
            check(labels)
        return
    checked = check(labels)
    assert set(checked) == set(labels)
    assert all(checked[f] == v for f, v in labels.items() if not math.isnan(v))
    whole = vector(labels, FINDINGS)
    assert not (whole[0] == 1 and (whole[1:] != 0).any())
    assert not ((whole[1:] == 1).any() and whole[0] != 0)
    np.testing.assert_array_equal(whole, vector(checked, FINDINGS))

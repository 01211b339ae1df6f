import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthaug.errors import DataError
from synthaug.findings import FINDINGS
from synthaug.record import VIEWS, Record

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
records = st.builds(
    Record,
    key=st.text(min_size=1),
    labels=st.dictionaries(st.sampled_from(FINDINGS), st.sampled_from([1.0, 0.0, math.nan])),
    view=st.none() | st.sampled_from(VIEWS),
    age=st.none() | st.floats(0, 120),
    sex=st.none() | st.sampled_from("FM"),
    patient=st.none() | st.text(),
    prompt=st.none() | st.text(),
    synthetic=st.booleans(),
    provenance=st.dictionaries(st.sampled_from(["seed", "quality", "checkpoint"]), plain),
)


@given(records)
def test_json_round_trip(record):
    data = record.to_bytes()
    assert Record.from_bytes(data) == record
    assert Record.from_bytes(data).to_bytes() == data
    assert b"NaN" not in json.dumps(json.loads(data)["labels"]).encode()


def test_the_flat_contract():
    record = Record("7", {"edema": math.nan, "mass": 1}, view="PA", synthetic=True, provenance={"seed": 3})
    assert record.to_json() == {
        "key": "7",
        "labels": {"edema": None, "mass": 1.0},
        "view": "PA",
        "age": None,
        "sex": None,
        "patient": None,
        "prompt": None,
        "synthetic": True,
        "seed": 3,
    }


def test_numpy_numbers_become_plain_ones():
    record = Record(
        "7", {"edema": np.float32(1)}, provenance={"n": np.int64(3), "q": np.float32(0.5), "x": math.inf}
    )
    assert json.loads(record.to_bytes()) | {"n": 3, "q": 0.5, "x": None} == json.loads(record.to_bytes())
    with pytest.raises(DataError, match="record 7: its provenance"):
        Record("7", {}, provenance={"x": object()}).to_bytes()


def test_records_with_unknown_labels_compare_equal_and_pickle():
    record = Record("7", {"edema": float("nan")})
    assert record == Record("7", {"edema": None})
    assert pickle.loads(pickle.dumps(record)).to_json() == record.to_json()


def test_a_record_is_frozen():
    with pytest.raises(AttributeError):
        Record("7", {}).key = "8"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "found list"),
        ({"key": "7"}, "record 7: labels missing"),
        ({"labels": {}}, "key missing"),
        ({"key": "", "labels": {}}, "expected a non-empty text"),
        ({"key": 7, "labels": {}}, "found the key 7"),
        ({"key": "7", "labels": []}, "found labels"),
        ({"key": "7", "labels": {"edema": 2}}, "found edema = 2"),
        ({"key": "7", "labels": {"edema": "x"}}, "found edema = 'x'"),
        ({"key": "7", "labels": {}, "view": "top"}, "found view 'top', expected one of PA, AP, lateral"),
        ({"key": "7", "labels": {}, "sex": "male"}, "found sex 'male'"),
        ({"key": "7", "labels": {}, "age": "old"}, "found age 'old'"),
        ({"key": "7", "labels": {}, "patient": 5}, "found patient 5"),
        ({"key": "7", "labels": {}, "synthetic": "yes"}, "found synthetic 'yes'"),
    ],
)
def test_other_values_are_refused(value, message):
    with pytest.raises(DataError, match=message):
        Record.from_json(value)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000])
def test_bytes_that_are_not_json(data):
    with pytest.raises(DataError, match="not JSON"):
        Record.from_bytes(data)


def test_provenance_may_not_repeat_a_field():
    with pytest.raises(DataError, match="repeats the fields view"):
        Record("7", {}, provenance={"view": "PA"})

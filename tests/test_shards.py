"""Reading and verifying shards, whole and damaged."""

import contextlib
import hashlib
import io
import json
import math
import pickle
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthaug import findings, images, shards
from synthaug.errors import CorruptShardError, DataError, SynthaugError
from synthaug.record import Record
from synthaug.shards.tar import members


def whats(folder):
    return sorted((fault.path, fault.what) for fault in shards.verify(folder))


def read_all(folder):
    """Every way in; the records found."""
    with contextlib.suppress(SynthaugError):
        found = shards.ShardSet(folder)
        for i in range(min(len(found), 100)):
            with contextlib.suppress(SynthaugError):
                record, image = found[i]
                images.decode(image)
                assert record.key
        found.labels(["pleural_effusion", "no_finding"])
    with contextlib.suppress(SynthaugError):
        list(shards.ShardSet(folder).records())
    with contextlib.suppress(SynthaugError):
        list(shards.stream(folder))
    return shards.verify(folder)


def test_random_access(tiny_shards, tiny_radiographs):
    films, labels = tiny_radiographs(24)
    found = shards.ShardSet(tiny_shards)
    assert len(found) == 24
    for i in (0, 7, 8, 15, 23, -1):
        record, image = found[i]
        assert record.key == f"{i % 24:09d}"
        assert record.labels == labels[i % 24]
        np.testing.assert_array_equal(images.decode(image), films[i, 0])
    for i in (24, -25):
        with pytest.raises(IndexError):
            found[i]
    assert found.keys == [f"{i:09d}" for i in range(24)]
    assert found.findings == ("no_finding", "pleural_effusion")
    np.testing.assert_array_equal(found.labels(["Effusion"])[:, 0], np.arange(24) % 2)


def test_every_way_of_reading_gives_the_same(tiny_shards):
    found = shards.ShardSet(tiny_shards)
    by_index = [found[i] for i in range(len(found))]
    assert list(shards.stream(tiny_shards)) == by_index
    assert list(found.records()) == [record for record, _ in by_index]
    assert [pair for worker in range(2) for pair in shards.stream(tiny_shards, worker, 2)] == (
        by_index[:8] + by_index[16:] + by_index[8:16]
    )
    opened = shards.stream(tiny_shards, opener=lambda name: io.BytesIO((tiny_shards / name).read_bytes()))
    assert list(opened) == by_index
    copy = pickle.loads(pickle.dumps(found))
    assert copy[3] == by_index[3]


def consistent(row):
    return row.get("no_finding") != 1 or list(row.values()).count(1.0) == 1


rows_of_labels = st.lists(
    st.dictionaries(
        st.sampled_from(findings.FINDINGS[:9]), st.sampled_from([1.0, 0.0, math.nan]), max_size=4
    ).filter(consistent),
    max_size=7,
)


@settings(max_examples=30)
@given(rows_of_labels)
def test_labels_equal_the_records_label_vectors(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("labels")
    samples = [(Record(str(i), row), b"", "png") for i, row in enumerate(rows)]
    halves = samples[: len(rows) // 2], samples[len(rows) // 2 :]
    shards.write_manifest(folder, [shards.write_shard(folder, n, half) for n, half in enumerate(halves)])
    wanted = findings.FINDINGS[:12]
    np.testing.assert_array_equal(shards.ShardSet(folder).labels(wanted), findings.matrix(rows, wanted))


def test_nothing_is_ever_unpickled(tmp_path, monkeypatch):
    poison = pickle.dumps({"a": 1})
    shards.write_manifest(tmp_path, [shards.write_shard(tmp_path, 0, [(Record("7", {}), poison, "pyd")])])

    def refuse(*arguments, **named):
        raise AssertionError("unpickled")

    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    assert shards.ShardSet(tmp_path)[0][1] == poison
    assert next(iter(shards.stream(tmp_path)))[1] == poison


def test_a_whole_folder_verifies(tiny_shards):
    told = []
    assert shards.verify(tiny_shards, lambda *progress: told.append(progress)) == []
    assert told == [(1, 3), (2, 3), (3, 3)]


def change_byte(path, place=700):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-600])


def edit_manifest(folder, edit):
    value = json.loads((folder / "manifest.json").read_text())
    edit(value)
    (folder / "manifest.json").write_text(json.dumps(value))


TAR, INDEX = "shard-000001.tar", "shard-000001.index"


@pytest.mark.parametrize(
    ("damage", "faults"),
    [
        (lambda f: truncate(f / TAR), [(TAR, "truncated")]),
        (lambda f: change_byte(f / TAR), [(TAR, "changed")]),
        (lambda f: (f / TAR).write_bytes((f / TAR).read_bytes() + b"more"), [(TAR, "changed")]),
        (lambda f: (f / TAR).unlink(), [(TAR, "missing")]),
        (lambda f: change_byte(f / INDEX, 300), [(INDEX, "changed")]),
        (lambda f: (f / INDEX).unlink(), [(INDEX, "missing")]),
        (lambda f: (f / "shard-000009.tar").write_bytes(b""), [("shard-000009.tar", "extra")]),
        (lambda f: (f / "shard-000009.index").write_bytes(b""), [("shard-000009.index", "extra")]),
        (lambda f: (f / ".shard-000009.tar.tmp").write_bytes(b""), [(".shard-000009.tar.tmp", "leftover")]),
        (lambda f: (f / "recipe.yaml").write_text("seed: 1"), [("recipe.yaml", "changed")]),
        (lambda f: (f / "recipe.yaml").unlink(), [("recipe.yaml", "missing")]),
        (lambda f: edit_manifest(f, lambda m: m.update(count=25)), [("manifest.json", "count")]),
        (
            lambda f: edit_manifest(f, lambda m: (m["shards"][1].update(count=9), m.update(count=25))),
            [(TAR, "count")],
        ),
        (lambda f: edit_manifest(f, lambda m: m.update(schema=99)), [("manifest.json", "not a manifest")]),
        (lambda f: edit_manifest(f, lambda m: m.pop("shards")), [("manifest.json", "not a manifest")]),
        (lambda f: (f / "manifest.json").write_text("{"), [("manifest.json", "not a manifest")]),
        (lambda f: (f / "manifest.json").write_text("[3]"), [("manifest.json", "not a manifest")]),
        (lambda f: (f / "manifest.json").unlink(), [("manifest.json", "missing")]),
    ],
)
def test_verify_names_each_fault(tiny_shards, damage, faults):
    (tiny_shards / "recipe.yaml").write_text("seed: 0")
    manifest = shards.read_manifest(tiny_shards)
    shards.write_manifest(tiny_shards, manifest.shards, **manifest.facts)
    assert shards.verify(tiny_shards) == []
    damage(tiny_shards)
    assert whats(tiny_shards) == faults
    assert all(fault.found and fault.expected and str(fault) for fault in shards.verify(tiny_shards))


def test_verify_names_several_faults_at_once(tiny_shards):
    truncate(tiny_shards / "shard-000000.tar")
    change_byte(tiny_shards / "shard-000002.tar")
    (tiny_shards / INDEX).unlink()
    assert whats(tiny_shards) == [
        ("shard-000000.tar", "truncated"),
        (INDEX, "missing"),
        ("shard-000002.tar", "changed"),
    ]


def test_verify_finds_an_index_that_lies(tiny_shards):
    """An index with the manifest's hash, but not its tar's own."""
    other = (tiny_shards / "shard-000000.index").read_bytes().replace(b"shard-000000", b"shard-000001")
    (tiny_shards / INDEX).write_bytes(other)
    digest = hashlib.sha256(other).hexdigest()
    edit_manifest(tiny_shards, lambda m: m["shards"][1].update(index_sha256=digest))
    assert whats(tiny_shards) == [(INDEX, "damaged")]
    with pytest.raises(CorruptShardError, match="not where its index says"):
        shards.ShardSet(tiny_shards)[8]


def test_damage_is_a_clear_error_when_read(tiny_shards):
    truncate(tiny_shards / TAR)
    with pytest.raises(CorruptShardError, match=rf"{TAR}: truncated"):
        list(shards.stream(tiny_shards))
    (tiny_shards / TAR).unlink()
    with pytest.raises(CorruptShardError, match=rf"{TAR}: cannot be read"):
        shards.ShardSet(tiny_shards)[9]
    (tiny_shards / INDEX).unlink()
    with pytest.raises(CorruptShardError, match=rf"{INDEX}: cannot be read.*synthaug verify"):
        shards.ShardSet(tiny_shards).labels(["edema"])
    with pytest.raises(DataError, match="not a folder of shards"):
        shards.ShardSet(tiny_shards.parent)


def test_a_changed_label_is_found_when_the_index_is_read(tiny_shards):
    path = tiny_shards / INDEX
    place = path.read_bytes().index(b"\n") + 1 + 8 * 4 * 8  # the first label
    change_byte(path, place)
    with pytest.raises(
        CorruptShardError, match=rf"{INDEX}: not the index that the manifest lists.*synthaug verify"
    ):
        shards.ShardSet(tiny_shards).labels(["pleural_effusion"])


def test_a_changed_image_byte_is_found_while_streaming(tiny_shards):
    change_byte(tiny_shards / "shard-000002.tar", 600)
    with pytest.raises(CorruptShardError, match=r"shard-000002.tar: not the bytes that the manifest lists"):
        list(shards.stream(tiny_shards))


@settings(max_examples=120)
@given(st.data())
def test_a_flipped_bit_raises_nothing_but_our_errors_and_is_found(tiny_shards, data):
    names = ["shard-000000.tar", "shard-000000.index", "manifest.json"]
    path = tiny_shards / data.draw(st.sampled_from(names))
    before = path.read_bytes()
    place = data.draw(st.integers(0, len(before) - 1))
    changed = bytearray(before)
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        path.write_bytes(changed)
        faults = read_all(tiny_shards)
        assert faults or path.name == "manifest.json"
    finally:
        path.write_bytes(before)


@settings(max_examples=40)
@given(st.sampled_from(["shard-000000.tar", "shard-000000.index", "manifest.json"]), st.floats(0, 0.999))
def test_a_truncated_file_raises_nothing_but_our_errors_and_is_found(tiny_shards, name, share):
    path = tiny_shards / name
    before = path.read_bytes()
    try:
        path.write_bytes(before[: int(share * (len(before) - 1))])
        assert read_all(tiny_shards)
    finally:
        path.write_bytes(before)


@settings(max_examples=80)
@given(st.data())
def test_damage_with_a_fitting_hash_raises_nothing_but_our_errors(tiny_shards, data):
    """A hostile index or tar that the manifest vouches for."""
    key, name = data.draw(
        st.sampled_from([("sha256", "shard-000000.tar"), ("index_sha256", "shard-000000.index")])
    )
    path, manifest = tiny_shards / name, tiny_shards / "manifest.json"
    before, listed = path.read_bytes(), manifest.read_bytes()
    changed = bytearray(before)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, min(len(before), 1500) - 1))] = data.draw(st.integers(0, 255))
    try:
        path.write_bytes(changed)
        digest = hashlib.sha256(changed).hexdigest()
        edit_manifest(tiny_shards, lambda m: m["shards"][0].update({key: digest}))
        read_all(tiny_shards)
    finally:
        path.write_bytes(before)
        manifest.write_bytes(listed)


def hostile(name, kind=tarfile.REGTYPE, format=tarfile.USTAR_FORMAT, **fields):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        info = tarfile.TarInfo(name)
        info.type = kind
        for field, value in fields.items():
            setattr(info, field, value)
        tar.addfile(info)
    return file


@pytest.mark.parametrize(
    ("tar", "message"),
    [
        (hostile("/etc/passwd"), "not a plain name"),
        (hostile("../up.json"), "not a plain name"),
        (hostile(".."), "not a plain name"),
        (hostile("..\\up.json"), "not a plain name"),
        (hostile("folder/7.json"), "not a plain name"),
        (hostile("p" * 90 + "/" + "q" * 90), "not a plain name"),
        (hostile("7.png", tarfile.SYMTYPE, linkname="/etc/passwd"), "not a plain file"),
        (hostile("7.png", tarfile.LNKTYPE, linkname="8.png"), "not a plain file"),
        (hostile("7.png", tarfile.CHRTYPE), "not a plain file"),
        (hostile("7.png", tarfile.BLKTYPE), "not a plain file"),
        (hostile("7.png", tarfile.FIFOTYPE), "not a plain file"),
        (hostile("7", tarfile.DIRTYPE), "not a plain file"),
        (hostile("7.png", format=tarfile.PAX_FORMAT, mtime=0.5), "not a plain file"),
        (hostile("q" * 150, format=tarfile.GNU_FORMAT), "not a plain file"),
        (io.BytesIO(b"no tar at all" * 100), "damaged tar header"),
        (io.BytesIO(b""), "truncated"),
        (io.BytesIO(bytes(512)), "truncated"),
    ],
)
def test_hostile_members_are_refused(tar, message):
    tar.seek(0)
    with pytest.raises(CorruptShardError, match=message):
        list(members(tar, "shard.tar"))


def test_a_member_may_not_claim_more_than_memory():
    info = tarfile.TarInfo("7.png")
    info.size = 1 << 40
    with pytest.raises(CorruptShardError, match="claims"):
        list(members(io.BytesIO(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)), "shard.tar"))


@pytest.mark.parametrize(
    "names", [["7.png"], ["7.png", "8.json"], ["7.png", "7.jpg"], ["7.json", "7.json"], ["7.json", "7.png"]]
)
def test_members_that_are_no_sample_are_refused(names):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in names:
            data = Record("9" if names == ["7.json", "7.png"] else "7", {}).to_bytes()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    data = file.getvalue().rstrip(b"\0")
    data += bytes(-len(data) % 512) + bytes(1024)
    with pytest.raises(CorruptShardError, match=r"expected|stands alone"):
        list(shards.read_samples(io.BytesIO(data), "shard.tar"))


@pytest.mark.parametrize("name", ["../shard-000000.tar", "/etc/shard.tar", "a/b.tar", "shard", 3])
def test_a_manifest_may_not_reach_outside_its_folder(tiny_shards, name):
    edit_manifest(tiny_shards, lambda m: m["shards"][0].update(name=name))
    with pytest.raises(CorruptShardError, match="not a manifest"):
        shards.read_manifest(tiny_shards)

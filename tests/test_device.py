"""Threads and precision in containers: quotas of control groups of both versions, affinity, processors' flags."""

import math
from pathlib import Path

import pytest
import torch

from synthaug.diffusion import device


def group(folder: Path, **files: str) -> None:
    """The files of one control group; `cpu_max` is `cpu.max`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"": "max 100000"}, math.inf),
        ({"": "250000 100000"}, 2.5),
        ({"a/b": "50000 100000"}, 0.5),
        ({"": "max 100000", "a": "300000 100000", "a/b": "800000 100000"}, 3.0),  # a parent's limit counts
        ({}, math.inf),
    ],
)
def test_quota_of_version_2(tmp_path: Path, limits: dict[str, str], expected: float) -> None:
    for name, text in limits.items():
        group(tmp_path / "cgroup" / name, cpu_max=text + "\n")
    (tmp_path / "membership").write_text("0::/a/b\n")
    assert device.quota(tmp_path / "cgroup", tmp_path / "membership") == expected


@pytest.mark.parametrize(("allowed", "expected"), [("150000", 1.5), ("-1", math.inf)])
@pytest.mark.parametrize("mounted", ["cpu,cpuacct", "cpu"])
def test_quota_of_version_1(tmp_path: Path, mounted: str, allowed: str, expected: float) -> None:
    files = {"cpu_cfs_quota_us": allowed + "\n", "cpu_cfs_period_us": "100000\n"}
    # In a container the group's path of the host is not there: the mount is the group.
    group(tmp_path / "cgroup" / mounted, **files)
    (tmp_path / "membership").write_text("9:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n0::/\n")
    assert device.quota(tmp_path / "cgroup", tmp_path / "membership") == expected


def test_no_control_groups_no_limit(tmp_path: Path) -> None:
    assert device.quota(tmp_path, tmp_path / "missing") == math.inf


@pytest.mark.parametrize(
    ("affinity", "quota", "expected"), [(8, 2.5, 3), (2, 6.0, 2), (4, math.inf, 4), (4, 0.2, 1)]
)
def test_threads_are_those_that_may_run(
    monkeypatch: pytest.MonkeyPatch, affinity: int, quota: float, expected: int
) -> None:
    if not hasattr(device.os, "sched_getaffinity"):
        pytest.skip("affinity: Linux only")
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: set(range(affinity)))
    monkeypatch.setattr(device, "quota", lambda: quota)
    device.usable_processors.cache_clear()
    try:
        assert device.usable_processors() == expected
    finally:
        device.usable_processors.cache_clear()


def test_torch_is_held_to_them_and_fewer_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(device, "usable_processors", lambda: 2)
    try:
        for given, expected in ((6, 2), (1, 1)):
            torch.set_num_threads(given)
            assert device.choose_device("cpu") == torch.device("cpu")
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_bfloat16_needs_a_torch_that_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    device.processor_has_bfloat16.cache_clear()
    try:
        assert device.choose_dtype(torch.device("cpu")) is torch.float32
    finally:
        device.processor_has_bfloat16.cache_clear()

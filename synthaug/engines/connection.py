"""A connection to a Ray cluster, or one of our own on this machine; what can go wrong, in words.

A cluster that is started here listens on the loopback interface, shows no dashboard, reports no usage, and leaves
no files behind.
"""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from synthaug.errors import ClusterError, NotInstalledError

PATIENCE = 10.0
# Only jobs and small results pass through it; the least that Ray accepts is 75 MiB.
OBJECT_STORE = 128 << 20
# Ray takes 127.0.0.1 for the machine's own address, which others can reach; only Linux has more of them.
LOOPBACK = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """The module `ray`, connected; a connection that was there before is used and kept.

    Args:
        address: None starts Ray on this machine, "auto" finds the running one, "HOST:PORT" or "ray://HOST:PORT".

    Raises:
        NotInstalledError: Ray is not installed.
        ClusterError: nothing answers there, or the cluster runs another version of Ray or Python.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A busy machine takes more than Ray's 30 seconds to start a node.
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")
    os.environ.setdefault("RAY_agent_register_timeout_ms", "180000")
    # Without it Ray warns of a default that it will change; every worker is told its device.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise NotInstalledError("--engine ray needs Ray; pip install 'synthaug[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    files = None
    try:
        if address is None:
            files = tempfile.mkdtemp(prefix="ray-")  # short: names of sockets in it may take 107 bytes
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE,
                _node_ip_address=LOOPBACK,
                _temp_dir=files,
                **QUIET,
            )
        else:
            _connect(ray, address)
        yield ray
    finally:
        ray.shutdown()
        if files is not None:
            shutil.rmtree(files, ignore_errors=True)


def _connect(ray: Any, address: str) -> None:
    _reach(address)
    # By a loopback address, the nodes know this machine by no other.
    where = {"_node_ip_address": address.partition(":")[0]} if address.startswith("127.") else {}
    try:
        ray.init(address=address, **where, **QUIET)
    except (ConnectionError, TimeoutError) as error:
        if address == "auto":
            raise ClusterError(
                "--address auto: no running Ray found; start one with `ray start --head`, set RAY_ADDRESS, or leave "
                "--address out to start one on this machine for this run"
            ) from error
        raise ClusterError(f"--address {address}: no Ray cluster answers there ({_line(error)})") from error
    except (RuntimeError, ValueError) as error:
        # "Version mismatch: The cluster was started with: Ray: 2.40.0 Python: 3.12.1 This process ... was started with: ..."
        raise ClusterError(f"--address {address}: {_line(error)}") from error


def _reach(address: str) -> None:
    """Raise unless something listens there; Ray itself would try for two minutes and end the process."""
    host, _, port = address.removeprefix("ray://").partition("/")[0].rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdecimal():
        raise ClusterError(f'--address {address}: expected "auto", HOST:PORT or ray://HOST:PORT')
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"--address {address}: nothing answers there ({error}); is the head node up, and the port open from here?"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]

"""Pack into an S3 store over a line that fails: a manifest that is there must verify, a run without one must not.

    python benchmarks/s3_faults.py --runs 100

The store is moto's S3 server on this machine; between it and the writer stands a proxy that answers 500 or 503, cuts
the connection before or after the store has acted, tears an answer in the middle, or waits. In turns a writer is alone, has
a twin (the same films), has a rival (other shards at the same address), or is killed (SIGKILL) up to three times. It is
started again until it ends well; after each end the folder is looked at over the store's own address.
"""

import argparse
import asyncio
import logging
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import fsspec
import numpy as np
from aiohttp import web
from moto.server import ThreadedMotoServer
from PIL import Image

from synthaug import shards
from synthaug.datasets.formats import read_folder
from synthaug.datasets.packing import Packing, pack
from synthaug.errors import OutputFolderError, StorageError

FAULTS = ("500", "503", "cut before", "cut after", "torn", "slow")
ATTEMPTS = 40
KINDS = ("alone", "twin", "rival", "killed")
DONE, FAILED, REFUSED, KILLED = 0, 3, 4, -9


class Proxy:
    """A proxy on loopback that lets a request fail with some probability."""

    def __init__(self, upstream: str, rate: float, seed: int) -> None:
        self.upstream, self.rate, self.chance = upstream, rate, random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self.thread.start()
        ready.wait()

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._start())
        ready.set()
        self.loop.run_forever()

    async def _start(self) -> None:
        self.session = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self.runner = web.AppRunner(app, access_log=None)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        fault = self.chance.choice(FAULTS) if self.chance.random() < self.rate else ""
        self.seen[fault or "passed"] += 1
        body = await request.read()
        if fault in ("500", "503"):
            code = "InternalError" if fault == "500" else "SlowDown"
            text = f"<Error><Code>{code}</Code><Message>injected</Message></Error>"
            return web.Response(status=int(fault), text=text, content_type="application/xml")
        if fault == "cut before":
            return self._cut(request)
        if fault == "slow":
            await asyncio.sleep(self.chance.uniform(0.2, 1.5))
        headers = {
            k: v for k, v in request.headers.items() if k.lower() not in ("transfer-encoding", "expect")
        }
        async with self.session.request(
            request.method,
            self.upstream + request.raw_path,
            headers=headers,
            data=body,
            allow_redirects=False,
        ) as answer:
            data = await answer.read()
            kept = {
                k: v
                for k, v in answer.headers.items()
                if k.lower() not in ("connection", "transfer-encoding")
            }
            if fault == "cut after":
                return self._cut(request)
            if fault == "torn":
                torn = web.StreamResponse(status=answer.status, headers=kept)
                await torn.prepare(request)
                await torn.write(data[: len(data) // 2])
                return self._cut(request)
            if request.method == "HEAD":
                head = web.StreamResponse(status=answer.status, headers=kept)
                await head.prepare(request)
                return head
            return web.Response(status=answer.status, headers=kept, body=data)

    def _cut(self, request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()


def write(films: str, out: str, size: int) -> int:
    """One writer; how it ended."""
    try:
        pack(read_folder(films).films, out, Packing(shard_size=size))
    except StorageError:
        return FAILED
    except OutputFolderError:
        return REFUSED
    return DONE


def write_and_exit(films: str, out: str, size: int) -> None:
    """A writer in a process of its own, to be killed."""
    os._exit(write(films, out, size))


def by(endpoint: str) -> None:
    """Have s3:// mean this server, in this process."""
    fsspec.config.conf["s3"] = {"endpoint_url": endpoint}


def look(out: str, whole: dict[int, dict[str, bytes]]) -> tuple[bool, list[str]]:
    """Is there a manifest, and what is wrong with what is there."""
    storage = shards.open_storage(out)
    there = storage.names()
    faults = [str(fault) for fault in shards.verify(out)]
    if shards.MANIFEST not in there:
        return False, [] if faults else ["a run without a manifest passes verify"]
    if not faults and {name: storage.read(name) for name in there} not in whole.values():
        faults.append("other bytes than those of a run without faults")
    return True, faults


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--rate", type=float, default=0.25, help="share of the requests that fail")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    chance, counts, wrong = random.Random(options.seed), Counter[str](), []
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "s3fs"])
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    store = "http://{}:{}".format(*server.get_host_and_port())
    proxy = Proxy(store, options.rate, options.seed)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": proxy.url,  # of the processes
    }
    by(store)
    fsspec.filesystem("s3").mkdir("films")

    def told() -> str:
        figures = ", ".join(f"{what} {count}" for what, count in sorted(counts.items()))
        injected = ", ".join(f"{fault} {proxy.seen[fault]}" for fault in FAULTS)
        return f"{figures}; passed {proxy.seen['passed']}, {injected}; {len(wrong)} wrong"

    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as threads:
        folder = Path(name) / "films" / "edema"
        folder.mkdir(parents=True)
        rng = np.random.default_rng(options.seed)
        for i in range(12):
            Image.fromarray(rng.integers(0, 256, (64, 64), np.uint8)).save(folder / f"{i}.png")
        films, whole = str(folder.parent), {}
        for size in (3, 4):
            beside = Path(name) / str(size)
            pack(read_folder(films).films, beside, Packing(shard_size=size))
            whole[size] = {path.name: path.read_bytes() for path in beside.iterdir()}
        start, usual = time.monotonic(), 2.0  # seconds of a run that ends well
        for run in range(options.runs):
            out, kind = f"s3://films/run-{run}", KINDS[run % len(KINDS)]
            sizes = {"alone": [3], "killed": [3], "twin": [3, 3], "rival": [3, 4]}[kind]
            for attempt in range(ATTEMPTS):
                begun = time.monotonic()
                by(proxy.url)
                if kind == "killed" and attempt < 3:
                    process = context.Process(target=write_and_exit, args=(films, out, 3))
                    process.start()
                    process.join(chance.uniform(0, usual))
                    process.kill()
                    process.join()
                    ends = [process.exitcode]
                    counts["SIGKILL"] += ends == [KILLED]
                else:
                    ends = list(threads.map(write, [films] * len(sizes), [out] * len(sizes), sizes))
                    usual = time.monotonic() - begun if ends == [DONE] else usual
                counts["attempts"] += 1
                counts["ended by a fault"] += ends.count(FAILED)
                counts["refused"] += ends.count(REFUSED)
                if set(ends) - {DONE, FAILED, REFUSED, KILLED} or (kind == "rival" and ends.count(DONE) > 1):
                    wrong.append(f"{out}: writers ended with {ends}")
                by(store)
                finished, faults = look(out, whole)
                counts["unfinished when looked at"] += not finished
                wrong += [f"{out}: {fault}" for fault in faults if finished or "passes" in fault]
                if finished and DONE in ends:
                    counts["finished"] += 1
                    break
            else:
                wrong.append(f"{out}: not finished in {ATTEMPTS} attempts")
            if run % 5 == 4:
                print(
                    f"{run + 1} runs, {time.monotonic() - start:.0f} s: {told()}", file=sys.stderr, flush=True
                )
        seconds = time.monotonic() - start
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"{options.runs} runs in {seconds:.0f} s: {told()}")
    server.stop()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Pack into an S3 store over a line that fails: a manifest that is there must verify, a run without one must not.

    python benchmarks/s3_faults.py --runs 100

The store is moto's S3 server on this machine; between it and the writer stands a proxy that answers 500 or 503, cuts
the connection before or after the store has acted, tears an answer in the middle, or waits. A writer is killed
(SIGKILL) in some runs, and has a twin or a rival in others. It is started again until it ends well; after each end
the folder is looked at over the store's own address.
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
DONE, FAILED, REFUSED = 0, 3, 4


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


def work(films: str, out: str, size: int) -> None:
    """One writer, in a process of its own; how it ended is its exit code."""
    try:
        pack(read_folder(films).films, out, Packing(shard_size=size))
    except StorageError:
        os._exit(FAILED)
    except OutputFolderError:
        os._exit(REFUSED)
    os._exit(DONE)


def clean(url: str, out: str, reference: dict[str, bytes]) -> tuple[bool, list[str]]:
    """Over the store's own address: is there a manifest, and what is wrong with what is there."""
    os.environ["AWS_ENDPOINT_URL_S3"] = url
    fsspec.filesystem("s3").clear_instance_cache()
    storage = shards.open_storage(out)
    there = storage.names()
    faults = [str(fault) for fault in shards.verify(out)]
    if shards.MANIFEST not in there:
        return False, [] if faults else ["a run without a manifest passes verify"]
    if not faults and {name: storage.read(name) for name in there} != reference:
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
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    os.environ["AWS_ENDPOINT_URL_S3"] = store
    fsspec.filesystem("s3").mkdir("films")
    proxy = Proxy(store, options.rate, options.seed)
    with tempfile.TemporaryDirectory() as name:
        films = Path(name) / "films" / "edema"
        films.mkdir(parents=True)
        rng = np.random.default_rng(options.seed)
        for i in range(12):
            Image.fromarray(rng.integers(0, 256, (64, 64), np.uint8)).save(films / f"{i}.png")
        pack(read_folder(films.parent).films, Path(name) / "whole", Packing(shard_size=3))
        reference = {path.name: path.read_bytes() for path in (Path(name) / "whole").iterdir()}
        start, usual = time.monotonic(), 2.0  # seconds of a run that ends well
        for run in range(options.runs):
            out, kind = f"s3://films/run-{run}", ("alone", "killed", "twin", "rival")[run % 4]
            for attempt in range(ATTEMPTS):
                os.environ["AWS_ENDPOINT_URL_S3"] = proxy.url
                sizes = [3, 3] if kind == "twin" else [3, 4] if kind == "rival" and attempt else [3]
                writers = [
                    context.Process(target=work, args=(str(films.parent), out, size)) for size in sizes
                ]
                begun = time.monotonic()
                for writer in writers:
                    writer.start()
                if kind == "killed" and attempt < 3:
                    writers[0].join(chance.uniform(0, usual))
                    counts["SIGKILL"] += writers[0].is_alive()
                    writers[0].kill()
                for writer in writers:
                    writer.join()
                ends = [writer.exitcode for writer in writers]
                usual = time.monotonic() - begun if ends == [DONE] else usual
                counts["attempts"] += 1
                counts["attempts ended by a fault"] += ends.count(FAILED)
                if kind == "rival" and len(ends) == 2:
                    counts["rivals refused"] += ends[1] == REFUSED
                    wrong += [f"{out}: a rival ended with {ends[1]}"] if ends[1] == DONE else []
                if set(ends) - {DONE, FAILED, REFUSED, -9}:
                    wrong.append(f"{out}: a writer ended with {ends}")
                finished, faults = clean(store, out, reference)
                counts["looks at an unfinished run"] += not finished
                wrong += [f"{out}: {fault}" for fault in faults if finished or "passes" in fault]
                if finished and DONE in ends and (kind != "rival" or attempt):
                    counts["finished"] += 1
                    break
            else:
                wrong.append(f"{out}: not finished in {ATTEMPTS} attempts")
            if run % 10 == 9:
                print(f"{run + 1} runs, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        seconds = time.monotonic() - start
    for line in wrong:
        print(line, file=sys.stderr)
    told = ", ".join(f"{what} {count}" for what, count in sorted(counts.items()))
    injected = ", ".join(f"{fault} {proxy.seen[fault]}" for fault in FAULTS)
    print(f"{options.runs} runs in {seconds:.0f} s: {told}; {len(wrong)} wrong")
    print(f"requests passed {proxy.seen['passed']}, injected: {injected}")
    server.stop()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

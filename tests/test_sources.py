"""Checkpoints of a hub: a small one on this machine that answers as the real one does."""

import functools
import hashlib
import json
import shutil
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest

from synthaug.cli import main
from synthaug.diffusion import load_checkpoint
from synthaug.diffusion.sources import at_revision, license_of
from synthaug.errors import CheckpointError, DiskFullError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
README = "---\nlicense: creativeml-openrail-m\ntags: [x]\n---\n\n# A checkpoint\n"


@pytest.fixture(scope="module")
def repository(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A foreign checkpoint with a README, as the hub has them."""
    folder = tmp_path_factory.mktemp("repository") / "name"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "synthaug.json").unlink()
    (folder / "README.md").write_text(README)
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x" * 500_000)  # not what is read
    return folder


@pytest.fixture
def hub(repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """The hub's answers for owner/name at revisions main and v1; the paths that were asked for."""
    import huggingface_hub
    from huggingface_hub import constants

    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            asked.append(f"{self.command} {path}")
            if path in (f"/api/models/owner/name/revision/{name}" for name in ("main", "v1")):
                self.answer(json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": []}).encode())
            elif path == f"/api/models/owner/name/tree/{COMMIT}":
                files = [file for file in repository.rglob("*") if file.is_file()]
                self.answer(json.dumps([self.entry(file) for file in files]).encode())
            elif path.startswith(start := f"/owner/name/resolve/{COMMIT}/"):
                content = (repository / path.removeprefix(start)).read_bytes()
                self.answer(content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'})
            else:
                self.answer(b"", {"X-Error-Code": "RevisionNotFound"}, 404)

        do_HEAD = do_GET

        def entry(self, file: Path) -> dict:
            oid = hashlib.sha1(file.read_bytes()).hexdigest()
            name = file.relative_to(repository).as_posix()
            return {"type": "file", "path": name, "size": file.stat().st_size, "oid": oid}

        def answer(self, body: bytes, more: dict[str, str] | None = None, status: int = 200) -> None:
            self.send_response(status)
            for name, value in {"X-Repo-Commit": COMMIT, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            for name, value in (more or {}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    for name in ("snapshot_download", "hf_hub_download"):
        there = functools.partial(getattr(huggingface_hub, name), endpoint=endpoint, cache_dir=cache)
        monkeypatch.setattr(huggingface_hub, name, there)
    yield asked
    server.shutdown()
    server.server_close()


def quietly(model: str) -> list[str]:
    """What loading a foreign checkpoint says about its download."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_checkpoint(model, "cpu", "float32")
    return [str(w.message) for w in caught if "download" in str(w.message)]


def test_the_size_is_said_once_and_only_what_is_read_is_fetched(hub: list[str], repository: Path) -> None:
    said = quietly("owner/name")
    read = [p for p in repository.rglob("*") if p.is_file() and p.suffix != ".bin"]
    size = sum(path.stat().st_size for path in read)
    assert len(said) == 1 and f"--model owner/name: downloading {size / 1e6:.2f} MB into" in said[0]
    assert not any(line.endswith(".bin") for line in hub)
    hub.clear()
    assert quietly("owner/name") == []
    assert not any("/resolve/" in line for line in hub)


def test_a_revision_is_asked_for_and_stays_in_the_name(hub: list[str]) -> None:
    with pytest.warns(UserWarning, match="owner/name@v1"):
        checkpoint = load_checkpoint("owner/name@v1", "cpu", "float32")
    assert checkpoint.name == "owner/name@v1" and checkpoint.card.license == "creativeml-openrail-m"
    assert "GET /api/models/owner/name/revision/v1" in hub


def test_a_revision_that_does_not_exist_is_named(hub: list[str]) -> None:
    with pytest.raises(CheckpointError, match=r"owner/name@v7: .* no revision v7 of it"):
        load_checkpoint("owner/name@v7")
    assert hub


@pytest.mark.usefixtures("hub")
def test_a_download_that_does_not_fit_is_refused_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DiskFullError, match=r"a download of [\d.]+ MB, found 0.00 MB free .* set HF_HOME"):
        load_checkpoint("owner/name")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_the_flag_is_for_hub_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert at_revision("owner/name", "v1") == "owner/name@v1" and at_revision("embedded", None) == "embedded"
    for model in ("embedded", str(tmp_path), "owner/name@main"):
        with pytest.raises(CheckpointError, match="belongs to a hub id"):
            at_revision(model, "v1")
    out = str(tmp_path / "out")
    assert main(["insert", "--label", "edema", "--revision", "v1", "--out", out]) == 2
    assert "--revision v1: belongs to a hub id" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "license"),
    [
        (README, "creativeml-openrail-m"),
        ("---\nlicense: other\nlicense_name: gemma\n---\n", "gemma"),
        ("# no front matter", ""),
        ("---\nlicense: [a, b]\n---\n", ""),
        ("---\n: :\n  - {\n---\n", ""),
        ("---\nunfinished", ""),
    ],
)
def test_the_licence_is_that_of_the_front_matter(tmp_path: Path, text: str, license: str) -> None:
    (tmp_path / "README.md").write_text(text)
    assert license_of(tmp_path) == license
    assert license_of(tmp_path / "nowhere") == ""

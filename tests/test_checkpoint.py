"""Checkpoints: what is saved is what is loaded, and each way in which a folder can be wrong."""

import json
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from tiny_checkpoint import SIZE, tiny_card, tiny_parts

from synthaug.diffusion import Base, CheckpointCard, load_checkpoint, save_checkpoint
from synthaug.diffusion import checkpoint as room
from synthaug.diffusion.device import choose_device, choose_dtype
from synthaug.errors import CheckpointError, UserError
from synthaug.findings import FINDINGS


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint of the test's own, to be broken."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "mine"))


def edit(path: Path, change: Callable[[dict], None]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    parts = tiny_parts()
    card = tiny_card(base=Base(name="other/one", sha256="0" * 64), attribution="drawn")
    before = {name: weight.clone() for name, weight in parts["unet"].named_parameters()}
    save_checkpoint(tmp_path / "c", **parts, card=card)
    assert all(torch.equal(weight, before[name]) for name, weight in parts["unet"].named_parameters())
    loaded = load_checkpoint(tmp_path / "c", device="cpu", dtype="float32")
    assert loaded.card == card
    assert (loaded.name, loaded.findings, loaded.image_size) == ("c", card.findings, SIZE)
    assert loaded.scheduler_config["_class_name"] == "DDIMScheduler"
    for component in ("unet", "vae", "text_encoder"):
        saved, model = parts[component].state_dict(), getattr(loaded, component)
        assert model.training is False and not any(p.requires_grad for p in model.parameters())
        assert model.dtype is torch.float32
        for name, weight in model.state_dict().items():
            assert torch.equal(
                weight, saved[name].half().float() if weight.is_floating_point() else saved[name]
            )
    assert loaded.tokenizer("pleural effusion").input_ids == parts["tokenizer"]("pleural effusion").input_ids


def test_what_was_loaded_from_a_folder_is_saved_without_its_path(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = room.save_as_saved(tmp_path / "again", load_checkpoint(tiny_checkpoint, "cpu", "float32"))
    texts = {path.name: path.read_text() for path in out.rglob("*.json")}
    assert len(texts) >= 5
    assert not [name for name, text in texts.items() if str(tiny_checkpoint.parent) in text]


def test_saving_again_gives_the_same_bytes_and_replaces_the_old(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    target = tmp_path / "tiny"
    target.mkdir()
    (target / "state.safetensors").write_bytes(b"training state")
    for steps in (9, 4):
        save_checkpoint(target, **tiny_parts(), card=tiny_card(num_inference_steps=steps))
    theirs = {
        p.relative_to(tiny_checkpoint): p.read_bytes() for p in tiny_checkpoint.rglob("*") if p.is_file()
    }
    ours = {p.relative_to(target): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert ours.pop(Path("state.safetensors")) == b"training state"
    assert ours == theirs


def test_what_a_tokenizer_was_asked_last_is_not_saved(tmp_path: Path) -> None:
    parts = tiny_parts()
    unused = save_checkpoint(tmp_path / "unused", **parts, card=tiny_card())
    backend = parts["tokenizer"].backend_tokenizer
    parts["tokenizer"](["clear"], padding="max_length", truncation=True, max_length=9)
    asked = backend.padding, backend.truncation
    assert asked[0]["length"] == asked[1]["max_length"] == 9
    used = save_checkpoint(tmp_path / "used", **parts, card=tiny_card())
    assert (backend.padding, backend.truncation) == asked, "the caller's tokenizer is left as it is"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (used / "tokenizer" / name).read_bytes() == (unused / "tokenizer" / name).read_bytes()
    assert load_checkpoint(used, "cpu").sha256 == load_checkpoint(unused, "cpu").sha256


def test_weights_are_in_shards_that_diffusers_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SHARD_SIZE", "60KB")
    save_checkpoint(tmp_path / "c", **tiny_parts(), card=tiny_card())
    shards = list((tmp_path / "c" / "unet").glob("*.safetensors"))
    assert len(shards) > 3
    ours = load_checkpoint(tmp_path / "c", device="cpu", dtype="float32")
    theirs = StableDiffusionPipeline.from_pretrained(tmp_path / "c").to(dtype=torch.float32)
    for name, weight in theirs.unet.state_dict().items():
        assert torch.equal(weight, ours.unet.state_dict()[name])
    shards[0].unlink()
    with pytest.raises(CheckpointError, match=shards[0].name):
        load_checkpoint(tmp_path / "c")


def test_identity_is_of_the_numbers_not_of_the_card(folder: Path) -> None:
    first = load_checkpoint(folder).sha256
    (folder / "README.md").write_text("words")
    edit(folder / "synthaug.json", lambda card: card.update(num_inference_steps=7))
    assert load_checkpoint(folder).sha256 == first
    edit(folder / "scheduler" / "scheduler_config.json", lambda config: config.update(beta_end=0.013))
    assert load_checkpoint(folder).sha256 != first


def test_not_finite_weights_are_not_written(tmp_path: Path) -> None:
    parts = tiny_parts()
    with torch.no_grad():
        parts["unet"].conv_in.weight[0] = 1e6
    with pytest.raises(CheckpointError, match=r"unet: weight conv_in\.weight"):
        save_checkpoint(tmp_path / "c", **parts, card=tiny_card())
    assert not (tmp_path / "c" / "model_index.json").exists()


def test_a_foreign_folder_takes_any_finding_with_a_warning(folder: Path) -> None:
    (folder / "synthaug.json").unlink()
    with pytest.warns(UserWarning, match="any finding is accepted"):
        loaded = load_checkpoint(folder)
    assert loaded.findings == FINDINGS and loaded.image_size == SIZE


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_component_is_named(folder: Path, component: str) -> None:
    shutil.rmtree(folder / component)
    with pytest.raises(CheckpointError, match=component):
        load_checkpoint(folder)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_component_that_the_index_does_not_name(folder: Path, component: str) -> None:
    edit(folder / "model_index.json", lambda index: index.pop(component))
    with pytest.raises(CheckpointError, match=f"names no {component}"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "component, entry",
    [
        ("unet", ["my_module", "Evil"]),
        ("unet", ["diffusers", "UNet3DConditionModel"]),
        ("text_encoder", ["transformers", "AutoModel"]),
        ("scheduler", ["diffusers", "FlowMatchEulerDiscreteScheduler"]),
    ],
)
def test_classes_outside_the_list_are_refused(folder: Path, component: str, entry: list[str]) -> None:
    edit(folder / "model_index.json", lambda index: index.update({component: entry}))
    with pytest.raises(CheckpointError, match=f"{component} is {entry[0]}.{entry[1]}"):
        load_checkpoint(folder)


def test_pickle_weights_are_refused_with_the_way_to_convert(folder: Path) -> None:
    home = folder / "unet"
    torch.save({}, home / "diffusion_pytorch_model.bin")
    (home / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.bin.*save_pretrained"):
        load_checkpoint(folder)


def test_a_single_file_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match=r"found model\.ckpt.*from_single_file"):
        load_checkpoint(tmp_path)


def test_a_text_encoder_bin_is_read_as_weights_only(folder: Path, tmp_path: Path) -> None:
    home = folder / "text_encoder"
    expected = load_checkpoint(folder, dtype="float32").text_encoder.state_dict()
    (home / "model.safetensors").unlink()
    torch.save(expected, home / "pytorch_model.bin")
    loaded = load_checkpoint(folder, dtype="float32").text_encoder.state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in expected.items())

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"weight": Evil()}, home / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="text_encoder: cannot be read"):
        load_checkpoint(folder)
    assert not (tmp_path / "ran").exists()


def test_a_damaged_file_and_a_missing_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="vae: cannot be read"):
        load_checkpoint(folder)
    weights.write_bytes(whole)
    tensors = load_file(weights)
    tensors.pop("decoder.conv_out.weight")
    save_file(tensors, weights)
    with pytest.raises(CheckpointError, match=r"decoder\.conv_out\.weight"):
        load_checkpoint(folder)


def test_components_that_do_not_fit_each_other(folder: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    AutoencoderKL(
        in_channels=2, out_channels=2, latent_channels=4, norm_num_groups=4, block_out_channels=(8,)
    ).save_pretrained(folder / "vae")
    with pytest.raises(CheckpointError, match=r"2 channels, expected 1 .grey. or 3"):
        load_checkpoint(folder)
    AutoencoderKL(latent_channels=8, norm_num_groups=4, block_out_channels=(8,)).save_pretrained(
        folder / "vae"
    )
    with pytest.raises(CheckpointError, match="unet has 4 channels in"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"schema": 9}, "schema 9"),
        ({"colour": "grey"}, "colour"),
        ({"image_size": -1}, "image_size"),
        ({"guidance_interval": [0.7, 0.2]}, "guidance_interval"),
    ],
)
def test_a_wrong_card_names_the_field(folder: Path, change: dict, message: str) -> None:
    edit(folder / "synthaug.json", lambda card: card.update(change))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_card_goes_through_json() -> None:
    card = tiny_card(base=Base(name="a", sha256="b"))
    assert CheckpointCard.from_json(json.loads(json.dumps(card.to_json())), "here") == card
    assert card.to_json()["schema"] == 1
    assert not {"license", "refused", "tokens"} & card.to_json().keys()
    named = tiny_card(
        base=Base(name="a", sha256="b", license="openrail"), license="openrail", refused={"edema": "why"}
    )
    assert CheckpointCard.from_json(json.loads(json.dumps(named.to_json())), "here") == named


def test_unreadable_index_and_no_such_folder(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"model_index\.json"):
        load_checkpoint(folder)
    with pytest.raises(CheckpointError, match="no such folder"):
        load_checkpoint("/no/such/folder")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """A hub on this machine that answers every request with one status."""
    import huggingface_hub
    from huggingface_hub import constants

    status, codes = [404], {403: "GatedRepo", 404: "RepoNotFound"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status[0])
            if status[0] in codes:
                self.send_header("X-Error-Code", codes[status[0]])
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        at(huggingface_hub.snapshot_download, server, tmp_path / "cache"),
    )
    yield lambda code: status.__setitem__(0, code)
    server.shutdown()
    server.server_close()


def at(function: Callable, server: HTTPServer, cache: Path) -> Callable:
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    return lambda *args, **kwargs: function(*args, endpoint=endpoint, cache_dir=cache, **kwargs)


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_hub_id_names_the_licence_page_and_the_token(hub: Callable[[int], None], status: int) -> None:
    hub(status)
    with pytest.raises(
        CheckpointError, match=r"https://huggingface.co/owner/gated and set HF_TOKEN"
    ) as caught:
        load_checkpoint("owner/gated")
    assert caught.value.exit_code == 2


def test_a_hub_id_that_does_not_exist(hub: Callable[[int], None]) -> None:
    hub(404)
    with pytest.raises(CheckpointError, match="no such repository"):
        load_checkpoint("owner/nothing")


def test_a_hub_that_fails_is_not_called_absent(hub: Callable[[int], None]) -> None:
    hub(503)
    with pytest.raises(CheckpointError, match="status 503"):
        load_checkpoint("owner/name")


def test_a_hub_id_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    original = huggingface_hub.snapshot_download
    nowhere = {"endpoint": "http://127.0.0.1:9", "cache_dir": tmp_path}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: original(*a, **nowhere, **k))
    with pytest.raises(CheckpointError, match="no network") as caught:
        load_checkpoint("owner/name")
    assert caught.value.exit_code == 2


def test_a_hub_snapshot_is_read_like_a_folder(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    fake = lambda *_, dry_run=False, **__: [] if dry_run else str(tiny_checkpoint)  # noqa: E731
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    loaded = load_checkpoint("owner/name")
    assert loaded.name == "owner/name" and loaded.sha256 == load_checkpoint(tiny_checkpoint).sha256


def test_loading_is_silent(tiny_checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(tiny_checkpoint)
    assert capfd.readouterr() == ("", "")


def test_device_and_dtype() -> None:
    cpu = choose_device("cpu")
    assert choose_dtype(cpu, "bfloat16") is torch.bfloat16
    assert choose_dtype(torch.device("mps")) is torch.float32
    for wrong in ("gpu", "cuda:99", "cpu:x"):
        with pytest.raises(UserError, match=wrong):
            choose_device(wrong)
    with pytest.raises(UserError, match="float64"):
        choose_dtype(cpu, "float64")


def test_processor_probe_reads_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    from synthaug.diffusion import device

    for flags, expected in (("fpu avx2", torch.float32), ("fpu amx_bf16", torch.bfloat16)):
        device.processor_has_bfloat16.cache_clear()
        monkeypatch.setattr(Path, "read_text", lambda *_, flags=flags: f"flags : {flags}\n")
        assert choose_dtype(torch.device("cpu")) is expected
    device.processor_has_bfloat16.cache_clear()

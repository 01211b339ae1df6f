"""Films a second of `adapt` beside the loop of diffusers' `train_text_to_image.py`, at equal batch and precision.

    python benchmarks/adapt_vs_diffusers.py [--model embedded | --sd15] [--batch-size 4] [--steps 6] [--rounds 3]
        [--device cpu|cuda] [--precision float32|bfloat16|bfloat16-weights] [--compile] [--no-ema]

Both train the whole U-Net with AdamW, clipping, and a moving average, on noise as films. The plain loop is that of the
script, step for step: encode the pixels, draw noise, encode the text, predict, step, average. Ours reads latents and text
embeddings that were computed once; that is most of the difference, and it is counted apart as "encode once". `--sd15`
builds Stable Diffusion 1.5's U-Net, autoencoder and text encoder at true size with random weights (512 px); nothing is
downloaded. Rounds alternate; the first step of a round is not timed. With bfloat16-weights, ours holds bfloat16 copies of its
float32 masters and the plain loop stays with autocast, as the script does. --processor-time counts this process's time in
place of the clock's, for a machine that others share.

At SD 1.5 size a training sample costs about 2,407 GFLOP (forward and backward of the U-Net at 64 x 64), from which the share of
peak is printed when --peak names the device's TFLOP/s.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from comparison import Comparison, parser, show
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from transformers import CLIPTextConfig, CLIPTextModel

from synthaug.adaptation import latents
from synthaug.adaptation.captions import CaptionRecipe
from synthaug.adaptation.denoising import DiffusionRecipe, DiffusionRoute, TextToNoise
from synthaug.adaptation.latents import AugmentationRecipe
from synthaug.adaptation.loop import Training
from synthaug.adaptation.route import HALF, Execution
from synthaug.adaptation.small_text_encoder import train_tokenizer
from synthaug.diffusion import load_checkpoint
from synthaug.prompts import words
from synthaug.record import Record

GFLOP_A_SAMPLE = 2407.0


def clock(how: argparse.Namespace) -> float:
    """Seconds, of the clock or of this process's processors."""
    return time.process_time() if how.processor_time else time.perf_counter()


def sd15() -> dict[str, Any]:
    """Stable Diffusion 1.5 at true size, random weights; the tokenizer is a small one, its texts are as long."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=64,
        cross_attention_dim=768,
        attention_head_dim=8,
        block_out_channels=(320, 640, 1280, 1280),
    )
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=512,
    )
    text = CLIPTextModel(
        CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    )
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    return {
        "unet": unet,
        "vae": vae,
        "text": text,
        "scheduler": scheduler,
        "size": 512,
        "tokenizer": train_tokenizer(words(), 77),
    }


def loaded(model: str) -> dict[str, Any]:
    """The parts of a checkpoint, float32."""
    base = load_checkpoint(model, "cpu", "float32")
    scheduler = DDPMScheduler.from_config(base.scheduler_config, clip_sample=False)
    parts = {"unet": base.unet, "vae": base.vae, "text": base.text_encoder, "scheduler": scheduler}
    return {**parts, "size": base.image_size, "tokenizer": base.tokenizer}


def plain(
    parts: dict[str, Any], films: torch.Tensor, texts: list[str], how: argparse.Namespace
) -> Iterator[float]:
    """diffusers' loop; yields the seconds of each step."""
    precision = "bfloat16" if how.precision == HALF else how.precision
    accelerator = Execution(device=how.device, precision=precision).accelerator()
    unet, vae, text, scheduler = (parts[name] for name in ("unet", "vae", "text", "scheduler"))
    unet.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-5)
    rate = get_scheduler("constant", optimizer)
    average = (
        EMAModel(unet.parameters(), model_cls=UNet2DConditionModel, model_config=unet.config)
        if how.ema
        else None
    )
    unet, optimizer, rate = accelerator.prepare(unet, optimizer, rate)
    weights = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    vae.to(accelerator.device, dtype=weights)
    text.to(accelerator.device, dtype=weights)
    if average:
        average.to(accelerator.device)
    tokenizer = parts["tokenizer"]
    for step in range(how.steps + 1):
        begun = clock(how)
        chosen = [(step * how.batch_size + i) % len(films) for i in range(how.batch_size)]
        pixels = films[chosen].to(accelerator.device, weights)
        ids = tokenizer(
            [texts[i] for i in chosen], padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            z = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
            hidden = text(ids.to(accelerator.device), return_dict=False)[0]
        noise = torch.randn_like(z)
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(z),), device=z.device)
        noisy = scheduler.add_noise(z, noise, timesteps)
        target = (
            noise
            if scheduler.config.prediction_type == "epsilon"
            else scheduler.get_velocity(z, noise, timesteps)
        )
        predicted = unet(noisy, timesteps, hidden, return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(predicted.float(), target.float())
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        if average:
            average.step(unet.parameters())
        loss.item()
        yield clock(how) - begun


def ours(
    parts: dict[str, Any], films: torch.Tensor, texts: list[str], how: argparse.Namespace
) -> Iterator[float]:
    """The package's loop; the first number is the encoding of all films, the others are steps."""
    accelerator: Accelerator = Execution(device=how.device, precision=how.precision).accelerator()
    unet, vae, text = (parts[name] for name in ("unet", "vae", "text"))
    unet.requires_grad_(True).train(False)
    for model in (vae, text):
        model.to(accelerator.device, dtype=torch.float32)
    records = [Record(str(i), {}, prompt=words) for i, words in enumerate(texts)]
    grey = ((films[:, :1] + 1) * 127.5).round().to(torch.uint8).numpy()

    @torch.no_grad()
    def encode(pixels: torch.Tensor) -> torch.Tensor:
        wide = pixels.to(accelerator.device).expand(-1, vae.config.in_channels, -1, -1)
        return (vae.encode(wide).latent_dist.mean * vae.config.scaling_factor).cpu()

    with tempfile.TemporaryDirectory() as folder:
        begun = clock(how)
        cached = latents.cache(
            Path(folder),
            grey,
            grey.shape[-1],
            encode,
            "benchmark",
            AugmentationRecipe(copies=1),
            accelerator.device,
            how.batch_size,
        )
        yield clock(how) - begun
        module = TextToNoise(unet, text.requires_grad_(False), how.compile).to(accelerator.device)
        recipe = DiffusionRecipe(steps=how.steps + 1, batch_size=how.batch_size, learning_rate=1e-5)
        captions = CaptionRecipe(dropout=0.0)
        route = DiffusionRoute(
            module, parts["tokenizer"], parts["scheduler"], cached, records, recipe, captions
        )
        half = how.precision == HALF
        training = Training(route, recipe, Path(folder) / "state", {}, accelerator, half=half)
        training.save = lambda: None  # type: ignore[method-assign]  # the plain loop saves nothing either
        begun = clock(how)
        for _ in training.run():
            yield clock(how) - begun
            begun = clock(how)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser(__doc__)
    given.add_argument("--model", default="embedded")
    given.add_argument("--sd15", action="store_true")
    given.add_argument("--batch-size", type=int, default=4)
    given.add_argument("--steps", type=int, default=6)
    given.add_argument("--rounds", type=int, default=3)
    given.add_argument("--device", default="auto")
    given.add_argument("--precision", choices=["float32", "bfloat16", HALF])
    given.add_argument("--compile", action="store_true")
    given.add_argument("--processor-time", action="store_true")
    given.add_argument("--no-ema", dest="ema", action="store_false")
    given.add_argument(
        "--peak", type=float, help="TFLOP/s of the device, for the share of peak at SD 1.5 size"
    )
    return given.parse_args(argv)


def compare(how: argparse.Namespace) -> list[Comparison]:
    rates: dict[str, list[float]] = {"plain": [], "ours": []}
    once = []
    for _ in range(how.rounds):
        for name, loop in (("plain", plain), ("ours", ours)):
            parts = sd15() if how.sd15 else loaded(how.model)
            channels, size = parts["vae"].config.in_channels, parts["size"]
            generator = torch.Generator().manual_seed(0)
            grey = torch.rand((2 * how.batch_size, 1, size, size), generator=generator) * 2 - 1
            films = grey.expand(-1, channels, -1, -1).contiguous()
            texts = [
                f"chest radiograph, {view} view: pleural effusion" for view in ("PA", "AP")
            ] * how.batch_size
            times = list(loop(parts, films, texts, how))
            if name == "ours":
                once.append(times.pop(0) / len(films))
            rates[name].append(how.batch_size / statistics.median(times[1:]))
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    notes = {"encode once": f"{statistics.median(once):.3f} s a film"}
    if how.sd15 and how.peak:
        notes["share of peak"] = f"{statistics.median(rates['ours']) * GFLOP_A_SAMPLE / 1e3 / how.peak:.3f}"
    setting = (
        f"{'SD 1.5 size' if how.sd15 else how.model}, {how.device}, {how.precision or 'default precision'}, "
        f"batch {how.batch_size}, {how.steps} steps a round"
    )
    fast, slow = tuple(rates["ours"]), tuple(rates["plain"])
    return [Comparison("adapt", "train_text_to_image loop", "films/s", fast, slow, setting, notes)]


if __name__ == "__main__":
    show(compare(arguments()))

"""A real checkpoint of 100,000 random weights: every component, from one seed, written in a second."""

import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from synthaug.diffusion import CheckpointCard, save_checkpoint
from synthaug.prompts import words

SIZE = 32
LATENTS = 4


def tiny_tokenizer() -> CLIPTokenizer:
    """One token a letter, `</w>` at the end of a word: enough for any prompt, with no merges."""
    letters = sorted(set("".join(words()).lower()) | set("abcdefghijklmnopqrstuvwxyz0123456789,.'-_"))
    letters = [letter for letter in letters if not letter.isspace()]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def tiny_parts(
    image_channels: int = 1, prediction_type: str = "v_prediction", zero_snr: bool = True
) -> dict[str, Any]:
    """Components as `save_checkpoint` takes them; 32 x 32 images, 8 x 8 latents of 4 channels."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    vae = AutoencoderKL(
        in_channels=image_channels,
        out_channels=image_channels,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        latent_channels=LATENTS,
        norm_num_groups=4,
        sample_size=SIZE,
        scaling_factor=0.7,
    )
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=LATENTS,
        out_channels=LATENTS,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=4,
    )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=zero_snr,
        timestep_spacing="trailing" if zero_snr else "leading",
        clip_sample=False,
        steps_offset=1,
    )
    encoder = CLIPTextModel(text).eval()
    return {"unet": unet, "vae": vae, "text_encoder": encoder, "tokenizer": tokenizer, "scheduler": scheduler}


def tiny_card(**changes: Any) -> CheckpointCard:
    """Knows `no_finding` and `pleural_effusion`; few steps, guidance in the first half."""
    facts: dict[str, Any] = {
        "findings": ("no_finding", "pleural_effusion"),
        "views": ("PA", "AP"),
        "image_size": SIZE,
        "route": "from_scratch",
        "guidance_scale": 2.0,
        "guidance_interval": (0.0, 0.5),
        "num_inference_steps": 4,
    }
    return CheckpointCard(**(facts | changes))


def build(folder: Path, card: CheckpointCard | None = None, **options: Any) -> Path:
    """Write the checkpoint and return its folder."""
    return save_checkpoint(folder, **tiny_parts(**options), card=card or tiny_card())


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))

"""The U-Net route: the diffusion loss of Stable Diffusion on cached latents and freshly drawn captions.

    L = E w(t) || f(a_t z + s_t e, t, text) - target ||^2

with target e (epsilon) or a_t e - s_t z (v-prediction, Salimans and Ho 2022, arXiv:2202.00512), as the
checkpoint's scheduler says; w is 1, or min-SNR (Hang et al. 2023, arXiv:2303.09556). Timesteps are stratified
over the batch, which lowers the variance of the loss at no cost (Kingma et al. 2021, arXiv:2107.00630).
Latents are scaled, `(B, C, h, w)`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from pydantic import Field
from torch import Tensor, nn
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from synthaug.adaptation import captions
from synthaug.adaptation.captions import CaptionRecipe
from synthaug.adaptation.loop import LoopRecipe, draws, share
from synthaug.record import Record


class DiffusionRecipe(LoopRecipe):
    """One leg of training at one image size."""

    min_snr: float | None = Field(default=None, gt=0)
    balance: dict[str, float] = Field(default_factory=dict)


class NoisyBatch(NamedTuple):
    """Latents, noise, timesteps and token ids (B, length) of one step."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    tokens: Tensor


class TextToNoise(nn.Module):
    """Text encoder and U-Net as one module, so that one optimizer and one moving average hold both."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, compiled: bool = False):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        if compiled:
            # Plain attention compiles into fused loops; the backward of the fused kernel is slow on a CPU.
            unet.set_attn_processor(AttnProcessor())
        self._predict = torch.compile(self._denoise) if compiled else self._denoise

    def forward(self, latents: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """The U-Net's prediction, (B, C, h, w)."""
        hidden = self.text_encoder(tokens).last_hidden_state
        return self._predict(latents, timesteps, hidden)

    def _denoise(self, latents: Tensor, timesteps: Tensor, hidden: Tensor) -> Tensor:
        return self.unet(latents, timesteps, hidden, return_dict=False)[0]


class DiffusionRoute:
    """Draws films, copies, captions, noise and timesteps as functions of (seed, step); computes the loss.

    Args:
        module: what is trained.
        tokenizer: of the text encoder.
        scheduler: noise schedule and prediction type of the checkpoint.
        latents: float16 (N, copies, C, h, w) from `latents.cache`.
        records: the N films' records.
        recipe: lengths and weights; `balance` multiplies how often films with a finding are drawn.
        caption_recipe: how captions are drawn.
    """

    def __init__(
        self,
        module: TextToNoise,
        tokenizer: PreTrainedTokenizerBase,
        scheduler: DDPMScheduler,
        latents: Tensor,
        records: Sequence[Record],
        recipe: DiffusionRecipe,
        caption_recipe: CaptionRecipe,
    ):
        self.players: dict[str, nn.Module] = {"unet": module}
        self.recipe, self.caption_recipe = recipe, caption_recipe
        self.latents, self.records = latents, records
        self.tokenize: Callable[[list[str]], Tensor] = lambda texts: (
            tokenizer(
                texts,
                padding="max_length",
                truncation=True,
                max_length=tokenizer.model_max_length,
                return_tensors="pt",
            ).input_ids
        )
        self.prediction = scheduler.config.prediction_type
        self.steps = scheduler.config.num_train_timesteps
        kept = scheduler.alphas_cumprod.double()
        self.alpha, self.sigma = kept.sqrt().float(), (1 - kept).sqrt().float()
        self.weights = torch.tensor([self._weight(record) for record in records], dtype=torch.double)

    def _weight(self, record: Record) -> float:
        factors = [
            factor for finding, factor in self.recipe.balance.items() if record.labels.get(finding) == 1
        ]
        return max(factors, default=1.0)

    def batch(self, step: int, rank: int, world: int) -> NoisyBatch:
        """This process's share of the batch of `step`."""
        size, generator = self.recipe.batch_size, draws(self.recipe.seed, step)
        films = torch.multinomial(self.weights, size, replacement=True, generator=generator)
        copies = torch.randint(self.latents.shape[1], (size,), generator=generator)
        latents = self.latents[films, copies].float()
        noise = torch.randn(latents.shape, generator=generator)
        strata = (torch.arange(size) + torch.rand((), generator=generator)) / size
        timesteps = (strata * self.steps).long()
        texts = [captions.draw(self.records[film], self.caption_recipe, generator) for film in films.tolist()]
        own = share(size, rank, world)
        device = next(self.players["unet"].parameters()).device
        parts = (latents[own], noise[own], timesteps[own], self.tokenize(texts)[own])
        return NoisyBatch(*(part.to(device) for part in parts))

    def loss(self, player: str, batch: NoisyBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted mean squared error, with its noisiest and cleanest quarter as figures."""
        latents, noise, timesteps, tokens = batch
        alpha = self.alpha.to(latents.device)[timesteps][:, None, None, None]
        sigma = self.sigma.to(latents.device)[timesteps][:, None, None, None]
        noisy = alpha * latents + sigma * noise
        target = noise if self.prediction == "epsilon" else alpha * noise - sigma * latents
        predicted = self.players[player](noisy, timesteps, tokens)
        error = (predicted.float() - target).square().mean((1, 2, 3))
        quarter = 4 * timesteps // self.steps
        figures = {
            name: error.detach()[quarter == q].mean()
            for name, q in (("clean", 0), ("noisy", 3))
            if (quarter == q).any()
        }
        return (error * self._importance(timesteps)).mean(), figures

    def _importance(self, timesteps: Tensor) -> Tensor:
        alpha, sigma = (value.to(timesteps.device)[timesteps] for value in (self.alpha, self.sigma))
        if self.recipe.min_snr is None:
            return torch.ones_like(alpha)
        ratio = (alpha / sigma).square()
        divisor = ratio if self.prediction == "epsilon" else ratio + 1
        return ratio.clamp(max=self.recipe.min_snr) / divisor.clamp(min=1e-8)

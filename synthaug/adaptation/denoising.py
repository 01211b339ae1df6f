"""The diffusion loss of Stable Diffusion on cached latents and freshly drawn captions.

    L = E w(t) || f(a_t z + s_t e, t, text) - target ||^2

with target e (epsilon) or a_t e - s_t z (v-prediction, Salimans and Ho 2022, arXiv:2202.00512), as the
checkpoint's scheduler says; w is 1, or min-SNR (Hang et al. 2023, arXiv:2303.09556). Timesteps are uniform, or part of
them log-normal in the noise level s_t / a_t (Karras et al. 2022, EDM, arXiv:2206.00364), which puts work where detail is
decided. They are stratified over the batch, which lowers the variance of the loss at no cost (Kingma et al. 2021,
arXiv:2107.00630). Latents are scaled, `(B, C, h, w)`.

Offset noise adds one normal number for each channel of a film to its noise, so that a model without zero-terminal
SNR still learns to change the brightness of a whole film. A prior (Ruiz et al. 2023, DreamBooth, arXiv:2208.12242)
is a set of films of what the base could draw before, mixed into each batch so that it is not forgotten.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from threading import Lock
from typing import Any, NamedTuple

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.resnet import ResnetBlock2D
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from synthaug.adaptation import captions
from synthaug.adaptation.batches import draws, share
from synthaug.adaptation.captions import CaptionRecipe
from synthaug.adaptation.embeddings import reader
from synthaug.adaptation.loop import LoopRecipe
from synthaug.recipes import Recipe
from synthaug.record import Record

KEPT_TEXTS = 20_000  # embeddings of a frozen text encoder that are kept; 77 x 768 floats are 0.24 MB


class LogNormal(Recipe):
    """Timesteps whose noise level sigma / alpha is log-normal: `mean` and `std` of its logarithm.

    `share` of the timesteps are drawn so, the others uniformly: pure noise, where sampling begins, has to be learnt too.
    """

    mean: float
    std: float = Field(gt=0)
    share: float = Field(default=0.75, gt=0, le=1)


class DiffusionRecipe(LoopRecipe):
    """One leg of training at one image size; `dropout` is that of the U-Net's residual blocks while they learn."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    min_snr: float | None = Field(default=None, gt=0)
    log_normal: LogNormal | None = None
    balance: dict[str, float] = Field(default_factory=dict)


class NoisyBatch(NamedTuple):
    """Latents, noise, timesteps, text (token ids, or embeddings of a frozen encoder) and weight of each film."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    text: Tensor
    weights: Tensor


class TextToNoise(nn.Module):
    """Text encoder and U-Net as one module, so that one optimizer and one moving average hold both."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: nn.Module, compiled: bool = False):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        if compiled and not torch.cuda.is_available():
            # Plain attention compiles into fused loops; the backward of the fused kernel is slow on a CPU.
            unet.set_attn_processor(AttnProcessor())
        self._predict = torch.compile(self._denoise) if compiled else self._denoise

    @property
    def frozen_text(self) -> bool:
        """Whether a text has the same embedding in every step."""
        return not any(p.requires_grad for p in self.text_encoder.parameters())

    def forward(self, latents: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """The U-Net's prediction, (B, C, h, w); `text` is token ids (B, length) or embeddings (B, length, width)."""
        kind = self.unet.dtype
        # Weights that are halved already are multiplied as they are; autocast would cast around each operation.
        whole = kind == torch.float32
        with nullcontext() if whole else torch.autocast(latents.device.type, enabled=False):
            hidden = text if text.is_floating_point() else self.text_encoder(text).last_hidden_state
            return self._predict(latents.to(kind), timesteps, hidden.to(kind))

    def _denoise(self, latents: Tensor, timesteps: Tensor, hidden: Tensor) -> Tensor:
        return self.unet(latents, timesteps, hidden, return_dict=False)[0]


class DiffusionRoute:
    """Draws films, copies, captions, noise and timesteps as functions of (seed, step); computes the loss.

    Args:
        module: what is trained.
        tokenizer: of the text encoder.
        scheduler: noise schedule and prediction type of the checkpoint.
        latents: float16 (N, copies, C, h, w) from `latents.cache`; (N, copies, 2 C, h, w) with `moments`.
        records: the N films' records.
        recipe: lengths and weights; `balance` multiplies how often films with a finding are drawn.
        caption_recipe: how captions are drawn.
        offset_noise: standard deviation of the noise that a whole channel shares.
        train: which of the films are drawn, by index; all when None.
        prior: which films are the prior, by index; their records hold the prompt.
        prior_share, prior_weight: share of the prior in a batch, and weight of its loss.
        moments: `latents` are means and standard deviations, of which each batch draws.
        spell: what becomes of a caption before it is tokenised (learnt tokens in place of words).
        stored: texts, spelt, that a frozen text encoder has read already, from `embeddings.cache`.
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
        *,
        offset_noise: float = 0.0,
        train: Sequence[int] | None = None,
        prior: Sequence[int] = (),
        prior_share: float = 0.5,
        prior_weight: float = 1.0,
        moments: bool = False,
        spell: Callable[[str], str] = str,
        stored: Mapping[str, Tensor] | None = None,
    ):
        self.players: dict[str, nn.Module] = {"unet": module}
        self.module = module
        self.recipe, self.caption_recipe, self.offset_noise = recipe, caption_recipe, offset_noise
        self.latents, self.records, self.spell = latents, records, spell
        self.moments = moments
        self.tokens = reader(tokenizer, text_length(tokenizer, module))
        self.stored: Mapping[str, Tensor] = stored or {}
        self.embeddings: dict[str, Tensor] = {}
        self.reading = (
            Lock()
        )  # batches are drawn in threads; a tokenizer and the kept texts are for one at a time
        self.prediction = scheduler.config.prediction_type
        self.steps = scheduler.config.num_train_timesteps
        kept = scheduler.alphas_cumprod.double()
        self.alpha, self.sigma = kept.sqrt().float(), (1 - kept).sqrt().float()
        self.quantiles = quantiles(self.alpha, self.sigma, recipe.log_normal)
        self.prior, self.prior_weight = torch.tensor(list(prior), dtype=torch.long), prior_weight
        self.of_prior = round(recipe.batch_size * prior_share) if len(prior) else 0
        drawn = set(range(len(records)) if train is None else train) - set(prior)
        self.weights = film_weights(records, recipe.balance)
        self.weights[[i for i in range(len(records)) if i not in drawn]] = 0.0
        blocks = [m for m in module.unet.modules() if isinstance(m, ResnetBlock2D)] if recipe.dropout else []
        self.dropouts = [block.dropout for block in blocks]
        for layer in self.dropouts:
            layer.train().p = recipe.dropout

    def batch(self, step: int, rank: int, world: int) -> NoisyBatch:
        """This process's share of the batch of `step`."""
        size, generator = self.recipe.batch_size, draws(self.recipe.seed, step)
        films = torch.multinomial(self.weights, size, replacement=True, generator=generator)
        copies = torch.randint(self.latents.shape[1], (size,), generator=generator)
        weights = torch.ones(size)
        if self.of_prior:
            # Anywhere in the batch: timesteps ascend along it.
            places = torch.randperm(size, generator=generator)[: self.of_prior]
            chosen = torch.randint(len(self.prior), (self.of_prior,), generator=generator)
            films[places], weights[places] = self.prior[chosen], self.prior_weight
        made = self._noisy(films, copies, weights, generator)
        own = share(size, rank, world)
        device = next(self.module.parameters()).device
        return NoisyBatch(*(part[own].to(device) for part in made))

    def fixed_batch(self, films: Sequence[int], seed: int = 0) -> NoisyBatch:
        """A batch of the films themselves with noise, timesteps and captions that never change, for validation."""
        which = torch.tensor(list(films), dtype=torch.long)
        generator = draws(seed, 0, stream=1)
        made = self._noisy(which, torch.zeros_like(which), torch.ones(len(which)), generator)
        device = next(self.module.parameters()).device
        return NoisyBatch(*(part.to(device) for part in made))

    def _noisy(
        self, films: Tensor, copies: Tensor, weights: Tensor, generator: torch.Generator
    ) -> NoisyBatch:
        size = len(films)
        latents = self.latents[films, copies].float()
        if self.moments:
            mean, deviation = latents.chunk(2, 1)
            latents = mean + deviation * torch.randn(mean.shape, generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        strata = (torch.arange(size) + torch.rand((), generator=generator)) / size
        timesteps = torch.searchsorted(self.quantiles, strata, right=True).clamp(max=self.steps - 1)
        texts = [self._caption(self.records[film], generator) for film in films.tolist()]
        if self.offset_noise:
            noise += self.offset_noise * torch.randn((*latents.shape[:2], 1, 1), generator=generator)
        with self.reading:
            text = self._read(texts)
        return NoisyBatch(latents, noise, timesteps, text, weights)

    def _caption(self, record: Record, generator: torch.Generator) -> str:
        return self.spell(captions.draw(record, self.caption_recipe, generator))

    def _read(self, texts: list[str]) -> Tensor:
        """Token ids, or what a frozen text encoder makes of them, each text once."""
        if not self.module.frozen_text:
            return self.tokens(texts)
        if len(self.embeddings) > KEPT_TEXTS:
            self.embeddings.clear()
        device = next(self.module.parameters()).device
        for text in dict.fromkeys(texts):
            if text not in self.stored and text not in self.embeddings:
                with torch.no_grad():
                    hidden = self.module.text_encoder(self.tokens([text]).to(device)).last_hidden_state
                self.embeddings[text] = hidden[0].float().cpu()
        return torch.stack([self.stored[t] if t in self.stored else self.embeddings[t] for t in texts])

    def loss(self, player: str, batch: NoisyBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted mean squared error, with its noisiest and cleanest quarter as figures."""
        if self.dropouts:
            torch.manual_seed(draws(self.recipe.seed, step, stream=2).initial_seed())
        error = self.errors(self.players[player], batch)
        quarter = 4 * batch.timesteps // self.steps
        figures = {
            name: error.detach()[quarter == q].mean()
            for name, q in (("clean", 0), ("noisy", 3))
            if (quarter == q).any()
        }
        return (error * self._importance(batch.timesteps) * batch.weights).mean(), figures

    def errors(self, module: Callable[..., Any], batch: NoisyBatch) -> Tensor:
        """Mean squared error of each film, (B,), without any weight."""
        latents, noise, timesteps, text, _ = batch
        alpha = self.alpha.to(latents.device)[timesteps][:, None, None, None]
        sigma = self.sigma.to(latents.device)[timesteps][:, None, None, None]
        noisy = alpha * latents + sigma * noise
        target = noise if self.prediction == "epsilon" else alpha * noise - sigma * latents
        predicted = module(noisy, timesteps, text)
        return (predicted.float() - target).square().mean((1, 2, 3))

    def _importance(self, timesteps: Tensor) -> Tensor:
        alpha, sigma = (value.to(timesteps.device)[timesteps] for value in (self.alpha, self.sigma))
        if self.recipe.min_snr is None:
            return torch.ones_like(alpha)
        ratio = (alpha / sigma).square()
        divisor = ratio if self.prediction == "epsilon" else ratio + 1
        return ratio.clamp(max=self.recipe.min_snr) / divisor.clamp(min=1e-8)


def quantiles(alpha: Tensor, sigma: Tensor, shape: LogNormal | None) -> Tensor:
    """The share of timesteps up to and including each, (T,): what a uniform number is looked up in."""
    steps = len(alpha)
    uniform = torch.arange(1, steps + 1) / steps
    if shape is None:
        return uniform
    level = ((sigma / alpha).double().log() - shape.mean) / shape.std
    return (shape.share * torch.special.ndtr(level) + (1 - shape.share) * uniform).float()


def film_weights(records: Sequence[Record], balance: Mapping[str, float]) -> Tensor:
    """How often each film is drawn, (N,) double: the largest factor of `balance` among its findings, else 1."""
    factors = [
        [factor for finding, factor in balance.items() if record.labels.get(finding) == 1]
        for record in records
    ]
    return torch.tensor([max(own, default=1.0) for own in factors], dtype=torch.double)


def text_length(tokenizer: PreTrainedTokenizerBase, module: nn.Module) -> int:
    """Tokens that a text is padded or cut to: the tokenizer's, and never more than the encoder has places for."""
    config = getattr(getattr(module, "text_encoder", None), "config", None)
    places = getattr(config, "max_position_embeddings", tokenizer.model_max_length)
    return min(tokenizer.model_max_length, places)

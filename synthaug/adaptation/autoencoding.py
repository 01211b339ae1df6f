"""The loss of an autoencoder: pixels <-> latents that stay sharp.

A blurred autoencoder bounds everything behind it and mean error does not see it, so the loss is a sum of

    L1  +  L1 of the high-pass  +  perceptual  +  radial power  +  patch adversary  (+ KL of a trained encoder)

Perceptual: squared distance of unit-normalised features, Zhang et al. 2018 (arXiv:1801.03924), on an ImageNet
network that needs no hub; one that no metric reads (`perceptual_network`) leaves the metrics impartial. Radial
power: |log P(fake)/P(real)| of the radially averaged spectrum, so that vessels and trabeculae keep their energy.
Adversary: hinge loss on patches, Esser et al. 2021 (arXiv:2012.09841).
Pixels are in [-1, 1], `(B, 1, H, W)`. An RGB autoencoder is fed the same grey three times, and its three channels
are averaged, which is what the sampler makes of them.
"""

from collections import deque
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import conv2d, relu

from synthaug import imagenet
from synthaug.adaptation.batches import draws, share
from synthaug.adaptation.loop import LoopRecipe
from synthaug.adaptation.power import power_distance
from synthaug.adaptation.principal_components import PrincipalComponents, fit, write_encoder
from synthaug.recipes import Recipe


class AutoencoderShape(Recipe):
    """Widths from full resolution down; `encoder` is fitted in closed form or trained."""

    widths: tuple[int, ...] = (16, 32, 64, 128)
    layers: int = Field(default=1, gt=0)
    groups: int = Field(default=8, gt=0)
    latent_channels: int = Field(default=16, gt=0)
    encoder: Literal["principal_components", "trained"] = "principal_components"
    whitening: float = Field(default=0.65, ge=0, le=1)


class AutoencoderRecipe(LoopRecipe):
    """Loss weights; crops of `crop` pixels are cut from films resized to each of `film_sizes`.

    `perceptual_network` is one of `imagenet.PACKAGES`; its first `perceptual_stages` maps (strides 2, 4, ... 32) are compared.
    """

    crop: int = Field(default=128, gt=0)
    film_sizes: tuple[int, ...] = (256, 320, 384)
    high_pass: float = Field(default=1.0, ge=0)
    perceptual: float = Field(default=0.5, ge=0)
    perceptual_network: str = imagenet.ARCH
    perceptual_stages: int = Field(default=3, gt=0, le=5)
    power: float = Field(default=0.01, ge=0)
    adversary: float = Field(default=0.01, ge=0)
    adversary_from: int = Field(default=1000, ge=0)
    divergence: float = Field(default=1e-6, ge=0)
    latent_noise: float = Field(default=0.0, ge=0)


class CropBatch(NamedTuple):
    """Real crops in [-1, 1], the noise added to their latents, and that of the posterior of a trained encoder."""

    pixels: Tensor
    noise: Tensor
    posterior: Tensor


def build_autoencoder(shape: AutoencoderShape, films: NDArray[np.uint8], seed: int = 0) -> AutoencoderKL:
    """A grey `AutoencoderKL`; its encoder is fitted on `films` (N, 1, H, W) where the shape asks for it."""
    levels = len(shape.widths)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            in_channels=1,
            out_channels=1,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=shape.widths,
            layers_per_block=shape.layers,
            latent_channels=shape.latent_channels,
            norm_num_groups=shape.groups,
            sample_size=films.shape[-1],
            scaling_factor=1.0,
            use_quant_conv=False,
            use_post_quant_conv=False,
            mid_block_add_attention=False,
            force_upcast=False,
        )
    if shape.encoder == "principal_components":
        write_encoder(vae, fit(films, shape.latent_channels, whitening=shape.whitening, seed=seed))
    return vae


class Reconstruction(nn.Module):
    """An autoencoder as one module under its own parameter names: what accelerate wraps and the loss calls.

    Args:
        vae: its parts are shared, not copied.
        components: the closed form of a frozen encoder; the encoder itself when None.
        compiled: compile the decoder.
    """

    def __init__(
        self, vae: AutoencoderKL, components: PrincipalComponents | None = None, compiled: bool = False
    ):
        super().__init__()
        self.encoder, self.decoder = vae.encoder, vae.decoder
        self.quant_conv, self.post_quant_conv = vae.quant_conv, vae.post_quant_conv
        self.components, self.channels = components, vae.config.in_channels
        self._decode = torch.compile(vae.decoder) if compiled else vae.decoder

    def forward(self, pixels: Tensor, noise: Tensor, posterior: Tensor) -> tuple[Tensor, Tensor]:
        """Grey crops -> their reconstruction (B, 1, H, W) and the mean divergence of the posterior, in nats."""
        divergence = pixels.new_zeros(())
        if self.components is not None:
            latents = self.components.encode(pixels)
        else:
            moments = self.encoder(pixels.expand(-1, self.channels, -1, -1))
            moments = moments if self.quant_conv is None else self.quant_conv(moments)
            normal = DiagonalGaussianDistribution(moments)
            latents, divergence = normal.mean + normal.std * posterior, normal.kl().mean()
        latents = latents + noise
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        return self._decode(latents).mean(1, keepdim=True), divergence


class PatchDiscriminator(nn.Module):
    """Scores overlapping patches of about 40 pixels; spectral norm keeps it Lipschitz (arXiv:1802.05957)."""

    def __init__(self, width: int = 32):
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.layers = nn.Sequential(
            norm(nn.Conv2d(1, width, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(width, 2 * width, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(2 * width, 4 * width, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(4 * width, 1, 3, 1, 1)),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, 1, H/8, W/8), high for real."""
        return self.layers(pixels)


class AutoencoderRoute:
    """Trains the decoder, and the encoder unless it is given in closed form, on random crops.

    Args:
        vae: the autoencoder; its encoder is frozen when `components` are given.
        recipe: loss weights and lengths.
        pyramid: the training films once at each of `recipe.film_sizes`, uint8 (N, 1, S, S).
        components: the closed form of a frozen encoder.
        compiled: compile the decoder (pays after some hundred steps).
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        recipe: AutoencoderRecipe,
        pyramid: Sequence[NDArray[np.uint8]],
        components: PrincipalComponents | None = None,
        compiled: bool = False,
    ):
        self.recipe, self.pyramid = recipe, pyramid
        self.vae, device = vae, next(vae.parameters()).device
        if components is not None:
            vae.encoder.requires_grad_(False)
        self.diverges = any(p.requires_grad for p in vae.encoder.parameters())
        self.players: dict[str, nn.Module] = {"autoencoder": Reconstruction(vae, components, compiled)}
        if recipe.adversary:
            with torch.random.fork_rng():
                torch.manual_seed(recipe.seed)
                # The bare module judges; the loop's wrapped one in `players` learns.
                self.critic = PatchDiscriminator()
            self.players["adversary"] = self.critic
        self.features: nn.Module | None = None
        if recipe.perceptual:
            self.features = imagenet.features(recipe.perceptual_stages, recipe.perceptual_network).to(device)
        self._fakes: deque[Tensor] = deque()

    def batch(self, step: int, rank: int, world: int) -> CropBatch:
        """Random crops: films, scales, places and noise are functions of (seed, step)."""
        generator, recipe = draws(self.recipe.seed, step), self.recipe
        crops = []
        for _ in range(recipe.batch_size):
            films = self.pyramid[int(torch.randint(len(self.pyramid), (), generator=generator))]
            film = films[int(torch.randint(len(films), (), generator=generator)), 0]
            top, left = torch.randint(film.shape[0] - recipe.crop + 1, (2,), generator=generator).tolist()
            crops.append(film[top : top + recipe.crop, left : left + recipe.crop])
        pixels = torch.from_numpy(np.stack(crops))[:, None].float() / 127.5 - 1
        edge = recipe.crop // 2 ** (len(self.vae.config.block_out_channels) - 1)
        shape = (recipe.batch_size, self.vae.config.latent_channels, edge, edge)
        noise = torch.randn(shape, generator=generator) * recipe.latent_noise
        posterior = torch.randn(shape, generator=generator)
        own = share(recipe.batch_size, rank, world)
        return CropBatch(*(part[own].to(self.vae.device) for part in (pixels, noise, posterior)))

    def loss(self, player: str, batch: CropBatch, step: int) -> tuple[Tensor, dict[str, Tensor]] | None:
        """The autoencoder's sum, or the hinge loss of the discriminator on the same crops."""
        fooling = self.recipe.adversary > 0 and step >= self.recipe.adversary_from
        if player == "adversary":
            return self._adversary(batch.pixels) if fooling else None
        recipe, real = self.recipe, batch.pixels
        fake, divergence = self.players[player](*batch)
        fake = fake.float()
        terms: dict[str, Tensor] = {"divergence": divergence.float()} if self.diverges else {}
        terms["l1"] = (fake - real).abs().mean()
        terms["high_pass"] = (_high_pass(fake) - _high_pass(real)).abs().mean()
        if recipe.power:
            terms["power"] = power_distance(fake, real)
        if self.features is not None:
            terms["perceptual"] = _perceptual(self.features, fake, real)
        if fooling:
            self.critic.requires_grad_(False)
            terms["adversary"] = -self.critic(fake).mean()
            self.critic.requires_grad_(True)
            self._fakes.append(fake.detach())
        weights = {"l1": 1.0, **{name: getattr(recipe, name) for name in terms if name != "l1"}}
        return sum((weights[k] * v for k, v in terms.items()), real.new_zeros(())), terms

    def _adversary(self, real: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        critic = self.players["adversary"]
        score_real, score_fake = critic(real), critic(self._fakes.popleft())
        return (relu(1 - score_real) + relu(1 + score_fake)).mean(), {
            "margin": (score_real - score_fake).mean()
        }


def _high_pass(pixels: Tensor) -> Tensor:
    kernel = pixels.new_tensor([[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]]) / 4
    return conv2d(pixels, kernel[None, None])


def _perceptual(network: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
    maps = network(torch.cat([fake, real]).expand(-1, 3, -1, -1))
    total = fake.new_zeros(())
    for features in maps:
        unit = nn.functional.normalize(features.float(), dim=1)
        a, b = unit.chunk(2)
        total = total + (a - b).square().sum(1).mean()
    return total / len(maps)

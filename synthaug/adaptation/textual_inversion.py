"""The route `textual_inversion`: new words, all else frozen (Gal et al. 2022, arXiv:2208.01618).

Each token is several vectors of the text encoder's input table. What the base knew is not touched by a bit; the result
is an adapter folder with diffusers' `learned_embeds.safetensors`, one token a file. In prompts a token stands in the
place of the words that it was learnt for, so `--label` keeps working: "pleural effusion" is read as `<effusion>`.
"""

import re
from typing import Literal

import torch
from pydantic import Field, field_validator
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import embedding

from synthaug.adaptation.denoising import TextToNoise
from synthaug.adaptation.fine_tuning import FineTuning, FineTuningRecipe
from synthaug.adaptation.results import write_adapter
from synthaug.diffusion.adapters import token_names
from synthaug.diffusion.card import CheckpointCard
from synthaug.errors import CheckpointError, RecipeError
from synthaug.recipes import Recipe


class TokenRecipe(Recipe):
    """`words`: what the token stands for in prompts; `initial`: text whose mean embedding it starts from."""

    token: str
    words: str
    vectors: int = Field(default=4, gt=0)
    initial: str | None = None

    @field_validator("token")
    @classmethod
    def _bracketed(cls, token: str) -> str:
        if not re.fullmatch(r"<[\w-]+>", token):
            raise ValueError(f"expected a name in angle brackets, <effusion>, found {token!r}")
        return token


class TextualInversionRecipe(FineTuningRecipe):
    """See `FineTuningRecipe`; `tokens` are learnt together."""

    route: Literal["textual_inversion"] = "textual_inversion"
    tokens: tuple[TokenRecipe, ...] = Field(min_length=1)


class ExtendedTable(nn.Module):
    """An embedding table with further rows that are learnt while the old ones stay: ids from n on are the new rows."""

    def __init__(self, table: nn.Embedding, rows: Tensor):
        super().__init__()
        self.table, self.rows = table, nn.Parameter(rows)

    @property
    def weight(self) -> Tensor:
        """The frozen rows."""
        return self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, width)."""
        first = self.table.num_embeddings
        new = embedding((ids - first).clamp(min=0), self.rows)
        return torch.where((ids >= first)[..., None], new, self.table(ids.clamp(max=first - 1)))


class TextualInversion(FineTuning):
    """Trains the new rows of the input table alone."""

    def prepare(self) -> TextToNoise:
        encoder, tokenizer = self.base.text_encoder, self.tokenizer
        table = encoder.get_input_embeddings()
        if len(tokenizer) != table.num_embeddings:
            raise CheckpointError(
                f"--model {self.base.name}: tokenizer has {len(tokenizer)} tokens and the text encoder "
                f"{table.num_embeddings}; new ones need equal numbers"
            )
        rows = []
        for token in self.recipe.tokens:
            ids = tokenizer(token.initial or token.words, add_special_tokens=False).input_ids
            names = token_names(token.token, token.vectors)
            if taken := [name for name in names if name in tokenizer.get_vocab()]:
                raise RecipeError(
                    f"tokens: the base's tokenizer knows {taken[0]} already; choose another name"
                )
            tokenizer.add_tokens(names)
            rows.append(table.weight[ids].mean(0, keepdim=True).repeat(token.vectors, 1))
        encoder.set_input_embeddings(ExtendedTable(table, torch.cat(rows).clone()))
        return TextToNoise(self.base.unet, encoder, self.job.execution.compiled)

    def card(self) -> CheckpointCard:
        card = super().card()
        return card.model_copy(
            update={"tokens": card.tokens | {t.words: t.token for t in self.recipe.tokens}}
        )

    def write(self) -> None:
        write_adapter(self.job.out, self.card(), self.job.model, self._save)

    def _save(self) -> None:
        table = self.module.text_encoder.get_input_embeddings()
        rows = table.rows.detach().cpu().split([token.vectors for token in self.recipe.tokens])
        for number, (token, vectors) in enumerate(zip(self.recipe.tokens, rows, strict=True)):
            name = f"learned_embeds{f'_{number}' if number else ''}.safetensors"
            save_file({token.token: vectors.clone()}, self.job.out / name)

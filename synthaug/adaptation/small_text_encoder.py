"""A CLIP text encoder whose vocabulary is the prompts' own.

CLIP's 49,408 tokens are 12 M parameters at width 256, most of them for words that no radiograph needs. Here
the byte-pair merges are learnt on the fragments that prompts are made of; all bytes stay in the vocabulary, so
free text still has tokens, only more of them.
"""

import json
from collections.abc import Iterable

import torch
from pydantic import Field
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from synthaug.recipes import Recipe

START, END = "<|startoftext|>", "<|endoftext|>"


class TextEncoderShape(Recipe):
    """Width and depth; `length` is the number of tokens that a prompt may have, both ends included."""

    width: int = Field(default=192, gt=0)
    layers: int = Field(default=2, gt=0)
    heads: int = Field(default=4, gt=0)
    length: int = Field(default=32, gt=2)


def train_tokenizer(corpus: Iterable[str], length: int, vocabulary: int = 1024) -> CLIPTokenizer:
    """Learn byte-pair merges (Sennrich et al. 2016, arXiv:1508.07909) on `corpus`, in CLIP's own format.

    Args:
        corpus: texts that hold every word of the prompts.
        length: `model_max_length`, the number of tokens a prompt is padded or cut to.
        vocabulary: upper bound on the number of tokens; at least the 512 byte symbols and two ends.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = [f"{symbol}</w>" for symbol in alphabet]
    bare = CLIPTokenizer(vocab={START: 0, END: 1}, merges=[])._tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = bare.normalizer, bare.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 2,
        # Equal counts are merged in the order of ids. Ends that were numbered as they are met would follow
        # the order of a hash map, and the same corpus would give another tokenizer in another process.
        special_tokens=ends,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(corpus, trainer)

    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    tokens = [
        *alphabet,
        *ends,
        *("".join(pair) for pair in merges),
        START,
        END,
    ]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)


def build_text_encoder(shape: TextEncoderShape, tokenizer: CLIPTokenizer, seed: int = 0) -> CLIPTextModel:
    """A `CLIPTextModel` of this shape for the tokenizer's vocabulary, with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.width,
            intermediate_size=4 * shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            max_position_embeddings=shape.length,
            projection_dim=shape.width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        return CLIPTextModel(config)

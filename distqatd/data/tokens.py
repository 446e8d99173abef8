"""Tokenizers: text as numbers. A byte is a token, or a `tokenizer.json` of Hugging Face says."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig

_NEWLINE = ord("\n")


class Tokenizer(Protocol):
    """Turns text into tokens.

    Attributes:
        num_tokens: size of the vocabulary.
        end: the token put between texts, or None.
    """

    num_tokens: int
    end: int | None

    def encode(self, text: str) -> Tensor:
        """Return the tokens of `text`, a vector of uint8 or int32."""
        ...


class Bytes:
    """The bytes of UTF-8 as tokens; texts are put apart by a line break."""

    num_tokens = 256
    end: int | None = _NEWLINE

    def encode(self, text: str) -> Tensor:
        """Return the bytes of `text`, uint8 (N,)."""
        return byte_tokens(text.encode())


class TokenizerFile:
    """A tokenizer that the `tokenizers` package reads."""

    def __init__(self, tokenizer: Any, end_token: str) -> None:
        self._tokenizer = tokenizer
        self.num_tokens = int(tokenizer.get_vocab_size())
        self.end: int | None = tokenizer.token_to_id(end_token)

    def encode(self, text: str) -> Tensor:
        """Return the tokens of `text`, int32 (N,), without those for its begin and end."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return torch.tensor(ids, dtype=torch.int32)


def byte_tokens(text: bytes) -> Tensor:
    """Return bytes as a tensor of their own, uint8 (N,)."""
    return torch.from_numpy(np.frombuffer(text, dtype=np.uint8).copy())


def open_tokenizer(config: DataConfig) -> Tokenizer:
    """Return the tokenizer that the section names, or bytes.

    Raises:
        ConfigError: the package is missing, or the file is no tokenizer.
    """
    if config.tokenizer is None:
        return Bytes()
    path = Path(config.tokenizer).expanduser()
    if not path.is_file():
        raise ConfigError(f"data.tokenizer {config.tokenizer!r} is no file on this machine")
    try:
        from tokenizers import Tokenizer as Reader

        reader = Reader.from_str(path.read_text(encoding="utf-8"))
    except ImportError as error:
        raise ConfigError(
            "data.tokenizer needs a package; install it with: pip install tokenizers"
        ) from error
    except Exception as error:
        raise ConfigError(f"data.tokenizer {config.tokenizer!r}: {error}") from error
    return TokenizerFile(reader, config.end_token)

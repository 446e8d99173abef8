"""Texts as sequences of one length: following one another, or one in each.

Inputs and targets are int64 (B, T): a sequence, and the same shifted by one token.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from distqatd.data.rows import LIST, Row
from distqatd.data.source import IGNORED, Raw
from distqatd.data.streams import Marks, Stream
from distqatd.data.tokens import Tokenizer

PACKED = "tokens"
"""The column of a packed stream."""

_MARK_EVERY = 256


class TokenWindows:
    """A `Source` of windows of a string of tokens, each paired with itself shifted by one.

    Windows start `seq_len` tokens apart, so every token but the first is a target at most once.
    """

    def __init__(self, tokens: Tensor, seq_len: int, num_classes: int) -> None:
        """Take tokens (N,) of any integer dtype, and the size of the vocabulary."""
        self._tokens = tokens
        self._seq_len = seq_len
        self._offsets = torch.arange(seq_len + 1)
        self.num_classes = num_classes

    @property
    def num_samples(self) -> int:
        """Return how many whole windows there are."""
        return max(0, (len(self._tokens) - 1) // self._seq_len)

    def read(self, numbers: Tensor) -> Raw:
        """Return tokens and next tokens of the windows `numbers`."""
        starts = numbers * self._seq_len
        return _shifted(self._tokens[starts.unsqueeze(1) + self._offsets].to(torch.int64))


class PackedStream:
    """A stream of windows over the texts of another stream; see `streams.Stream`."""

    kinds: Mapping[str, str]
    names: Mapping[str, tuple[str, ...]]

    def __init__(self, texts: Stream, column: str, tokenizer: Tokenizer, seq_len: int) -> None:
        self._texts = texts
        self._column = column
        self._tokenizer = tokenizer
        self._seq_len = seq_len
        # Where a text ended: how many texts were read, and the tokens no window has begun with.
        self._marks: Marks[tuple[int, Tensor]] = Marks((0, torch.zeros(0, dtype=torch.int64)))
        self._marked = 0
        self.kinds = {PACKED: LIST}
        self.names = {}

    def rows(self, start: int) -> Iterator[Row]:
        """Yield the windows from number `start` on. Ends the iterators returned before."""
        window, (num_texts, rest) = self._marks.best(start)
        for row in self._texts.rows(num_texts):
            rest = torch.cat([rest, closed(self._tokenizer, str(row[self._column]))])
            num_texts += 1
            count = max(0, (len(rest) - 1) // self._seq_len)
            for index in range(max(0, start - window), count):
                at = index * self._seq_len
                yield {PACKED: rest[at : at + self._seq_len + 1]}
            window, rest = window + count, rest[count * self._seq_len :]
            if window >= self._marked + _MARK_EVERY:
                self._marked = window
                self._marks.put(window, (num_texts, rest))


class PackedDecoder:
    """Makes sequences of what a `PackedStream` gives; see `rows.Decoder`."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def decode(self, rows: Sequence[Row]) -> Raw:
        """Return tokens and next tokens."""
        return _shifted(torch.stack([row[PACKED] for row in rows]))


class TextDecoder:
    """A text in each sequence, cut or padded; padding is IGNORED as a target."""

    def __init__(self, column: str, tokenizer: Tokenizer, seq_len: int) -> None:
        self._column = column
        self._tokenizer = tokenizer
        self._seq_len = seq_len
        self.num_classes = tokenizer.num_tokens

    def decode(self, rows: Sequence[Row]) -> Raw:
        """Return tokens and next tokens."""
        window = torch.full((len(rows), self._seq_len + 1), IGNORED)
        for place, row in enumerate(rows):
            tokens = closed(self._tokenizer, str(row[self._column]))[: self._seq_len + 1]
            window[place, : len(tokens)] = tokens
        (inputs,), targets = _shifted(window)
        return (inputs.clamp_min(0),), targets


def closed(tokenizer: Tokenizer, text: str) -> Tensor:
    """Return the tokens of a text and the one that ends it, int64 (N,)."""
    tokens = tokenizer.encode(text).to(torch.int64)
    if tokenizer.end is None or (len(tokens) and int(tokens[-1]) == tokenizer.end):
        return tokens
    return torch.cat([tokens, torch.tensor([tokenizer.end])])


def pack(texts: Iterable[str], tokenizer: Tokenizer, max_bytes: int) -> Tensor:
    """Return the tokens of texts that follow one another, (N,), as narrow as they fit.

    No further text is begun once `max_bytes` bytes were read.
    """
    dtype = torch.uint8 if tokenizer.num_tokens <= 1 << 8 else torch.int32
    pieces = [torch.zeros(0, dtype=dtype)]
    left = max_bytes
    for text in texts:
        if left <= 0:
            break
        left -= len(text.encode())
        pieces.append(closed(tokenizer, text).to(dtype))
    return torch.cat(pieces)


def _shifted(windows: Tensor) -> Raw:
    return (windows[:, :-1].contiguous(),), (windows[:, 1:].contiguous(),)

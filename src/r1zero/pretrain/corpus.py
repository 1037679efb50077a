"""The text of a run: which sources it is made of, in which shares, and what of them is held out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from r1zero.data.arithmetic import settings_of
from r1zero.data.templates import adds_bos
from r1zero.errors import UserError
from r1zero.pretrain.config import SourceConfig, TextConfig
from r1zero.pretrain.data import MadeDocuments
from r1zero.pretrain.formats import Form, form_of
from r1zero.pretrain.prose import Prose, Talk
from r1zero.pretrain.readers import Reader, first_record, reader_of
from r1zero.pretrain.stream import Documents, Encode, Mixture, StreamedDocuments, count_tokens, heldout_documents
from r1zero.pretrain.text import ArithmeticText, MadeText, check_working


def active_sources(cfg: TextConfig) -> dict[str, float]:
    """The sources that are mixed, with their weights.

    Raises:
        UserError: The mixture is empty or names an unknown source.
    """
    weights = {}
    for name, weight in cfg.mix.items():
        if name not in cfg.sources:
            raise UserError(f"data.mix.{name} is an unknown source; data {cfg.name} has {', '.join(cfg.sources)}")
        if weight is None:
            continue
        weights[name] = float(weight)
    if not weights:
        raise UserError(f"data.mix is empty: give a weight to some of {', '.join(cfg.sources)}")
    return weights


class Corpus:
    """All sources of a run, opened: the first record of each was read, so what is wrong with it shows at once.

    Raises:
        UserError: In one line, what is wrong with a source.
    """

    def __init__(self, cfg: TextConfig, seed: int) -> None:
        self.cfg, self.seed = cfg, seed
        self.weights = active_sources(cfg)
        check_working(cfg.working)
        self.heldout_count = max(1, cfg.heldout_documents // len(self.weights))
        self.made = {name: made_text(cfg.sources[name], cfg, "train", seed) for name in self.weights}
        self.readers: dict[str, Reader] = {}
        self.forms: dict[str, Form] = {}
        for name, text in self.made.items():
            if text is None:
                source, what = cfg.sources[name], f"data.sources.{name}"
                self.readers[name] = reader_of(source, what)
                self.forms[name] = form_of(source, first_record(self.readers[name], what), what)

    def documents(self, encode: Encode, rank: int = 0, world: int = 1) -> Documents:
        """This process's stream of training documents."""
        streams = {name: self._stream(name, encode, rank, world) for name in self.weights}
        return next(iter(streams.values())) if len(streams) == 1 else Mixture(streams, self.weights)

    def _stream(self, name: str, encode: Encode, rank: int, world: int) -> Documents:
        text = self.made[name]
        if text is not None:
            return MadeDocuments(text, encode, self.cfg.working, rank, world)
        return StreamedDocuments(
            self.readers[name],
            self.forms[name],
            encode,
            name=name,
            seed=self.seed,
            buffer=self.cfg.sources[name].shuffle_buffer,
            skip=self._skip(name),
            rank=rank,
            world=world,
        )

    def _skip(self, name: str) -> int:
        return 0 if self.cfg.sources[name].heldout_path else self.heldout_count

    def heldout(self, encode: Encode) -> dict[str, list[list[int]]]:
        """Token ids of the held-out documents of each source, which no training stream hands out."""
        found = {}
        for name in self.weights:
            source, what = self.cfg.sources[name], f"data.sources.{name}"
            text = made_text(source, self.cfg, "heldout", self.seed)
            if text is not None:
                found[name] = [encode(text.document(number)) for number in range(self.heldout_count)]
                continue
            reader = reader_of(source, what, "heldout_path") if source.heldout_path else self.readers[name]
            found[name] = heldout_documents(reader, self.forms[name], encode, self.heldout_count, what)
        return found

    def sample(self, count: int) -> Iterator[str]:
        """The first ``count`` training documents in all, for a new tokenizer."""
        share = -(-count // len(self.weights))
        for name, text in self.made.items():
            if text is not None:
                yield from (text.document(number) for number in range(share))
            else:
                records = self.readers[name].read(self._skip(name))
                texts = (self.forms[name](record, where) for where, record in records)
                yield from itertools.islice((text for text in texts if text.strip()), share)

    def tokens_of_a_pass(self, encode: Encode) -> int:
        """Tokens of one pass over the only source. Raises ``UserError`` where a pass has no meaning."""
        if len(self.weights) > 1 or not self.readers:
            raise UserError("epochs counts passes over one source that is read: leave one in data.mix, or give steps")
        name = next(iter(self.readers))
        return count_tokens(self.readers[name], self.forms[name], encode, self._skip(name))


def made_text(source: SourceConfig, cfg: TextConfig, split: str, seed: int) -> MadeText | None:
    """The generator of a source, None for one that is read."""
    if source.kind == "arithmetic":
        pages = {k: w for k, w in cfg.pages.items() if w is not None}
        return ArithmeticText(pages, cfg.working, settings_of({**cfg.questions, **source.questions}), split, seed)
    if source.kind == "prose":
        return Prose(cfg.working, settings_of({**cfg.questions, **source.questions}), split, seed)
    return Talk(cfg.working, split, seed) if source.kind == "talk" else None


def encoder(tokenizer: Any) -> Encode:
    """Text -> token ids; EOS ends every document, a BOS opens it where the tokenizer puts one by itself."""
    eos = tokenizer.eos_token_id
    opening = [tokenizer.bos_token_id] if adds_bos(tokenizer) else []

    def encode(text: str) -> list[int]:
        ids = opening + list(tokenizer.encode(text, add_special_tokens=False))
        return ids if ids[-1:] == [eos] else [*ids, eos]

    return encode

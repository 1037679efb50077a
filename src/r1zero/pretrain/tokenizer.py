"""The small byte-level BPE tokenizer of new models: single digits, the special tokens of the templates."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from r1zero.errors import UserError
from r1zero.pretrain.text import EOS, IM_END, IM_START, PAD

SPECIAL = (EOS, IM_START, IM_END, PAD)
# Words with one leading mark, digits one by one, runs of marks, line ends, other white space.
_PIECES = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(documents: Iterable[str], vocab: int, context: int) -> PreTrainedTokenizerFast:
    """Train on ``documents``; equal documents give an equal tokenizer.

    Ids 0 to 3 are the special tokens, 4 to 259 the bytes, the rest merges. No BOS, as Qwen.
    Raises ``UserError`` when ``vocab`` can't hold bytes and special tokens, or the text has too few merges.
    """
    least = 256 + len(SPECIAL)
    if vocab < least:
        raise UserError(f"init.vocab={vocab} must be at least {least}: the bytes and the special tokens")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # The markers are whole tokens: without this cut, merges would be spent on their letters.
    markers = re.compile("|".join(map(re.escape, SPECIAL)))
    bpe.train_from_iterator((part for document in documents for part in markers.split(document)), trainer)
    if bpe.get_vocab_size() != vocab:
        raise UserError(
            f"init.vocab={vocab}: the text has merges for {bpe.get_vocab_size()} entries only; lower init.vocab"
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[IM_START, IM_END],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer

"""The embedded model's tokenizer, Llama's kind: BPE, "▁" for spaces, single digits, bytes for the rest."""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from models.recipe import BOS, SPECIAL, VOCABULARY

BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
ASCII = [chr(code) for code in range(33, 127)]


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Learn the vocabulary from `texts`; special tokens have the ids of `recipe`."""
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[0], byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Digits(individual_digits=True)]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[*SPECIAL, *BYTES], initial_alphabet=ASCII, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[BOS]} $A", special_tokens=[(SPECIAL[BOS], BOS)]
    )
    unk, bos, eos, image, pad = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=_with_plain_bytes(tokenizer),
        unk_token=unk,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        extra_special_tokens={"image_token": image},
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def _with_plain_bytes(tokenizer: Tokenizer) -> Tokenizer:
    """`tokenizer` with its byte tokens ordinary ones, at the ids they have.

    The trainer gives fixed ids to special tokens only, and decoding leaves special tokens out: "größe" came back as
    "gre".
    """
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in SPECIAL]
    return Tokenizer.from_str(json.dumps(content))

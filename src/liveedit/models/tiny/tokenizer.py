"""A byte-level tokenizer for tiny models, trained on three sentences."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

__all__ = ["tokenizer"]

SENTENCES = [
    "What is the country with this flag? The answer is: Japan",
    "Which film is represented in this image? The name of the film is Casablanca",
    "who sang the song that was the title of the movie",
]
"""The tokenizer's merges are learnt from these."""


def tokenizer(
    bos: str | None, special: list[str], size: int = 360, **marks: str
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, which encodes any text, and puts ``bos``, if any, in front.

    ``special`` are special tokens, EOS and padding first. ``size`` bounds the vocabulary. ``marks``
    are special tokens by the attribute under which a processor looks for them.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = list(dict.fromkeys([*([bos] if bos else []), *special, *marks.values()]))
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=names, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(SENTENCES, trainer)
    if bos:
        begins = [(bos, core.token_to_id(bos))]
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=begins
        )
    ends = {"bos_token": bos, "eos_token": special[0], "pad_token": special[1]}
    return PreTrainedTokenizerFast(tokenizer_object=core, **ends, extra_special_tokens=marks)

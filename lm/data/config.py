"""What the data room needs to know: which text, which tokenizer, which shape of batches."""

import dataclasses

from lm.base.options import option


@dataclasses.dataclass(frozen=True)
class Config:
    """Text and how it becomes batches. The seed is not here: the caller passes it."""

    corpus: str = option(
        "python_stdlib", "'python_stdlib', a glob of text files, or 'tfds:NAME[:split]'")
    text_field: str = option("text", "the field of a .jsonl line or TFDS record that is the text")
    limit: int = option(0, "bytes of text to use at most, from the front; 0 = all", low=0)
    tokenizer: str = option(
        "bpe", "'bytes', 'characters', 'bpe', 'unigram', or a path to a SentencePiece .model or a "
        "Hugging Face tokenizer.json")
    V: int = option(8192, "pieces to train for 'bpe' and 'unigram'", low=1)
    T: int = option(256, "tokens per sequence", low=1)
    B: int = option(16, "sequences per step, over all devices", low=1)
    packing: bool = option(True, "attention and loss stay inside a document; False: they cross")
    split: str = option(
        "document", "validation is 'document's drawn by a hash of their text, or the 'tail' of "
        "the text (for a corpus in one file)", choices=("document", "tail"))
    validation: float = option(0.05, "share held out for validation", low=0.0, high=0.9)
    cache: str = option("", "folder of tokenised corpora; '' = $LM_CACHE or ~/.cache/lm", free=True)
    prefetch: int = option(2, "batches made ahead of the step; 0 = none", low=0, free=True)

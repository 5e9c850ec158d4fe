"""Output that keeps to a JSON schema: masks of the tokens that may come.

The work is llguidance's; it is asked what the bytes so far allow, whichever tokens they came in.
"""

import json

import numpy as np

from lm.base.errors import UserError
from lm.data.tokenizers import Tokenizer

# Any split of a text into tokens is allowed, not only the one that the tokenizer would choose: the
# library then never calls back into Python.
_ANY_SPLIT = '%llguidance {"no_forcing": true}\n'
# No space between values, where a model could go on for ever. The schema's own options go: one of
# them is to pass over keywords.
_OPTIONS = {"x-guidance": {"whitespace_flexible": False}}


class Grammars:
    """Makes the grammars of one tokenizer; itself slow to make (a second, of a large one)."""

    def __init__(self, tokenizer: Tokenizer):
        """Raises UserError where the library is absent."""
        try:
            import llguidance
        except ImportError:
            raise UserError("output by a schema needs a package: pip install llguidance") from None
        self.library, self.V, self.eos = llguidance, tokenizer.V, tokenizer.eos
        self.limits = llguidance.LLParserLimits(verbose_errors=False)  # else of many lines
        self.vocabulary = llguidance.LLTokenizer(_Vocabulary(tokenizer.pieces(), self.eos))

    def schema(self, schema: dict | bool) -> "Grammar":
        """Returns a mask of JSON that a JSON schema describes, without spaces between its values.

        Raises UserError for one that is wrong, too large, or has keywords that cannot be kept to.
        """
        if isinstance(schema, bool):
            schema = {} if schema else {"enum": []}
        if not isinstance(schema, dict):
            raise UserError("the JSON schema is not an object; give one such as "
                            '{"type": "object"}')
        try:
            text = json.dumps(schema | _OPTIONS, allow_nan=False)
        except (RecursionError, TypeError, ValueError) as error:
            raise UserError(f"the JSON schema is not JSON: {error}") from None
        matcher = self.library.LLMatcher(self.vocabulary, f"{_ANY_SPLIT}start: %json {text}",
                                         log_level=0, limits=self.limits)
        made = Grammar(matcher, self.V, self.eos)
        if made.error:
            raise UserError(f"the JSON schema cannot be kept to: {made.error}; change that, or ask "
                            "for text and check it")
        return made


class Grammar:
    """A request.Mask: what may come next in one output."""

    def __init__(self, matcher, V: int, eos: int | None):
        self.matcher, self.V, self.eos = matcher, V, eos
        self._look()

    def bits(self) -> np.ndarray:
        """Returns uint32 [ceil(V / 32)]: bit i of word w allows token 32 w + i, eos where it may
        end."""
        return self.words

    def take(self, token: int) -> None:
        """Goes on by the token that was drawn; one that was not allowed is an error."""
        self.matcher.consume_token(token)
        self._look()

    @property
    def ended(self) -> bool:
        """Whether nothing may follow: the text is whole, or there is an `error`."""
        return self.matcher.is_stopped() or not self.words.any()

    @property
    def error(self) -> str:
        """One line, where it ended before the text was whole; else empty."""
        if not self.matcher.is_error():
            return ""
        words = self.matcher.get_error().split("\n   1 |")[0].replace("<non-verbose/>", "")
        words = " ".join(words.split("JSON schema: ")[-1].split("error: ")[-1].split())[:300]
        return _PLAIN.get(words, words)

    def _look(self):
        # At once and not when asked: only this finds out that no token can go on.
        self.words = np.frombuffer(self.matcher.compute_bitmask(), np.uint32)[:-(-self.V // 32)]
        if self.V % 32 and self.eos is None:  # the end that the library has beside V
            self.words = self.words.copy()
            self.words[-1] &= (1 << self.V % 32) - 1


_PLAIN = {"NoExtensionBias": "the tokenizer has no token for what must follow"}


class _Vocabulary:
    """What the library wants to know of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    special_token_ids = ()

    def __init__(self, pieces, eos):
        self.tokens, self.eos_token_id = pieces, eos

    def __call__(self, text):
        return []  # asked of the tokens of text that must follow, which _ANY_SPLIT leaves open

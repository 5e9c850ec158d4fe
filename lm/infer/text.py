"""The text of a request's tokens as they come, up to what ends it: on the host, no jax."""

from lm.data.tokenizers import Stream, Tokenizer
from lm.infer.request import Sampling


class Text:
    """The text that tokens make, none of which later tokens can change or take back.

    What stop text ends first ends the output, the longest of those that end together; neither it
    nor what follows is text. Tokens that end the output give none.
    """

    def __init__(self, tokenizer: Tokenizer, sampling: Sampling, eos: int | None):
        """eos: the token that ends the output, unless sampling.ignore_eos."""
        ends = set(sampling.stop_ids)
        if eos is not None and not sampling.ignore_eos:
            ends.add(eos)
        self.ends = frozenset(ends)
        self.stream = Stream(tokenizer)
        self.stops = [_Stop(text) for text in sampling.stop]
        self.held = ""       # the longest end of the text that begins a stop text
        self.finish = None   # "stop", once that has come

    def feed(self, tokens: list[int]) -> tuple[int, str, str | None]:
        """Takes the tokens made next; returns how many count, text to show and "stop" at the end.

        A token that ends the output counts, those after it do not. Once ended, nothing counts.
        """
        if self.finish:
            return 0, "", self.finish
        if not self.stops and self.ends.isdisjoint(tokens):
            return len(tokens), self.stream.feed(tokens), None
        shown = []
        for kept, token in enumerate(tokens, 1):
            if token in self.ends:
                shown.append(self.end())
                self.finish = "stop"
            else:
                shown.append(self._until_stop(self.stream.feed((token,))))
            if self.finish:
                return kept, "".join(shown), self.finish
        return len(tokens), "".join(shown), None

    def end(self) -> str:
        """Returns what was held back, where the tokens end by themselves; nothing follows.

        If `finish` is "stop" after it, a stop text was in that.
        """
        if self.finish:
            return ""
        text = self._until_stop(self.stream.end())
        held, self.held = self.held, ""
        return text if self.finish else text + held

    def _until_stop(self, new):
        """Returns the text that `new` lets out; sets finish where a stop text has come."""
        if not new or not self.stops:
            return new
        text = self.held + new
        ended = [(at, -len(stop.text)) for stop in self.stops if (at := stop.find(new)) is not None]
        if ended:
            at, size = min(ended)
            self.finish, self.held = "stop", ""
            return text[:len(text) - len(new) + at + size]
        free = len(text) - max(stop.matched for stop in self.stops)
        self.held = text[free:]
        return text[:free]


class _Stop:
    """One stop text, looked for in text that comes in parts (Knuth, Morris, Pratt 1977)."""

    def __init__(self, text: str):
        self.text = text
        self.matched = 0      # how many of its characters the text so far ends with
        self.shorter = [0]    # [n]: the next smaller such number, where it is n + 1
        for char in text[1:]:
            n = self.shorter[-1]
            while n and text[n] != char:
                n = self.shorter[n - 1]
            self.shorter.append(n + (text[n] == char))

    def find(self, new: str) -> int | None:
        """Returns where in `new` it first ends, if it does."""
        text, shorter, n = self.text, self.shorter, self.matched
        start = 0 if n else new.find(text[0])
        if start < 0:
            return None
        for at in range(start, len(new)):
            char = new[at]
            while n and text[n] != char:
                n = shorter[n - 1]
            n += text[n] == char
            if n == len(text):
                return at + 1
        self.matched = n
        return None

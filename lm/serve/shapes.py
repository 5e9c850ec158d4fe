"""The parts that both kinds of completion are made of: logprobs and usage."""

import functools

from lm.infer.request import Logprob
from lm.serve.stream import Answer, Choice

LEAST = -9999.0   # in place of minus infinity, which JSON has not


class Spelling:
    """What each token stands for."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    @functools.cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of each; slow to make the first time, of a large vocabulary."""
        return self.tokenizer.pieces()

    def bytes(self, token: int) -> bytes:
        """Returns its bytes."""
        return self.pieces[token]

    def text(self, token: int) -> str:
        """Returns its text; where it is a part of a character, its bytes as OpenAI writes them."""
        try:
            return self.bytes(token).decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{b:02x}" for b in self.bytes(token))


def listed(choice: Choice, found: list[Logprob], spelling: Spelling) -> dict:
    """Returns logprobs as /v1/completions has them."""
    out = dict(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
    for x in found:
        out["tokens"].append(spelling.text(x.token))
        out["token_logprobs"].append(max(x.logprob, LEAST))
        out["top_logprobs"].append({spelling.text(token): max(logprob, LEAST) for token, logprob in
                                    [*x.top, (x.token, x.logprob)]})
        out["text_offset"].append(choice.offset)
        choice.offset += len(choice.decoder.decode(spelling.bytes(x.token)))
    return out


def nested(found: list[Logprob], spelling: Spelling) -> dict:
    """Returns logprobs as /v1/chat/completions has them."""
    def one(token, logprob):
        return dict(token=spelling.text(token), logprob=max(logprob, LEAST),
                    bytes=list(spelling.bytes(token)))
    return dict(content=[one(x.token, x.logprob) | dict(
        top_logprobs=[one(*top) for top in x.top]) for x in found], refusal=None)


def usage(answer: Answer) -> dict:
    """Returns the tokens of an answer; those of a prompt count once, however many its choices."""
    firsts = {id(c.prompt): c for c in reversed(answer.choices)}.values()
    prompt = sum(len(c.prompt) for c in firsts)
    made = sum(c.flight.made for c in answer.choices)
    return dict(prompt_tokens=prompt, completion_tokens=made, total_tokens=prompt + made,
                prompt_tokens_details=dict(cached_tokens=sum(c.flight.cached for c in firsts)))

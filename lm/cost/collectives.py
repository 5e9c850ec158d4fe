"""What a compiled program sends between its devices, summed by kind of operation."""

from dataclasses import dataclass, field

from lm.cost import hlo

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
         "collective-broadcast", "ragged-all-to-all")

# TPUs write as an all-reduce, of which each keeps a part, what they run as a reduce-scatter.
SCATTER = "all-reduce-scatter"


@dataclass
class Collectives:
    """Operations of one call of a program, by their kind, one of `KINDS`.

    bytes: the sum over what each puts in or gets out, whichever is more, by one device. unknown:
    what could not be told, in words; empty if these are all.
    """

    count: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, float] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def __str__(self):
        kinds = sorted(self.count, key=lambda kind: -self.bytes[kind])
        sums = [f"{kind} {self.count[kind]}x {_words(self.bytes[kind])}" for kind in kinds]
        return "; ".join([", ".join(sums) or "none", *self.unknown])


def read(text: str) -> Collectives:
    """Returns the collectives of a compiled program, `compiled.as_text()`."""
    out = Collectives()
    for i, within, beside, times, _, known in hlo.once(text):
        kind = i.op.removesuffix("-start")
        if i.op == "fusion" and i.calls("calls")[0].startswith(SCATTER):
            kind = "reduce-scatter"
        if kind in KINDS and not within.startswith(SCATTER):
            out.count[kind] = out.count.get(kind, 0) + times
            out.bytes[kind] = out.bytes.get(kind, 0.0) + times * payload(i, beside)
            if not known and not out.unknown:
                out.unknown.append("some in loops of unknown length, counted once")
    return out


def payload(i, beside):
    """Returns the bytes that a device puts into or gets out of an operation, whichever is more."""
    put = sum(hlo.size(beside[name].shape) for name in i.operands if name in beside)
    if not i.op.endswith("-start"):
        return max(put, hlo.size(i.shape))
    ends = [j for j in beside.values() if j.op.endswith("-done") and i.name in j.operands]
    return max([put, *(hlo.size(j.shape) for j in ends)])


def _words(count):
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f} B"

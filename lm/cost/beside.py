"""What a compiler holds beside the arrays of a program's own, and what each array is.

A body is one of `lm.cost.fusion`.
"""

from lm.cost import layout
from lm.cost.fusion import Body, count, heads, heavy, tokens
from lm.cost.lettered import Op, Shape

KINDS = ("gradients", "activations", "gathered", "logits", "working", "host")
_SPLIT = {"N", "K", "F", "V"}  # letters that lie over `tensor`


def spread(body: Body, op: Op) -> tuple[list[int], bool]:
    """Returns what a product needs brought together over `tensor`, and if it scatters its result.
    """
    if not {layout.letter(a) for side in op.product for a in side} & _SPLIT:
        return [], False

    def apart(n):
        shape = body.shapes[n]
        return tokens(shape) and shape.power("t") > 0 and not (
            {layout.letter(a) for a in shape.axes} & _SPLIT)
    reads = [n for n in map(body.find, op.reads[:2]) if apart(n)]
    return reads, apart(body.find(op.writes[0]))


def experts(body: Body, op: Op) -> list[tuple[Shape, str]]:
    """Returns what a product of rows with their experts' matrices holds beside, and how it lies.

    Its kernel wants the matrices in its own layout, and where a row gives to the gradient of its
    expert's matrix alone, a mask says of which.
    """
    shapes = [body.shapes[body.find(n)] for n in op.reads]
    out = [(x, "") for x in shapes if len(x.axes) == 3 and not tokens(x)][:1]
    made = body.shapes[body.find(op.writes[0])]
    if not tokens(made):
        rows = next(a for x in shapes for a in x.axes if tokens(Shape((a,), 1)))
        which = next(a for a in made.axes if a.has("E"))
        out.append((Shape((which, rows), 1.0), "mask"))
    return out


def converted(op: Op) -> list[tuple[int, float]]:
    """Returns which operands of a loop its body only converts to narrower numbers: (which, bytes).
    """
    body, out, readers = op.body, [], {}
    for x in body.ops if op.name == "scan" else ():
        for n in x.reads:
            readers.setdefault(n, []).append(x)
    for at in range(body.constants + body.carried, len(body.inputs)):
        n = body.inputs[at]
        sizes = {body.shapes[r.writes[0]].itemsize if r.name == "convert_element_type" else 0
                 for r in readers.get(n, ())}
        if not tokens(body.shapes[n]) and len(sizes) == 1 and (
                0 < min(sizes) < body.shapes[n].itemsize):
            out.append((at, min(sizes)))
    return out


def outputs(body: Body) -> dict[int, str]:
    """Returns how outputs lie that lie otherwise than the tables say.

    Filled up, as a kernel's operands or what these are made of; `kernel`, what a kernel gave and is
    kept by name; on the `host`.
    """
    operands = {n for g in body.groups for n in g.operands}
    results = {n for g in body.groups for n in g.results}
    out = {at: "host" for at, n in enumerate(body.outputs)
           if n in body.maker and body.maker[n].name == "device_put"}
    if not any(body.shapes[n].power("t") > 1 for n in body.outputs):
        out |= {at: "kernel" for at, n in enumerate(body.outputs) if n in results}
    for at, n in enumerate(body.outputs):
        if at not in out and heads(body.shapes[n]) and _leads(body, n, operands):
            out[at] = "lanes"
    return out


def _leads(body, n, operands):
    """Whether elementwise work alone leads from an array to a kernel's operand."""
    stack, seen = [n], set()
    while stack:
        n = stack.pop()
        inside = body.inside.get(id(body.maker.get(n)))
        if n in operands or inside is not None and not heavy(body.maker[n]):
            return True
        for reader in body.readers.get(n, ()) if n not in seen else ():
            if not heavy(reader) and id(reader) not in body.inside:
                stack += map(body.find, reader.writes)
        seen.add(n)
    return False


def kinds(body: Body, known: dict[int, str]) -> dict[int, str]:
    """Returns of which of KINDS each array is; known: of arrays without an operation."""
    out = dict(known)
    for n, shape in enumerate(body.shapes):
        op = body.maker.get(n)
        if n in out:
            continue
        if not tokens(shape):
            back = op is not None and "transpose" in op.scope and not op.again
            out[n] = "gradients" if back else "gathered"
        elif shape.power("L"):
            out[n] = "activations"
        else:
            out[n] = "logits" if shape.power("V") else "working"
    return out


def made(plan, n: int) -> tuple:
    """Returns by what a loop's array is known in another loop of the same layers."""
    maker = next((op.name for op in plan.program.ops if n in op.writes), "")
    return count(plan.program.shapes[n]), plan.program.shapes[n].itemsize, maker

"""A traced program whose sizes are letters: traced once, counted for any sizes on any mesh.

A model is traced abstractly at sizes that no two letters share a prime factor of. Every axis of
every array in the program can then be read as a product of letters, as `B T` or `N H`, whatever the
family that wrote it; and with the real sizes, and the devices that each letter lies over, follows
what each operation multiplies, moves and keeps on one device.
"""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import NamedTuple

import jax
from jax.extend import core
from jax.interpreters import partial_eval

PRIMES = (31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113)


class Axis(NamedTuple):
    """The size of an axis: a factor times letters, each with its power."""

    factor: Fraction
    letters: tuple[tuple[str, int], ...]

    def __str__(self):
        text = "".join(letter if power == 1 else f"{letter}^{power}" for letter, power in
                       self.letters)
        return text if text and self.factor == 1 else f"{self.factor}{text}"

    def has(self, letter: str) -> bool:
        """Whether the letter is a factor of the size."""
        return any(one == letter and power > 0 for one, power in self.letters)


class Shape(NamedTuple):
    """An array: its axes and the bytes of an element."""

    axes: tuple[Axis, ...]
    itemsize: float

    def power(self, letter: str) -> int:
        """Returns how often the letter is a factor of the number of elements."""
        return sum(power for axis in self.axes for one, power in axis.letters if one == letter)


class Alphabet:
    """Letters and the sizes at which a program is traced: each with a prime of its own."""

    def __init__(self, letters: Iterable[str], twos: Mapping[str, int] | None = None,
                 exact: Mapping[int, str] | None = None, halved: str = ""):
        """twos: a power of two that a letter's size has as well. exact: sizes that are a letter.

        halved: letters whose half stands for the whole: one of two devices' own part of an array.
        """
        self.prime = dict(zip(letters, PRIMES, strict=False))
        self.size = {x: p * (twos or {}).get(x, 1) for x, p in self.prime.items()}
        self.exact, self.halved = dict(exact or {}), halved

    def read(self, size: int) -> Axis:
        """Returns a size of a traced array in letters."""
        if size in self.exact:
            return Axis(Fraction(1), ((self.exact[size], 1),))
        found, left = [], Fraction(size)
        for letter, prime in self.prime.items():
            power = 0
            while size and size % prime == 0:
                size //= prime
                power += 1
            if power:
                found.append((letter, power))
                left /= self.size[letter] ** power
        if left.denominator % 2 == 0 and any(letter in self.halved for letter, _ in found):
            left *= 2
        return Axis(left, tuple(sorted(found)))

    def shape(self, aval) -> Shape:
        """Returns a traced array's."""
        dtype = getattr(aval, "dtype", None)
        bits = 0 if dtype is None else _bits(dtype)
        return Shape(tuple(map(self.read, getattr(aval, "shape", ()))), bits / 8)


def _bits(dtype) -> int:
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return 64
    if jax.dtypes.issubdtype(dtype, jax.dtypes.float0):
        return 0
    if dtype == jax.numpy.bool_:
        return 8
    info = jax.numpy.finfo if jax.numpy.issubdtype(dtype, jax.numpy.floating) else jax.numpy.iinfo
    return info(dtype).bits


class Op(NamedTuple):
    """One operation. Arrays are numbers; `Program.shapes` tells their shapes."""

    name: str                  # the primitive's
    scope: str                 # named scopes around it
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    product: tuple | None      # of a matrix product: (rows, depth, columns, batch), each Axes
    dtype: str                 # of its operands
    body: "Program | None"     # of a loop
    times: Axis | None         # how often the body is run
    again: bool                # whether it is computed again for the backward pass


class Program(NamedTuple):
    """Operations in order. Of a loop's body, arrays that come in: constants, carried, slices."""

    ops: list[Op]
    shapes: list[Shape]        # by number, of this body alone
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: int = 0         # how many inputs are constants, then carried; the rest are slices
    carried: int = 0


def read(fn, *args, alphabet: Alphabet) -> Program:
    """Returns the program of fn(*args), arrays or shapes in pytrees, without what is not used."""
    closed = jax.make_jaxpr(fn)(*args)
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars),
                                      instantiate=True)
    return _program(jaxpr, alphabet, "", False)


class _Reader:
    """Reads one body: calls within it are written out, loops are bodies of their own."""

    def __init__(self, alphabet):
        self.alphabet, self.ops, self.shapes, self.known = alphabet, [], [], {}

    def number(self, atom, env):
        """The number of an array; a literal is a new one."""
        if isinstance(atom, core.Literal):
            return self.new(atom.aval)
        return env[atom]

    def new(self, aval):
        self.shapes.append(self.alphabet.shape(aval))
        return len(self.shapes) - 1

    def run(self, jaxpr, env, scope, again):
        for eqn in jaxpr.eqns:
            name, params = eqn.primitive.name, eqn.params
            stack = str(eqn.source_info.name_stack)
            inner = "/".join(filter(None, (scope, stack)))
            reads = tuple(self.number(v, env) for v in eqn.invars)
            once_more = again or "rematted_computation" in stack
            called = None if name in _LOOPS else _called(name, params)
            if called is not None:
                body = called.jaxpr if isinstance(called, core.ClosedJaxpr) else called
                own = dict(zip(body.invars, reads[len(reads) - len(body.invars):], strict=True))
                own |= {v: self.new(v.aval) for v in body.constvars}
                outs = self.run(body, own, inner, once_more)
                env.update(zip(eqn.outvars, outs, strict=True))
                continue
            writes = tuple(self.new(v.aval) for v in eqn.outvars)
            env.update(zip(eqn.outvars, writes, strict=True))
            self.ops.append(self.op(eqn, name, inner, reads, writes, once_more))
        return [self.number(v, env) for v in jaxpr.outvars]

    def op(self, eqn, name, scope, reads, writes, again):
        body = times = product = None
        if name == "scan":
            inner = eqn.params["jaxpr"].jaxpr  # versions of jax tell by other names what is carried
            carried = _same(eqn.outvars, inner.outvars)
            body = _program(inner, self.alphabet, scope, again,
                            _same(eqn.invars, inner.invars) - carried, carried)
            times = self.alphabet.read(eqn.params["length"])
        elif name == "while":
            body = _program(eqn.params["body_jaxpr"].jaxpr, self.alphabet, scope, again,
                            eqn.params["body_nconsts"],
                            len(eqn.params["body_jaxpr"].jaxpr.outvars))
            times = Axis(Fraction(1), ())
        elif name == "cond":
            bodies = [_program(b.jaxpr, self.alphabet, scope, again)
                      for b in eqn.params["branches"]]
            body, times = max(bodies, key=lambda b: len(b.ops)), Axis(Fraction(1), ())
        elif name in _PRODUCTS:
            product = _PRODUCTS[name](eqn, self.alphabet)
        dtypes = {str(v.aval.dtype) for v in eqn.invars[:2] if hasattr(v.aval, "dtype")}
        return Op(name, scope, reads, writes, product, "*".join(sorted(dtypes)), body, times,
                  again)


def _program(jaxpr, alphabet, scope, again, constants=0, carried=0) -> Program:
    reader = _Reader(alphabet)
    env = {v: reader.new(v.aval) for v in (*jaxpr.constvars, *jaxpr.invars)}
    inputs = tuple(env[v] for v in jaxpr.invars)
    outputs = tuple(reader.run(jaxpr, env, scope, again))
    return Program(reader.ops, reader.shapes, inputs, outputs, constants, carried)


def _same(outside, inside):
    """How many arrays go into or come out of a scan whole, not as slices."""
    return sum(o.aval.ndim == i.aval.ndim for o, i in zip(outside, inside, strict=True))


_LOOPS = ("scan", "while", "cond")


def _called(name, params):
    """The one body that an operation runs once, or None."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call"):
        found = params.get(key)
        if isinstance(found, (core.Jaxpr, core.ClosedJaxpr)) and name != "pallas_call":
            return found
    return None


def _dot(eqn, alphabet):
    (left, right), (batch, other) = eqn.params["dimension_numbers"]
    lhs, rhs = (v.aval.shape for v in eqn.invars[:2])

    def of(shape, places):
        return tuple(alphabet.read(shape[i]) for i in places)
    rows = [i for i in range(len(lhs)) if i not in (*left, *batch)]
    columns = [i for i in range(len(rhs)) if i not in (*right, *other)]
    return of(lhs, rows), of(lhs, left), of(rhs, columns), of(lhs, batch)


def _ragged(eqn, alphabet):
    """Each row meets the matrix of its own group."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (left, right), (batch, other) = numbers.dot_dimension_numbers
    lhs, rhs = (v.aval.shape for v in eqn.invars[:2])

    def of(shape, places):
        return tuple(alphabet.read(shape[i]) for i in places)
    rows = [i for i in range(len(lhs)) if i not in (*left, *batch)]
    skip = {*right, *other, *numbers.rhs_group_dimensions}
    return (of(lhs, rows), of(lhs, left), of(rhs, [i for i in range(len(rhs)) if i not in skip]),
            of(lhs, batch))


_PRODUCTS = {"dot_general": _dot, "ragged_dot_general": _ragged, "ragged_dot": _ragged}


def walk(program: Program, times: tuple[Axis, ...] = ()):
    """Yields (operation, shapes of its body, loops around it as Axes), inner ones too."""
    for op in program.ops:
        yield op, program.shapes, times
        if op.body is not None:
            yield from walk(op.body, (*times, op.times))


def elements(axes: Iterable[Axis], sizes: Mapping[str, float]) -> float:
    """Returns the product of sizes; sizes: of each letter, numbers or arrays."""
    out = 1.0
    for axis in axes:
        out = out * float(axis.factor)
        for letter, power in axis.letters:
            out = out * sizes[letter] ** power
    return out


def unread(program: Program, least: int = 12) -> list[str]:
    """Returns axes that no letters explain: a whole factor of `least` or more, or odd parts."""
    found = set()
    for _, shapes, _ in walk(program):
        for shape in shapes:
            for axis in shape.axes:
                odd = axis.factor.numerator
                while odd and odd % 2 == 0:
                    odd //= 2
                if odd >= least:
                    found.add(str(axis))
    return sorted(found)

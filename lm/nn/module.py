"""Parameters declared as data. The one file that knows flax.

A module declares its parameters with `param`: the value is a shape until arrays are bound to it,
so building a model of any size takes no memory. What else is asked of a parameter (initialiser,
sharding, weight decay, fan-in, count, price) is read from its `Spec`.
"""

import math
import zlib
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import nnx

from lm.mesh import rules
from lm.nn.precision import PRECISIONS, Precision
from lm.nn.quantised import letters

Module = nnx.Module


class Carried(nnx.Variable):
    """What the training step carries from step to step beside the parameters."""


@dataclass(frozen=True)
class Normal:
    """Gaussian values with standard deviation `std`."""

    std: float

    def __call__(self, key, shape):
        return self.std * jax.random.normal(key, shape, jnp.float32)


@dataclass(frozen=True)
class Constant:
    """The same value everywhere."""

    value: float

    def __call__(self, key, shape):
        return jnp.full(shape, self.value, jnp.float32)


@dataclass(frozen=True)
class Spec:
    """What is declared of one parameter."""

    axes: str           # its axes in the alphabet; a stack has L in front, of experts E
    init: object        # key, shape -> float32 array of one layer
    inputs: str         # the axes that a matrix contracts with its input, '' for a vector or table
    decay: bool         # whether weight decay applies
    exact: bool = False  # whether it is computed with in float32, whatever the rest is

    @property
    def hidden(self) -> bool:
        """Whether it is a matrix between hidden activations: no vector, embedding or output."""
        return bool(self.inputs) and "V" not in self.axes

    @property
    def stacked(self) -> str:
        """The axes in front, over layers and over the experts in them: each element is its own."""
        return self.axes[:len(self.axes) - len(self.axes.lstrip("LE"))]

    @property
    def outputs(self) -> str:
        """The axes of a matrix that are neither inputs nor stacked."""
        return "".join(a for a in self.axes[len(self.stacked):] if a not in self.inputs)


def param(axes: str, sizes: dict[str, int], init, inputs: str = "", decay: bool | None = None,
          exact: bool = False):
    """Declares a parameter with axes named by letters, of the given sizes.

    decay: default is to decay whatever has two axes or more. exact: `compute` leaves it float32.
    """
    shape = tuple(sizes[a] for a in axes)
    decay = len(axes) > 1 if decay is None else decay
    return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.float32),
                     spec=Spec(axes, init, inputs, decay, exact))


def carried(size: int):
    """Declares `size` float32 numbers, zero at first, that no gradient descends on.

    What a custom gradient rule gives as their gradient is a message to the training step, which
    makes their next values of it; it arrives as the sum over all uses in a batch. None where a
    model is bound to parameters alone.
    """
    return Carried(jax.ShapeDtypeStruct((size,), jnp.float32),
                   spec=Spec(".", Constant(0.0), "", False))


def stack(module: Module, L: int) -> Module:
    """Returns `module` as L layers: every parameter with an axis L in front."""
    def widen(leaf):
        spec, value = leaf.get_metadata()["spec"], leaf.get_value()
        return type(leaf)(jax.ShapeDtypeStruct((L, *value.shape), value.dtype),
                          spec=replace(spec, axes="L" + spec.axes))
    graph, state = nnx.split(module)
    wide = jax.tree.map(widen, state, is_leaf=lambda x: isinstance(x, nnx.Variable))
    return nnx.merge(graph, wide)


def layer(stacked: Module, i) -> Module:
    """Returns layer i of what `stack` made, or of one whose arrays are lists of each layer's."""
    def own(leaf):
        value = leaf.get_value()
        return leaf if value is None else leaf.replace(value[i])
    return jax.tree.map(own, stacked, is_leaf=lambda x: isinstance(x, nnx.Variable))


@dataclass(frozen=True, eq=False)
class Declaration:
    """A model before it has values: its structure and, as nested dicts, shapes and specs.

    Compared by identity, so that it can be a static argument of a jitted function.
    """

    graph: object
    shapes: dict
    specs: dict
    carried: dict          # shapes of what `carried` declares
    precision: Precision

    def bind(self, params: dict, carried: dict | None = None) -> Module:
        """Returns the module with arrays for parameters and what is carried; free inside jit."""
        if not self.carried:
            return nnx.merge(self.graph, params)
        if carried is None:
            carried = jax.tree.map(lambda _: None, self.carried)
        return nnx.merge(self.graph, params, carried)

    def init(self, key) -> dict:
        """Returns parameters as they are stored. Their values depend on their own name alone."""
        def make(path, shape, spec):
            own = jax.random.fold_in(key, zlib.crc32(jax.tree_util.keystr(path).encode()))
            if spec.axes[0] != "L":
                return spec.init(own, shape.shape).astype(shape.dtype)
            layers = jax.random.split(own, shape.shape[0])
            return jax.vmap(lambda k: spec.init(k, shape.shape[1:]))(layers).astype(shape.dtype)
        return jax.tree.map_with_path(make, self.shapes, self.specs)

    def shardings(self, mesh) -> dict:
        """Returns how each parameter is stored on the mesh."""
        return jax.tree.map(lambda x, s: rules.sharding(mesh, s.axes, x.shape),
                            self.shapes, self.specs)

    @property
    def count(self) -> int:
        """The number of parameters."""
        return sum(math.prod(x.shape) for x in jax.tree.leaves(self.shapes))

    def active(self, top: int) -> int:
        """Returns the number of parameters that act on one token: `top` experts of each layer's."""
        def of(x, s):
            E = x.shape[s.stacked.index("E")] if "E" in s.stacked else top
            return math.prod(x.shape) * top // E
        return sum(jax.tree.leaves(jax.tree.map(of, self.shapes, self.specs)))


def declare(module: Module, precision: Precision = PRECISIONS["float32"]) -> Declaration:
    """Returns what a module built by `param`, `carried` and `stack` declares."""
    graph, state, beside = nnx.split(module, nnx.Param, Carried)
    specs = nnx.to_pure_dict(state, lambda leaf: leaf.get_metadata()["spec"])
    shapes = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, "float32" if s.exact else precision.stored),
        nnx.to_pure_dict(state), specs)
    return Declaration(graph, shapes, specs, nnx.to_pure_dict(beside), precision)


def compute(module: Module, dtype) -> Module:
    """Returns `module` with parameters as they are computed with: in `dtype`, whole over fsdp.

    Cast first: what travels between the devices is then the smaller copy.
    """
    def ready(leaf):
        if isinstance(leaf, Carried):
            return leaf
        spec, value = leaf.get_metadata()["spec"], leaf.get_value()
        axes = spec.axes[len(spec.axes) - value.ndim:]  # inside a scan the L is gone
        return leaf.replace(rules.shard(value.astype(jnp.float32 if spec.exact else dtype), axes))
    return jax.tree.map(ready, module, is_leaf=lambda x: isinstance(x, nnx.Variable))


def axes(module: Module):
    """Returns a tree as `module` with each array's letters in its place."""
    def own(leaf):
        if leaf.get_value() is None:
            return leaf
        return leaf.replace(letters(leaf.get_value(), leaf.get_metadata()["spec"].axes))
    return jax.tree.map(own, module, is_leaf=lambda x: isinstance(x, nnx.Variable))

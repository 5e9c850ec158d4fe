"""Parameters declared as data. The one file that knows flax.

A module declares its parameters with `param`: the value is a shape until arrays are bound to it,
so building a model of any size takes no memory. What else is asked of a parameter (initialiser,
sharding, weight decay, fan-in, count, price) is read from its `Spec`.
"""

import math
import zlib
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from lm.mesh import rules

Module = nnx.Module


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

    axes: str           # its axes in the alphabet; a stack of layers has L in front
    init: object        # key, shape -> float32 array of one layer
    inputs: str         # the axes that a matrix contracts with its input, '' for a vector or table
    decay: bool         # whether weight decay applies

    @property
    def hidden(self) -> bool:
        """Whether it is a matrix between hidden activations: no vector, embedding or output."""
        return bool(self.inputs) and "V" not in self.axes

    @property
    def outputs(self) -> str:
        """The axes of a matrix that are neither inputs nor layers."""
        return "".join(a for a in self.axes if a not in self.inputs + "L")


def param(axes: str, sizes: dict[str, int], init, inputs: str = "", decay: bool | None = None):
    """Declares a parameter with axes named by letters, of the given sizes.

    decay: default is to decay whatever has two axes or more.
    """
    shape = tuple(sizes[a] for a in axes)
    decay = len(axes) > 1 if decay is None else decay
    return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.float32),
                     spec=Spec(axes, init, inputs, decay))


def stack(module: Module, L: int) -> Module:
    """Returns `module` as L layers: every parameter with an axis L in front."""
    def widen(leaf):
        spec, value = leaf.get_metadata()["spec"], leaf.get_value()
        return nnx.Param(jax.ShapeDtypeStruct((L, *value.shape), value.dtype),
                         spec=Spec("L" + spec.axes, spec.init, spec.inputs, spec.decay))
    graph, state = nnx.split(module)
    wide = jax.tree.map(widen, state, is_leaf=lambda x: isinstance(x, nnx.Variable))
    return nnx.merge(graph, wide)


@dataclass(frozen=True, eq=False)
class Declaration:
    """A model before it has values: its structure and, as nested dicts, shapes and specs.

    Compared by identity, so that it can be a static argument of a jitted function.
    """

    graph: object
    shapes: dict
    specs: dict

    def bind(self, params: dict) -> Module:
        """Returns the module with arrays for parameters; free inside jit."""
        return nnx.merge(self.graph, params)

    def init(self, key) -> dict:
        """Returns float32 parameters. A parameter's values depend on its own name alone."""
        def make(path, shape, spec):
            own = jax.random.fold_in(key, zlib.crc32(jax.tree_util.keystr(path).encode()))
            if spec.axes[0] != "L":
                return spec.init(own, shape.shape)
            layers = jax.random.split(own, shape.shape[0])
            return jax.vmap(lambda k: spec.init(k, shape.shape[1:]))(layers)
        return jax.tree.map_with_path(make, self.shapes, self.specs)

    def shardings(self, mesh) -> dict:
        """Returns how each parameter is stored on the mesh."""
        return jax.tree.map(lambda x, s: rules.sharding(mesh, s.axes, x.shape),
                            self.shapes, self.specs)

    @property
    def count(self) -> int:
        """The number of parameters."""
        return sum(math.prod(x.shape) for x in jax.tree.leaves(self.shapes))


def declare(module: Module) -> Declaration:
    """Returns what a module built by `param` and `stack` declares."""
    graph, state = nnx.split(module)
    shapes = nnx.to_pure_dict(state)
    specs = nnx.to_pure_dict(state, lambda leaf: leaf.get_metadata()["spec"])
    return Declaration(graph, shapes, specs)


def compute(module: Module, dtype) -> Module:
    """Returns `module` with parameters as they are computed with: in `dtype`, whole over fsdp.

    Cast first: what travels between the devices is then the smaller copy.
    """
    def ready(leaf):
        axes = leaf.get_metadata()["spec"].axes
        value = leaf.get_value()
        axes = axes[len(axes) - value.ndim:]  # inside a scan the L is gone
        return leaf.replace(rules.shard(value.astype(dtype), axes))
    return jax.tree.map(ready, module, is_leaf=lambda x: isinstance(x, nnx.Variable))

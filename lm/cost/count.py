"""FLOPs of any function, counted by tracing it: no memory is used, at any size.

What is counted is what the program says: matrix products of full shapes. A masked product counts
whole, so causal attention written as dense products counts twice what a query sees; recomputed
products count again. For figures that leave these out see `lm.cost.conventions`.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax
from jax.extend import core
from jax.interpreters import partial_eval


@dataclass
class Count:
    """FLOPs of one call, over all devices; a multiply-add is 2.

    by_dtype: by the operands' dtypes, such as `bfloat16` or `bfloat16*int8`.
    by_scope: by the path of the scopes around the product, as `attention/BTD,DNH->BTNH`: those of
    jax.named_scope, and einsum's own.
    unknown: what could not be counted, in words; empty if `total` is all.
    """

    total: float = 0
    by_dtype: dict[str, float] = field(default_factory=dict)
    by_scope: dict[str, float] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def add(self, flops: float, dtype: str, scope: str) -> None:
        """Counts one operation."""
        self.total += flops
        self.by_dtype[dtype] = self.by_dtype.get(dtype, 0) + flops
        self.by_scope[scope] = self.by_scope.get(scope, 0) + flops

    def under(self, scope: str) -> float:
        """Returns the FLOPs of all paths that `scope` is a part of."""
        return sum(n for path, n in self.by_scope.items() if scope in path.split("/"))

    def merge(self, other: "Count") -> None:
        """Adds what `other` counted."""
        self.total += other.total
        for mine, theirs in ((self.by_dtype, other.by_dtype), (self.by_scope, other.by_scope)):
            for name, flops in theirs.items():
                mine[name] = mine.get(name, 0) + flops
        self.unknown += [line for line in other.unknown if line not in self.unknown]


def flops(fn: Callable, *args, trips: int | None = None, **kwargs) -> Count:
    """Returns the matrix-product FLOPs of fn(*args, **kwargs), as executed.

    args: arrays or jax.ShapeDtypeStructs, in pytrees. Products whose result is not used are left
    out, as the compiler does. A scan counts its length, `cond` its most expensive branch,
    shard_map its body on every device of the axes that it maps, a Pallas kernel its cost estimate.
    trips: the number of turns of while loops, which the program does not tell; without it their
    body counts once and `unknown` says so.
    """
    closed = jax.make_jaxpr(fn)(*args, **kwargs)
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    out = Count()
    _walk(jaxpr, 1, "", trips, out)
    return out


def _walk(jaxpr, times, scope, trips, out) -> None:
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        inner = "/".join(filter(None, (scope, _scopes(str(eqn.source_info.name_stack)))))
        if name in _PRODUCTS:
            out.add(times * _PRODUCTS[name](eqn), _dtypes(eqn), inner)
        elif name == "pallas_call":
            _kernel(params, times, inner, out)
        elif name == "cond":
            branches = []
            for branch in params["branches"]:
                branches.append(Count())
                _walk(_open(branch), times, inner, trips, branches[-1])
            out.merge(max(branches, key=lambda c: c.total))
        elif name == "while":
            if trips is None:
                out.unknown.append("a while loop of unknown length, counted once")
            for body in (params["cond_jaxpr"], params["body_jaxpr"]):
                _walk(_open(body), times * (1 if trips is None else trips), inner, trips, out)
        elif _OPAQUE.search(name):
            out.unknown.append(f"the operation {name}, counted 0")
        else:
            times_inside = times * _repeats(name, params)
            for value in params.values():
                for body in _bodies(value):
                    _walk(body, times_inside, inner, trips, out)


def _repeats(name: str, params: Mapping) -> int:
    if name == "scan":
        return params["length"]
    if name == "shard_map":
        axes = params.get("newly_manual_axes", params.get("manual_axes"))
        return math.prod(params["mesh"].shape[axis] for axis in axes)
    return 1


def _bodies(value) -> list:
    if isinstance(value, (tuple, list)):
        return [body for item in value for body in _bodies(item)]
    return [_open(value)] if isinstance(value, (core.Jaxpr, core.ClosedJaxpr)) else []


def _open(jaxpr):
    return jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr


def _kernel(params, times, scope, out) -> None:
    estimate = params.get("cost_estimate")
    if estimate is None:
        what = params.get("name") or params.get("name_and_src_info") or "without a name"
        out.unknown.append(f"the Pallas kernel {what} has no cost estimate, counted 0")
    else:
        out.add(times * estimate.flops, "pallas", scope)


def _scopes(stack: str) -> str:
    """Returns what a person named, of e.g. `transpose(jvp(layers))/jit(f)/attention`."""
    names = re.split(r"[/()]", re.sub(r"jit\([^()]*\)", "", stack))
    return "/".join(n for n in names if n and n not in _TRANSFORMS)


_TRANSFORMS = {"jvp", "transpose", "vmap", "checkpoint", "rematted_computation", "shard_map"}


def _dtypes(eqn) -> str:
    names = {str(v.aval.dtype) for v in eqn.invars[:2]}
    return "*".join(sorted(names))


def _dot(eqn) -> float:
    (contract, _), _ = eqn.params["dimension_numbers"]
    lhs = eqn.invars[0].aval.shape
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[d] for d in contract)


def _ragged_dot(eqn) -> float:
    """Each row meets the matrix of its own group, so groups are no dimension of the work."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (_, contract), (_, batch) = numbers.dot_dimension_numbers
    lhs, rhs = (v.aval.shape for v in eqn.invars[:2])
    skip = {*contract, *batch, *numbers.rhs_group_dimensions}
    return 2 * math.prod(lhs) * math.prod(n for d, n in enumerate(rhs) if d not in skip)


def _convolution(eqn) -> float:
    """Every output value meets one filter of its own group: the kernel without output channels."""
    kernel = eqn.invars[1].aval.shape
    channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) / channels


_PRODUCTS = {"dot_general": _dot, "ragged_dot_general": _ragged_dot, "ragged_dot": _ragged_dot,
             "conv_general_dilated": _convolution}
_OPAQUE = re.compile("ffi_call|custom_call|attention|matmul|dot")  # work that shows no products

"""What the backward pass computes again instead of keeping it, by name."""

from collections.abc import Callable

import jax
from jax.ad_checkpoint import checkpoint_name

from lm.mesh.rules import ways

# Casts and shardings of weights give the copies that a layer computes with; kept for the backward
# pass they would be the whole model, unsharded. Those of activations cost little to do again; and
# jax passes what it keeps through reduce_precision, where e4m3's numbers beyond 240 are infinite.
_CHEAP = ("convert_element_type", "sharding_constraint")


def _all_but_copies(prim, *_, **__):
    return prim.name not in _CHEAP


_save = jax.checkpoint_policies
POLICIES = dict(
    none=_all_but_copies,
    dots=_save.dots_with_no_batch_dims_saveable,
    attention=_save.save_only_these_names("attention"),
    full=_save.nothing_saveable,
    offload=_save.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=["input"],
        offload_src="device", offload_dst="pinned_host"),
    stage=_save.nothing_saveable,
)


def named(x, name: str):
    """Returns x, known to the policies as a layer's `input` or as what its `attention` gives."""
    return checkpoint_name(x, name)


def layer(function: Callable, name: str) -> Callable:
    """Returns a layer's function with what POLICIES[name] does not keep computed again."""
    if name == "none" and ways("fsdp") == 1:
        return function  # a layer's weights lie where they are used
    return jax.checkpoint(function, policy=POLICIES[name], prevent_cse=False)


def stage(function: Callable, name: str) -> Callable:
    """Returns a pipeline stage's function; of `stage` only its input is kept."""
    return jax.checkpoint(function, prevent_cse=False) if name == "stage" else function

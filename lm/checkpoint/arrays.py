"""A state as named arrays: between the pytree of the caller and what Orbax writes and reads.

A state is known by the paths of its leaves (`params/layers/w`, `opt/0/mu/w`), not by the classes
of its containers, so a dict may become a NamedTuple without making old checkpoints unreadable.
"""

import jax
import orbax.checkpoint as ocp


def named(tree) -> dict:
    """Returns the leaves of a pytree by path, in the pytree's order."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    out = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}
    if len(out) != len(flat) or "" in out:
        raise ValueError("two leaves have one path, or the tree has no named parts")
    return out


def nested(leaves: dict) -> dict:
    """Returns leaves by path as nested dicts with text keys."""
    out = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = out
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return out


def kind(leaf) -> str:
    """Returns e.g. `float32[65,128]`."""
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def stored(leaves: dict) -> dict:
    """Returns the nested dicts that Orbax saves; PRNG keys become their words."""
    return nested({name: _data(leaf) for name, leaf in leaves.items()})


def load(path, template: dict) -> list[jax.Array]:
    """Returns the arrays under `path` that `template` names, in its order and shardings.

    template: leaves by path with shape, dtype and sharding, equal to what was saved.
    """
    target = nested({name: _target(leaf) for name, leaf in template.items()})
    args = ocp.args.PyTreeRestore(item=target, partial_restore=True, restore_args=(
        ocp.checkpoint_utils.construct_restore_args(target)))
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        found = named(reader.restore(path, args=args))
    return [_typed(found[name], leaf) for name, leaf in template.items()]


def require_shardings(template: dict) -> None:
    """Raises ValueError that names a leaf without a sharding, or of one that does not divide."""
    for name, leaf in template.items():
        if getattr(leaf, "sharding", None) is None:
            raise ValueError(f"the template's {name} has no sharding")
        leaf.sharding.shard_shape(leaf.shape)


def _target(leaf) -> jax.ShapeDtypeStruct:
    plain = jax.eval_shape(_data, leaf)
    return jax.ShapeDtypeStruct(plain.shape, plain.dtype, sharding=leaf.sharding)


def _data(leaf):
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _typed(data, like):
    if not _is_key(like):
        return data
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), like)
    return jax.random.wrap_key_data(data, impl=found[0])


def _is_key(leaf) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)

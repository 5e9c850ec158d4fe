"""The scales of a cache of 8 bits, from the keys and values of text that the model itself makes.

A server has no text of its own to look at; what the model says is what it will keep.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lm.infer.engine import Engine, Model
from lm.infer.request import Request, Sampling
from lm.infer.scheduler import Scheduler
from lm.infer.shape import RESERVE, Shape, page_bytes
from lm.infer.steps import Limits

# dtype: its largest number over what the largest key or value seen becomes. What is larger later is
# cut off; room for it costs int8 resolution, and e4m3, whose steps are relative, next to nothing.
HEADROOM = {"int8": 1.25, "float8_e4m3fn": 4.0}
ROWS, TOKENS = 16, 128  # of the text


def ready(model: Model, shape: Shape, V: int) -> Model:
    """Returns the model with the scales of its cache, or without where that needs none.

    shape: of the engine that will have the cache. V: ids that the tokenizer has.
    """
    if shape.dtype not in HEADROOM:
        return model
    length = min(TOKENS, shape.context)
    # In no more memory than the cache will have, or than is left beside it.
    have = shape.pages * page_bytes(model.config, shape.page, shape.dtype, shape.kind)
    each = page_bytes(model.config, length, model.declaration.precision.compute, "blocks")
    rows = max(1, min(ROWS, max(have, RESERVE) // each))
    starts = np.random.default_rng(0).integers(0, V, rows).tolist()
    seen = largest(model, V, [[token] for token in starts], length - 1)
    dtype = jnp.dtype(shape.dtype)
    info = jnp.iinfo if jnp.issubdtype(dtype, jnp.integer) else jnp.finfo
    limit = float(info(dtype).max) / HEADROOM[shape.dtype]
    return model._replace(scales=tuple(
        jax.device_put(np.where(x == 0, 1, x / limit).astype(np.float32), _everywhere())
        for x in seen))


def largest(model: Model, V: int, prompts: list[list[int]],
            output: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (k_LK, v_LK): the largest magnitude of each layer's and head's keys and values.

    Of the prompts and of `output` tokens that the model makes after each, drawn as they are likely.
    """
    rows, longest = len(prompts), max(map(len, prompts)) + output
    page = min(16, longest)
    # All prompts in one step: all then end in one, and none has the pages of another.
    budget, pages = sum(map(len, prompts)), rows * -(-longest // page)
    shape = Shape(slots=rows, context=longest, page=page, pages=pages, budget=budget, ahead=0,
                  queued=rows, queued_tokens=1 << 30, kind="blocks", rows=rows,
                  dtype=model.declaration.precision.compute)
    engine = Engine(model._replace(scales=None), shape, V)
    scheduler = Scheduler(Limits(rows, pages, page, budget, longest, prefix=False))
    for i, prompt in enumerate(prompts):
        scheduler.add(Request(str(i), prompt, Sampling(max_tokens=output, seed=i), print))
    while (step := scheduler.plan()) is not None:
        scheduler.commit(step, engine.read(engine.send(step)).tokens)
    found = jax.jit(_largest, out_shardings=_everywhere())(engine.pools)
    return tuple(np.asarray(x)[:model.config.L] for x in found)


def _largest(pools):
    """[..., K, L, P, S, H] each -> magnitudes [L, K], the stages' one after the other."""
    def one(pool):
        x_KL = jnp.abs(pool).max((-3, -2, -1)).astype(jnp.float32)
        return x_KL.swapaxes(-1, -2).reshape(-1, x_KL.shape[-2])
    return tuple(map(one, pools))


def _everywhere():
    """The sharding of what every device of the mesh in use has whole."""
    mesh = jax.sharding.get_abstract_mesh()
    alone = mesh.empty or mesh.size == 1
    return None if alone else NamedSharding(jax.sharding.get_mesh(), PartitionSpec())

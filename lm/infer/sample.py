"""One token of each row from its logits, within a compiled step; any mix of rows is one program.

What tells rows apart are arrays, one entry a row. What no row asks for is skipped at run time.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

COLD = 1e-4       # a temperature below is 0: float32 has no room for the quotients
NOTHING = -110.0  # exp of this and of all below is 0 in float32


class Rows(NamedTuple):
    """How each row draws; the filters as in request.Sampling."""

    seed_R: jax.Array         # uint32
    index_R: jax.Array        # int32, which token of its request's output it is, from 0
    temperature_R: jax.Array
    top_k_R: jax.Array        # int32
    top_p_R: jax.Array
    min_p_R: jax.Array


class Extras(NamedTuple):
    """What else each row asks for."""

    repetition_R: jax.Array   # penalties as in request.Sampling
    presence_R: jax.Array
    frequency_R: jax.Array
    prompt_R: jax.Array       # int32, tokens of the prompt
    bias_id_RJ: jax.Array     # int32; -1: no bias
    bias_RJ: jax.Array
    mask_RW: jax.Array        # uint32: bit i of word w allows token 32 w + i


def sample(logits_RV: jax.Array, rows: Rows) -> jax.Array:
    """Returns token_R, int32. A row's draw depends on its logits, seed, index and filters alone.

    Draws by the Gumbel trick: argmax(logits + noise) has probability softmax(logits). Of equally
    likely tokens a greedy row takes the first. A row with a NaN gives some id below V, one of -inf
    alone 0. A program for another number of rows may add up shares in another order: the edge of
    top_p may then move by 1e-7.
    """
    x_RV = logits_RV.astype(jnp.float32)
    drawn_R = rows.temperature_R >= COLD
    return lax.cond(drawn_R.any(), _draw, lambda x_RV, drawn_R, rows: _argmax(x_RV),
                    x_RV, drawn_R, rows)


def _draw(x_RV, drawn_R, rows):
    x_RV = x_RV / jnp.where(drawn_R, rows.temperature_R, 1)[:, None]
    least_R1 = least(x_RV, rows, drawn_R)
    noise_RV = jax.vmap(_noise, (0, 0, None))(rows.seed_R, rows.index_R, x_RV.shape[1])
    noise_RV = jnp.where(drawn_R[:, None], noise_RV, 0)
    return _argmax(jnp.where(x_RV >= least_R1, x_RV + noise_RV, -jnp.inf))


def least(x_RV: jax.Array, rows: Rows, drawn_R: jax.Array) -> jax.Array:
    """Returns least_R1: the filters leave the logits x_RV (of temperature 1) that are >= least.

    top_k keeps the k likeliest; top_p (Holtzman et al. 2020), among them, the fewest of the
    likeliest whose share reaches p, one at least; min_p (Nguyen et al. 2024) those at least p times
    as likely as the likeliest. Tokens exactly as likely as the last one kept are kept too; logits
    too near to 0 for a normal float32 may count as 0. drawn_R: rows to which it matters; others may
    be left unfiltered.
    """
    V = x_RV.shape[1]
    most_R1 = x_RV.max(1, keepdims=True)
    k_R1, p_R1, min_R1 = (f[:, None] for f in (rows.top_k_R, rows.top_p_R, rows.min_p_R))
    by_k_R1 = drawn_R[:, None] & (k_R1 > 0) & (k_R1 < V)
    by_p_R1 = drawn_R[:, None] & (p_R1 < 1)
    none_R1 = jnp.full_like(most_R1, -jnp.inf)

    def top_k():
        # As floats, which add up faster than integers and count exactly below 2**24.
        return _highest(x_RV, 1.0, k_R1.astype(jnp.float32), none_R1,
                        jnp.where(by_k_R1, most_R1, none_R1))

    def top_p(above_R1):
        share_RV = jnp.where(x_RV >= above_R1, jnp.exp(x_RV - most_R1), 0)
        goal_R1 = p_R1 * share_RV.sum(1, keepdims=True)
        low_R1 = jnp.where(by_p_R1, jnp.maximum(most_R1 + NOTHING, above_R1), most_R1)
        found_R1 = _highest(x_RV, share_RV, goal_R1, low_R1, most_R1)
        return jnp.where(by_p_R1, found_R1, above_R1)

    least_R1 = lax.cond(by_k_R1.any(), top_k, lambda: none_R1)
    least_R1 = lax.cond(by_p_R1.any(), top_p, lambda above_R1: above_R1, least_R1)
    by_min_R1 = jnp.where(min_R1 > 0, most_R1 + jnp.log(min_R1), none_R1)
    return jnp.maximum(least_R1, by_min_R1)


def _highest(x_RV, share_RV, goal_R1, low_R1, high_R1):
    """Returns the highest float t of [low, high] for which the shares of x >= t add up to the goal.

    low, where none does. Bisects the floats in their order: 32 sums at most, fewer where a sum is
    the goal; sorting a large vocabulary takes far longer.
    """
    def going(state):
        low_R1, high_R1 = state
        return (high_R1 - low_R1 > 1).any()

    def halve(state):
        low_R1, high_R1 = state
        at_R1 = low_R1 + (high_R1 - low_R1) // 2
        sum_R1 = jnp.where(x_RV >= _float(at_R1), share_RV, 0).sum(1, keepdims=True)
        low_R1, high_R1 = (jnp.where(sum_R1 >= goal_R1, at_R1, low_R1),
                           jnp.where(sum_R1 >= goal_R1, high_R1, at_R1))
        return low_R1, jnp.where(sum_R1 == goal_R1, low_R1 + 1, high_R1)
    return _float(lax.while_loop(going, halve, (_order(low_R1), _order(high_R1) + 1))[0])


_SIGN = np.uint32(1 << 31)


def _order(x):
    """Returns uint32 in the order of the floats x."""
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(bits >= _SIGN, ~bits, bits | _SIGN)


def _float(order):
    bits = jnp.where(order >= _SIGN, order ^ _SIGN, ~order)
    return lax.bitcast_convert_type(bits, jnp.float32)


def _noise(seed, index, V):
    """Returns Gumbel noise_V, finite: a token at -inf stays there and any other is above it."""
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), index)
    # High noise is of small u, which 32 bits resolve; jax.random.gumbel has 23, too few for the
    # highest of a large vocabulary.
    u_V = jax.random.bits(key, (V,)).astype(jnp.float32) * 2.0**-32 + 2.0**-33
    return -jnp.log(-jnp.log1p(-jnp.minimum(u_V, 1 - 2.0**-24)))


def _argmax(x_RV):
    """Returns jnp.argmax(x_RV, 1), as two reductions: several times as fast on a CPU."""
    V = x_RV.shape[1]
    highest_RV = x_RV >= x_RV.max(1, keepdims=True)
    first_R = jnp.where(highest_RV, jnp.arange(V, dtype=jnp.int32), V).min(1)
    return jnp.where(first_R < V, first_R, 0)


def adjust(logits_RV: jax.Array, extras: Extras, seen_RC: jax.Array, length_R: jax.Array
           ) -> jax.Array:
    """Returns the logits after penalties, bias and mask, float32; -inf: not allowed.

    seen_RC: tokens of each row by position, of which the first length_R count; those from prompt_R
    on are output. Two biases of one token add up. Ids that are none of V are passed over.
    """
    x_RV = logits_RV.astype(jnp.float32)
    R, V = x_RV.shape
    row_R1 = jnp.arange(R)[:, None]
    position_C = jnp.arange(seen_RC.shape[1])
    known_RC = position_C < length_R[:, None]
    made_RC = known_RC & (position_C >= extras.prompt_R[:, None])
    repetition_R1, presence_R1, frequency_R1 = (
        value[:, None] for value in (extras.repetition_R, extras.presence_R, extras.frequency_R))

    def at(x_RV, id_RJ, counts):
        return x_RV.at[row_R1, jnp.where(counts & (id_RJ >= 0), id_RJ, V)]

    def repeat(x_RV):
        seen_RV = at(jnp.zeros((R, V), bool), seen_RC, known_RC).set(True, mode="drop")
        less_RV = jnp.where(x_RV > 0, x_RV / repetition_R1, x_RV * repetition_R1)
        return jnp.where(seen_RV, less_RV, x_RV)

    def count(x_RV):
        times_RV = at(jnp.zeros((R, V)), seen_RC, made_RC).add(1, mode="drop")
        return x_RV - frequency_R1 * times_RV - presence_R1 * (times_RV > 0)

    def bias(x_RV):
        return at(x_RV, extras.bias_id_RJ, True).add(extras.bias_RJ, mode="drop")

    def mask(x_RV):
        bit_RV = (extras.mask_RW[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
        return jnp.where(bit_RV.reshape(R, -1)[:, :V] == 1, x_RV, -jnp.inf)

    for asked, change in (
            (extras.repetition_R != 1, repeat),
            ((extras.presence_R != 0) | (extras.frequency_R != 0), count),
            (extras.bias_id_RJ >= 0, bias),
            (~extras.mask_RW != 0, mask)):
        x_RV = lax.cond(asked.any(), change, lambda x_RV: x_RV, x_RV)
    return x_RV


def logprobs(logits_RV: jax.Array, token_R: jax.Array, top: int
             ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns logprob_R of token_R, and ids_RJ and logprobs_RJ of the `top` likeliest, in order.

    Those of softmax(logits), the model's own distribution where the logits are; of equally likely
    tokens the lower id comes first.
    """
    x_RV = logits_RV.astype(jnp.float32)
    sum_R1 = jax.nn.logsumexp(x_RV, 1, keepdims=True)
    logprob_R = (jnp.take_along_axis(x_RV, token_R[:, None], 1) - sum_R1)[:, 0]
    best_RJ, id_RJ = lax.top_k(x_RV, min(top, x_RV.shape[1]))
    return logprob_R, id_RJ, best_RJ - sum_R1

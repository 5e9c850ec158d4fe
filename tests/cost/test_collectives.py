"""Collectives of known programs, exactly; on chips as in the texts that their compilers write."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from lm.cost import collectives, hlo

X = jax.ShapeDtypeStruct((32, 16), jnp.float32)  # 8 x 16 on each of 4
PART = 8 * 16 * 4


def text(body, out=None, x=X):
    """The compiled program of `body`, on a mesh a=4 b=2, of a part of x each along a."""
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    mapped = jax.shard_map(body, mesh=mesh, in_specs=P("a"), check_vma=False,
                           out_specs=P("a") if out is None else out)
    return jax.jit(mapped).lower(x).compile().as_text()


def following(x):
    return lax.ppermute(x, "a", [(i, (i + 1) % 4) for i in range(4)])


@pytest.mark.parametrize("kind, size, body, out", [
    ("all-reduce", PART, lambda x: lax.psum(x, "b"), P("a")),
    ("all-gather", 4 * PART, lambda x: lax.all_gather(x, "a", tiled=True), P()),
    ("reduce-scatter", PART, lambda x: lax.psum_scatter(x, "b", tiled=True), P(("a", "b"))),
    ("all-to-all", PART, lambda x: lax.all_to_all(x, "b", 0, 0, tiled=True), P("a")),
    ("collective-permute", PART, following, P("a")),
], ids=lambda value: value if isinstance(value, str) else "")
def test_one_of_each_kind(kind, size, body, out):
    found = collectives.read(text(body, out))
    assert (found.count, found.bytes, found.unknown) == ({kind: 1}, {kind: size}, [])


def test_none():
    assert str(collectives.read(text(lambda x: x + 1))) == "none"


def test_a_loop_counts_its_turns():
    def body(x):
        def turn(x, _):
            x = lax.psum(x, "b")
            return lax.scan(lambda x, _: (following(x) * 2, None), x, None, length=3)[0], None
        return lax.scan(turn, x, None, length=5)[0]
    found = collectives.read(text(body))
    assert found.count == {"collective-permute": 15, "all-reduce": 5}
    assert found.bytes == {"collective-permute": 15 * PART, "all-reduce": 5 * PART}
    assert str(found) == "collective-permute 15x 7.68 kB, all-reduce 5x 2.56 kB"


def test_a_loop_of_unknown_length_is_said():
    def body(x):
        return lax.while_loop(lambda x: x.sum() < 1e6, following, x)
    found = collectives.read(text(body))
    assert found.count == {"collective-permute": 1}
    assert found.unknown == ["some in loops of unknown length, counted once"]


def test_a_branch_counts():
    def body(x):
        return lax.cond(x[0, 0] > 0, following, lambda x: x, x)
    written = text(body)
    assert collectives.read(written).count == {"collective-permute": 1}
    assert [e.sometimes for e in hlo.executed(written)
            if e.instruction.op == "collective-permute"] == [True]


# As TPUs and GPUs write programs: no turns are noted, what is asynchronous is two instructions.
ASYNC = """
HloModule step, is_scheduled=true

%fused_less (a: s32[], b: s32[]) -> pred[] {
  %a = s32[]{:T(128)} parameter(0)
  %b = s32[]{:T(128)} parameter(1)
  ROOT %less = pred[]{:T(512)} compare(%a, %b), direction=LT
}

%all-reduce-scatter.1 (p: bf16[8,128]) -> bf16[2,128] {
  %p = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %sum = bf16[8,128]{1,0:T(8,128)(2,1)} all-reduce(%p), replica_groups=[1,4]<=[4], to_apply=%add
  ROOT %part = bf16[2,128]{1,0:T(8,128)(2,1)} dynamic-slice(%sum), dynamic_slice_sizes={2,128}
}

%add (a: bf16[], b: bf16[]) -> bf16[] {
  %a = bf16[] parameter(0)
  %b = bf16[] parameter(1)
  ROOT %c = bf16[] add(%a, %b)
}

%gather (q: f32[2,128]) -> f32[8,128] {
  %q = f32[2,128]{1,0} parameter(0)
  ROOT %all = f32[8,128]{1,0} all-gather(%q), dimensions={0}
}

%body (s: (s32[], bf16[8,128], s32[])) -> (s32[], bf16[8,128], s32[]) {
  %s = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}, /*index=2*/s32[]) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  %x = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%s), index=1
  %n = s32[]{:T(128)} get-tuple-element(%s), index=2
  %two = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%i, %two)
  %go = (bf16[8,128], bf16[8,128], u32[], u32[]) collective-permute-start(%x), channel_id=3
  %x2 = bf16[8,128]{1,0:T(8,128)(2,1)} collective-permute-done(%go)
  %rs = bf16[2,128]{1,0} fusion(%x2), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %t = (s32[], bf16[8,128], s32[]) tuple(%next, %x2, %n)
}

%condition (s: (s32[], bf16[8,128], s32[])) -> pred[] {
  %s = (s32[], bf16[8,128], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %n = s32[] get-tuple-element(%s), index=2
  ROOT %less = pred[] fusion(%i, %n), kind=kLoop, calls=%fused_less
}

ENTRY %main (x: bf16[8,128], y: f32[2,128]) -> (bf16[8,128], f32[8,128]) {
  %x = bf16[8,128]{1,0} parameter(0)
  %y = f32[2,128]{1,0} parameter(1)
  %zero = s32[] constant(1)
  %last = s32[] constant(11)
  %first = (s32[], bf16[8,128], s32[]) tuple(%zero, %x, %last)
  %loop = (s32[], bf16[8,128], s32[]) while(%first), condition=%condition, body=%body
  %start = ((f32[2,128]), f32[8,128], u32[]) async-start(%y), calls=%gather
  %all = f32[8,128]{1,0} async-done(%start), calls=%gather
  %y2 = bf16[8,128]{1,0} get-tuple-element(%loop), index=1
  ROOT %out = (bf16[8,128], f32[8,128]) tuple(%y2, %all)
}
"""


def test_texts_of_chips():
    """1, 3, 5, 7, 9: five turns. Starts count, ends do not; a fused reduce-scatter is one."""
    found = collectives.read(ASYNC)
    assert found.count == {"collective-permute": 5, "reduce-scatter": 5, "all-gather": 1}
    assert found.bytes == {"collective-permute": 5 * 2048, "reduce-scatter": 5 * 2048,
                           "all-gather": 4096}
    assert not found.unknown


def test_a_counter_that_is_added_to_in_a_fusion():
    inner = ("%fused_add (a: s32[]) -> s32[] {\n  %a = s32[] parameter(0)\n"
             "  %four = s32[] constant(4)\n  ROOT %sum = s32[] add(%a, %four)\n}\n\n%body (s")
    fused = ASYNC.replace("%body (s", inner).replace(
        "add(%i, %two)", "fusion(%i), kind=kLoop, calls=%fused_add")
    assert collectives.read(fused).count["collective-permute"] == 3  # 1, 5, 9


def test_sizes():
    for shape, size in (("f32[8,16]{1,0}", 512), ("(bf16[4], pred[3])", 11), ("s4[6]", 3),
                        ("f8e4m3fn[5,2]", 10), ("f32[]", 4), ("token[]", 0), ("c64[2]", 16)):
        assert hlo.size(shape) == size

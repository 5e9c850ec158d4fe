"""What a compiled step sends, rearranges and holds, read from small programs as XLA prints them."""

import pytest

from lm.cost.heap import Heap
from lm.plan import inventory, source

MESH = dict(stage=1, data=2, fsdp=2, expert=1, context=1, tensor=2)
TABLES = """HloModule jit_step, is_scheduled=true

FileNames
1 "/opt/site-packages/jax/x.py"
2 "/there/lm/nn/mlp.py"
3 "/there/lm/mesh/rules.py"

FunctionNames
1 "<module>"
2 "MLP.__call__"
3 "make.<locals>.step"

FileLocations
1 {file_name_id=1 function_name_id=1 line=7 end_line=7}
2 {file_name_id=2 function_name_id=2 line=31 end_line=31}
3 {file_name_id=3 function_name_id=3 line=60 end_line=60}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}

"""
# A loop of 5 turns. The gather of channel 1 is carried along by two fusions; channel 2's reduction
# is run as a scatter; channel 3 gathers what is no weight.
LOOP = TABLES + """
%start (a: bf16[512,1024]) -> bf16[1024,1024] {
  %a = bf16[512,1024]{1,0} parameter(0)
  ROOT %g.1 = bf16[1024,1024]{1,0} all-gather(%a), channel_id=1, replica_groups={{0,2},{1,3},{4,6},{5,7}}, dimensions={0}
}

%carry (b: bf16[512,1024]) -> bf16[1024,1024] {
  %b = bf16[512,1024]{1,0} parameter(0)
  ROOT %g.2 = bf16[1024,1024]{1,0} all-gather(%b), channel_id=1, replica_groups={{0,2},{1,3},{4,6},{5,7}}, dimensions={0}
}

%all-reduce-scatter.1 (c: f32[1024,1024]) -> f32[512,1024] {
  %c = f32[1024,1024]{1,0} parameter(0)
  %r = f32[1024,1024]{1,0} all-reduce(%c), channel_id=2, replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
  ROOT %s = f32[512,1024]{1,0} slice(%r), slice={[0:512], [0:1024]}
}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %z = f32[] add(%x, %y)
}

%body (p: (s32[], bf16[512,1024], f32[1024,1024])) -> (s32[], bf16[512,1024], f32[1024,1024]) {
  %p = (s32[], bf16[512,1024]{1,0}, f32[1024,1024]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %w = bf16[512,1024]{1,0} get-tuple-element(%p), index=1
  %y0 = f32[1024,1024]{1,0} get-tuple-element(%p), index=2
  %f.1 = bf16[1024,1024]{1,0} fusion(%w), kind=kCustom, calls=%start, metadata={op_name="jit(step)/jvp()/while/dot" stack_frame_id=3}, backend_config={"window_config":{"estimated_cycles":"100"}}
  %f.2 = bf16[1024,1024]{1,0} fusion(%w), kind=kCustom, calls=%carry, metadata={op_name="jit(step)/jvp()/while/dot" stack_frame_id=3}
  %f.3 = f32[512,1024]{1,0} fusion(%y0), kind=kCustom, calls=%all-reduce-scatter.1, metadata={op_name="jit(step)/transpose(jvp())/while/dot_general" stack_frame_id=3}
  %turned = f32[1024,1024]{0,1:T(8,128)} copy(%y0), metadata={op_name="jit(step)/rematted_computation/swap" stack_frame_id=2}
  %moved = f32[1024,1024]{1,0:T(8,128)S(1)} copy(%y0)
  %same = f32[1024,1024]{1,0} copy(%moved)
  %odd = f32[4096,1024]{1,0} all-gather(%y0), channel_id=3, replica_groups={{0,2,4,6},{1,3,5,7}}, dimensions={0}
  %tiny = f32[64]{0} all-gather(%one), channel_id=4, replica_groups={{0,2,4,6},{1,3,5,7}}, dimensions={0}
  ROOT %out = (s32[], bf16[512,1024]{1,0}, f32[1024,1024]{1,0}) tuple(%next, %w, %y0)
}

%test (q: (s32[], bf16[512,1024], f32[1024,1024])) -> pred[] {
  %q = (s32[], bf16[512,1024]{1,0}, f32[1024,1024]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %five = s32[] constant(5)
  ROOT %less = pred[] compare(%j, %five), direction=LT
}

ENTRY %main (w: bf16[512,1024], x: f32[1024,1024]) -> f32[1024,1024] {
  %zero = s32[] constant(0)
  %w.1 = bf16[512,1024]{1,0} parameter(0), metadata={op_name="state.params[\\'mlp\\'][\\'up\\']"}
  %x.1 = f32[1024,1024]{1,0} parameter(1)
  %first = (s32[], bf16[512,1024]{1,0}, f32[1024,1024]{1,0}) tuple(%zero, %w.1, %x.1)
  %loop = (s32[], bf16[512,1024]{1,0}, /*index=2*/f32[1024,1024]{1,0:T(8,128)}) while(%first), condition=%test, body=%body
  ROOT %y.1 = f32[1024,1024]{1,0} get-tuple-element(%loop), index=2
}
"""  # noqa: E501
HERE = "lm/nn/mlp.py:31 MLP.__call__"


@pytest.fixture(scope="module")
def program():
    return inventory.Program(LOOP)


def test_collectives_by_axis_with_the_turns_of_loops(program):
    rows = {(row["kind"], row["axis"]): row for row in inventory.collectives(program, MESH)}
    gather = rows["all-gather", "fsdp"]
    assert (gather["count"], gather["bytes"], gather["where"]) == (5, 5 * 2 * 2**20, HERE)
    scatter = rows["reduce-scatter", "data"]
    assert (scatter["count"], scatter["bytes"]) == (5, 5 * 4 * 2**20)
    assert scatter["where"] == HERE + " (backward)"
    assert rows.keys() == {("all-gather", "fsdp"), ("reduce-scatter", "data"),
                           ("all-gather", "data+fsdp")}
    sizes = [row["bytes"] for row in inventory.collectives(program, MESH)]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == 5 * (2 * 2**20 + 4 * 2**20 + 16 * 2**20 + 256)


def test_a_gather_of_what_is_no_weight_is_pointed_out(program):
    found = inventory.gathers(program, MESH, weights=[2**20], L=1)
    assert [(row["shape"], row["how"], row["count"]) for row in found] == [
        ("f32[4096,1024]", "over data+fsdp", 5)]
    # The same as a weight, or as a weight's half that lies on one device of `tensor`.
    for weights in ([2**20, 2**22], [2**20, 2**23]):
        assert inventory.gathers(program, MESH, weights=weights, L=1) == []


def test_copies_to_another_order_of_axes_only(program):
    found, = inventory.relayouts(program)
    assert found["shape"] == "f32[1024,1024]" and found["how"] == "{1,0} to {0,1}"
    assert found["count"] == 5 and found["bytes"] == 5 * 4 * 2**20
    assert found["where"] == HERE + " (computed again)"


def test_cycles_are_summed_over_turns(program):
    found = inventory.cycles(program, "v5e")
    assert found == dict(cycles=500, clock=1.5e9, seconds=500 / 1.5e9)
    assert inventory.cycles(program, "h100") is None
    assert not inventory.guessed(program)


def test_the_largest_buffers_have_names(program):
    held = [("loop{2}", 4 * 2**20), ("w.1", 2**20), ("turned", 2**20), ("gone.7", 10)]
    rows = inventory.largest(program, Heap(0, 0, 0, 0, held))
    assert [row["bytes"] for row in rows] == [4 * 2**20, 2**20, 2**20, 10]
    assert rows[0]["shape"] == "f32[1024,1024]"
    by = {row["where"]: row for row in rows}
    assert by["state.params['mlp']['up']"]["op"] == "parameter"
    assert by[HERE + " (computed again)"]["op"] == "swap"
    assert inventory.largest(program, Heap(0, 0, 0, 0, held), count=1) == rows[:1]


def test_lines_of_another_version_of_xla(program):
    text = LOOP[len(TABLES):].replace('stack_frame_id=2', 'source_file="/a/lm/nn/norm.py" '
                                      'source_line=13')
    found = inventory.Program(text)
    assert inventory.relayouts(found)[0]["where"] == "lm/nn/norm.py:13 (computed again)"
    assert inventory.collectives(found, MESH)[0]["where"]  # what stands next to it


def test_a_line_of_elsewhere_if_there_is_none_of_ours(program):
    text = LOOP.replace("/there/lm/", "/opt/site-packages/optax/")
    turned = next(x.instruction for x in program.instructions if x.instruction.name == "turned")
    assert source.reader(text)(turned) == "optax/nn/mlp.py:31 MLP.__call__ (computed again)"

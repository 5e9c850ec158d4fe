"""The compiler's reports on memory: as a TPU's compiler writes them, and as this machine's does."""

import jax
import jax.numpy as jnp
import pytest

from lm.cost import compiled, heap

USAGE = """Memory Space: default (color=0)
Total bytes: 3000 (2.9KiB)
  cumulative_size;       size;       offset; used_by_n_values; shapes_list
  ------------------------------------------------------------
   1000B( 33%);   1000B;      0;                2; 2×f32[250]


Memory Space: vmem (color=1)
Total bytes: 117440512 (112.00MiB)
"""
ASSIGNED = """BufferAssignment:
allocation 0: size 512, thread-local:
 value: <1 sum @0> (size=512,offset=0): f32[]{:T(128)}
allocation 1: size 800, parameter 0, shape |f32[200]| at ShapeIndex {}, maybe-live-out:
 value: <2 param.1 @0> (size=800,offset=0): f32[200]{0}
 value: <3 fusion.9{1} @0> (size=800,offset=0): f32[200]{0}
allocation 2: size 100, output shape is |(f32[25])|, maybe-live-out:
 value: <4 tuple.1{} @0> (size=100,offset=0): (f32[25])
allocation 3: size 64, constant:
 value: <5 constant.1 @0> (size=64,offset=0): f32[16]
allocation 4: size 2000, preallocated-temp:
 value: <6 padded.1 @0> (size=1500,offset=0): f32[10,2]{1,0:T(8,128)}
 value: <7 while.1{0} (phi) @0> (size=1500,offset=0): f32[10,2]{1,0:T(8,128)}
 value: <8 wide.1 @0> (size=400,offset=1500): f32[100]{0}
 value: <9 late.1 @0> (size=1400,offset=0): f32[350]{0}
allocation 5: size 5000, color 1, preallocated-temp:
 value: <10 fast.1 @1> (size=5000,offset=0): f32[1250]{0:S(1)}
"""
RANGES = """HloLiveRange (max 9):
  InstructionSequence:
    0:param.1
  BufferLiveRange:
    param.1{}:0-9
    padded.1{}:1-4
    while.1{0}:3-5
    wide.1{}:2-3
    late.1{}:6-9
    fast.1{}:0-9
  Live ranges at 7 (peak):
    late.1{}: 1400 bytes (cumulative: 1400 bytes)
"""


def write(folder, **reports):
    """Puts a compiler's reports into a folder."""
    for kind, text in reports.items():
        name = f"module_0000.jit_step.after_optimizations-{kind.replace('_', '-')}.txt"
        (folder / name).write_text(text)


def test_a_report_of_a_tpu(tmp_path):
    write(tmp_path, memory_usage_report=USAGE, buffer_assignment=ASSIGNED, live_range=RANGES)
    found = heap.read(tmp_path)
    assert (found.total, found.arguments, found.outputs) == (3000, 800, 100)
    # The padded array and the one beside it, not the later one: aliases count once, other memories
    # not at all.
    assert found.held == [("padded.1", 1500), ("param.1", 800), ("wide.1", 400), ("tuple.1", 100)]
    assert found.live == 1500 + 800 + 400 + 100


def test_the_total_comes_first(tmp_path):
    assert heap.read(tmp_path) is None
    write(tmp_path, memory_usage_report="Memory Space: default (col")
    assert heap.read(tmp_path) is None
    write(tmp_path, memory_usage_report=USAGE)
    found = heap.read(tmp_path)
    assert (found.total, found.live, found.held) == (3000, 0, [])
    assert heap.program(tmp_path) == ""


@pytest.mark.parametrize("layers", [2, 7])
def test_a_program_of_this_machine(tmp_path, layers):
    def loss(w, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), x), x, w)[0].sum()
    w, x = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((layers, 64, 64), (32, 64)))
    made = compiled.compile(jax.jit(jax.grad(loss)).lower(w, x), tmp_path)
    m, found = made.run.memory_analysis(), heap.read(tmp_path)
    assert found.arguments == m.argument_size_in_bytes == 4 * (layers * 64 * 64 + 32 * 64)
    assert found.arguments + found.outputs <= found.live <= found.total
    assert made.peak == found.total
    assert sum(size for _, size in found.held) == found.live
    assert "ENTRY" in heap.program(tmp_path)

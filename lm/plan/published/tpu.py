"""Published training steps of TPUs, all of MaxText.

Its tables print TFLOP/s and utilisation; the seconds here follow from the utilisation and the batch
of the script that a table names, full attention counted as MaxText did until July 2025. Its recipes
print seconds. MaxText's remat policies that have no namesake of ours:

    minimal                 keeps every matrix product, as `dots`
    save_dot_except_mlpwi   computes the two input products of the MLP again
    custom, qkv_..offloaded puts what is named in host memory, computes the other products again

The product that ends a layer is never computed again, since nothing in the layer needs its result:
of `full` as of these. All compute attention's kernel again.

Left out: Llama-3.1-405B on 256 chips of v6e (38.55 % and 123 tokens/s a chip, which give 35.2 %);
Mixtral-8x7B on v5p (2909 tokens/s a chip on "256 chips (8x4x4)", which are 128); DeepSeek-V3 and
Llama 4, which the decoder cannot say; Llama-2-70B on v4 and v5e, whose batches are not told.
"""

import math

from lm.models.decoder.presets import PRESETS
from lm.plan.published.row import Row

_TABLE = "MaxText configs/{chip}/README.md; batch, mesh and remat of the script beside it"
_RECIPE = "AI-Hypercomputer/tpu-recipes training/{}"


def _scaled(scale: int) -> dict:
    """Returns MaxText's model of `global_parameter_scale`: a power of two, nominal billions."""
    q, r = divmod(scale.bit_length() - 1, 3)
    wide = 2 ** (q + (r > 0))
    return dict(L=16 * 2**q, D=2048 * 2 ** (q + (r > 1)), N=16 * wide, H=128, F=7168 * wide,
                V=32000, T=2048, norm="rmsnorm", positions="rotary", activation="swiglu")


def _table(name, chip, slice, slices, model, batch, mesh, remat, measured, fit) -> Row:
    """A line of a table: batch is sequences of a chip, measured (utilisation in %, seconds)."""
    chips = slices * math.prod(int(n) for n in slice.split("x"))
    return Row(f"{name} {slices}x{chip}-{slice}" if slices > 1 else f"{name} {chip}-{slice}",
               chip, slice, model, 2048, batch * chips, dict(data=slices, **mesh), remat,
               seconds=measured[1], source=_TABLE.format(chip=chip), slices=slices,
               utilisation=measured[0] / 100, peak=_PEAK[chip], fit=fit)


_PEAK = dict(v4=275e12, v5e=197e12, v5p=459e12)

# Scale: sequences of a chip, mesh of a slice, (utilisation in %, seconds) of 1, 2, 4 ... 32 slices.
# The table came with configs/largest_job, where 128b.sh has remat_policy=full; later versions of
# the script offload.
_V5E = {
    16: (6, dict(fsdp=256), ((61.10, 10.27), (59.37, 10.57), (59.14, 10.62), (58.27, 10.77),
                             (56.56, 11.10), (54.65, 11.49))),
    32: (4, dict(fsdp=256), ((66.86, 12.12), (64.81, 12.50), (64.10, 12.64), (63.67, 12.73),
                             (62.26, 13.01), (60.40, 13.41))),
    64: (2, dict(fsdp=256), ((59.90, 13.47), (56.66, 14.24), (55.85, 14.45), (54.96, 14.68),
                             (53.29, 15.14), (50.18, 16.08))),
    128: (1, dict(fsdp=16, tensor=16), ((56.06, 14.37), (55.82, 14.43), (54.93, 14.66),
                                        (52.93, 15.22), (50.86, 15.83), (46.25, 17.41))),
}
# Scale, slice, sequences of a chip, tensor, remat, (utilisation in %, seconds) of 1 and 2 slices.
_V5P = (
    (32, "4x4x4", 6, 4, "dots", ((71.47, 7.299), (69.43, 7.513))),
    (64, "4x4x4", 3, 4, "dots", ((70.31, 7.389), (67.26, 7.724))),
    (128, "4x4x8", 1, 8, "dots", ((68.68, 5.033), (66.34, 5.210))),
    (128, "4x8x8", 1, 8, "dots", ((68.83, 5.022), (59.66, 5.794))),
    (256, "8x8x8", 1, 8, "dots", ((67.09, 10.13), (62.99, 10.79))),
    (512, "8x8x8", 2, 8, "full", ((63.99, 42.45), (61.45, 44.20))),
    (1024, "8x8x16", 2, 16, "full", ((55.35, 98.10), (51.55, 105.3))),
    (1024, "8x16x16", 2, 16, "full", ((64.80, 83.80), (60.83, 89.26))),
)
# The models of 2023: MLPs of two matrices with relu, heads of 256. gelu stands for relu.
_OLD = dict(H=256, V=32000, T=2048, norm="rmsnorm", positions="rotary", activation="gelu")
_V4 = (
    ("22B", "4x4x4", dict(_OLD, L=48, D=6144, N=24, F=24576), 13,
     ((56.7, 23.71), (55.2, 24.36), (54.3, 24.76), (53.2, 25.27))),
    ("52B", "4x4x12", dict(_OLD, L=32, D=12288, N=32, F=49152), 7, ((56.0, 29.61), (58.9, 28.15))),
)


def _tables() -> list[Row]:
    out = []
    for scale, (batch, mesh, measured) in _V5E.items():
        out += [_table(f"maxtext-{scale}B", "v5e", "16x16", 2**i, _scaled(scale), batch, mesh,
                       "full", one, fit=i == 0) for i, one in enumerate(measured)]
    for scale, slice, batch, tensor, remat, measured in _V5P:
        chips = math.prod(int(n) for n in slice.split("x"))
        mesh = dict(fsdp=chips // tensor, tensor=tensor)
        out += [_table(f"maxtext-{scale}B", "v5p", slice, 2**i, _scaled(scale), batch, mesh, remat,
                       one, fit=i == 0) for i, one in enumerate(measured)]
    for name, slice, model, batch, measured in _V4:
        mesh = dict(fsdp=math.prod(int(n) for n in slice.split("x")))
        out += [_table(f"maxtext-{name}", "v4", slice, 2**i, model, batch, mesh, "full", one,
                       fit=i == 0 and name == "22B") for i, one in enumerate(measured)]
    return out


def _custom(model: dict, host: str, again: str) -> dict:
    """Returns a Row's fields of a policy that puts `host` in host memory, as 16-bit numbers, and
    computes `again` again.
    """
    D, F = model["D"], model["F"] * (model["experts_top"] if model.get("E") else 1)
    q = model["N"] * model.get("H", D // model["N"])
    k = q * model.get("K", model["N"]) // model["N"]
    products = dict(q=D * q, k=D * k, v=D * k, o=q * D, gate=D * F, up=D * F, down=F * D)
    width = dict(input=D, q=q, k=k, v=k, context=q, o=D, down=D)
    return dict(remat="offload" if host else "dots", offload=bool(host),
                host_bytes=2 * sum(width[name] for name in host.split()),
                recompute=sum(products[name] for name in again.split()) / sum(products.values()))


def _recipe(name, chip, slice, model, T, batch, measured, place, *, slices=1, mesh=None,
            **more) -> Row:
    """A logged step: batch is sequences of a chip, measured (seconds, TFLOP/s of a chip)."""
    chips = slices * math.prod(int(n) for n in slice.split("x"))
    return Row(f"{name} {slices}x{chip}-{slice}" if slices > 1 else f"{name} {chip}-{slice}",
               chip, slice, dict(model, T=T), T, batch * chips, mesh or dict(fsdp=chips),
               seconds=measured[0], tflops=measured[1], slices=slices,
               source=f"AI-Hypercomputer/tpu-recipes training/{place}", **more)


_8B, _70B, _405B = (PRESETS[f"llama3_{size}"] for size in ("8b", "70b", "405b"))
_L2_70B = PRESETS["llama2_70b"]
_MISTRAL = dict(PRESETS["mistral_7b"], windows=(0,))  # MaxText gives it no sliding window
_8X7B = dict(PRESETS["mixtral_8x7b"], experts_capacity=1.25)
_8X22B = dict(_8X7B, L=56, D=6144, N=48, F=16384, V=32768)
_GPT3 = dict(L=96, D=12288, N=96, F=49152, V=50304, norm="layernorm", positions="learned",
             bias="all", activation="gelu_tanh", tied=True)
_ATTENTION, _QKV = "input q k v o", "input q k v"


def _recipes() -> list[Row]:
    small = _custom(_8B, _ATTENTION, "gate up")
    large = _custom(_70B, _QKV, "o gate up")
    out = [_recipe("llama3.1-8B", "v6e", slice, _8B, 8192, batch, measured,
                   "trillium/Llama3.1-8B-MaxText", fit=fit, **small)
           for slice, batch, measured, fit in (
               ("2x4", 3, (3.443, 413.433), True), ("4x4", 3, (3.393, 419.485), False),
               ("4x8", 3, (3.495, 407.225), True), ("16x16", 4, (4.546, 417.397), True))]
    out += [_recipe("llama3.1-70B", "v6e", slice, _70B, 8192, batch, measured,
                    "trillium/Llama3.1-70B-MaxText", stored=stored, fit=fit, **large)
            for slice, batch, measured, stored, fit in (
                ("4x8", 2, (17.790, 443.385), "bfloat16", True),
                ("8x8", 2, (18.688, 422.091), "float32", False),
                ("8x16", 4, (34.786, 453.500), "float32", False),
                ("16x16", 5, (42.656, 462.297), "float32", True))]
    place = "trillium/GPT3-175B-MaxText"
    return out + [
        # The log is of two sequences a chip (2,097,152 tokens a step); the page quotes three.
        _recipe("llama2-70B", "v6e", "16x16", _L2_70B, 4096, 2, (9.052, 402.274),
                "trillium/Llama2-70B-MaxText", fit=True, **_custom(_L2_70B, "q k v", "o gate up")),
        # What the same page said before; its TFLOP/s are not kept.
        _recipe("llama2-70B-full", "v6e", "16x16", _L2_70B, 4096, 4, (17.373, None),
                "trillium/Llama2-70B-MaxText, an earlier version", remat="full"),
        # fsdp over both slices, which `mesh.across` cannot say.
        _recipe("llama3.1-405B", "v6e", "16x16", _405B, 8192, 1, (54.803, 392.454),
                "trillium/Llama3.1-405B-MaxText", slices=2,
                **_custom(_405B, "input", "q k v o gate up")),
        _recipe("mistral-7B", "v6e", "2x4", _MISTRAL, 8192, 6, (6.320, 431.981),
                "trillium/Mistral-7B-MaxText", **_custom(_MISTRAL, _ATTENTION, "gate up")),
        _recipe("gpt3-175B", "v6e", "16x16", _GPT3, 2048, 3, (17.182, 384.891), f"{place}/bf16",
                remat="full"),
        # The page is called fp8; the program it names, gpt_3_175b, has quantization=int8.
        _recipe("gpt3-175B-int8", "v6e", "16x16", _GPT3, 2048, 3, (14.245, 464.261), f"{place}/fp8",
                remat="full", precision="int8"),
        _recipe("mixtral-8x7B", "v6e", "16x16", _8X7B, 4096, 12, (13.484, 302.311),
                "trillium/Mixtral-8x7B-MaxText", **_custom(_8X7B, _ATTENTION, "gate up")),
        _recipe("mixtral-8x22B", "v6e", "16x16", _8X22B, 4096, 8, (24.706, 332.463),
                "trillium/Mixtral-8x22B-MaxText", mesh=dict(fsdp=64, expert=4),
                **_custom(_8X22B, _ATTENTION, "gate up")),
        _recipe("gpt3-175B-int8", "v5p", "8x8x8", _GPT3, 2048, 4, (22.197, 397.246),
                "v5p/GPT3-175B-MaxText", mesh=dict(fsdp=64, tensor=8), remat="full",
                precision="int8"),
        _recipe("llama3.1-405B", "v5p", "8x8x8", _405B, 8192, 2, (131.474, 314.530),
                "v5p/Llama3.1-405B-MaxText", convention="matmul+causal",
                **_custom(_405B, "context down", "q k v o gate up")),
        # MaxText's Run_Llama2.md prints 65 %; its configs llama2_70b_v5p_128 and llama2_70b.sh
        # have four sequences a chip.
        Row("llama2-70B v5p-4x4x4", "v5p", "4x4x4", _L2_70B, 4096, 256, dict(fsdp=64),
            seconds=24.41, source="MaxText getting_started/Run_Llama2.md", utilisation=0.65,
            peak=459e12, **_custom(_L2_70B, "", "gate up")),
    ]


ROWS = (*_tables(), *_recipes())

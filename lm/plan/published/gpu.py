"""Published training steps of GPUs."""

import csv
import math

from lm.base.errors import UserError
from lm.models.decoder.presets import PRESETS
from lm.plan.published.row import Row

# MosaicML's MPT: L, D, N of scripts/train/yamls/pretrain of llm-foundry.
_MPT = {"760m": (24, 1536, 12), "1b": (24, 2048, 16), "3b": (32, 2560, 20), "7b": (32, 4096, 32),
        "13b": (40, 5120, 40), "30b": (48, 7168, 56), "70b": (80, 8192, 64)}
_GPT = dict(norm="layernorm", positions="learned", bias="all", activation="gelu", tied=True)
_FOUNDRY = "mosaicml/llm-foundry scripts/train/benchmarking/README.md"


def _mpt(size: str, T: int) -> dict:
    L, D, N = _MPT[size]
    return dict(_GPT, L=L, D=D, N=N, V=50368, T=T)


def mosaic(path: str) -> list[Row]:
    """Returns the rows of MosaicML's table of H100s, a CSV file with the columns of its README.

    The seconds are of the tokens/s. Its SHARD_GRAD_OP gathers parameters once a step (ZeRO-2),
    which our mesh cannot say; those rows are given as fsdp, their names end in zero2. Activation
    checkpointing is of whole layers. Its fp8 computes with the Transformer Engine, and its
    utilisation is of the fp8 peak.
    """
    try:
        with open(path, newline="") as file:
            return [_mosaic(row) for row in csv.DictReader(file)]
    except (OSError, KeyError) as e:
        raise UserError(f"{path} is not MosaicML's table of H100s ({e}); give the path of a CSV "
                        f"file with the columns of {_FOUNDRY}") from e


def _mosaic(row: dict) -> Row:
    gpus, T, tokens = int(row["# GPUs"]), int(row["SeqLen (T)"]), int(row["GlobalBatchSize (T)"])
    fp8 = row["Precision"] == "amp_fp8"
    name = f"mpt-{row['Model']} {gpus}xh100 T{T}" + " fp8" * fp8
    name += " zero2" * (row["Sharding Strategy"] == "SHARD_GRAD_OP")
    return Row(
        name, "h100", _hosts(gpus), _mpt(row["Model"], T), T, int(row["GlobalBatchSize"]),
        dict(fsdp=gpus), "full" if row["Activation Checkpointing"] == "True" else "none",
        seconds=tokens / int(row["Throughput (T/s)"]), source=_FOUNDRY,
        accumulate=int(row["GradAccum"]), precision="fp8" if fp8 else "bfloat16",
        params=int(row["NumParams"]), tflops=float(row["Model TFLOP"]),
        utilisation=float(row["MFU"]) / 100, peak=1979e12 if fp8 else 989.4e12,
        convention="mosaic", fit=True)


def _hosts(gpus: int) -> str:
    return f"{-(-gpus // 8)}x{min(gpus, 8)}"


# Size, GPUs, sequences of a microbatch, accumulate, tokens/s, utilisation in %, remat. RoCE of 25
# GB/s a GPU. From the same page.
_MPT_A100 = (
    ("a100-80", "70b", 64, 8, 4, 26274, 53.33, "full"),
    ("a100-80", "70b", 32, 2, 16, 11962, 48.56, "full"),
    ("a100-80", "30b", 8, 3, 21, 7330, 55.30, "full"),
    ("a100-80", "13b", 8, 2, 3, 18097, 59.57, "none"),
    ("a100-80", "7b", 8, 6, 2, 37130, 64.23, "none"),
    ("a100-80", "3b", 8, 10, 2, 86491, 62.11, "none"),
    ("a100-80", "1b", 8, 14, 4, 164109, 59.86, "none"),
    ("a100-80", "760m", 8, 24, 2, 259472, 56.85, "none"),
    ("a100-40", "70b", 128, 4, 1, 48194, 48.91, "full"),
    ("a100-40", "70b", 64, 2, 1, 17672, 35.87, "full"),
    ("a100-40", "30b", 128, 6, 1, 110803, 52.25, "full"),
    ("a100-40", "13b", 128, 16, 1, 252444, 51.93, "full"),
    ("a100-40", "13b", 32, 14, 1, 63946, 52.62, "full"),
    ("a100-40", "7b", 128, 18, 1, 463749, 50.14, "full"),
    ("a100-40", "7b", 8, 12, 4, 29436, 50.92, "full"),
    ("a100-40", "3b", 128, 6, 1, 1220885, 54.80, "none"),
)


def _a100() -> list[Row]:
    return [Row(f"mpt-{size} {gpus}x{chip} T2048", chip, _hosts(gpus), _mpt(size, 2048), 2048,
                gpus * micro * accumulate, dict(fsdp=gpus), remat,
                seconds=gpus * micro * accumulate * 2048 / tokens, source=_FOUNDRY,
                accumulate=accumulate, utilisation=used / 100, peak=312e12, convention="mosaic")
            for chip, size, gpus, micro, accumulate, tokens, used, remat in _MPT_A100]


# Billions of parameters, N, D, L, tensor, stage, GPUs, B, TFLOP/s of a GPU, seconds that follow.
# Whole layers are recomputed; microbatches of the pipeline are taken to be of one sequence.
_MEGATRON = (
    (1.7, 24, 2304, 24, 1, 1, 32, 512, 137, 3.528), (3.6, 32, 3072, 30, 2, 1, 64, 512, 138, 3.697),
    (7.5, 32, 4096, 36, 4, 1, 128, 512, 142, 3.696),
    (18.4, 48, 6144, 40, 8, 1, 256, 1024, 135, 9.399),
    (39.1, 64, 8192, 48, 8, 2, 512, 1536, 138, 14.45),
    (76.1, 80, 10240, 60, 8, 4, 1024, 1792, 140, 16.06),
    (145.6, 96, 12288, 80, 8, 8, 1536, 2304, 148, 24.82),
    (310.1, 128, 16384, 96, 8, 16, 1920, 2160, 155, 37.61),
    (529.6, 128, 20480, 105, 8, 35, 2520, 2520, 163, 54.08),
    (1008, 160, 25600, 128, 8, 64, 3072, 3072, 163, 102.6),
)
# Billions, N, D, L, stage, GPUs, B, sequences of a microbatch, seconds with full recomputation,
# seconds with sequence parallelism and attention alone recomputed, utilisation of these in %.
_KORTHIKANTI = (
    (22, 64, 6144, 48, 1, 8, 4, 4, 1.42, 1.10, 41.5),
    (175, 96, 12288, 96, 8, 64, 64, 1, 18.13, 13.75, 51.4),
    (530, 128, 20480, 105, 35, 280, 280, 1, 49.05, 37.83, 56.0),
    (1000, 160, 25600, 128, 64, 512, 512, 1, 94.42, 71.49, 56.3),
)


def _megatron() -> list[Row]:
    out = []
    shape = dict(_GPT, V=51200, T=2048)
    for size, N, D, L, tensor, stage, gpus, B, tflops, seconds in _MEGATRON:
        data = gpus // (tensor * stage)
        out.append(Row(
            f"megatron-{size}B {gpus}xa100-80", "a100-80", _hosts(gpus), dict(shape, L=L, D=D, N=N),
            2048, B, dict(stage=stage, data=data, tensor=tensor), "full", seconds=seconds,
            source="Narayanan et al. 2021, table 1", recompute=1.0,
            accumulate=math.ceil(B / data), tflops=tflops, convention="megatron"))
    for size, N, D, L, stage, gpus, B, micro, full, part, used in _KORTHIKANTI:
        for seconds, remat, share, name in ((full, "full", 1.0, "full"),
                                            (part, "dots", 0.0, "selective")):
            out.append(Row(
                f"megatron-{size}B-{name} {gpus}xa100-80", "a100-80", _hosts(gpus),
                dict(shape, L=L, D=D, N=N), 2048, B, dict(stage=stage, tensor=8), remat,
                seconds=seconds, source="Korthikanti et al. 2022, table 5", recompute=share,
                accumulate=B // micro, convention="megatron_once", peak=312e12,
                utilisation=None if name == "full" else used / 100))
    return out


# GPUs, TFLOP/s of a GPU, seconds that follow. Hosts have 25 GB/s a GPU, half of other H100s'.
_A3 = ((8, 492, 1.535), (16, 422, 1.789), (32, 407, 1.855), (64, 409, 1.846), (128, 375, 2.013))
# Model, GPUs, sequences of a GPU, tensor, remat, recompute, precision, tokens/s of a GPU. The H100s
# of torchtitan have HBM2e of 2.4 TB/s and 500 W; its selective checkpointing computes every other
# product of a layer again; all were compiled.
_TITAN = (
    ("llama3_8b", 8, 2, 1, "dots", 0.5, "bfloat16", 6667),
    ("llama3_8b", 8, 2, 1, "dots", 0.5, "fp8", 8532),
    ("llama3_8b", 128, 2, 1, "dots", 0.5, "bfloat16", 6514),
    ("llama3_8b", 128, 2, 1, "dots", 0.5, "fp8", 8380),
    ("llama3_70b", 256, 16, 8, "full", None, "fp8", 829),
)


def _h100() -> list[Row]:
    out = [Row(f"maxtext-llama2-7B {gpus}xh100", "h100", _hosts(gpus), PRESETS["llama2_7b"], 4096,
               4 * gpus, dict(data=gpus // 8, fsdp=8), "dots", seconds=seconds,
               source="MaxText configs/a3/llama_2_7b/README.md", tflops=tflops)
           for gpus, tflops, seconds in _A3]
    for model, gpus, batch, tensor, remat, share, precision, speed in _TITAN:
        B = batch * gpus // tensor
        out.append(Row(
            f"torchtitan-{model} {gpus}xh100 {precision}", "h100", _hosts(gpus), PRESETS[model],
            8192, B, dict(fsdp=gpus // tensor, tensor=tensor), remat, recompute=share,
            seconds=round(B * 8192 / (speed * gpus), 3), precision=precision,
            source="pytorch/torchtitan benchmarks/llama3_h100_202412_torchtitan.md"))
    out += [Row(f"torchtitan-{model} 64xa100-80", "a100-80", _hosts(64), PRESETS[model], 8192, 64,
                dict(fsdp=64), remat, recompute=share, seconds=round(8192 / speed, 3),
                source="pytorch/torchtitan docs/performance.md, 2024", utilisation=used / 100,
                peak=312e12, convention="palm")
            for model, remat, share, speed, used in (("llama3_8b", "dots", 0.5, 2973, 58.2),
                                                     ("llama3_70b", "full", None, 331, 51.7))]
    return out


ROWS = (*_a100(), *_megatron(), *_h100())

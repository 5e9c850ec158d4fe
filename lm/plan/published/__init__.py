"""Published training steps, as data: what the time model is fitted on and judged by."""

from lm.plan.published import gpu, tpu
from lm.plan.published.gpu import mosaic
from lm.plan.published.row import Row

__all__ = ["Row", "mosaic", "rows"]


def rows(csv: str | None = None) -> list[Row]:
    """Returns all published steps; with the path of MosaicML's table of H100s its rows as well."""
    return [*tpu.ROWS, *gpu.ROWS, *(mosaic(csv) if csv else ())]

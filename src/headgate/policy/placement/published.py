"""The six policies of the published experiment, by name."""

from headgate.kernels import placement_published as kernel

PUBLISHED = {
    "Random": kernel.RANDOM,
    "DotProd": kernel.DOT_PROD,
    "GpuClustering": kernel.GPU_CLUSTERING,
    "GpuPacking": kernel.GPU_PACKING,
    "BestFit": kernel.BEST_FIT,
    "FGD": kernel.FGD,
}

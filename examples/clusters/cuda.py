"""A map on the GPUs of one machine: dask-cuda starts one process for each. Not run by the authors of this package, who had no GPU.

pip install dask-cuda
python examples/clusters/cuda.py cube.zarr model.safetensors maps.zarr
"""

import sys

import xarray as xr
from dask.distributed import Client

import misoxr  # noqa: F401


def main(cube: str, model: str, store: str) -> None:
    from dask_cuda import LocalCUDACluster

    # Two threads: one reads a block while the other computes one.
    with LocalCUDACluster(threads_per_worker=2) as cluster, Client(cluster) as client:
        image = xr.open_zarr(cube, decode_coords="all", chunks={"y": 2048, "x": 2048})
        maps = image.miso.predict(model, device="auto")  # on the workers: CUDA
        maps.miso.to_zarr(store, client=client)


if __name__ == "__main__":
    main(*sys.argv[1:4])

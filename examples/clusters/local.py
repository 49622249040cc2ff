"""A map on the processes of this machine.

    python examples/clusters/local.py cube.zarr model.safetensors maps.zarr [2048]

The last number is the side of a block, in pixels. Started again after an interruption, it does what is left. Each process holds one copy of the
model, and its torch gets as many threads as the worker has.
"""

import sys

import xarray as xr
from dask.distributed import Client, LocalCluster

import misoxr  # noqa: F401


def main(cube: str, model: str, store: str, side: str = "2048") -> None:
    with LocalCluster(threads_per_worker=2) as cluster, Client(cluster) as client:
        print(client.dashboard_link)
        image = xr.open_zarr(cube, decode_coords="all", chunks={"y": int(side), "x": int(side)})
        maps = image.miso.predict(model)
        print(maps.miso.plan(timed=False))
        maps.miso.to_zarr(store, client=client)


if __name__ == "__main__":
    main(*sys.argv[1:5])

"""A map on a Pangeo hub with Dask Gateway. Not run by the authors of this package, who had no such hub.

    python examples/clusters/gateway.py gs://bucket/cube.zarr model.safetensors gs://bucket/maps.zarr

The cube is what `image.miso.to_zarr` wrote. The workers' image needs misoxr and its dependencies, and gcsfs for gs://. The model goes beside
the store, and each host fetches it once.
"""

import sys

import xarray as xr

import misoxr  # noqa: F401


def main(cube: str, model: str, store: str) -> None:
    from dask_gateway import Gateway

    with Gateway().new_cluster(worker_cores=4, worker_memory=16) as cluster:
        cluster.adapt(minimum=2, maximum=50)
        with cluster.get_client() as client:
            image = xr.open_zarr(cube, decode_coords="all", chunks={"y": 2048, "x": 2048})
            maps = image.miso.predict(model)
            maps.miso.to_zarr(store, client=client)


if __name__ == "__main__":
    main(*sys.argv[1:4])

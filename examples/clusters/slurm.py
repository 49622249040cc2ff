"""A map on a SLURM cluster: dask-jobqueue submits the workers as jobs. Not run by the authors of this package, who had no such cluster.

    pip install dask-jobqueue
    python examples/clusters/slurm.py s3://bucket/cube.zarr model.safetensors s3://bucket/maps.zarr

Jobs end by their time limit, and workers with them; their blocks go to other workers. When this process ends too, the same command does what is
left. Workers need no file system in common with it: the model goes beside the store, and each host fetches it once.
"""

import sys

import xarray as xr
from dask.distributed import Client

import misoxr  # noqa: F401


def main(cube: str, model: str, store: str) -> None:
    from dask_jobqueue import SLURMCluster

    with SLURMCluster(
        cores=4,
        processes=1,
        memory="32GB",
        walltime="04:00:00",
        job_extra_directives=["--gres=gpu:1"],
        worker_extra_args=["--resources", "GPU=2", "--lifetime", "3h50m", "--lifetime-stagger", "5m"],
    ) as cluster:
        cluster.adapt(maximum_jobs=20)
        with Client(cluster) as client:
            image = xr.open_zarr(cube, decode_coords="all", chunks={"y": 2048, "x": 2048})
            maps = image.miso.predict(model)
            maps.miso.to_zarr(store, client=client, resources={"GPU": 1})


if __name__ == "__main__":
    main(*sys.argv[1:4])

"""The network: torch only, no xarray and no Dask."""

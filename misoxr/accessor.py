"""``ds.miso``: the verbs on a dataset. Each checks, delegates and returns."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from misoxr.cube import composite as cube
from misoxr.cube import join
from misoxr.io.zarr import to_zarr

if TYPE_CHECKING:
    import geopandas as gpd
    from icechunk import Repository

    from misoxr.evaluation.scores import Scores
    from misoxr.io.plan import Plan
    from misoxr.model.checkpoint import Model
    from misoxr.spec import ModelSpec, WindowSpec
    from misoxr.training.baselines import Baseline, PixelModel

__all__ = ["MisoAccessor"]


@xr.register_dataset_accessor("miso")
class MisoAccessor:
    """The verbs of misoxr on a dataset with dimensions (time,) y and x."""

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    def composite(
        self, season: tuple[str, str] | None = None, years: int | Iterable[int] | None = None, method: str = "median"
    ) -> xr.Dataset:
        """Reduce a time cube to one image; see :func:`misoxr.cube.composite.composite`."""
        return cube.composite(self._ds, season=season, years=years, method=method)

    def add(self, *, resampling: str | Mapping[str, str] = "auto", **rasters: Any) -> xr.Dataset:
        """Put rasters on this dataset's grid, lazily; see :func:`misoxr.cube.join.add`."""
        return join.add(self._ds, resampling=resampling, **rasters)

    def fit(
        self,
        spec: "ModelSpec | Baseline | str | Any",
        points: "gpd.GeoDataFrame",
        *,
        val: "float | gpd.GeoDataFrame | None" = None,
        seed: int = 0,
        device: str = "auto",
        progress: bool = True,
        **settings: Any,
    ) -> "Model | PixelModel":
        """Train a model or a rival on labelled points; see :func:`misoxr.training.fit.fit` for the further settings."""
        from misoxr.training.baselines import fit_estimator, is_baseline

        common = {"val": val, "seed": seed, "device": device, "progress": progress, **settings}
        if is_baseline(spec):
            return fit_estimator(self._ds, spec, points, **common)
        from misoxr.training.fit import fit  # with torch, which estimators do without

        return fit(self._ds, spec, points, **common)

    def predict(
        self,
        model: "Model | PixelModel | str | os.PathLike[str] | list[Any]",
        *,
        tasks: Sequence[str] | None = None,
        windows: "WindowSpec | None" = None,
        resolution: float | None = None,
        location: bool = False,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int | None = None,
        **settings: Any,
    ) -> xr.Dataset:
        """Map a model over this dataset, lazily; see :func:`misoxr.mapping.predict.predict`."""
        from misoxr.mapping.predict import predict

        options = {"location": location, "device": device, "precision": precision, "batch_size": batch_size, **settings}
        return predict(self._ds, model, tasks=tasks, windows=windows, resolution=resolution, **options)

    def predict_at(
        self, model: "Model | PixelModel | str | os.PathLike[str] | list[Any]", points: Any, **options: Any
    ) -> xr.Dataset:
        """Answer a model at any coordinates of this dataset, lazily; see :func:`misoxr.mapping.predict_at.predict_at`."""
        from misoxr.mapping.predict_at import predict_at

        return predict_at(self._ds, model, points, **options)

    def cross_validate(self, estimators: Any, points: "gpd.GeoDataFrame", *, cv: Any = 5, **options: Any) -> "Scores":
        """Fit and score models on folds of labelled points; see :func:`misoxr.evaluation.cross_validate.cross_validate`."""
        from misoxr.evaluation.cross_validate import cross_validate

        return cross_validate(self._ds, estimators, points, cv=cv, **options)

    def plan(self, *, timed: "bool | tuple[int, int]" = True, compact: bool = False) -> "Plan":
        """Tell what writing this dataset will take, before anything is written; see :func:`misoxr.io.plan.plan`."""
        from misoxr.io.plan import plan

        return plan(self._ds, timed=timed, compact=compact)

    def to_zarr(
        self,
        store: "str | os.PathLike[str] | Repository",
        *,
        overwrite: bool = False,
        resume: bool = True,
        progress: bool = True,
        on_error: Literal["raise", "mask"] = "raise",
        compact: bool = False,
        client: Any = None,
        **options: Any,
    ) -> None:
        """Compute this dataset block by block into Zarr, or go on where it stopped; see :func:`misoxr.io.zarr.to_zarr`."""
        settings = {"resume": resume, "progress": progress, "on_error": on_error, "compact": compact, "client": client, **options}
        to_zarr(self._ds, store, overwrite=overwrite, **settings)

    def to_cog(
        self, directory: str | os.PathLike[str], *, variables: Sequence[str] | None = None, overwrite: bool = False, **options: Any
    ) -> list[str]:
        """Compute maps block by block into cloud-optimised GeoTIFFs; see :func:`misoxr.io.geotiff.to_cog`."""
        from misoxr.io.geotiff import to_cog

        return to_cog(self._ds, directory, variables=variables, overwrite=overwrite, **options)

    def to_pyramid(
        self, store: str | os.PathLike[str], *, levels: int | None = None, overwrite: bool = False, **options: Any
    ) -> None:
        """Compute this dataset block by block into Zarr with coarser levels; see :func:`misoxr.io.pyramid.to_pyramid`."""
        from misoxr.io.pyramid import to_pyramid

        to_pyramid(self._ds, store, levels=levels, overwrite=overwrite, **options)

    def plot(self, **options: Any) -> Any:
        """Draw the maps of this dataset; see :func:`misoxr.display.maps.plot`."""
        from misoxr.display.maps import plot

        return plot(self._ds, **options)

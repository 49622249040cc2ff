"""``ds.miso``: the verbs on a dataset. Each checks, delegates and returns."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import xarray as xr

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd
    from icechunk import Repository

    from misoxr.covariates.position import Moments
    from misoxr.cube.scaling import Scaling
    from misoxr.estimators.embedded import EmbeddedModel
    from misoxr.estimators.pixel_model import PixelModel
    from misoxr.evaluation.scores import Scores
    from misoxr.explorer.widget import MapWidget
    from misoxr.io.plan import Plan
    from misoxr.model.checkpoint import Model
    from misoxr.spec import ModelSpec, Task, WindowSpec

__all__ = ["MisoAccessor"]

Verb = TypeVar("Verb", bound=Callable[..., Any])

_ROOT = Path(__file__).parent


def _documented(function: str) -> Callable[[Verb], Verb]:
    """Give a verb the whole docstring of the function it delegates to, but for the dataset.

    The docstring is read from the source, for the function's module may import torch, and its package others that take seconds.
    """

    def document(verb: Verb) -> Verb:
        module, _, name = function.rpartition(".")
        path = _ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")
        source = path.read_text("utf-8") if path.exists() else ""  # as in an archive, or where bytecode alone is there
        whole = re.search(rf'(?ms)^def {name}\(.*?^    """(.*?)^    """$', source)
        if whole:
            verb.__doc__ = re.sub(r"(?m)^(ds|maps) : Dataset.*\n(?: +.*\n)+", "", cleandoc(whole[1]))
        return verb

    return document


@xr.register_dataset_accessor("miso")
class MisoAccessor:
    """The verbs of misoxr on a dataset with dimensions (time,) y and x."""

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    def __repr__(self) -> str:
        from misoxr.reprs.datasets import text

        return text(self._ds)

    def _repr_html_(self) -> str:
        """Show in a notebook what this dataset is, what can be done with it, and what is missing; nothing is computed."""
        from misoxr.reprs.datasets import dataset

        return dataset(self._ds)

    @_documented("misoxr.cube.composite.composite")
    def composite(
        self,
        season: tuple[str, str] | None = None,
        years: int | Iterable[int] | None = None,
        method: str = "median",
        by: Literal["year"] | None = None,
    ) -> xr.Dataset:
        """Reduce a time cube to one image, or to one a year, lazily."""
        from misoxr.cube.composite import composite

        return composite(self._ds, season=season, years=years, method=method, by=by)

    @_documented("misoxr.cube.join.add")
    def add(
        self, resampling: str | Mapping[str, str] = "auto", **rasters: "str | os.PathLike[str] | xr.DataArray | xr.Dataset"
    ) -> xr.Dataset:
        """Join rasters to this dataset on its grid, lazily."""
        from misoxr.cube.join import add

        return add(self._ds, resampling, **rasters)

    @_documented("misoxr.covariates.joined.add_terrain")
    def add_terrain(
        self,
        dem: "str | os.PathLike[str] | xr.DataArray | xr.Dataset",
        radius: int = 4,
        hydrology: "str | os.PathLike[str] | xr.Dataset | None" = None,
        moments: "Moments | None" = None,
    ) -> xr.Dataset:
        """Add the presets' seven terrain covariates of a DEM to this dataset, on its grid."""
        from misoxr.covariates.joined import add_terrain

        return add_terrain(self._ds, dem, radius, hydrology, moments)

    @_documented("misoxr.training.fit.fit")
    def fit(
        self,
        estimator: "ModelSpec | str | Any",
        points: "gpd.GeoDataFrame",
        *,
        tasks: "Sequence[str | Task] | None" = None,
        val: "float | gpd.GeoDataFrame | None" = None,
        seed: int = 0,
        teacher: Any = "auto",
        transfer: Literal["auto", False] = "auto",
        censored: Literal["drop", "weight", "keep"] = "drop",
        tolerance: int | None = None,
        members: int | None = None,
        scaling: "Scaling | str | None" = None,
        like: "ModelSpec | None" = None,
        pretrained: Mapping[str, str | os.PathLike[str]] | None = None,
        calibrate: bool = True,
        directory: str | os.PathLike[str] | None = None,
        resume: bool = True,
        device: str = "auto",
        devices: int = 1,
        precision: str = "auto",
        workers: int = 0,
        progress: bool = True,
        **settings: Any,
    ) -> "Model | PixelModel | EmbeddedModel":
        """Train a model or a baseline on labelled points."""
        from misoxr.estimators.baselines import is_baseline
        from misoxr.estimators.fitting import fit_estimator

        common = {
            "tasks": tasks,
            "val": val,
            "seed": seed,
            "teacher": teacher,
            "transfer": transfer,
            "scaling": scaling,
            "like": like,
        }
        common |= {"pretrained": pretrained, "calibrate": calibrate, "members": members, "censored": censored}
        common |= {"tolerance": tolerance}
        run = {"directory": directory, "resume": resume, "device": device, "devices": devices, "precision": precision}
        settings = {**common, **run, "workers": workers, "progress": progress, **settings}
        if is_baseline(estimator):
            return fit_estimator(self._ds, estimator, points, **settings)
        from misoxr.training.fit import fit  # with torch, which estimators do without

        return fit(self._ds, estimator, points, **settings)

    @_documented("misoxr.training.pretrain.pretrain")
    def pretrain(
        self,
        spec: "ModelSpec | str",
        directory: str | os.PathLike[str],
        *,
        windows: int | None = None,
        scaling: "Scaling | str | None" = None,
        seed: int = 0,
        resume: bool = True,
        device: str = "auto",
        precision: str = "auto",
        workers: int = 0,
        progress: bool = True,
        **settings: Any,
    ) -> "dict[str, Path]":
        """Pre-train a network's encoders on unlabelled windows."""
        from misoxr.training.pretrain import pretrain

        run = {"resume": resume, "device": device, "precision": precision, "workers": workers, "progress": progress}
        settings = {**run, **settings}
        return pretrain(self._ds, spec, directory, windows=windows, scaling=scaling, seed=seed, **settings)

    @_documented("misoxr.mapping.predict.predict")
    def predict(
        self,
        model: "Model | PixelModel | EmbeddedModel | str | os.PathLike[str] | Sequence[Any]",
        *,
        tasks: Sequence[str] | None = None,
        windows: "WindowSpec | None" = None,
        resolution: float | None = None,
        location: bool = False,
        coverage: float | None = None,
        exclude: Mapping[str, xr.DataArray] | None = None,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int | None = None,
        compile: bool = False,
    ) -> xr.Dataset:
        """Map a model over this dataset, lazily."""
        from misoxr.mapping.predict import predict

        options: Any = {
            "location": location,
            "coverage": coverage,
            "exclude": exclude,
            "device": device,
            "precision": precision,
            "batch_size": batch_size,
            "compile": compile,
        }
        return predict(self._ds, model, tasks=tasks, windows=windows, resolution=resolution, **options)

    @_documented("misoxr.mapping.embed.embed")
    def embed(
        self,
        model: "Model | str | os.PathLike[str]",
        *,
        windows: "WindowSpec | None" = None,
        resolution: float | None = None,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int | None = None,
    ) -> xr.Dataset:
        """Map a network's embedding over this dataset, lazily."""
        from misoxr.mapping.embed import embed

        run: Any = {"device": device, "precision": precision, "batch_size": batch_size}
        return embed(self._ds, model, windows=windows, resolution=resolution, **run)

    @_documented("misoxr.mapping.predict_at.predict_at")
    def predict_at(
        self,
        model: "Model | PixelModel | EmbeddedModel | str | os.PathLike[str] | Sequence[Any]",
        points: "gpd.GeoDataFrame | pd.DataFrame | xr.Dataset | Mapping[str, Any]",
        *,
        crs: Any = None,
        tolerance: int | None = None,
        tasks: Sequence[str] | None = None,
        windows: "WindowSpec | None" = None,
        location: bool = False,
        coverage: float | None = None,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int | None = None,
        compile: bool = False,
    ) -> xr.Dataset:
        """Answer at any coordinates of this dataset, lazily."""
        from misoxr.mapping.predict_at import predict_at

        options: Any = {
            "location": location,
            "coverage": coverage,
            "device": device,
            "precision": precision,
            "batch_size": batch_size,
            "compile": compile,
        }
        options |= {"tolerance": tolerance, "tasks": tasks, "windows": windows}
        return predict_at(self._ds, model, points, crs=crs, **options)

    @_documented("misoxr.evaluation.cross_validate.cross_validate")
    def cross_validate(
        self,
        estimators: Any,
        points: "gpd.GeoDataFrame",
        *,
        cv: Any = 5,
        tasks: "Sequence[str | Task] | None" = None,
        seeds: int | Sequence[int] = (0,),
        regions: "gpd.GeoDataFrame | None" = None,
        region: str | None = None,
        store: str | os.PathLike[str] | None = None,
        client: Any = None,
        n_jobs: int | None = None,
        progress: bool = True,
        **settings: Any,
    ) -> "Scores":
        """Fit and score models on folds of labelled points."""
        from misoxr.evaluation.cross_validate import cross_validate

        options = {"regions": regions, "region": region, "store": store, "client": client, "n_jobs": n_jobs, "progress": progress}
        return cross_validate(self._ds, estimators, points, cv=cv, tasks=tasks, seeds=seeds, **options, **settings)

    @_documented("misoxr.uncertainty.applicability.applicability")
    def applicability(
        self,
        model: "Model | PixelModel | EmbeddedModel | str | os.PathLike[str]",
        points: "gpd.GeoDataFrame",
        *,
        cv: Any = None,
        space: Literal["bands", "neighbourhood", "embedding"] = "bands",
        weights: Mapping[str, float] | str | None = None,
        exclude: Mapping[str, xr.DataArray] | None = None,
    ) -> xr.Dataset:
        """Map where a model is to be believed, lazily."""
        from misoxr.uncertainty.applicability import applicability

        return applicability(self._ds, model, points, cv=cv, space=space, weights=weights, exclude=exclude)

    @_documented("misoxr.sampling.mapped.area")
    def area(self, by: "gpd.GeoDataFrame | None" = None, *, unit: str = "km2") -> "pd.DataFrame":
        """Count the area of each class of each map."""
        from misoxr.sampling.mapped import area

        return area(self._ds, by, unit=unit)

    @_documented("misoxr.io.plan.plan")
    def plan(self, *, timed: bool | tuple[int, int] = True, compact: bool = False) -> "Plan":
        """Estimate what writing this dataset will take."""
        from misoxr.io.plan import plan

        return plan(self._ds, timed=timed, compact=compact)

    @_documented("misoxr.io.zarr.to_zarr")
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
        resources: Mapping[str, float] | None = None,
    ) -> None:
        """Compute this dataset block by block into Zarr, or go on where it stopped."""
        settings: Any = {"progress": progress, "on_error": on_error, "compact": compact, "client": client, "resources": resources}
        from misoxr.io.zarr import to_zarr

        to_zarr(self._ds, store, overwrite=overwrite, resume=resume, **settings)

    @_documented("misoxr.io.geotiff.to_cog")
    def to_cog(
        self,
        directory: str | os.PathLike[str],
        *,
        variables: Sequence[str] | None = None,
        classes: str = "mode",
        blocksize: int = 512,
        overwrite: bool = False,
        progress: bool = True,
    ) -> list[str]:
        """Compute maps block by block into cloud-optimised GeoTIFFs."""
        from misoxr.io.geotiff import to_cog

        options: Any = {"classes": classes, "blocksize": blocksize, "overwrite": overwrite, "progress": progress}
        return to_cog(self._ds, directory, variables=variables, **options)

    @_documented("misoxr.io.pyramid.to_pyramid")
    def to_pyramid(
        self,
        store: str | os.PathLike[str],
        *,
        levels: int | None = None,
        classes: str = "mode",
        overwrite: bool = False,
        progress: bool = True,
    ) -> None:
        """Compute this dataset block by block into Zarr with coarser levels."""
        from misoxr.io.pyramid import to_pyramid

        to_pyramid(self._ds, store, levels=levels, classes=classes, overwrite=overwrite, progress=progress)

    @_documented("misoxr.plot.figures.plot")
    def plot(self, *, variables: Sequence[str] | None = None, image: xr.Dataset | None = None, **figure: Any) -> Any:
        """Draw the maps of this dataset side by side."""
        from misoxr.plot.figures import plot

        return plot(self._ds, variables=variables, image=image, **figure)

    @_documented("misoxr.explorer.notebook.explore")
    def explore(
        self,
        *,
        image: xr.Dataset | None = None,
        variables: Sequence[str] | None = None,
        beside: xr.Dataset | str | None = None,
        pyramid: str | os.PathLike[str] | None = None,
        basemap: bool | str | None = None,
        height: int = 500,
    ) -> "MapWidget":
        """Show these maps in the notebook, to pan and zoom."""
        from misoxr.explorer.notebook import explore

        shown: Any = {"basemap": basemap, "height": height}
        return explore(self._ds, image=image, variables=variables, beside=beside, pyramid=pyramid, **shown)

    @_documented("misoxr.display.report.report")
    def report(
        self,
        path: str | os.PathLike[str],
        *,
        scores: "Scores | None" = None,
        model: str | None = None,
        coverage: "pd.DataFrame | Mapping[str, pd.DataFrame] | None" = None,
        applicability: xr.Dataset | None = None,
        areas: "pd.DataFrame | Mapping[str, pd.DataFrame] | None" = None,
        accuracy: "pd.DataFrame | Mapping[str, pd.DataFrame] | None" = None,
        image: xr.Dataset | None = None,
        pyramid: str | os.PathLike[str] | None = None,
        title: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write what these maps show and are worth into one file of HTML."""
        from misoxr.display.report import report

        tables: Any = {"coverage": coverage, "areas": areas, "accuracy": accuracy}
        page: Any = {"image": image, "pyramid": pyramid, "title": title, "overwrite": overwrite}
        report(self._ds, path, scores=scores, model=model, applicability=applicability, **tables, **page)

"""Small cubes and models that many tests share."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from multiprocessing import forkserver
from typing import TYPE_CHECKING

import dask
import numpy as np
import pytest
import xarray as xr
from odc.geo.geobox import GeoBox

import misoxr  # noqa: F401
from misoxr.cube.scaling import Scaling
from misoxr.grid.geobox import assign
from misoxr.spec import Band, EncoderSpec, LossSpec, ModelSpec, WindowSpec

if TYPE_CHECKING:  # torch takes seconds to import, and each process of the tests imports this module
    from misoxr.model.checkpoint import Model

ORIGIN = (300_000.0, 1_500_000.0)

if "MISOXR_TEST_CORES" in os.environ:
    from misoxr.model import devices

    devices._cores = lambda: int(os.environ["MISOXR_TEST_CORES"])


LONG = (
    *(
        "docs/test_guides",
        "training/test_fit",
        "test_pipeline",
        "io/test_bucket",
        "test_real_scene",
        "evaluation/test_cross_validate",
    ),
    *("docs/test_docstrings", "mapping/test_predict_at", "test_kills", "stac/test_failing_servers", "docs/test_readme"),
    *(
        "assets/test_connections",
        "stac/test_table_copy",
        "records/test_ledger",
        "training/test_teaching",
        "estimators/test_baselines",
    ),
    *("io/test_check", "io/test_zarr", "io/test_geotiff", "mapping/test_embed", "test_hostile", "io/test_storable"),
)
"""The files that take longest. They begin first: while one that begins last runs, the other processes have nothing to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first."""
    places = {f"tests/{name}.py": at for at, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the models of tests out of the user's cache."""
    before = os.environ.get("MISOXR_CACHE")
    os.environ["MISOXR_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["MISOXR_CACHE"]
    else:
        os.environ["MISOXR_CACHE"] = before


@pytest.fixture(scope="session", autouse=True)
def _small_teacher() -> Iterator[None]:
    """Let the teacher of small models have few trees and answer few pixels: training is then quick, and teaching is what it is."""
    from misoxr.estimators import catalogue
    from misoxr.training import teaching

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "TREES", 12)
        for name, value in {"ANYWHERE": 12, "POOL": 1000, "EACH": 16}.items():
            patch.setattr(teaching, name, value)
        yield


@pytest.fixture(scope="session")
def forked() -> Iterator[None]:
    """Fork the processes of tests and their clusters from one that has imported what they need: imports cost each 7 s of CPU."""
    preload = ["tests.conftest", "tests.writer", "distributed", "distributed.nanny", "pytorch_lightning", "misoxr.io.zarr"]
    forkserver.set_forkserver_preload([*preload, "misoxr.mapping.predict", "misoxr.evaluation.cross_validate"])
    forkserver.ensure_running()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


def make_cube(
    shape: tuple[int, int], bands: tuple[Band, ...], pixel_size: float = 20.0, seed: int = 0, origin: tuple[float, float] = ORIGIN
) -> xr.Dataset:
    """A NumPy-backed cube of smooth noise, positive, in the bands' own units."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    data = {}
    for band in bands:
        noise = gaussian_filter(rng.standard_normal(shape), 3) * 8
        values = 180 + 60 * noise if band.kind == "circular" else np.exp(noise) * 0.2
        data[band.name] = (("y", "x"), values.astype("float32"), {"units": band.units})
    from affine import Affine

    affine = Affine(pixel_size, 0, origin[0], 0, -pixel_size, origin[1])
    return assign(xr.Dataset(data), GeoBox(shape, affine, "EPSG:3338"))


def tiny_spec(size: int = 16, stride: int = 12, taper: str = "cosine", **changes: object) -> ModelSpec:
    """A specification small enough to build and run in milliseconds."""
    encoder = EncoderSpec("resnet18", ((8, 8),) * 3, {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}, stages=(0, 1, 2))
    spec = ModelSpec.preset("miso-nano", sat=["red", "nir"], cov=["aspect", "elevation"], pixel_size=20)
    modalities = tuple(replace(modality, encoder=encoder) for modality in spec.modalities)
    changes = {"losses": LossSpec(), **changes}
    return replace(spec, modalities=modalities, width=16, windows=WindowSpec(size, size, stride, taper), **changes)


def make_model(spec: ModelSpec, seed: int = 0) -> "Model":
    """A model with random weights and a scaling fitted on a cube of noise."""
    import torch

    from misoxr.model.checkpoint import Model
    from misoxr.model.network import Miso

    cube = make_cube((64, 64), spec.bands, seed=seed)
    pixels = np.stack([cube[band.name].values.ravel() for band in spec.bands])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Miso(spec)
    for name, parameter in network.named_parameters():
        # Heads of full strength: a map of random weights must vary for a difference between two maps to show.
        if name.startswith(("heads", "location_heads")) and parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=3.0 / parameter.shape[1] ** 0.5, generator=torch.Generator().manual_seed(seed))
    return Model(spec, Scaling.fit(spec, pixels), network.eval())


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    return tiny_spec()


@pytest.fixture(scope="session")
def model(spec: ModelSpec) -> "Model":
    return make_model(spec)


@pytest.fixture
def no_compute() -> Callable[[], AbstractContextManager[None]]:
    """A context in which any Dask computation is an error."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a lazy step computed")

    @contextmanager
    def guard() -> Iterator[None]:
        with dask.config.set(scheduler=refuse):
            yield

    return guard

"""The documentation's code, run as it stands: in a folder with small SIMULATED data."""

import os
from contextlib import ExitStack

import fsspec
import pytest

from misoxr.spec import Pretraining, Recipe
from tests.bucket import bucket
from tests.docs.guides import make, prepare_model


@pytest.fixture(scope="module")
def short():
    """Train a few steps where the code does not say how many: what is learnt is of no matter here."""
    whole = Recipe.of.__func__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Recipe, "of", classmethod(lambda cls, spec, **changes: whole(cls, spec, **{"max_epochs": 1, "steps": 4, **changes}))
        )
        before = Pretraining.of.__func__
        patch.setattr(Pretraining, "of", classmethod(lambda cls, spec, **changes: before(cls, spec, **{"steps": 4, **changes})))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory, short):
    with ExitStack() as servers:
        made = make(tmp_path_factory.mktemp("guides"), servers)
        prepare_model(made)
        environment = servers.enter_context(bucket())
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            endpoint = {"endpoint_url": environment["FSSPEC_S3_ENDPOINT_URL"], "skip_instance_cache": True}
            patch.setitem(fsspec.config.conf, "s3", endpoint)  # fsspec has read the environment already
            yield made


@pytest.fixture
def here(tmp_path, monkeypatch, data):
    """A folder with the data, in which the code runs."""
    data.copy(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert os.path.exists("cube.zarr")
    return tmp_path

"""Training: it learns, it repeats itself, it keeps the best epoch, and it refuses what cannot be learnt."""

from dataclasses import replace

import geopandas as gpd
import numpy as np
import pytest
import torch

from misoxr.errors import BandError, GridError, MisoxrWarning, PointsError, SpecError
from misoxr.model.checkpoint import Model
from misoxr.spec import WindowSpec
from misoxr.train import spec_for
from tests.conftest import make_cube, tiny_spec

EPOCHS = 24


@pytest.fixture(scope="module")
def scene(spec):
    """A cube, and points whose labels follow from it: permafrost where red is bright, order by nir."""
    cube = make_cube((160, 160), spec.bands)
    rng = np.random.default_rng(5)
    rows, columns = rng.integers(0, 160, (2, 400))
    red, nir = cube.red.values[rows, columns], cube.nir.values[rows, columns]
    points = gpd.GeoDataFrame(
        {
            "permafrost": np.where(rng.random(400) < 0.8, red > np.median(red), np.nan),
            "taxonomy": np.where(rng.random(400) < 0.8, np.where(nir > np.median(nir), "Gelisols", "Histosols"), None),
        },
        geometry=gpd.points_from_xy(300_010 + 20.0 * columns, 1_499_990 - 20.0 * rows),
        crs="EPSG:3338",
    )
    return cube, points


@pytest.fixture(scope="module")
def fitted(scene, spec):
    cube, points = scene
    return cube.chunk({"y": 50, "x": 70}).miso.fit(
        spec, points, max_epochs=EPOCHS, learning_rate=4e-3, seed=3, progress=False, device="cpu"
    )


def test_it_learns_all_tasks_from_missing_labels(scene, fitted):
    cube, _ = scene
    maps = cube.miso.predict(fitted, device="cpu").compute()
    red, nir = cube.red.values, cube.nir.values
    sure = np.abs(np.log(red / np.median(red))) > 0.3
    assert ((maps.permafrost_probability.values > 0.5) == (red > np.median(red)))[sure].mean() > 0.85
    sure = np.abs(np.log(nir / np.median(nir))) > 0.3
    gelisols = maps.taxonomy_probability.sel(taxon="Gelisols").values > maps.taxonomy_probability.sel(taxon="Histosols").values
    assert (gelisols == (nir > np.median(nir)))[sure].mean() > 0.85


def test_the_location_head_is_trained_too(scene, fitted):
    cube, _ = scene
    maps = cube.miso.predict(fitted, location=True, device="cpu").compute()
    others = maps.taxonomy_location_probability.drop_sel(taxon=["Gelisols", "Histosols"]).sum("taxon")
    assert float(others.mean()) < 0.3


def test_the_record_tells_how(fitted):
    history = fitted.record["validation_loss"]
    assert len(history) == EPOCHS
    assert history[fitted.record["best_epoch"]] == min(history) < history[0]
    assert fitted.record["settings"]["seed"] == 3
    assert fitted.record["points"] > fitted.record["validation_points"] > 0
    assert "simulated" not in fitted.record


def test_the_same_seed_gives_the_same_model(scene, spec):
    cube, points = scene
    one, other, third = (cube.miso.fit(spec, points, max_epochs=1, seed=seed, progress=False, device="cpu") for seed in (1, 1, 2))
    assert one.sha256 == other.sha256 != third.sha256


def test_a_saved_model_predicts_the_same(scene, fitted, tmp_path):
    cube, _ = scene
    fitted.save(tmp_path / "model.safetensors")
    loaded = Model.load(tmp_path / "model.safetensors")
    assert loaded.spec == fitted.spec
    assert loaded.scaling == fitted.scaling
    assert loaded.record == fitted.record
    one = cube.miso.predict(fitted, device="cpu").compute()
    other = cube.miso.predict(tmp_path / "model.safetensors", device="cpu").compute()
    np.testing.assert_array_equal(one.permafrost_probability, other.permafrost_probability)


def test_validation_points_of_ones_own(scene, spec):
    cube, points = scene
    model = cube.miso.fit(spec, points.iloc[:300], val=points.iloc[300:], max_epochs=1, progress=False, device="cpu")
    assert model.record["validation_points"] <= 100
    assert model.record["points"] <= 300


def test_points_without_imagery_are_left_out(scene, spec):
    cube, points = scene
    holed = cube.assign({name: cube[name].where(cube.x > 301_000).assign_attrs(cube[name].attrs) for name in ("red", "nir")})
    with pytest.warns(MisoxrWarning, match="no valid imagery"):
        model = holed.miso.fit(spec, points, max_epochs=1, progress=False, device="cpu")
    east = (points.geometry.x > 301_000) & (points.permafrost.notna() | points.taxonomy.notna())
    assert model.record["points"] + model.record["validation_points"] == east.sum()


def test_training_sees_windows_of_the_encoders_size(scene, spec, monkeypatch):
    from misoxr.model.encoder import Encoder

    sizes, project = set(), Encoder.project
    monkeypatch.setattr(Encoder, "project", lambda self, image: sizes.add(tuple(image.shape[2:])) or project(self, image))
    cube, points = scene
    resized = replace(spec, windows=WindowSpec(12, 16, 9))
    cube.miso.fit(resized, points, max_epochs=1, progress=False, device="cpu")
    assert sizes == {(16, 16)}


def test_a_table_of_points_and_marks_of_simulation(scene, spec):
    cube, points = scene
    table = points.drop(columns="geometry").assign(lon=points.to_crs(4326).geometry.x, lat=points.to_crs(4326).geometry.y)
    table["simulated"], table["simulator_version"] = True, "7"
    model = cube.miso.fit(spec, table, max_epochs=1, progress=False, device="cpu")
    assert (model.record["simulated"], model.record["simulator_version"]) == (1, "7")


def test_a_preset_is_built_for_the_cube(scene):
    cube, points = scene
    spec = spec_for("miso-nano", cube, points)
    assert [band.name for band in spec.bands] == ["red", "nir", "aspect", "elevation"]
    assert spec.pixel_size == 20
    assert spec.location.extent == (300_000, 1_496_800, 303_200, 1_500_000)
    assert [task.name for task in spec_for("miso-nano", cube, points[["permafrost", "geometry"]]).tasks] == ["permafrost"]
    with pytest.raises(SpecError, match="read_points"):
        spec_for("miso-nano", cube, points[["geometry"]])
    with pytest.warns(MisoxrWarning, match=r"\['dem'\] are none of a preset's bands"):
        spec_for("miso-nano", cube.rename(elevation="dem"), points)


def test_what_cannot_be_learnt_is_refused(scene, spec):
    cube, points = scene
    options = {"max_epochs": 1, "progress": False, "device": "cpu"}
    with pytest.raises(BandError, match="valid pixel"):
        (cube * np.nan).assign_coords(cube.coords).map(lambda a: a.assign_attrs(units="1")).assign(
            aspect=cube.aspect, elevation=cube.elevation
        ).miso.fit(spec, points, **options)
    with pytest.raises(PointsError, match="outside"):
        cube.miso.fit(spec, points.set_geometry(points.translate(1e6)), **options)
    with pytest.raises(PointsError, match="Permosols"):
        cube.miso.fit(spec, points.replace({"taxonomy": {"Gelisols": "Permosols"}}), **options)
    with pytest.raises(GridError, match="no CRS"):
        cube.drop_vars("spatial_ref").miso.fit(spec, points, **options)
    with pytest.raises(PointsError, match="no points"):
        cube.miso.fit(spec, points, val=points.iloc[:0], **options)
    for setting, message in (
        ({"max_epochs": 0}, "max_epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"ema": 1.0}, "ema is 1"),
        ({"learning_rate": 1e30}, "diverged"),
    ):
        with pytest.raises(SpecError, match=message):
            cube.miso.fit(spec, points, **{**options, **setting})
    far = points.copy()
    far.loc[0, "geometry"] = far.geometry[0].__class__(0, 0)
    with pytest.warns(MisoxrWarning, match="outside"):
        cube.miso.fit(spec, far, **options)


def test_windows_larger_than_the_cube(scene):
    cube, points = scene
    inside = points[(points.geometry.x < 300_400) & (points.geometry.y > 1_499_000)]
    small = cube.isel(y=slice(0, 50), x=slice(0, 20))
    with pytest.warns(MisoxrWarning, match="in one block"):
        model = small.miso.fit(tiny_spec(size=32, stride=24), inside, max_epochs=1, progress=False, device="cpu")
    assert np.isfinite(model.record["validation_loss"]).all()


def test_training_ends_when_validation_stops_to_improve(scene, spec, monkeypatch):
    cube, points = scene
    losses = iter([1.0, 0.5, 0.7, 0.6, 0.1, 0.1])
    monkeypatch.setattr("misoxr.train._Loop.visual_loss", _scripted(losses))
    model = cube.miso.fit(spec, points, max_epochs=6, patience=2, progress=False, device="cpu")
    assert model.record["validation_loss"] == [1.0, 0.5, 0.7, 0.6]
    assert model.record["best_epoch"] == 1


def _scripted(losses):
    """A loss that trains as ever and validates by a script, one number an epoch."""
    from misoxr.train import _Loop

    learn, current = _Loop.visual_loss, {}

    def loss(self, network, inputs, batch, smoothing=0.0):
        if network is self.network:
            return learn(self, network, inputs, batch, smoothing)
        if self.current_epoch not in current:
            current[self.current_epoch] = next(losses)
        return torch.tensor(current[self.current_epoch], dtype=torch.float64)

    return loss


def test_training_begins_with_weights_of_others(scene, tmp_path):
    from tests.test_published import simmim, small_swin

    cube, points = scene
    source, _ = small_swin(channels=2)
    torch.save({"model": simmim(source)}, tmp_path / "simmim.pth")
    spec = tiny_spec(size=64, stride=48)
    swin = replace(small_swin()[1].encoder, hidden=((8, 8),) * 2)
    spec = replace(spec, modalities=(replace(spec.modalities[0], encoder=swin), spec.modalities[1]))
    options = {"max_epochs": 1, "learning_rate": 1e-9, "ema": 0.0, "progress": False, "device": "cpu"}
    model = cube.miso.fit(spec, points, pretrained={"sat": tmp_path / "simmim.pth"}, **options)
    key = "patch_embed.proj.weight"
    torch.testing.assert_close(
        model.network.encoders["sat"].backbone.state_dict()[key], source.backbone.state_dict()[key], atol=1e-5, rtol=0
    )
    assert model.record["pretrained"] == {"sat": {"source": str(tmp_path / "simmim.pth"), "stem": True}}
    with pytest.raises(SpecError, match=r"pretrained names \['dem'\]; the model's modalities are \['cov', 'sat'\]"):
        cube.miso.fit(spec, points, pretrained={"dem": "x.pth"}, **options)

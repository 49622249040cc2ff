"""Training: it learns, it repeats itself, it keeps the best epoch, and it refuses what cannot be learnt."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import torch

from misoxr.cube.presets import spec_for
from misoxr.errors import BandError, GridError, MisoxrWarning, PointsError, SpecError, StoreError
from misoxr.model.checkpoint import Model
from misoxr.model.network import Miso
from misoxr.spec import PERMAFROST, TAXONOMY, EncoderSpec, LossSpec, ModelSpec, Recipe, Task, WindowSpec
from misoxr.training.windows import Draw
from tests.conftest import make_cube, tiny_spec

EPOCHS = 16


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
def few(scene):
    """The cube and the first of the points, for what training does however well it learns."""
    cube, points = scene
    return cube, points[:150]


@pytest.fixture(scope="module")
def fitted(scene, spec):
    cube, points = scene
    return cube.chunk({"y": 50, "x": 70}).miso.fit(
        spec,
        points,
        max_epochs=EPOCHS,
        criterion="loss",
        patience=EPOCHS,
        learning_rate=4e-3,
        seed=3,
        progress=False,
        teacher=None,
        device="cpu",
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
    losses = [epoch["loss"] for epoch in fitted.record["validation"]]
    assert len(losses) == EPOCHS
    assert losses[fitted.record["best_epoch"]] == min(losses) < losses[0]
    assert fitted.record["validation"][-1]["accuracy"] > 0.7
    learnt = [epoch["loss"] for epoch in fitted.record["training"]]
    assert len(learnt) == EPOCHS
    assert learnt[-1] < 0.9 * learnt[0]
    assert all(set(epoch) == {"loss", "location_loss"} for epoch in fitted.record["training"])
    assert fitted.plot().get_lines()[-1].get_label() == f"best epoch, kept: {fitted.record['best_epoch'] + 1}"
    assert fitted.record["seed"] == 3
    assert fitted.record["recipe"]["max_epochs"] == EPOCHS
    assert fitted.record["points"] > fitted.record["validation_points"] > 0
    assert "simulated" not in fitted.record


def test_the_same_seed_gives_the_same_model(few, spec):
    cube, points = few
    one, other, third = (
        cube.miso.fit(spec, points, max_epochs=1, seed=seed, progress=False, teacher=None, device="cpu") for seed in (1, 1, 2)
    )
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
    cube, points = scene[0], scene[1].drop_duplicates("geometry")
    model = cube.miso.fit(spec, points.iloc[:300], val=points.iloc[300:], max_epochs=1, progress=False, teacher=None, device="cpu")
    assert model.record["validation_points"] <= 100
    assert model.record["points"] <= 300
    with pytest.warns(MisoxrWarning, match=r"\d+ places are among both the points and the validation points"):
        cube.miso.fit(spec, points, val=points.iloc[300:], max_epochs=1, progress=False, teacher=None, device="cpu")


def test_points_without_imagery_are_left_out(scene, spec):
    cube, points = scene
    holed = cube.assign({name: cube[name].where(cube.x > 301_000).assign_attrs(cube[name].attrs) for name in ("red", "nir")})
    with pytest.warns(MisoxrWarning, match="no valid imagery"):
        model = holed.miso.fit(spec, points, max_epochs=1, progress=False, teacher=None, device="cpu")
    east = (points.geometry.x > 301_000) & (points.permafrost.notna() | points.taxonomy.notna())
    assert model.record["points"] + model.record["validation_points"] == east.sum()


def test_training_sees_windows_of_the_encoders_size(few, spec, monkeypatch):
    from misoxr.model.encoder import Encoder

    sizes, project = set(), Encoder.project
    monkeypatch.setattr(Encoder, "project", lambda self, image: sizes.add(tuple(image.shape[2:])) or project(self, image))
    cube, points = few
    resized = replace(spec, windows=WindowSpec(12, 16, 9))
    cube.miso.fit(resized, points, max_epochs=1, progress=False, teacher=None, device="cpu")
    assert sizes == {(16, 16)}


def test_a_table_of_points_and_marks_of_simulation(few, spec):
    cube, points = few
    table = points.drop(columns="geometry").assign(lon=points.to_crs(4326).geometry.x, lat=points.to_crs(4326).geometry.y)
    table["simulated"], table["simulator_version"] = True, "7"
    model = cube.miso.fit(spec, table, max_epochs=1, progress=False, teacher=None, device="cpu")
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
    landsat = spec_for("miso-nano", cube.rename(nir="nir08"), points)
    assert [(band.name, band.units) for band in landsat.bands[:2]] == [("red", "1"), ("nir08", "1")]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sclaing": "log"}, "fit has no argument 'sclaing'. Did you mean \"scaling\""),
        ({"max_epoch": 3}, 'no settings .*Did you mean "max_epochs"'),
        ({"max_epochs": np.array([1, 2])}, "max_epochs is .*give a number"),
        ({"scaling": "withen"}, 'Unknown scaling.*Did you mean "whiten"'),
        ({"scaling": np.array([1, 2])}, "Unknown scaling"),
        ({"pretrained": "weights.safetensors"}, "pretrained is .*give the weights of each modality"),
        ({"directory": 5}, "directory is 5; give a path"),
        ({"calibrate": "no"}, "calibrate is 'no'; give True or False"),
        ({"resume": None}, "resume is None; give True or False"),
        ({"progress": 1}, "progress is 1; give True or False"),
        ({"devices": "2"}, "devices is '2'"),
        ({"device": 0}, "device is 0"),
    ],
)
def test_the_type_of_every_argument_of_fit_is_checked(scene, spec, wrong, words):
    cube, points = scene
    with pytest.raises(SpecError, match=words):
        cube.miso.fit(spec, points, **wrong)


def test_names_of_models_are_known(scene):
    cube, points = scene
    with pytest.raises(SpecError, match="Unknown preset 'miso-nono'.*Did you mean \"miso-nano\""):
        cube.miso.fit("miso-nono", points)
    with pytest.raises(SpecError, match="Unknown preset 5"):
        ModelSpec.preset(5)


def test_counts_and_classes_are_none_of_a_preset_s_bands(scene):
    cube, points = scene
    beside = cube.assign(landcover=cube.red, cloud=("time", np.zeros(2)), title="a scene")
    assert spec_for("miso-nano", beside, points) == spec_for("miso-nano", cube, points)


def test_what_cannot_be_learnt_is_refused(scene, spec):
    cube, points = scene
    options = {"max_epochs": 1, "progress": False, "teacher": None, "device": "cpu"}
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
        ({"learning_rate": 1e30, "warmup": 0.0}, "diverged"),
        ({"patience": 2.5, "colour": 1}, r"no settings \['colour'\]"),
        ({"regular": 5}, "a lattice needs a square number"),
        ({"augment": "upside down"}, "augment is 'upside down'"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": None}, "seed is None; it must be a whole number"),
        ({"seed": True}, "seed is True; it must be a whole number"),
        ({"val": True}, "val is True; give a fraction"),
        ({"devices": True}, "devices is True"),
        ({"max_epochs": True}, "max_epochs is True"),
        ({"scaling": "minmax"}, "Unknown scaling 'minmax'"),
        ({"devices": 0}, "devices is 0"),
        ({"precision": "float64"}, "float64 is not supported"),
        ({"like": spec}, "like gives a baseline"),
    ):
        with pytest.raises(SpecError, match=message):
            cube.miso.fit(spec, points, **{**options, **setting})
    with pytest.raises(PointsError, match="All .* labels of 'permafrost' are 'present'"):
        cube.miso.fit(spec, points[points.permafrost == 1], **options)
    with pytest.raises(PointsError, match="fraction of 1.5"):
        cube.miso.fit(spec, points, val=1.5, **options)
    with pytest.raises(SpecError, match="freeze of Recipe is 'sat'"):
        cube.miso.fit(spec, points, freeze="sat", **options)
    far = points.copy()
    far.loc[0, "geometry"] = far.geometry[0].__class__(0, 0)
    with pytest.warns(MisoxrWarning, match="outside"):
        cube.miso.fit(spec, far, **options)


def test_windows_larger_than_the_cube_are_refused(scene):
    cube, points = scene
    small, large = cube.isel(y=slice(0, 50), x=slice(0, 20)), tiny_spec(size=32, stride=24)
    with pytest.raises(GridError, match="50 x 20 pixels, less than a window of 'miso-nano', 32 x 32; give a larger cube"):
        small.miso.fit(large, points, progress=False, teacher=None)
    with pytest.raises(GridError, match="50 x 20 pixels"):
        small.miso.cross_validate({"forest": "rf-11", "tiny": large}, points, cv=3, progress=False, teacher=None)


@pytest.mark.parametrize(("criterion", "sign"), [("loss", 1), ("accuracy", -1)])
def test_training_ends_when_validation_stops_to_improve(few, spec, monkeypatch, criterion, sign):
    from misoxr.training.loop import _Loop

    cube, points = few
    script = [1.0, 0.5, 0.7, 0.6, 0.1, 0.1]

    def validated(self):
        return {"loss": 3.0, "accuracy": 0.5} | {criterion: sign * script[self.current_epoch]}

    monkeypatch.setattr(_Loop, "validated", validated)
    model = cube.miso.fit(spec, points, max_epochs=6, patience=2, criterion=criterion, progress=False, teacher=None, device="cpu")
    assert [round(sign * epoch[criterion], 6) for epoch in model.record["validation"]] == [1.0, 0.5, 0.7, 0.6]
    assert model.record["best_epoch"] == 1


def test_training_begins_with_weights_of_others(few, tmp_path):
    from tests.model.test_published import simmim, small_swin

    cube, points = few
    source, _ = small_swin(channels=2)
    torch.save({"model": simmim(source)}, tmp_path / "simmim.pth")
    spec = tiny_spec(size=64, stride=48)
    swin = replace(small_swin()[1].encoder, hidden=((8, 8),) * 2)
    spec = replace(spec, modalities=(replace(spec.modalities[0], encoder=swin), spec.modalities[1]))
    options = {
        "max_epochs": 1,
        "learning_rate": 1e-9,
        "warmup_learning_rate": 0.0,
        "min_learning_rate": 0.0,
        "ema": 0.0,
        "progress": False,
        "teacher": None,
        "device": "cpu",
    }
    mixed = cube.miso.fit(spec, points, pretrained={"sat": tmp_path / "simmim.pth"}, **options)
    assert mixed.record["pretrained"]["sat"]["stem"] is False, "whitened channels are no bands that a stem knows"
    options["scaling"] = "standard"
    model = cube.miso.fit(spec, points, pretrained={"sat": tmp_path / "simmim.pth"}, **options)
    key = "patch_embed.proj.weight"
    torch.testing.assert_close(
        model.network.encoders["sat"].backbone.state_dict()[key], source.backbone.state_dict()[key], atol=1e-5, rtol=0
    )
    sha256 = hashlib.sha256((tmp_path / "simmim.pth").read_bytes()).hexdigest()
    assert model.record["pretrained"] == {"sat": {"source": str(tmp_path / "simmim.pth"), "sha256": sha256, "stem": True}}
    with pytest.raises(SpecError, match=r"pretrained names \['dem'\]; the model's modalities are \['cov', 'sat'\]"):
        cube.miso.fit(spec, points, pretrained={"dem": "x.pth"}, **options)


@pytest.mark.parametrize("encoder", [None, EncoderSpec("pyramid", ((8, 8),) * 4), EncoderSpec("swinv2_cr_tiny_224", ((8, 8),) * 4)])
def test_weights_of_others_for_another_backbone_are_refused_before_the_cube_is_read(few, spec, tmp_path, encoder):
    from tests.model.test_published import simmim, small_swin

    def read(block):
        raise AssertionError("the cube is read")

    cube, points = few
    cube = cube.chunk().map(
        lambda band: band.copy(data=band.data.map_blocks(read, dtype=band.dtype, meta=np.empty((0, 0), band.dtype)))
    )
    torch.save({"model": simmim(small_swin(channels=2)[0])}, tmp_path / "simmim.pth")
    first, *others = spec.modalities
    spec = replace(spec, modalities=(replace(first, encoder=encoder or first.encoder), *others))
    words = f"backbone of 'sat' is {spec.modalities[0].encoder.backbone!r}, .* leave them out, or use .*'miso-base'"
    for run in (cube.miso.fit, lambda model, points, **options: cube.miso.cross_validate({"tiny": model}, points, cv=3, **options)):
        with pytest.raises(SpecError, match=words):
            run(spec, points, pretrained={"sat": tmp_path / "simmim.pth"}, progress=False, teacher=None)


def contrasted(spec, **changes):
    """The specification with the published contrast."""
    return replace(spec, losses=LossSpec((("visual", "location", 0.1), ("sat", "cov", 0.1))), **changes)


def test_two_samples_are_learnt_by_heart(spec):
    """The base loss of two points falls below 1e-3 where nothing regularises."""
    cube = make_cube((64, 64), spec.bands)
    two = gpd.GeoDataFrame(
        {"permafrost": [0, 1], "taxonomy": ["Gelisols", "Spodosols"]},
        geometry=gpd.points_from_xy([300_210, 300_910], [1_499_610, 1_499_110]),
        crs="EPSG:3338",
    )
    spec = replace(spec, location=replace(spec.location, dropout=0.0))
    off = {"label_smoothing": 0.0, "noise": 0.0, "ema": 0.0, "weight_decay": 0.0, "augment": "none", "calibrate": False}
    options = {
        "max_epochs": 8,
        "patience": 8,
        "batch_size": 2,
        "learning_rate": 1e-2,
        "progress": False,
        "teacher": None,
        "device": "cpu",
    }
    with pytest.warns(MisoxrWarning, match="2 places are among both"):
        model = cube.miso.fit(spec, pd.concat([two] * 20, ignore_index=True), val=two, **options, **off)
    assert min(epoch["loss"] for epoch in model.record["validation"]) < 1e-3


OPTIONS = {
    "max_epochs": 3,
    "unlabelled": 0.4,
    "random": 2,
    "regular": 4,
    "seed": 1,
    "progress": False,
    "teacher": None,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def whole(few, spec):
    """Three epochs with contrast, without interruption."""
    cube, points = few
    return cube.miso.fit(contrasted(spec), points, **OPTIONS)


def test_worker_processes_change_nothing(few, spec, whole):
    cube, points = few
    assert cube.miso.fit(contrasted(spec), points, workers=2, **OPTIONS).sha256 == whole.sha256


def test_contrast_changes_what_is_learnt(few, spec, whole):
    cube, points = few
    options = OPTIONS | {"unlabelled": 0.0}
    assert cube.miso.fit(spec, points, **options).sha256 != whole.sha256
    with pytest.raises(SpecError, match="neither a teacher nor contrast to learn from windows without labels"):
        cube.miso.fit(spec, points, **OPTIONS)


class Killed(Exception):
    """Stands for a kill in the middle of an epoch."""


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_killed_run_goes_on_as_if_nothing_had_been(few, spec, whole, tmp_path, monkeypatch, epoch):
    from misoxr.training.loop import _Loop

    cube, points = few
    step = _Loop.training_step

    def killed(self, batch, index):
        if self.current_epoch == epoch and index == 2:
            raise Killed
        return step(self, batch, index)

    monkeypatch.setattr(_Loop, "training_step", killed)
    with pytest.raises(Killed):
        cube.miso.fit(contrasted(spec), points, directory=tmp_path, **OPTIONS)
    epochs = []

    def counted(self, batch, index):
        epochs.append(self.current_epoch)
        return step(self, batch, index)

    monkeypatch.setattr(_Loop, "training_step", counted)
    resumed = cube.miso.fit(contrasted(spec), points, directory=tmp_path, **OPTIONS)
    assert set(epochs) == set(range(epoch, 3))
    assert resumed.record["training"] == whole.record["training"]
    assert all(set(losses) == {"loss", "location_loss", "contrast_loss"} for losses in resumed.record["training"])
    assert resumed.sha256 == whole.sha256
    # A finished run is not run again.
    epochs.clear()
    assert cube.miso.fit(contrasted(spec), points, directory=tmp_path, **OPTIONS).sha256 == whole.sha256
    assert not epochs
    logged = [pd.read_csv(tmp_path / "logs" / f"version_{k}" / "metrics.csv").epoch.max() for k in (0, 1)]
    assert logged == [epoch - 1, 2]
    assert list(tmp_path.glob("logs/version_1/events.out.tfevents*"))


def test_a_run_of_other_settings_is_not_taken_up(few, spec, tmp_path):
    cube, points = few
    options = {"max_epochs": 1, "progress": False, "teacher": None, "device": "cpu", "directory": tmp_path}
    one = cube.miso.fit(spec, points, **options)
    with pytest.raises(
        SpecError, match=r"has another recipe \(noise .* there, 0.1 here\); give another directory, or resume=False"
    ):
        cube.miso.fit(spec, points, noise=0.1, **options)
    with pytest.raises(SpecError, match="another imagery, points"):
        cube.miso.fit(spec, points.iloc[:-40], **options)
    dimmed = cube.assign(red=cube.red.where(cube.x < 300_500, cube.red * 0.5).assign_attrs(cube.red.attrs))
    with pytest.raises(SpecError, match="another imagery"):
        dimmed.miso.fit(spec, points, **options)
    assert cube.miso.fit(spec, points, noise=0.1, resume=False, **options).sha256 != one.sha256
    (tmp_path / "last.ckpt").write_bytes((tmp_path / "last.ckpt").read_bytes()[:2000])
    with pytest.raises(StoreError, match="The run in .* is damaged .*resume=False"):
        cube.miso.fit(spec, points, noise=0.1, **options)
    cube.miso.fit(spec, points, noise=0.1, resume=False, **options)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(StoreError, match="The run in .* is damaged .*resume=False"):
        cube.miso.fit(spec, points, noise=0.1, **options)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be kept in .*file .*give another directory"):
        cube.miso.fit(spec, points, **{**options, "directory": tmp_path / "file"})


def test_bfloat16_clips_gradients_too(few, spec):
    cube, points = few
    model = cube.miso.fit(spec, points, max_epochs=1, precision="bfloat16", progress=False, teacher=None, device="cpu")
    assert np.isfinite(model.record["validation"][0]["loss"])
    assert model.record["recipe"]["clip"] > 0


def test_control_c_is_an_interruption(scene, spec, monkeypatch):
    """And no end of the process, as Lightning has it."""
    from misoxr.training.loop import _Loop

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(_Loop, "training_step", interrupted)
    cube, points = scene
    with pytest.raises(KeyboardInterrupt):
        cube.miso.fit(spec, points, max_epochs=1, progress=False, teacher=None, device="cpu")


def test_tasks_without_labels_to_learn_from_are_refused(scene, spec):
    cube, points = scene[0], scene[1].drop_duplicates("geometry")
    options = {"max_epochs": 1, "progress": False, "teacher": None, "device": "cpu"}
    with pytest.raises(
        PointsError, match="No point with valid imagery has a label of 'taxonomy'; give points with labels of every"
    ):
        cube.miso.fit(spec, points.assign(taxonomy=None), **options)
    one, other = points[points.permafrost == 1], points[points.permafrost == 0]
    with pytest.raises(
        PointsError, match=r"labels of 'permafrost' are 'present' when \d+ points are held for validation \(val, seed\)"
    ):
        cube.miso.fit(spec, one, val=other, **options)
    depth = replace(spec, tasks=(PERMAFROST, Task("depth", "regression")))
    deep = points.assign(depth=1.0)
    with pytest.raises(PointsError, match="None of the .* validation points has a label of a class, .*criterion='loss'"):
        cube.miso.fit(depth, deep[:200], val=deep[200:].assign(permafrost=None), criterion="accuracy", **options)


def test_a_label_that_is_nearly_named_is_told(scene):
    cube, points = scene
    with pytest.warns(MisoxrWarning, match="The column 'Permafrst' is not 'permafrost', which the model does not learn then"):
        assert [task.name for task in spec_for("miso-nano", cube, points.rename(columns={"permafrost": "Permafrst"})).tasks] == [
            "taxonomy"
        ]


def test_an_early_end_stays_the_end(few, spec, tmp_path, monkeypatch):
    from misoxr.training.loop import _best, _Loop

    cube, points = few
    script, epochs = [1.0, 0.5, 0.7, 0.6], []

    def validated(self):
        epochs.append(self.current_epoch)
        return {"loss": script[self.current_epoch], "accuracy": 0.5}

    monkeypatch.setattr(_Loop, "validated", validated)
    options = {
        "max_epochs": 4,
        "patience": 1,
        "criterion": "loss",
        "progress": False,
        "teacher": None,
        "device": "cpu",
        "directory": tmp_path,
    }
    one = cube.miso.fit(spec, points, **options)
    assert epochs == [0, 1, 2]
    assert cube.miso.fit(spec, points, **options).sha256 == one.sha256
    assert epochs == [0, 1, 2]
    history = [{"loss": 1.0, "accuracy": a} for a in (0.5, 0.7, 0.7, 0.6)]
    assert _best(history, Recipe(criterion="accuracy")) == 2
    assert _best([*history, {"loss": 9.0, "accuracy": 0.1}], Recipe(criterion="last")) == 4
    assert _best([*history, {"loss": np.nan, "accuracy": 0.1}], Recipe(criterion="last")) == 3


def test_numpys_numbers_are_numbers(few, spec, tmp_path):
    cube, points = few
    model = cube.miso.fit(spec, points, max_epochs=np.int64(1), seed=np.int64(2), progress=False, teacher=None, device="cpu")
    model.save(tmp_path / "model.safetensors")
    assert Model.load(tmp_path / "model.safetensors").record["seed"] == 2


def test_recipes_go_by_the_architecture():
    base = Recipe.of(replace(ModelSpec.preset("miso-base"), name="alaska"))
    assert (base.learning_rate, base.max_epochs, base.batch_size, base.criterion) == (5e-5, 40, 32, "accuracy")
    assert (base.unlabelled, base.labels, base.random, base.regular, base.patience) == (0.5, 5, 10, 36, 11)
    assert Recipe.of(replace(ModelSpec.preset("miso-base"), losses=LossSpec())).unlabelled == 0
    assert Recipe.of(ModelSpec.preset("miso-small")).learning_rate == 5e-4
    assert Recipe.of(ModelSpec.preset("miso-nano"), noise=0.2) == Recipe(noise=0.2)


def test_frozen_backbones_keep_their_weights_and_others_learn(few, spec):
    cube, points = few
    options = {"max_epochs": 1, "ema": 0.0, "progress": False, "teacher": None, "device": "cpu"}
    frozen = cube.miso.fit(spec, points, freeze=("sat",), seed=2, **options)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        first = Miso(spec)
    for name, same in (("sat", True), ("cov", False)):
        one, other = (network.encoders[name].backbone.conv1.weight for network in (frozen.network, first))
        assert torch.equal(one, other) == same
    with pytest.raises(SpecError, match=r"freeze names \['dem'\]"):
        cube.miso.fit(spec, points, freeze=("dem",), **options)


def test_what_is_drawn_at_random_plays_its_part_and_repeats(scene, spec):
    cube, points = scene[0], scene[1][:150]
    options = {"max_epochs": 1, "progress": False, "teacher": None, "device": "cpu"}
    settings = ({}, {"dropout": 0.5}, {"jitter": 2.0}, {"augment": "flips"}, {"augment": "none"})
    found = [cube.miso.fit(spec, points, **options, **one).sha256 for one in settings]
    assert len(set(found)) == len(settings)
    assert cube.miso.fit(spec, points, **options, dropout=0.5).sha256 == found[1]
    with pytest.raises(SpecError, match="dropout is 1"):
        cube.miso.fit(spec, points, dropout=1, **options)


def test_blocks_learn_the_slower_the_earlier_they_stand():
    from misoxr.training.loop import _groups

    network = Miso(ModelSpec.preset("miso-nano"))
    groups = _groups(network, Recipe(layer_decay=0.5))
    scale = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    assert len(scale) == len(list(network.parameters()))
    backbone = network.encoders["sat"].backbone
    scales = [scale[id(backbone.conv1[0].weight)], *(scale[id(getattr(backbone, f"layer{k}")[0].conv1.weight)] for k in (1, 2, 3))]
    assert scales == [0.5**4, 0.5**3, 0.5**2, 0.5]
    assert scale[id(network.visual_mapper[0].weight)] == 1
    sat = ModelSpec.preset("miso-nano", cov=()).modalities[0]
    pyramid = replace(sat, encoder=EncoderSpec("pyramid", ((8, 8),) * 4))
    spec = replace(ModelSpec.preset("miso-nano", cov=(), losses=LossSpec()), modalities=(pyramid,))
    assert len(_groups(Miso(spec), Recipe(layer_decay=0.9))) == 10  # a stem, eight blocks, and the rest
    swin = Miso(ModelSpec.preset("miso-small", cov=()))
    assert len(_groups(swin, Recipe(layer_decay=0.9))) > 12


def test_the_schedule_warms_up_and_falls():
    from misoxr.training.loop import _Loop

    recipe = Recipe(
        max_epochs=10, learning_rate=1e-2, min_learning_rate=1e-4, warmup_learning_rate=1e-3, warmup=0.2, layer_decay=0.5
    )
    spec = ModelSpec.preset("miso-nano", cov=())
    loop = _Loop(Miso(spec), spec, recipe, 10, {}, 0)
    made = loop.configure_optimizers()
    optimiser, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    rates = []
    for step in range(101):
        schedule.step_update(step)
        rates.append({group["lr_scale"]: group["lr"] for group in optimiser.param_groups}[1.0])
    assert rates[0] == pytest.approx(1e-3)
    assert max(rates) == rates[20] == pytest.approx(1e-2)
    assert all(later <= sooner for sooner, later in zip(rates[20:100], rates[21:], strict=False))
    assert rates[100] == pytest.approx(1e-4)


def test_states_from_before_losses_were_kept_are_taken_up():
    from types import SimpleNamespace

    from misoxr.training.loop import _Loop

    loop = SimpleNamespace()
    _Loop.on_load_checkpoint(loop, {"misoxr": {"history": [{"loss": 1.0}, {"loss": 0.5}], "best": {}}})
    assert loop.losses == [{}, {}], "an epoch each, of which nothing is known"


def test_two_devices_share_the_steps(scene, spec):
    """DistributedDataParallel, here on two CPU processes: a run in the form it has on several GPUs."""
    cube, points = scene[0], scene[1][:150]
    options = {"max_epochs": 1, "progress": False, "teacher": None, "device": "cpu", "seed": 1, "learning_rate": 4e-3}
    both = cube.miso.fit(contrasted(spec), points, devices=2, freeze=("sat",), **options)
    assert len(both.record["validation"]) == 1
    assert np.isfinite(both.record["validation"][0]["loss"])
    assert np.isfinite(both.record["training"][0]["loss"])
    first = Miso(contrasted(spec))
    assert both.sha256 != cube.miso.fit(contrasted(spec), points, **options).sha256
    assert both.network.state_dict().keys() == first.state_dict().keys()


def test_several_devices_need_a_script(scene, spec, monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    cube, points = scene
    with pytest.raises(SpecError, match="devices=2 starts processes, which an interactive session cannot"):
        cube.miso.fit(spec, points, devices=2, progress=False, teacher=None, device="cpu")


def test_temperatures_are_fitted_on_validation_points_and_applied(scene, fitted):
    cube, points = scene
    assert set(fitted.calibration) == {"permafrost", "taxonomy"}
    assert all(found.temperature != 1 for found in fitted.calibration.values())
    plain = Model(fitted.spec, fitted.scaling, fitted.network, fitted.record)
    assert plain.sha256 != fitted.sha256
    one, other = (cube.miso.predict(model, device="cpu").permafrost_probability.compute() for model in (fitted, plain))
    temperature = fitted.calibration["permafrost"].temperature
    sure = (other > 0.01) & (other < 0.99)  # where windows blend, probabilities are averaged after the temperature
    turned = np.log(one / (1 - one)) * temperature
    assert float(np.abs(turned - np.log(other / (1 - other))).where(sure).median()) < 1e-3


def test_another_prevalence_moves_the_map(scene, fitted, tmp_path):
    cube, _ = scene
    rare = fitted.with_prevalence(permafrost=0.02)
    rare.save(tmp_path / "rare.safetensors")
    loaded = Model.load(tmp_path / "rare.safetensors")
    assert loaded.calibration == rare.calibration
    assert loaded.calibration["permafrost"].temperature == fitted.calibration["permafrost"].temperature
    one, other = (cube.miso.predict(model, device="cpu").permafrost_probability.mean().compute() for model in (fitted, loaded))
    assert float(other) < float(one) - 0.1
    with pytest.raises(SpecError, match="no task 'peat'"):
        fitted.with_prevalence(peat=0.1)
    with pytest.raises(SpecError, match="does not tell what prevalence"):
        Model(fitted.spec, fitted.scaling, fitted.network).with_prevalence(permafrost=0.1)


def test_class_weights_and_other_losses_learn(scene, spec):
    cube, points = scene
    tasks = (replace(PERMAFROST, loss="focal"), TAXONOMY)
    model = cube.miso.fit(
        replace(spec, tasks=tasks),
        points,
        max_epochs=3,
        class_weight="balanced",
        learning_rate=4e-3,
        progress=False,
        teacher=None,
        device="cpu",
    )
    losses = [epoch["loss"] for epoch in model.record["validation"]]
    assert min(losses) < losses[0]
    assert model.record["prevalence"]["permafrost"] == 0.5


@pytest.mark.parametrize(("loss", "low"), [("mse", 1500.0), ("mse_log1p", 20.0)])
def test_regressions_are_learnt_in_any_units(scene, loss, low):
    """Values far from 0 and 1: heads begin at their mean, and the loss counts in their variance."""
    cube, points = scene
    rows, columns = ((1_499_990 - points.geometry.y) / 20).astype(int), ((points.geometry.x - 300_010) / 20).astype(int)
    value = np.log(cube.red.values)[rows, columns]
    points = points.assign(carbon=low + 10 * (value - value.min()))
    spec = tiny_spec(tasks=(Task("carbon", "regression", units="g kg-1", loss=loss),))
    model = cube.miso.fit(spec, points, max_epochs=6, learning_rate=4e-3, progress=False, teacher=None, device="cpu")
    assert model.record["validation"][0]["loss"] < 3
    found = cube.miso.predict_at(model, points, device="cpu").carbon.compute()
    assert np.corrcoef(found, points.carbon)[0, 1] > 0.9
    assert float(found.mean()) == pytest.approx(points.carbon.mean(), abs=float(points.carbon.std()) / 2)
    refused = tiny_spec(tasks=(Task("carbon", "regression", loss="mse_log1p"),))
    with pytest.raises(PointsError, match="label of 'carbon' is -2, and its loss learns log"):
        cube.miso.fit(refused, points.assign(carbon=-2.0), progress=False, teacher=None)


def test_units_of_labels_change_no_map(scene, tmp_path):
    """y and y * a + b: the same map in their units, by both heads, from the file too; and labels of one value give it."""
    cube, points = scene
    rows, columns = ((1_499_990 - points.geometry.y) / 20).astype(int), ((points.geometry.x - 300_010) / 20).astype(int)
    value = np.log(cube.red.values)[rows, columns].astype("float64")
    spec = tiny_spec(tasks=(Task("soc", "regression"),))
    cube = cube.isel(y=slice(0, 60), x=slice(0, 60))

    def learnt(labels, directory=None):
        inside = points.assign(soc=labels)[(rows < 60) & (columns < 60)]
        options = {"max_epochs": 1, "learning_rate": 4e-3, "progress": False, "teacher": None, "device": "cpu"}
        return cube.miso.fit(spec, inside, directory=directory, **options)

    def mapped(labels, directory=None):
        model = learnt(labels, directory)
        model.save(tmp_path / "model.safetensors")
        maps = cube.miso.predict(tmp_path / "model.safetensors", location=True, device="cpu").compute()
        return np.stack([maps.soc, maps.soc_location]).astype("float64"), model

    plain, first = mapped(value, tmp_path / "run")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    del run["standardisation"]  # as a run of before has it, whose heads answer in the labels' units
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))
    with pytest.raises(SpecError, match="The run in .* has another standardisation; give another directory"):
        learnt(value, tmp_path / "run")
    for factor, offset in ((1e-6, 2e-6), (1.0, 1e5)):
        found, model = mapped(value * factor + offset)
        np.testing.assert_allclose(found, plain * factor + offset, rtol=1e-7, atol=2e-2 * abs(factor) * value.std())
        losses = [[epoch["loss"] for epoch in one.record["validation"]] for one in (first, model)]
        np.testing.assert_allclose(*losses, rtol=1e-2)
    np.testing.assert_allclose(mapped(0.1 + 0.2)[0], 0.3, rtol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_validation_lies_apart_from_training(scene, spec, seed, monkeypatch):
    """No block of the ground holds both training and validation points, and windows are drawn around training points alone."""
    import misoxr.training.fit as module

    def run(network, data, train, held, *args, **kwargs):
        blocks = np.floor(data.labelled.xy / (4 * 16 * 20)).astype(int)
        one, other = ({tuple(block) for block in blocks[points]} for points in (train, held))
        assert not one & other
        # Batches of training are the same without any label of a validation point.
        labels = {name: np.full_like(values, np.nan) for name, values in data.labelled.labels.items()}
        for name, values in labels.items():
            values[train] = data.labelled.labels[name][train]
        hidden = replace(data, labelled=replace(data.labelled, labels=labels))
        weights, draw = data.balance(train, 0.5), Draw(8, 0.0, 32, 0, 0, "mirror", 0.5)
        one, other = (each.draw(train, weights, draw, np.random.default_rng(3)) for each in (data, hidden))
        for name in labels:
            np.testing.assert_array_equal(one["labels"][name], other["labels"][name])
        raise Killed

    monkeypatch.setattr(module, "run", run)
    cube, points = scene
    with pytest.raises(Killed):
        cube.miso.fit(spec, points, seed=seed, progress=False, teacher=None, device="cpu")


def test_a_cube_larger_than_memory(tmp_path):
    """A cube of four times the memory that training may take beside the libraries', from Zarr."""
    figures = {}
    for step in ("write", "train"):
        command = [sys.executable, "-c", LARGE, step, str(tmp_path / "cube.zarr")]
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
        assert run.returncode == 0, run.stderr[-2000:]
        figures = json.loads(run.stdout.splitlines()[-1])
    assert figures["cube"] > 4 * CAP
    assert figures["peak"] < CAP


CAP = 0.9e9
LARGE = """
import json, os, re, sys
from pathlib import Path
import dask.array as da, geopandas as gpd, numpy as np, xarray as xr, zarr
import misoxr
from affine import Affine
from odc.geo.geobox import GeoBox
from misoxr.grid.geobox import assign

def memory():  # the greatest so far; getrusage's is never below that of the process that started this one
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

step, path = sys.argv[1:]
before = 0
side, rng = 7000, np.random.default_rng(0)
bands = misoxr.ModelSpec.preset("miso-nano").bands
tile = np.repeat(rng.uniform(0.05, 0.6, (512, 8)).astype("float32"), 64, axis=1)

if step == "write":
    # Metadata by xarray, one chunk, and links to it for all others: every chunk holds the same.
    lazy = da.zeros((side, side), chunks=512, dtype="float32")
    cube = xr.Dataset({band.name: (("y", "x"), lazy, {"units": band.units}) for band in bands})
    cube = assign(cube, GeoBox((side, side), Affine(10, 0, 0, 0, -10, 2_000_000), "EPSG:3338"))
    cube.to_zarr(path, zarr_format=3, consolidated=False, compute=False)
    count = -(-side // 512)
    for name in cube.data_vars:
        array = zarr.open_array(path + "/" + name, mode="r+")
        array[:512, :512] = tile
        for row, column in np.ndindex(count, count):
            there = Path(path, name, "c", str(row), str(column))
            there.parent.mkdir(exist_ok=True)
            if (row, column) != (0, 0):
                os.link(Path(path, name, "c", "0", "0"), there)
else:
    cube = xr.open_zarr(path, consolidated=False)
    x, y = rng.uniform(0, 10 * side, 150), 2_000_000 - rng.uniform(0, 10 * side, 150)
    points = gpd.GeoDataFrame({"permafrost": rng.integers(0, 2, 150)}, geometry=gpd.points_from_xy(x, y), crs=3338)
    import misoxr.training.fit
    from misoxr.estimators import catalogue
    catalogue.TREES = 12  # of the teacher: trees take time, and are not what is measured
    before = memory()
    cube.miso.fit("miso-nano", points, max_epochs=1, unlabelled=0.5, progress=False, device="cpu")
cube = xr.open_zarr(path, consolidated=False)
print(json.dumps({"peak": memory() - before, "cube": cube.nbytes}))
"""

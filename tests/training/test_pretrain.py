"""Pre-training: losses fall without a label, a killed run ends as another, and ``fit`` begins with what was learnt."""

import hashlib
import json
import os
from dataclasses import replace

import dask.array as da
import geopandas as gpd
import numpy as np
import pytest
import torch

import misoxr
from misoxr.cube.presets import spec_for
from misoxr.cube.scaling import Scaling
from misoxr.errors import BandError, CheckpointError, GridError, MisoxrWarning, SpecError, StoreError
from misoxr.model import files
from misoxr.model.pretrained import Pretrained
from misoxr.spec import Band, EncoderSpec, LossSpec, ModelSpec, Pretraining, Recipe
from misoxr.training import pretrain as module
from misoxr.training.masking import Reconstruction
from tests.conftest import make_cube, tiny_spec
from tests.harness import without_checksum

OPTIONS = {"steps": 12, "batch_size": 4, "points": 40, "every": 5, "windows": 8, "device": "cpu", "progress": False}
STILL = {"max_epochs": 1, "learning_rate": 1e-12, "warmup_learning_rate": 0.0, "min_learning_rate": 0.0, "ema": 0.0}
FIT = {**STILL, "teacher": None, "calibrate": False, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def cube(spec):
    return make_cube((90, 80), spec.bands)


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(5)
    x, y = 300_000 + rng.uniform(50, 1550, 80), 1_500_000 - rng.uniform(50, 1750, 80)
    labels = {"permafrost": rng.integers(0, 2, 80).astype(float), "taxonomy": rng.choice(["Gelisols", "Histosols"], 80)}
    return gpd.GeoDataFrame(labels, geometry=gpd.points_from_xy(x, y), crs="EPSG:3338")


@pytest.fixture(scope="module")
def weights(cube, spec, tmp_path_factory):
    """Encoders of a run without a stop."""
    return cube.miso.pretrain(spec, tmp_path_factory.mktemp("whole"), **OPTIONS)


def hashes(weights):
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in weights.items()}


def test_losses_fall_without_a_label(cube, spec, tmp_path):
    found = cube.chunk({"y": 50, "x": 30}).miso.pretrain(spec, tmp_path, **{**OPTIONS, "steps": 120, "every": 20, "patch": 2})
    record = Pretrained.load(found["cov"]).record
    first, last = record["losses"][0], record["losses"][-1]
    assert last["step"] == 120
    assert last["masked"] < 0.85 * first["masked"]
    assert all(np.isfinite(list(part.values())).all() for part in record["losses"])
    assert (record["seed"], record["windows"], record["settings"]["patch"]) == (0, 8, 2)


def test_the_same_seed_gives_the_same_bytes(cube, spec, weights, tmp_path):
    again = cube.chunk({"y": 50, "x": 30}).miso.pretrain(spec, tmp_path / "again", workers=2, **OPTIONS)
    assert hashes(again) == hashes(weights)
    other = cube.miso.pretrain(spec, tmp_path / "other", seed=1, **OPTIONS)
    assert hashes(other)["sat"] != hashes(weights)["sat"]


class Killed(Exception):
    """Stands for a kill in the middle of a run."""


@pytest.mark.parametrize("step", [3, 7, 10])
def test_a_killed_run_goes_on_as_if_nothing_had_been(cube, spec, weights, tmp_path, monkeypatch, step):
    forward, calls = Reconstruction.forward, []

    def counted(self, batch):
        calls.append(1)
        if len(calls) == step + 1:
            raise Killed
        return forward(self, batch)

    monkeypatch.setattr(Reconstruction, "forward", counted)
    with pytest.raises(Killed):
        cube.miso.pretrain(spec, tmp_path, **OPTIONS)
    resumed = cube.miso.pretrain(spec, tmp_path, **OPTIONS)
    assert len(calls) == step + 1 + 12 - step // 5 * 5
    assert hashes(resumed) == hashes(weights)
    calls.clear()
    assert hashes(cube.miso.pretrain(spec, tmp_path, **OPTIONS)) == hashes(weights)
    assert not calls, "a run that has ended does nothing"


def test_a_run_of_other_settings_or_imagery_is_refused(cube, spec, weights):
    directory = weights["sat"].parent
    for change, words in (
        ({"seed": 2}, r"another seed \(0 there, 2 here\); give another directory, or resume=False"),
        ({"steps": 13}, r"another settings \(steps 12 there, 13 here\)"),
        ({"windows": 9}, r"windows \(8 there, 9 here\)"),
        ({"scaling": "log"}, "another scaling"),
    ):
        with pytest.raises(SpecError, match=words):
            cube.miso.pretrain(spec, directory, **{**OPTIONS, **change})
    with pytest.raises(SpecError, match="another imagery"):
        make_cube((90, 80), spec.bands, seed=1).miso.pretrain(spec, directory, **OPTIONS)
    with pytest.raises(SpecError, match="another model"):
        cube.miso.pretrain(replace(spec, width=8), directory, **OPTIONS)


def test_what_is_known_to_fail_is_told_before_the_imagery_is_read(cube, spec, weights, tmp_path, monkeypatch):
    for name in ("pretraining.json", "pretraining.pt"):
        (tmp_path / name).write_bytes((weights["sat"].parent / name).read_bytes())
    monkeypatch.setattr(module, "read_cutouts", None)
    scaling = Scaling.fit(spec, np.random.default_rng(0).random((4, 500)))
    for change, words in (
        ({"seed": 2}, "another seed"),
        ({"precision": "bfloat16"}, "precision"),
        ({"scaling": scaling}, "scaling"),
    ):
        with pytest.raises(SpecError, match=words):
            cube.miso.pretrain(spec, tmp_path, **{**OPTIONS, **change})
    with pytest.raises(SpecError, match="another grid"):
        cube.isel(y=slice(0, 80)).miso.pretrain(spec, tmp_path, **OPTIONS)
    with pytest.raises(StoreError, match="cannot be kept in"):
        cube.miso.pretrain(spec, tmp_path / "pretraining.pt" / "under a file", **OPTIONS)
    whole = torch.load(tmp_path / "pretraining.pt", weights_only=True)
    for state in ({name: value for name, value in whole.items() if name != "network"}, {"step": 1}, {}, [1]):
        torch.save(state, tmp_path / "pretraining.pt")
        with pytest.raises(StoreError, match=r"damaged \(pretraining.pt lacks .*or resume=False"):
            cube.miso.pretrain(spec, tmp_path, **OPTIONS)
    torch.save(whole, tmp_path / "pretraining.pt")
    for text in ("[]", "null", "3", '"text"', "{", "\x00"):
        (tmp_path / "pretraining.json").write_text(text)
        with pytest.raises(StoreError, match="The run in .* is damaged .*or resume=False"):
            cube.miso.pretrain(spec, tmp_path, **OPTIONS)


@pytest.mark.parametrize("wrong", [{"network": {}}, {"network": []}, {"optimiser": {}}, {"step": None}, {"losses": 3}], ids=str)
def test_a_state_of_anything_is_damaged(cube, spec, weights, tmp_path, wrong):
    for name in ("pretraining.json", "pretraining.pt"):
        (tmp_path / name).write_bytes((weights["sat"].parent / name).read_bytes())
    whole = torch.load(tmp_path / "pretraining.pt", weights_only=True)
    torch.save({**whole, **wrong}, tmp_path / "pretraining.pt")
    with pytest.raises(StoreError, match="The run in .* is damaged .*or resume=False"):
        cube.miso.pretrain(spec, tmp_path, **OPTIONS)


def test_a_run_that_starts_anew_leaves_no_old_encoder(cube, spec, tmp_path, monkeypatch):
    found = cube.miso.pretrain(spec, tmp_path, **OPTIONS)
    monkeypatch.setattr(module, "_train", lambda *args, **options: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        cube.miso.pretrain(spec, tmp_path, resume=False, **OPTIONS)
    assert not any(path.exists() for path in found.values())


def test_damaged_states_and_bad_directories_are_told(cube, spec, weights, tmp_path):
    cube.miso.pretrain(spec, tmp_path, **OPTIONS)
    state = tmp_path / "pretraining.pt"
    before = tmp_path / "pretraining.pt.before"
    state.write_bytes(state.read_bytes()[:500])
    with pytest.warns(MisoxrWarning, match="goes on from the state before it"):
        assert hashes(cube.miso.pretrain(spec, tmp_path, **OPTIONS)) == hashes(weights)
    for file in (state, before):
        file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(StoreError, match="damaged .*or resume=False"):
        cube.miso.pretrain(spec, tmp_path, **OPTIONS)
    assert hashes(cube.miso.pretrain(spec, tmp_path, resume=False, **OPTIONS)) == hashes(weights)
    with pytest.raises(StoreError, match="cannot be kept in .*; give another directory"):
        cube.miso.pretrain(spec, state / "under a file", **OPTIONS)


def test_a_write_that_is_cut_off_leaves_the_state_before(cube, spec, weights, tmp_path, monkeypatch):
    fsync, calls = os.fsync, []

    def full(file):
        calls.append(file)
        if len(calls) == 5:  # the second state, after the run's settings and the first, each with its directory
            raise OSError(28, "No space left on device")
        fsync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"pretraining.pt cannot be written .*another directory"):
        cube.miso.pretrain(spec, tmp_path, **OPTIONS)
    assert torch.load(tmp_path / "pretraining.pt", weights_only=True)["step"] == 5
    assert hashes(cube.miso.pretrain(spec, tmp_path, **OPTIONS)) == hashes(weights)


def test_bfloat16_learns_as_float32_does(cube, spec, weights, tmp_path):
    found = cube.miso.pretrain(spec, tmp_path, precision="bfloat16", **OPTIONS)
    mixed, whole = (Pretrained.load(one["sat"]).record["losses"][-1]["masked"] for one in (found, weights))
    assert mixed == pytest.approx(whole, rel=0.03)
    with pytest.raises(SpecError, match=r"another precision \('torch.bfloat16' there, 'torch.float32' here\)"):
        cube.miso.pretrain(spec, tmp_path, **OPTIONS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_learns_as_a_cpu_does(cube, spec, weights, tmp_path):
    found = cube.miso.pretrain(spec, tmp_path, **{**OPTIONS, "device": "cuda"})
    losses = [Pretrained.load(one["sat"]).record["losses"][-1]["masked"] for one in (found, weights)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_every_chunk_is_read_once(cube, spec, tmp_path):
    calls = []

    def block(values, name, block_info=None):
        calls.append((name, block_info[None]["chunk-location"]))
        return values

    def counted(band):
        lazy = da.from_array(band.values, chunks=(45, 40))
        return band.copy(data=lazy.map_blocks(block, band.name, dtype=band.dtype, meta=np.empty((0, 0), band.dtype)))

    lazy = cube.map(counted)
    calls.clear()
    lazy.miso.pretrain(spec, tmp_path, **OPTIONS)
    assert len(calls) == len(set(calls)) == 4 * 4


def test_fit_begins_with_the_weights_and_their_scaling(cube, spec, points, weights):
    model = cube.miso.fit(spec, points, pretrained=weights, **FIT)
    for name, path in weights.items():
        own = Pretrained.load(path)
        found = model.network.encoders[name].state_dict()
        floats = {key: value for key, value in own.weights.items() if "running" not in key and value.is_floating_point()}
        assert {"queries.0.first.weight", "norm.bias", "backbone.conv1.weight"} <= floats.keys()
        for key, value in floats.items():
            torch.testing.assert_close(found[key], value, atol=1e-6, rtol=0)
        assert model.scaling.modalities[name] == own.scaling
    sha256 = hashes(weights)["sat"]
    assert model.record["pretrained"]["sat"] == {"source": str(weights["sat"]), "sha256": sha256, "stem": True}


def test_weights_are_checked_once_and_read_once(cube, spec, points, weights, monkeypatch):
    read, calls = files.fetch, []
    for name in ("misoxr.model.pretrained.fetch", "misoxr.training.fit.fetch", "misoxr.model.files.fetch"):
        monkeypatch.setattr(name, lambda source: calls.append(str(source)) or read(source))
    cube.miso.fit(spec, points, pretrained={"cov": weights["cov"]}, **FIT)
    assert calls == [str(weights["cov"])] * 2


def test_one_modality_brings_its_scaling_and_the_other_is_fitted(cube, spec, points, weights):
    model = cube.miso.fit(spec, points, pretrained={"cov": weights["cov"]}, **FIT)
    plain = cube.miso.fit(spec, points, **FIT)
    assert model.scaling.modalities["cov"] == Pretrained.load(weights["cov"]).scaling != plain.scaling.modalities["cov"]
    assert model.scaling.modalities["sat"] == plain.scaling.modalities["sat"]
    log = cube.miso.fit(spec, points, pretrained={"cov": weights["cov"]}, scaling="log", **FIT)
    assert log.scaling.modalities["cov"] == model.scaling.modalities["cov"]
    assert log.scaling.modalities["sat"] == cube.miso.fit(spec, points, scaling="log", **FIT).scaling.modalities["sat"]


def test_what_does_not_fit_is_refused_before_the_cube_is_read(cube, spec, points, weights, tmp_path, monkeypatch):
    monkeypatch.setattr("misoxr.training.fit.read_cutouts", None)
    sat, cov = spec.modalities
    swapped = replace(sat, bands=sat.bands[::-1])
    pyramid = replace(sat, encoder=EncoderSpec("pyramid", ((8, 8),) * 4))
    for model, words in (
        (
            replace(spec, modalities=(swapped, cov)),
            r"'sat' do not fit: they have bands \['red \(1\)', 'nir \(1\)'\], and the model has",
        ),
        (
            replace(spec, modalities=(pyramid, cov)),
            "they have encoder backbone resnet18, and the model has pyramid. Pre-train this",
        ),
        (replace(spec, width=8), "they have width 16, and the model has 8"),
        (replace(spec, pixel_size=200), "they have pixels of 20 m, and the model has 200 m"),
        (replace(spec, windows=replace(spec.windows, input_size=32)), "they have windows of input_size 16, and the model has 32"),
        (
            replace(spec, modalities=(replace(sat, bands=(sat.bands[0], replace(sat.bands[1], valid_min=-9.0))), cov)),
            "they have valid_min of 'nir' None, and the model has -9.0",
        ),
        (
            replace(spec, modalities=(replace(sat, bands=tuple(replace(band, kind="component") for band in sat.bands)), cov)),
            "they have kind of 'red' linear, and the model has component",
        ),
        (replace(spec, query="published"), "they have query continuous, and the model has published"),
    ):
        with pytest.raises(CheckpointError, match=words):
            cube.miso.fit(model, points, pretrained=weights, **FIT)
    with pytest.raises(CheckpointError, match="'cov' do not fit: they have bands"):
        cube.miso.fit(spec, points, pretrained={"cov": weights["sat"]}, **FIT)
    other = Scaling.fit(spec, np.random.default_rng(0).random((4, 500)))
    for scaling, words in (("log", "scaling is 'log', and"), (other, "scaling is 'given', and")):
        with pytest.raises(SpecError, match=f"{words} the pre-trained weights of .* leave scaling out"):
            cube.miso.fit(spec, points, pretrained=weights, scaling=scaling, **FIT)
    for header, words in (
        ({"sides": {}}, "damaged .*sides of its windows"),
        ({"pixel_size": 0}, "damaged .*pixel size"),
        ({"schema": "1"}, "have the form '1', and this misoxr reads '2'"),
        ({"scaling": None}, "damaged"),
        ({"modality": 5}, "damaged"),
    ):
        (tmp_path / "header.safetensors").write_bytes(changed(weights["sat"].read_bytes(), header))
        with pytest.raises(CheckpointError, match=words):
            cube.miso.fit(spec, points, pretrained={"sat": tmp_path / "header.safetensors"}, **FIT)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights["sat"].read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="cut.safetensors is damaged"):
        cube.miso.fit(spec, points, pretrained={"sat": cut}, **FIT)


def changed(data, header):
    """Return a pre-trained file's bytes with other values in misoxr's own header."""
    data = without_checksum(data)
    length = int.from_bytes(data[:8], "little")
    whole = json.loads(data[8 : 8 + length])
    whole["__metadata__"]["misoxr-pretrained"] = json.dumps(json.loads(whole["__metadata__"]["misoxr-pretrained"]) | header)
    text = json.dumps(whole).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def test_models_and_encoders_are_told_apart(cube, spec, points, model, weights, tmp_path):
    model.save(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="model.safetensors is a whole model .*give those that ds.miso.pretrain returns"):
        cube.miso.fit(spec, points, pretrained={"sat": tmp_path / "model.safetensors"}, **FIT)
    for read in (misoxr.load, misoxr.Model.load, cube.miso.predict):
        with pytest.raises(CheckpointError, match=r"holds an encoder that ds.miso.pretrain wrote, .*fit\(pretrained="):
            read(weights["sat"])


def test_a_scaling_in_hand_is_taken_and_so_by_fit(cube, spec, points, tmp_path):
    scaling = Scaling.fit(spec, np.stack([cube[band.name].values.ravel() for band in spec.bands]), "standard")
    found = cube.miso.pretrain(spec, tmp_path, scaling=scaling, **OPTIONS)
    assert {name: Pretrained.load(path).scaling for name, path in found.items()} == scaling.modalities
    assert cube.miso.fit(spec, points, pretrained=found, scaling=scaling, **FIT).scaling == scaling


def test_a_preset_needs_no_points(cube, points, tmp_path):
    cube = cube.isel(y=slice(0, 70), x=slice(0, 66))
    found = cube.miso.pretrain("miso-nano", tmp_path, **{**OPTIONS, "steps": 1, "windows": 2})
    assert Pretrained.load(found["sat"]).record["settings"]["patch"] == 8
    assert [task.name for task in spec_for("miso-nano", cube).tasks] == ["permafrost", "taxonomy"]
    one = points[["taxonomy", "geometry"]]
    with pytest.warns(MisoxrWarning, match="outside"):
        model = cube.miso.fit("miso-nano", one, pretrained=found, **FIT)
    assert [task.name for task in model.spec.tasks] == ["taxonomy"]


@pytest.mark.parametrize(
    "encoder",
    [
        EncoderSpec("pyramid", ((8, 8),) * 2, {"channels": [8, 8], "depths": [1, 1]}),
        EncoderSpec(
            "swinv2_tiny_window8_256",
            ((5, 5),) * 2,
            {"img_size": 32, "window_size": 8, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]},
            stages=(0, 1),
        ),
    ],
    ids=["pyramid", "swin"],
)
def test_any_backbone_and_windows_that_are_resized(cube, points, tmp_path, encoder):
    spec = tiny_spec(losses=LossSpec())
    (sat, _), windows = spec.modalities, replace(spec.windows, size=24, input_size=32, stride=20)
    spec = replace(spec, modalities=(replace(sat, encoder=encoder),), windows=windows)
    found = cube.miso.pretrain(spec, tmp_path, **OPTIONS)
    assert set(found) == {"sat"}
    assert {part["crossed"] for part in Pretrained.load(found["sat"]).record["losses"]} == {0.0}
    model = cube.miso.fit(spec, points, pretrained=found, **FIT)
    key = next(key for key in Pretrained.load(found["sat"]).weights if key.startswith("backbone."))
    mine = model.network.encoders["sat"].state_dict()[key]
    torch.testing.assert_close(mine, Pretrained.load(found["sat"]).weights[key], atol=1e-6, rtol=0)


def test_nodata_and_absent_bands(cube, spec, tmp_path):
    """Places without a valid pixel are left out, and a band that the cube lacks says nothing."""
    holed = cube.copy(deep=True)
    for name in ("red", "nir"):
        holed[name][:, 20:] = np.nan
    holed["aspect"][30:] = np.nan
    found = holed.miso.pretrain(spec, tmp_path / "holed", **{**OPTIONS, "windows": 30})
    for path in found.values():
        assert all(bool(value.isfinite().all()) for value in Pretrained.load(path).weights.values())
    with pytest.warns(MisoxrWarning, match=r"lacks the optional bands \['elevation'\]"):
        cube.drop_vars("elevation").miso.pretrain(spec, tmp_path / "lacking", **OPTIONS)
    for name in ("aspect", "elevation"):
        holed[name][:] = np.nan
    with pytest.raises(BandError, match="None of the 8 windows holds a valid value of 'cov'.*leave its bands out"):
        holed.miso.pretrain(spec, tmp_path / "empty", **OPTIONS)
    nothing = cube.assign({name: cube[name].where(False).assign_attrs(units="1") for name in ("red", "nir")})
    with pytest.raises(BandError, match="None of the 8 windows holds a valid pixel"):
        nothing.miso.pretrain(spec, tmp_path / "nothing", **OPTIONS)


def test_a_modality_that_the_cube_lacks_is_left_out(cube, spec, tmp_path):
    scaling = Scaling.fit(spec, np.random.default_rng(0).random((4, 500)))
    for given in (None, scaling):
        with pytest.warns(MisoxrWarning, match=r"no band of \['cov'\], whose encoders are not pre-trained and not returned"):
            found = cube.drop_vars(["aspect", "elevation"]).miso.pretrain(spec, tmp_path, resume=False, scaling=given, **OPTIONS)
        assert set(found) == {"sat"}
        assert not (tmp_path / "cov.safetensors").exists()
        assert {part["crossed"] for part in Pretrained.load(found["sat"]).record["losses"]} == {0.0}


def test_losses_are_means_over_modalities_that_count(spec):
    torch.manual_seed(0)
    learner = Reconstruction(module.Miso(spec), spec)
    names, size = [one.name for one in spec.modalities], spec.windows.size
    pixels = torch.stack([torch.zeros(20, dtype=torch.long), torch.randint(size, (20,)), torch.randint(size, (20,))])
    inputs = {one.name: torch.randn(1, one.channels, size, size) for one in spec.modalities}
    flags = {name: torch.ones(1, size, size, dtype=torch.bool) for name in names}
    batch = {"inputs": inputs, "masks": flags, "valid": flags, "pixels": dict.fromkeys(names, pixels)}
    none = {**flags, "cov": torch.zeros_like(flags["cov"])}
    learner.eval()
    whole = learner(batch)
    for name, part in (("masked", "masks"), ("crossed", "valid")):
        one, other = (learner({**batch, part: some})[name] for some in (none, {**flags, "sat": none["cov"]}))
        torch.testing.assert_close((one + other) / 2, whole[name])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"step": 3}, 'pretrain has no argument .*Did you mean "steps"'),
        ({"window": 3}, "pretrain has no argument 'window'. Did you mean \"windows\""),
        ({"sead": 3}, 'Did you mean "seed"'),
        ({"zzz": 3}, "Pre-training has no settings .'zzz'"),
        ({"steps": 0}, "steps is 0; give a whole number, 1 or more"),
        ({"share": 1.0}, "share is 1.0; it must be more than 0 and less than 1"),
        ({"share": "half"}, "share is 'half'; give a number"),
        ({"patch": 16}, "patch is 16, and a window of 'miso-nano' has 16 pixels"),
        ({"cross": -1}, "cross is -1"),
        ({"augment": "upside down"}, "augment is 'upside down'"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"windows": 0}, "windows is 0; give a whole number"),
        ({"workers": -1}, "workers is -1"),
        ({"seed": None}, "seed is None"),
        ({"scaling": "withen"}, 'Unknown scaling.*Did you mean "whiten"'),
        ({"resume": None}, "resume is None; give True or False"),
        ({"precision": "float64"}, "float64 is not supported"),
        ({"device": "tpu"}, "device 'tpu' is not known"),
        ({"learning_rate": 1e30, "every": 12}, "Pre-training diverged before step 12: .* Lower learning_rate"),
    ],
)
def test_what_is_wrong_is_told(cube, spec, tmp_path, wrong, words):
    with pytest.raises(SpecError, match=words):
        cube.miso.pretrain(spec, tmp_path, **{**OPTIONS, **wrong})


def test_models_and_cubes_that_cannot_be_pretrained(cube, spec, tmp_path):
    with pytest.raises(SpecError, match="has no modality to pre-train"):
        cube.miso.pretrain(replace(spec, modalities=()), tmp_path, **OPTIONS)
    with pytest.raises(SpecError, match="directory is 5; give a path"):
        cube.miso.pretrain(spec, 5, **OPTIONS)
    with pytest.raises(GridError, match="less than a window"):
        cube.isel(y=slice(0, 10)).miso.pretrain(spec, tmp_path, **OPTIONS)
    with pytest.raises(SpecError, match="Unknown preset 'miso-nono'"):
        cube.miso.pretrain("miso-nono", tmp_path, **OPTIONS)
    with pytest.raises(BandError, match="lacks \\['red'\\]"):
        cube.drop_vars("red").miso.pretrain(spec, tmp_path, **OPTIONS)


def test_settings_go_by_the_architecture():
    for name in ("miso-nano", "miso-small", "miso-base"):
        spec = ModelSpec.preset(name)
        assert Pretraining.of(spec).learning_rate == Recipe.of(spec).learning_rate
    assert Pretraining.of(spec, steps=np.int64(3)) == Pretraining(steps=3, learning_rate=5e-5)


def test_how_many_places_are_read(spec, cube):
    from misoxr.grid.geobox import geobox_of

    assert module._count(spec, geobox_of(cube)) == 4 * 3 * 3
    large = geobox_of(cube).zoom_to((100_000, 100_000))
    assert module._count(spec, large) == module._count(ModelSpec.preset("miso-nano"), large) == 600
    assert module._count(ModelSpec.preset("miso-base"), large) == 200


def test_files_of_pretraining_and_others(weights, tmp_path):
    from misoxr import Model
    from misoxr.model.encoder import Encoder
    from misoxr.model.published import load_backbone

    own = Pretrained.load(weights["sat"])
    encoder = Encoder(own.modality, own.width)
    assert load_backbone(encoder, own.modality, weights["sat"])
    assert torch.equal(encoder.state_dict()["norm.weight"], own.weights["norm.weight"])
    with pytest.raises(SpecError, match="stem is False"):
        load_backbone(encoder, own.modality, weights["sat"], stem=False)
    with pytest.raises(CheckpointError, match="holds an encoder"):
        Model.load(weights["sat"])
    other = replace(own.modality, bands=(Band("red"), Band("swir16")))
    with pytest.raises(CheckpointError, match="do not fit: they have bands"):
        load_backbone(Encoder(other, own.width), other, weights["sat"])
    for data in (b"", b"PK\x03\x04" + bytes(50), (2**40).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"{}"):
        (tmp_path / "other").write_bytes(data)
        assert Pretrained.found(tmp_path / "other") is None
        with pytest.raises(CheckpointError, match="was not written by pretrain"):
            Pretrained.load(tmp_path / "other")

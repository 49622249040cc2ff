"""The published model: golden vectors, checkpoints of the authors and of others, the published procedure."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from plain import plain_map
from torch import Tensor

from misoxr import Model
from misoxr.cube.scaling import Scaling
from misoxr.errors import CheckpointError, SpecError
from misoxr.grid.geobox import geobox_of, locations
from misoxr.model.encoder import Encoder, LocationEncoder
from misoxr.model.losses import contrast
from misoxr.model.network import Miso
from misoxr.model.published import WINDOWS, load_backbone, load_published
from misoxr.model.query import Query, neighbours
from misoxr.spec import SENTINEL2, Band, EncoderSpec, LocationSpec, Modality, ModelSpec
from tests.conftest import make_cube, make_model, tiny_spec

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(DATA / "golden.safetensors")


# Golden vectors of single modules


def test_the_published_query(golden):
    query = Query(12, (16, 24), 32)
    names = {"first": "mlp.layers.0", "second": "mlp.layers.2", "third": "mlp.layers.4", "output": "output_layer", "norm": "norm"}
    state = {f"{a}.{kind}": golden[f"query.state.{b}.{kind}"] for a, b in names.items() for kind in ("weight", "bias")}
    query.load_state_dict(state)
    for feature, points, expected in zip(golden["query.feat"], golden["query.coord"], golden["query.out"], strict=True):
        with torch.no_grad():
            out = query(query.project(feature[None]), neighbours(points.double(), 8, 8, "published"))
            other = query(query.project(feature[None]), neighbours(points.double(), 8, 8))
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
        assert (other - expected).abs().max() > 0.1, "the modes must differ"


@pytest.mark.parametrize(
    ("encoding", "count", "name", "tolerance"),
    [("grid", 64, "gridcell64", 1e-5), ("theory", 16, "theory16", 1e-4), ("nerf", 4, "nerf4", 1e-5)],
)
def test_the_location_encodings(golden, encoding, count, name, tolerance):
    encoder = LocationEncoder(LocationSpec("EPSG:3338", (0.0, 0.0, 1.0, 1.0), frequencies=count, encoding=encoding), 8)
    out = encoder.encode(golden["location.coord"])
    torch.testing.assert_close(out, golden[f"location.{name}.out"], atol=tolerance, rtol=0)
    assert encoder(golden["location.coord"]).shape == (2, 9, 8)


def test_the_contrastive_loss(golden):
    loss = contrast(golden["nce.a"], golden["nce.b"])
    torch.testing.assert_close(loss, golden["nce.symmetric_sum"][0], atol=1e-5, rtol=0)


def test_the_scaling_of_bands(golden):
    _, scaling, _ = visual()
    for name in ("sat", "cov"):
        raw = golden[f"{name}.raw"].permute(2, 0, 1).numpy()
        expected = golden[f"{name}.out"].permute(2, 0, 1).numpy()
        np.testing.assert_allclose(scaling.modalities[name].apply(raw), expected, atol=1e-5)


# Whole checkpoints


def window_index(side: int = 8) -> Tensor:
    """Row of the table of relative positions for each pair of a window's cells."""
    y, x = (part.flatten() for part in torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
    return (y[:, None] - y + side - 1) * (2 * side - 1) + (x[:, None] - x + side - 1)


def shift_mask(count: int, side: int = 8) -> Tensor:
    """Attention mask of shifted windows: -100 between cells of different regions of the rolled image."""
    region = torch.zeros(count * side)
    region[-side:] = 1
    region[-side // 2 :] = 2
    regions = region[:, None] * 3 + region
    regions = regions.reshape(count, side, count, side).transpose(1, 2).reshape(-1, side * side)
    return torch.where(regions[:, :, None] == regions[:, None], 0.0, -100.0)


def checkpoint(configuration: str) -> dict[str, Tensor]:
    """Random weights under exactly the keys and shapes of a published checkpoint; derived buffers as they must be."""
    from torchvision.models.swin_transformer import ShiftedWindowAttentionV2

    table = ShiftedWindowAttentionV2(32, [8, 8], [0, 0], 2).relative_coords_table
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, (shape, _) in json.loads((DATA / "state_dict_keys.json").read_text())[configuration].items():
        if key.endswith("relative_position_index"):
            state[key] = window_index().reshape(shape)
        elif key.endswith("relative_coords_table"):
            state[key] = table
        elif key.endswith("attn_mask"):
            state[key] = shift_mask(int(shape[0] ** 0.5))
        else:
            state[key] = torch.empty(shape).uniform_(-0.05, 0.05, generator=generator)
    return state


_LOADED: dict[str, tuple[ModelSpec, Scaling, Miso]] = {}


def visual() -> tuple[ModelSpec, Scaling, Miso]:
    """The imagery's part of a published model, loaded once for all tests."""
    if not _LOADED:
        _LOADED["visual"] = load_published(checkpoint("visual_only"), "permafrost")
    return _LOADED["visual"]


@pytest.mark.parametrize(
    ("configuration", "task", "prefix"),
    [("permafrost_dual", "permafrost", ""), ("taxonomy_dual", "taxonomy", "module."), ("geo_only", "permafrost", "module.")],
)
def test_a_published_checkpoint_loads_with_every_key(configuration, task, prefix):
    state = checkpoint(configuration)
    model = Model.from_published({prefix + key: value for key, value in state.items()}, task)
    assert [t.name for t in model.spec.tasks] == [task]
    assert (model.spec.windows, model.spec.query) == (WINDOWS, "published")
    weights = model.network.state_dict()
    assert torch.equal(weights["location_encoder.blocks.1.weight"], state["geo_encoder.layers.2.lin.weight"])
    assert torch.equal(weights[f"location_heads.{task}.4.weight"], state["geo_out.4.weight"])
    if configuration == "geo_only":
        assert model.spec.modalities == ()
        return
    attention = "sat_encoder.feature_extractor.features.5.17.attn.qkv.bias"
    assert torch.equal(weights["encoders.sat.backbone.layers_2.blocks.17.attn.v_bias"], state[attention][1024:])
    assert torch.equal(weights["mappers.cov.3.bias"], state["cov_mapper.1.bias"])
    # Every key, but for the ones that play no part and the k third of the biases.
    used = sum(value.numel() for value in weights.values())
    idle = sum(value.numel() for key, value in state.items() if "feature_extractor.norm" in key or "feature_extractor.head" in key)
    derived = ("relative_position_index", "relative_coords_table", "attn_mask")
    buffers = sum(value.numel() for key, value in state.items() if key.endswith(derived))
    k_bias = sum(value.numel() // 3 for key, value in state.items() if key.startswith("sat") and key.endswith("qkv.bias"))
    assert used + idle + buffers + k_bias == sum(value.numel() for value in state.values())
    if task == "permafrost":
        assert sum(parameter.numel() for parameter in model.network.parameters()) == 210_926_578


def test_the_visual_configuration_loads_and_carries_the_published_bands():
    spec, _, network = visual()
    assert spec.location is None
    assert [band.name for band in spec.modalities[0].bands][:4] == ["Red", "Green", "Blue", "RedEdge1"]
    assert [band.aliases[0] for band in spec.modalities[0].bands] == [band.name for band in SENTINEL2]
    assert {band.units for band in spec.modalities[0].bands} == {"DN"}
    assert not any("location" in key for key in network.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("geo_encoder.layers.2.lin.weight"), r"missing: geo_encoder\.layers\.2\.lin\.weight"),
        (
            lambda s: s.update({"geo_encoder.layers.9.lin.weight": torch.zeros(3)}),
            r"not known: geo_encoder\.layers\.9\.lin\.weight",
        ),
        (lambda s: s.update({"geo_out.4.weight": torch.zeros(7, 512)}), r"geo_out\.4\.weight \(7, 512\) instead of \(1, 512\)"),
        (lambda s: s.update({"norm.weight": torch.zeros(3)}), r"not known: norm\.weight"),
        (lambda s: s["geo_out.4.bias"].fill_(torch.nan), r"not finite: geo_out\.4\.bias"),
    ],
)
def test_a_key_that_does_not_fit_is_named(change, message):
    state = checkpoint("geo_only")
    change(state)
    with pytest.raises(CheckpointError, match=message):
        Model.from_published(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("sat_encoder.query_layers.2.norm.bias"), r"missing: sat_encoder\.query_layers\.2\.norm\.bias\."),
        (
            lambda s: s.update({"cov_encoder.feature_extractor.layers.1.blocks.1.attn_mask": torch.zeros(16, 64, 64)}),
            r"not as computed: cov_encoder\.feature_extractor\.layers\.1\.blocks\.1\.attn_mask",
        ),
    ],
)
def test_a_visual_key_that_does_not_fit_is_named(change, message):
    state = checkpoint("visual_only")
    change(state)
    with pytest.raises(CheckpointError, match=message):
        Model.from_published(state)


def test_what_is_no_published_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="not those of a MISO checkpoint; the first are"):
        Model.from_published({"weight": torch.zeros(3)})
    with pytest.raises(SpecError, match="Unknown task 'peat'"):
        Model.from_published({}, "peat")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Model.from_published(tmp_path / "nothing.pth")


def test_a_pickle_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"geo_out.4.bias": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="never unpickled"):
        Model.from_published(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_a_file_with_a_wrapped_state_dict_saves_and_predicts_from_location_alone(tmp_path):
    torch.save({"epoch": 3, "model_state_dict": checkpoint("geo_only")}, tmp_path / "best_model.pth")
    model = Model.from_published(tmp_path / "best_model.pth")
    model.save(tmp_path / "model.safetensors")
    assert Model.load(tmp_path / "model.safetensors").sha256 == model.sha256
    cube = make_cube((30, 20), (Band("red"),), pixel_size=10)
    maps = cube.chunk({"y": 16}).miso.predict(model, device="cpu").compute()
    box = geobox_of(cube)
    rows, columns = np.mgrid[:30, :20] + 0.5
    with torch.no_grad():
        expected = model.network.locate(torch.from_numpy(locations(box, rows, columns, model.spec.location).reshape(-1, 2)))
    np.testing.assert_allclose(maps.permafrost_probability, expected["permafrost"].sigmoid().reshape(30, 20), atol=1e-6)


# The published procedure


def test_the_map_equals_the_published_procedure():
    spec = replace(tiny_spec(), query="published", windows=replace(WINDOWS, size=60, input_size=64, stride=30))
    model = make_model(spec)
    cube = make_cube((120, 150), spec.bands)
    for name in ("red", "nir"):
        cube[name][20:26, 40:50] = np.nan
    cube["elevation"][70:80, 5:15] = np.nan
    maps = cube.chunk({"y": 64, "x": 70}).miso.predict(model, location=True, device="cpu").compute()
    rows, columns = np.mgrid[:120, :150] + 0.5
    bands = np.stack([cube[band.name].values for band in spec.bands])
    visual, located = plain_map(model, bands, locations(geobox_of(cube), rows, columns, spec.location))
    seen = np.isfinite(cube["red"].values)
    assert not seen.all()
    for kind, values in (("", visual), ("_location", located)):
        np.testing.assert_allclose(maps[f"permafrost{kind}_probability"].values[seen], values[0, seen], atol=1e-5)
        np.testing.assert_allclose(maps[f"taxonomy{kind}_probability"].values[:, seen], values[1:, seen], atol=1e-5)
        assert values.std(axis=(1, 2)).max() > 0.01, "a flat map would equal anything"


# Backbones from elsewhere


def test_the_encoder_equals_torchvisions_swin_v2_b():
    import torchvision
    from torchvision.models.feature_extraction import create_feature_extractor

    torch.manual_seed(0)
    theirs = torchvision.models.swin_v2_b(weights=None).eval()
    for name, parameter in theirs.named_parameters():
        if name.endswith("bias") or "norm" in name:  # which start at 0 and 1, and would hide what is swapped
            torch.nn.init.normal_(parameter, mean=float("norm" in name and name.endswith("weight")), std=0.2)
    spec = ModelSpec.preset("miso-base", sat=["red", "green", "blue"], cov=())
    modality = spec.modalities[0]
    encoder = Encoder(modality, 8).eval()
    state = {f"backbone.backbone.{key}": value for key, value in theirs.state_dict().items()}
    assert load_backbone(encoder, modality, state | {"backbone.fpn.weight": torch.zeros(2)}, stem=True)
    image = torch.randn(1, 3, 256, 256)
    stages = create_feature_extractor(theirs, {f"features.{i}": str(i) for i in (1, 3, 5, 7)})
    with torch.no_grad():
        expected, found = stages(image), encoder.backbone(image)
    for one, other in zip(expected.values(), found, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
        assert one.std() > 0.1


def small_swin(window: int = 8, channels: int = 3) -> tuple[Encoder, Modality]:
    bands = tuple(Band(name) for name in ("red", "green", "blue", "nir")[:channels])
    options = {"img_size": 64, "window_size": window, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}
    spec = EncoderSpec("swin_tiny_patch4_window7_224", ((5, 5),) * 2, options, stages=(0, 1))
    modality = Modality("cov", bands, spec)
    return Encoder(modality, 8).eval(), modality


def simmim(encoder: Encoder) -> dict[str, Tensor]:
    """The weights of a backbone under SimMIM's names: patches are merged at the end of a stage."""
    state = {}
    for key, value in encoder.backbone.state_dict().items():
        stage, _, rest = key.partition(".")
        if stage.startswith("layers_"):
            number = int(stage.removeprefix("layers_")) - rest.startswith("downsample")
            stage = f"layers.{number}"
        state[f"encoder.{stage}.{rest}"] = value.clone()
    return state | {
        "encoder.mask_token": torch.zeros(1, 1, 16),
        "encoder.norm.weight": torch.ones(32),
        "decoder.0.bias": torch.ones(3),
    }


def test_simmim_files_fill_a_swin(tmp_path):
    torch.manual_seed(1)
    source, _ = small_swin()
    torch.save({"model": simmim(source), "epoch": 100}, tmp_path / "simmim.pth")
    target, modality = small_swin()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert (target.backbone(image)[1] - source.backbone(image)[1]).abs().max() > 0.1
        assert load_backbone(target, modality, tmp_path / "simmim.pth")
        torch.testing.assert_close(target.backbone(image)[1], source.backbone(image)[1])


def test_simmim_tables_are_resized_where_the_window_differs():
    torch.manual_seed(1)
    source, _ = small_swin(window=8)
    target, modality = small_swin(window=4)
    state = simmim(source)
    key = "layers.0.blocks.0.attn.relative_position_bias_table"
    ramp = torch.linspace(-1, 1, 15)
    state[f"encoder.{key}"] = (ramp[:, None] + 2 * ramp).reshape(-1, 1).expand(-1, 2).clone()
    assert load_backbone(target, modality, {"model": state})
    table = target.backbone.state_dict()["layers_0.blocks.0.attn.relative_position_bias_table"].reshape(7, 7, 2)
    assert table[3, 3].abs().max() < 1e-4, "the middle stays the middle"
    assert (table.diff(dim=0) > 0).all()
    assert (table.diff(dim=1) > table.diff(dim=0).mean()).all()


def test_a_stem_of_other_bands():
    encoder, modality = small_swin(channels=4)
    own = encoder.backbone.patch_embed.proj.weight.clone()
    state = simmim(small_swin()[0])
    assert not load_backbone(encoder, modality, state)
    assert torch.equal(encoder.backbone.patch_embed.proj.weight, own)
    with pytest.raises(CheckpointError, match="it reads 3 channels, the encoder 4. Leave it out with stem=False"):
        load_backbone(encoder, modality, state, stem=True)
    with pytest.raises(CheckpointError, match=r"missing: layers\.1\.blocks\.0\.mlp\.fc1\.bias"):
        load_backbone(encoder, modality, {k: v for k, v in state.items() if k != "encoder.layers.1.blocks.0.mlp.fc1.bias"})
    with pytest.raises(CheckpointError, match="neither SatlasPretrain's"):
        load_backbone(encoder, modality, {"weight": torch.zeros(3)})
    other = tiny_spec().modalities[0]
    with pytest.raises(SpecError, match="backbone of 'sat' is 'resnet18'"):
        load_backbone(Encoder(other, 8), other, state)


def test_the_satlas_stem_goes_by_the_names_of_bands():
    options = {"img_size": 64, "window_size": 8, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}
    encoder_spec = EncoderSpec("swinv2_tiny_window8_256", ((5, 5),) * 2, options, stages=(0, 1))
    modality = Modality("sat", (Band("nir"), Band("Red", aliases=("red",))), encoder_spec)
    encoder = Encoder(modality, 8)
    names = {"patch_embed.proj": "features.0.0", "patch_embed.norm": "features.0.2"}
    names |= {"layers_0.blocks": "features.1", "layers_1.downsample": "features.2", "layers_1.blocks": "features.3"}
    state = {}
    for key, value in encoder.backbone.state_dict().items():
        for ours, theirs in (*names.items(), (".mlp.fc1", ".mlp.0"), (".mlp.fc2", ".mlp.3")):
            key = key.replace(ours, theirs)
        if key.endswith(("q_bias", "v_bias")):
            key, value = f"{key[:-6]}qkv.bias", torch.zeros(3 * len(value))
        state[f"backbone.backbone.{key}"] = value.clone()
    stem = torch.randn(16, 9, 4, 4)
    state["backbone.backbone.features.0.0.weight"] = stem
    assert load_backbone(encoder, modality, state)
    assert torch.equal(encoder.backbone.patch_embed.proj.weight, stem[:, [6, 0]])
    thermal = replace(modality, bands=(Band("nir"), Band("lwir11")))
    assert not load_backbone(Encoder(thermal, 8), thermal, state)
    with pytest.raises(CheckpointError, match="lwir11"):
        load_backbone(Encoder(thermal, 8), thermal, state, stem=True)

"""The whole network: presets, backbones, tasks, the location encoder, and the losses."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from misoxr.errors import SpecError
from misoxr.model.encoder import Encoder, LocationEncoder, shape_of
from misoxr.model.inference import activate
from misoxr.model.losses import contrast, contrasts, learnt, task_loss, total_loss
from misoxr.model.network import Miso
from misoxr.model.query import neighbours
from misoxr.spec import (
    ALASKA,
    COVARIATES,
    PERMAFROST,
    TAXONOMY,
    Band,
    EncoderSpec,
    LocationSpec,
    LossSpec,
    Modality,
    ModelSpec,
    Task,
)
from misoxr.spec.standardisation import Standardisation
from tests.conftest import tiny_spec

GOLDEN = Path(__file__).parents[1] / "data" / "golden.safetensors"


def windows_of(spec: ModelSpec, count: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    side = spec.windows.input_size
    return {m.name: torch.randn(count, m.channels, side, side, generator=generator) for m in spec.modalities}


def points_of(count: int) -> Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def tiny() -> Miso:
    torch.manual_seed(0)
    return Miso(tiny_spec()).eval()


@pytest.mark.parametrize("preset", ["miso-nano", "miso-small"])
def test_presets_answer_every_task_in_one_pass(preset):
    spec = ModelSpec.preset(preset)
    network = Miso(spec).eval()
    with torch.no_grad():
        cells = network.project(windows_of(spec, 1))
        logits = network(cells, torch.zeros(3, dtype=torch.long), points_of(3))
        located = network.locate(points_of(3))
    assert {name: values.shape for name, values in logits.items()} == {"permafrost": (3, 1), "taxonomy": (3, 7)}
    assert {name: values.shape for name, values in located.items()} == {"permafrost": (3, 1), "taxonomy": (3, 7)}
    assert all(values.isfinite().all() for values in (*logits.values(), *located.values()))


def test_miso_base_has_the_published_size():
    """Weights of the published checkpoint (linear aspect, one task) that play a part: 210,926,578."""
    linear = [Band(band.name, band.units) for band in COVARIATES]
    spec = ModelSpec.preset("miso-base", cov=linear, tasks=(PERMAFROST,))
    with torch.device("meta"):
        network = Miso(spec)
    assert sum(parameter.numel() for parameter in network.parameters()) == 210_926_578
    assert network.heads["permafrost"][2].out_features == 512


def test_stages_of_miso_base_have_the_published_sizes():
    spec = ModelSpec.preset("miso-base")
    for modality in spec.modalities:
        with torch.device("meta"):
            encoder = Encoder(modality, spec.width)
            cells = encoder.project(torch.empty(1, modality.channels, 256, 256))
        assert [tuple(cell.values.shape[1:]) for cell in cells] == [(64, 64, 256), (32, 32, 256), (16, 16, 512), (8, 8, 1024)]
        assert [query.channels for query in encoder.queries] == [128, 256, 512, 1024]


def test_tasks_share_everything_but_their_heads(tiny):
    cells = tiny.project(windows_of(tiny_spec()))
    logits = tiny(cells, torch.tensor([0, 1]), points_of(2))
    tiny.zero_grad()
    logits["taxonomy"].sum().backward()
    touched = {name for name, parameter in tiny.named_parameters() if parameter.grad is not None and parameter.grad.abs().sum() > 0}
    assert any(name.startswith("heads.taxonomy") for name in touched)
    assert not any(name.startswith(("heads.permafrost", "location")) for name in touched)
    assert any(name.startswith("encoders.sat.backbone") for name in touched)
    assert any(name.startswith("encoders.cov.backbone") for name in touched)


def test_each_modality_and_each_window_matters(tiny):
    windows, sample, points = windows_of(tiny_spec()), torch.tensor([0, 0, 0]), points_of(3)
    with torch.no_grad():
        before = tiny(tiny.project(windows), sample, points)["taxonomy"]
        for name in windows:
            changed = {**windows, name: windows[name].roll(3, dims=-1)}
            assert (tiny(tiny.project(changed), sample, points)["taxonomy"] - before).abs().max() > 1e-4
        other = {name: torch.stack([values[0], values[1] * 5]) for name, values in windows.items()}
        torch.testing.assert_close(tiny(tiny.project(other), sample, points)["taxonomy"], before, atol=1e-6, rtol=0)


def test_one_modality_and_no_location():
    spec = ModelSpec.preset("miso-nano", cov=[])
    network = Miso(replace(spec, location=None, losses=LossSpec())).eval()
    with torch.no_grad():
        logits = network(network.project(windows_of(spec, 1)), torch.zeros(2, dtype=torch.long), points_of(2))
    assert logits["permafrost"].isfinite().all()
    assert not any("location" in name for name in network.state_dict())


@pytest.mark.parametrize(
    ("backbone", "options", "widths", "strides"),
    [
        ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20]}, [8, 12, 16, 20], [4, 8, 16, 32]),
        ("pyramid", {"channels": [8, 16, 24], "depths": [1, 2, 1], "groups": 4}, [8, 16, 24], [2, 4, 8]),
        ("resnet18", {"layers": [1, 1, 1, 1], "channels": [8, 12, 16, 20]}, [64, 8, 12, 16, 20], [2, 4, 8, 16, 32]),
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 2}, [96, 192, 384, 768], [4, 8, 16, 32]),
        ("swinv2_tiny_window8_256", {"img_size": 64, "window_size": 2}, [96, 192, 384, 768], [4, 8, 16, 32]),
        ("vit_tiny_patch16_224", {"img_size": 64, "depth": 3}, [192, 192, 192], [16, 16, 16]),
    ],
)
def test_any_backbone_with_features(backbone, options, widths, strides):
    """Whatever order of axes a backbone answers in: cells come out as (B, y, x, hidden)."""
    modality = Modality("sat", (Band("red"), Band("nir")), EncoderSpec(backbone, ((5, 7),) * len(widths), options))
    encoder = Encoder(modality, 6).eval()
    assert [query.channels for query in encoder.queries] == widths
    image = torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cells = encoder.project(image)
        out = encoder(cells, {shape_of(cell): neighbours(points_of(4), *shape_of(cell)) for cell in cells})
    assert [tuple(cell.values.shape) for cell in cells] == [(1, 64 // stride, 64 // stride, 5) for stride in strides]
    assert out.shape == (4, 6)
    assert out.std(dim=0).min() > 0


@pytest.mark.parametrize("backbone", ["convnext_atto", "resnet18"])
def test_cells_lie_where_the_image_does(backbone):
    """A change in the image's upper right changes the cells in the upper right (row 0, last column) most."""
    options = {"convnext_atto": {"depths": [1] * 4, "dims": [8] * 4}, "resnet18": {"layers": [1] * 4, "channels": [8] * 4}}[
        backbone
    ]
    modality = Modality("sat", (Band("red"),), EncoderSpec(backbone, ((5, 5),), options, stages=(1,)))
    encoder = Encoder(modality, 6).eval()
    image = torch.zeros(1, 1, 64, 64)
    changed = image.clone()
    changed[..., :8, 56:] = 3.0
    with torch.no_grad():
        difference = (encoder.project(changed)[0].values - encoder.project(image)[0].values).abs().sum(-1)[0]
    row, column = divmod(int(difference.argmax()), difference.shape[1])
    assert row < difference.shape[0] / 4
    assert column >= difference.shape[1] * 3 / 4


def test_chosen_stages():
    options = {"depths": [1] * 4, "dims": [8, 12, 16, 20]}
    modality = Modality("sat", (Band("red"),), EncoderSpec("convnext_atto", ((5, 5),) * 2, options, stages=(0, 2)))
    encoder = Encoder(modality, 6)
    assert [query.channels for query in encoder.queries] == [8, 16]
    options = {"channels": [8, 12, 16, 20], "depths": [1] * 4, "groups": 4}
    pyramid = Encoder(replace(modality, encoder=EncoderSpec("pyramid", ((5, 5),) * 2, options, stages=(0, 2))), 6)
    assert [query.channels for query in pyramid.queries] == [8, 16]
    assert len(pyramid.backbone.stages) == 3


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (EncoderSpec("pyramid", ((5, 5),) * 2, {"channels": [8, 16], "depths": [1]}), "channels for 2 stages and depths for 1"),
        (EncoderSpec("pyramid", ((5, 5),) * 2, {"channels": [8, 16], "depths": [1, 0]}), "a stage has one block or more"),
        (EncoderSpec("no_such_backbone", ((5, 5),) * 4), "timm has no model 'no_such_backbone'"),
        (EncoderSpec("hf-hub:someone/something", ((5, 5),) * 4), "timm has no model 'hf-hub:someone/something'"),
        (EncoderSpec("local-dir:.", ((5, 5),) * 4), "timm has no model 'local-dir:.'"),
        (EncoderSpec("resnet18", ((5, 5),) * 5, {"checkpoint_path": "weights.pth"}), "checkpoint_path.*from elsewhere"),
        (EncoderSpec("resnet18", ((5, 5),), stages=(9,)), "timm cannot build 'resnet18'"),
        (EncoderSpec("resnet18", ((5, 5),) * 4, {"no_such_option": 1}), "no_such_option"),
        (EncoderSpec("resnet18", ((5, 5),) * 4), "has 5 stages and the query 4 pairs of widths"),
    ],
)
def test_encoders_that_cannot_be(encoder, message):
    with pytest.raises(SpecError, match=message):
        Encoder(Modality("sat", (Band("red"),), encoder), 6)


@pytest.mark.parametrize("name", ["type", "keys"])
def test_names_that_torch_keeps_for_itself(name):
    spec = tiny_spec(tasks=(Task(name, "regression"),))
    with pytest.raises(SpecError, match=f"can have this name.*attribute '{name}' already exists"):
        Miso(spec)


# The location encoder, against the published one


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(GOLDEN)


def test_grid_cell_encoding_equals_the_published_one(golden):
    encoder = LocationEncoder(ALASKA, 4)
    torch.testing.assert_close(encoder.encode(golden["location.coord"]), golden["location.gridcell64.out"], atol=1e-5, rtol=0)


def test_location_encoder_equals_the_published_one(golden):
    spec = LocationSpec(ALASKA.crs, ALASKA.extent, frequencies=8)
    encoder = LocationEncoder(spec, 32).eval()
    names = {"entry": "layers.0.lin", "exit": "layers.4.lin"}
    for block in range(3):
        names[f"blocks.{block}"] = f"layers.{block + 1}.lin"
        names[f"norms.{block}"] = f"layers.{block + 1}.layer_norm"
    state = {
        f"{ours}.{kind}": golden[f"geo.state.{theirs}.{kind}"] for ours, theirs in names.items() for kind in ("weight", "bias")
    }
    encoder.load_state_dict(state)
    with torch.no_grad():
        out = encoder(golden["geo.coord"])
    torch.testing.assert_close(out, golden["geo.out"], atol=1e-5, rtol=0)


def test_grid_cell_encoding_is_what_it_says():
    """Sine and cosine of coordinate / wavelength, by coordinate, then wavelength from short to long."""
    spec = LocationSpec("EPSG:3338", (0.0, 0.0, 1.0, 1.0), frequencies=3, shortest=0.02, longest=2.0)
    out = LocationEncoder(spec, 4).encode(torch.tensor([[0.3, -0.7]]))[0]
    expected = [f(value / wave) for value in (0.3, -0.7) for wave in (0.02, 0.2, 2.0) for f in (math.sin, math.cos)]
    torch.testing.assert_close(out, torch.tensor(expected), atol=1e-5, rtol=0)


# Losses


def test_missing_labels_cost_nothing():
    logits = torch.randn(6, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([0.0, torch.nan, 3.0, torch.nan, 6.0, torch.nan])
    loss = task_loss(TAXONOMY, logits, labels)
    torch.testing.assert_close(loss, F.cross_entropy(logits[::2], torch.tensor([0, 3, 6])))
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[1::2] == 0).all()
    assert (logits.grad[::2] != 0).all()


def test_no_label_at_all_gives_a_zero_with_gradients():
    logits = torch.randn(4, 1, requires_grad=True)
    loss = task_loss(PERMAFROST, logits, torch.full((4,), torch.nan))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_losses_by_kind():
    logits = torch.tensor([[0.5], [-1.0], [2.0]])
    labels = torch.tensor([1.0, 0.0, torch.nan])
    binary = (math.log1p(math.exp(-0.5)) + math.log1p(math.exp(-1.0))) / 2
    assert float(task_loss(PERMAFROST, logits, labels)) == pytest.approx(binary, abs=1e-6)
    regression = Task("organic_thickness", "regression")
    assert float(task_loss(regression, logits, labels)) == pytest.approx((0.25 + 1.0) / 2, abs=1e-6)
    smooth = float(task_loss(PERMAFROST, logits, labels, smoothing=0.1))
    expected = sum(F.softplus(-logits[i, 0] * s) * w for i, s, w in ((0, 1, 0.95), (0, -1, 0.05), (1, 1, 0.05), (1, -1, 0.95))) / 2
    assert smooth == pytest.approx(float(expected), abs=1e-6)


def test_total_is_the_sum_over_tasks():
    generator = torch.Generator().manual_seed(0)
    logits = {"permafrost": torch.randn(5, 1, generator=generator), "taxonomy": torch.randn(5, 7, generator=generator)}
    labels = {"permafrost": torch.tensor([0, 1, torch.nan, 1, 0]), "taxonomy": torch.tensor([2, torch.nan, torch.nan, 4, 6])}
    total = total_loss((PERMAFROST, TAXONOMY), logits, labels)
    parts = [task_loss(task, logits[task.name], labels[task.name]) for task in (PERMAFROST, TAXONOMY)]
    torch.testing.assert_close(total, parts[0] + parts[1])
    labels["taxonomy"] = torch.full((5,), torch.nan)
    torch.testing.assert_close(total_loss((PERMAFROST, TAXONOMY), logits, labels), parts[0])


def test_focal_loss_and_class_weights():
    logits = torch.tensor([[0.5], [-1.0], [2.0]])
    labels = torch.tensor([1.0, 0.0, 0.0])
    p = torch.tensor([0.5, 1.0, -2.0]).sigmoid()  # of the true class
    focal = replace(PERMAFROST, loss="focal")
    expected = (-(p.log()) * (1 - p) ** 2).mean()
    torch.testing.assert_close(task_loss(focal, logits, labels), expected)
    torch.testing.assert_close(task_loss(focal, logits, labels, focus=0.0), task_loss(PERMAFROST, logits, labels))
    weighted = task_loss(PERMAFROST, logits, labels, weights=torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(weighted, (-(p.log()) * torch.tensor([1.0, 3.0, 3.0])).sum() / 7)


def test_a_regression_of_logarithms():
    task = Task("organic_thickness", "regression", units="cm", loss="mse_log1p")
    loss = task_loss(task, torch.tensor([[1.0], [2.0]]), torch.tensor([math.e - 1, torch.nan]))
    assert float(loss) == pytest.approx(0, abs=1e-10)
    answers = activate(replace(tiny_spec(), tasks=(task,)), {"organic_thickness": torch.tensor([[1.0], [0.0]])})
    torch.testing.assert_close(answers[0], torch.tensor([math.e - 1, 0.0]))


@pytest.mark.parametrize("loss", ["mse", "mse_log1p"])
@pytest.mark.parametrize(("factor", "offset"), [(1.0, 0.0), (1e-6, 2e-6), (3.0, 1e9)])
def test_standardised_labels_are_learnt_and_answered(loss, factor, offset):
    """The loss is of standardised labels, and answers are in the labels' units, with digits beyond those of float32."""
    task = Task("soc", "regression", loss=loss)
    labels = torch.tensor([1.0, 2.0, torch.nan, 4.5], dtype=torch.float64) * factor + offset
    standard = {"soc": Standardisation.fit(learnt(task, labels).numpy())}
    values = standard["soc"].apply(learnt(task, labels))
    logits = {"soc": values.nan_to_num()[:, None].float()}
    assert float(total_loss((task,), logits, {"soc": labels}, standardisation=standard)) == pytest.approx(0, abs=1e-10)
    assert float(total_loss((task,), {"soc": logits["soc"] + 1}, {"soc": labels}, standardisation=standard)) == pytest.approx(1)
    answers = activate(replace(tiny_spec(), tasks=(task,)), logits, standardisation=standard)[0]
    assert answers.dtype == torch.float64
    known = labels.isfinite()
    torch.testing.assert_close(answers[known], labels[known], rtol=1e-13, atol=1e-6 * factor)


def test_contrast_leaves_out_what_is_not_valid():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 5, 3, 8, generator=generator)
    torch.testing.assert_close(contrast(one, other, valid=torch.ones(5, 3, dtype=torch.bool)), contrast(one, other))
    valid = torch.ones(5, 3, dtype=torch.bool)
    valid[3] = False
    kept = [0, 1, 2, 4]
    torch.testing.assert_close(contrast(one, other, valid=valid), contrast(one[kept], other[kept]))
    assert contrast(one, other, valid=torch.zeros(5, 3, dtype=torch.bool)) == 0


def test_contrast_falls_as_embeddings_agree():
    one = torch.randn(6, 2, 16, generator=torch.Generator().manual_seed(0))
    assert contrast(one, one) < contrast(one, one.flip(0)) / 4
    spec = LossSpec((("visual", "location", 0.5), ("sat", "cov", 2.0)), temperature=0.3)
    embedded = {"visual": one, "location": one.flip(0), "sat": one, "cov": one}
    expected = 0.5 * contrast(one, one.flip(0), 0.3) + 2 * contrast(one, one, 0.3)
    torch.testing.assert_close(contrasts(spec, embedded), expected)


@pytest.mark.parametrize("task", [PERMAFROST, TAXONOMY, Task("soc", "regression")], ids=lambda task: task.kind)
def test_points_without_a_label_cost_nothing_whatever_their_logits_are(task):
    logits = torch.ones(3, task.outputs)
    logits[1], logits[2] = torch.inf, torch.nan
    logits.requires_grad_()
    counts = None if task.kind == "regression" else torch.tensor([1.0, torch.nan, torch.nan])
    loss = task_loss(task, logits, torch.tensor([1.0, torch.nan, torch.nan]), counts=counts)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert not logits.grad[1:].any()

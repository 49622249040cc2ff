"""Input from strangers: damaged and malicious checkpoints and STAC items are refused with an error of the package, and nothing else."""

import base64
import contextlib
import copy
import ctypes
import io
import json
import os
import pickle
import resource
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pystac
import pytest
import rasterio
import shapely.geometry
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from servers import range_server

from misoxr.cube.scaling import Scaling
from misoxr.errors import AssetError, CatalogError, CheckpointError, MisoxrError, MisoxrWarning
from misoxr.estimators.embedded import EmbeddedModel
from misoxr.model.calibration import Calibration
from misoxr.model.checkpoint import Model
from misoxr.model.files import read_state
from misoxr.model.pretrained import Pretrained, encoders_of
from misoxr.spec import ModelSpec
from misoxr.spec.components import EncoderSpec
from misoxr.stac import open_stac
from tests.conftest import make_model, tiny_spec
from tests.harness import without_checksum
from tests.stac_scenes import make_item

FUZZ = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))

# ---- JSON that is nearly right

NUMBERS = [0, 1, -1, 2, 7, 0.5, 10**5, 10**9, 2**63, 10**400, 1e-320, 1e30, 1e308, float("nan"), float("inf"), float("-inf")]
TEXTS = ["", "x", "9", "é", "\ud800", "a/b", "a.b", "<x>", "nan", "now", "N9", "EPSG:4326", "EPSG:3338", "MULTIMODAL", "y" * 10**4]
TEXTS += [
    "9999-12-31T23:59:59Z",
    "2020-07-01T21:00:00+99:99",
    "http://[",
    "https://a..b/c.tif",
    "http://x:99999/",
    "/vsicurl/x",
    "Point",
]
NONSENSE = [None, True, False, *TEXTS, [], {}, [[]], [None], [0, 0], [1e9, -1e9], {"": 1}, {"x": {"x": []}}]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
PLACE = st.integers(0, 2**16)
CHANGE = st.tuples(PLACE, st.sampled_from([("put", value) for value in NUMBERS]))
CHANGE |= st.tuples(PLACE, st.sampled_from([("put", value) for value in NONSENSE]))
CHANGE |= st.tuples(PLACE, st.tuples(st.just("put"), JSON))
CHANGE |= st.tuples(PLACE, st.tuples(st.just("copy"), PLACE))
CHANGE |= st.tuples(PLACE, st.sampled_from([("drop",), ("double",), ("nest",)]))
CHANGES = st.lists(CHANGE, min_size=1, max_size=3)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """The containers and keys of all values that stand in JSON."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


def changed(document: Any, changes: list[tuple[int, tuple[Any, ...]]]) -> Any:
    """A copy of a JSON document with values put, dropped, doubled, nested, or copied from elsewhere."""
    document = copy.deepcopy(document)
    for place, (how, *what) in changes:
        all_places = list(places(document))
        if not all_places:
            break
        parent, key = all_places[place % len(all_places)]
        if how == "put":
            parent[key] = copy.deepcopy(what[0])
        elif how == "copy":
            other, source = all_places[what[0] % len(all_places)]
            parent[key] = copy.deepcopy(other[source])
        elif how == "drop":
            del parent[key]
        elif how == "nest":
            parent[key] = [parent[key]]
        else:
            parent[key] = [parent[key]] * 2 if not isinstance(parent[key], list) else parent[key] * 2
    return document


def only(error: type[Exception], step: Callable[[], Any], *, silent: bool = True) -> Any:
    """What a step gives, or None after an error of this kind; any other error, or a warning, comes through."""
    with warnings.catch_warnings():
        warnings.simplefilter("error" if silent else "ignore")
        try:
            return step()
        except error:
            return None


# ---- checkpoints


@pytest.fixture(scope="module")
def small() -> Model:
    """A model with every part that a checkpoint can have, as small as can be."""
    encoder = EncoderSpec("pyramid", ((4, 4),) * 2, {"channels": [8, 8], "depths": [1, 1], "groups": 2})
    spec = tiny_spec()
    spec = replace(
        spec,
        width=8,
        modalities=tuple(replace(modality, encoder=encoder) for modality in spec.modalities),
        location=replace(spec.location, frequencies=4),
    )
    model = make_model(spec)
    record = {"seed": 1, "prevalence": {"permafrost": 0.4, "taxonomy": dict.fromkeys(spec.task("taxonomy").classes, 1 / 7)}}
    return Model(spec, model.scaling, model.network, record, {"permafrost": Calibration(1.5, (0.1,))})


def parts(data: bytes) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A checkpoint's own header, and its weights."""
    data = without_checksum(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["misoxr"]), load(data)


def works(model: Model) -> None:
    """Ask a model for all that it promises."""
    repr(model)
    for task in model.spec.tasks:
        only(MisoxrError, partial(model.with_prevalence, **{task.name: 0.3}))
    network, spec = model.network, model.spec
    outputs = {task.name: task.outputs for task in spec.tasks}
    with torch.inference_mode():
        if spec.modalities:
            network.side = side = min(spec.windows.input_size, 256)
            cells = network.project({m.name: torch.zeros(1, m.channels, side, side) for m in spec.modalities})
            answers = network(cells, torch.zeros(3, dtype=torch.long), torch.zeros(3, 2))
            assert {name: answer.shape for name, answer in answers.items()} == {name: (3, count) for name, count in outputs.items()}
        if spec.location:
            located = network.locate(torch.zeros(3, 2))
            assert {name: answer.shape for name, answer in located.items()} == {name: (3, count) for name, count in outputs.items()}
    again = ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert (again, Scaling.from_dict(model.scaling.to_dict(), again)) == (spec, model.scaling)


@settings(FUZZ, max_examples=80)
@given(changes=CHANGES)
def test_any_header_gives_a_model_or_an_error_of_checkpoints(small, changes):
    header, state = parts(small._bytes)
    damaged = save(state, {"misoxr": json.dumps(changed(header, changes))})
    found = only(CheckpointError, lambda: Model.from_bytes(damaged, "damaged"))
    if found is not None:
        works(found)


FLIP = st.tuples(st.just("flip"), st.integers(0, 2**20), st.integers(1, 255))
CUT = st.tuples(st.just("cut"), st.integers(0, 2**20), st.integers(1, 5000))
SPLICE = st.tuples(
    st.just("splice"), st.integers(0, 2**20), st.binary(max_size=40) | st.sampled_from([b'{"a":', b"[" * 4000, b"\xff"])
)
ANYWHERE = st.lists(FLIP | CUT | SPLICE, min_size=1, max_size=4)


def damaged(data: bytes, changes: list[tuple[str, int, Any]], begin: int) -> bytes:
    """A copy of a file with bytes flipped, cut out and put in; half of the changes come within its first bytes."""
    found = bytearray(data)
    for how, place, what in changes:
        place %= max(1, min(begin, len(found)) if place % 2 else len(found))
        if how == "flip" and found:
            found[place] ^= what
        elif how == "cut":
            del found[place : place + what]
        elif how == "splice":
            found[place:place] = what
    return bytes(found)


@settings(FUZZ, max_examples=150)
@given(changes=ANYWHERE)
def test_any_bytes_give_a_model_or_an_error_of_checkpoints(small, changes):
    data = without_checksum(small._bytes)
    found = damaged(data, changes, 8 + int.from_bytes(data[:8], "little"))
    model = only(CheckpointError, lambda: Model.from_bytes(found, "damaged"))
    if model is not None:
        works(model)


@settings(FUZZ, max_examples=150)
@given(changes=CHANGES)
def test_any_table_of_weights_gives_a_model_or_an_error_of_checkpoints(small, changes):
    data = without_checksum(small._bytes)
    length = int.from_bytes(data[:8], "little")
    table = json.dumps(changed(json.loads(data[8 : 8 + length]), changes)).encode()
    model = only(
        CheckpointError, lambda: Model.from_bytes(len(table).to_bytes(8, "little") + table + data[8 + length :], "damaged")
    )
    if model is not None:
        works(model)


@settings(FUZZ, max_examples=150)
@given(data=st.binary(max_size=300) | st.binary(max_size=60).map(lambda head: len(head).to_bytes(8, "little") + head))
def test_bytes_of_anything_are_no_checkpoint(data):
    with pytest.raises(CheckpointError):
        Model.from_bytes(data, "noise")


# ---- pre-trained encoders, and estimators on embeddings


@pytest.fixture(scope="module")
def encoder(small) -> Pretrained:
    """The encoder of a model, as pretrain writes it."""
    (modality, *_), spec = small.spec.modalities, small.spec
    sides = {"size": spec.windows.size, "input_size": spec.windows.input_size}
    weights = small.network.encoders[modality.name].state_dict()
    return Pretrained(modality, spec.width, spec.query, small.scaling.modalities[modality.name], spec.pixel_size, sides, weights)


@settings(FUZZ, max_examples=80)
@given(changes=CHANGES)
def test_any_header_gives_an_encoder_or_an_error_of_checkpoints(small, encoder, changes, tmp_path_factory):
    data = without_checksum(encoder.to_bytes())
    header = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["misoxr-pretrained"])
    path = tmp_path_factory.getbasetemp() / "encoder.safetensors"
    path.write_bytes(save(load(data), {"misoxr-pretrained": json.dumps(changed(header, changes))}))

    def taken() -> None:
        (found,) = encoders_of(small.spec, {encoder.modality.name: path}).values()
        assert (found.modality.bands, found.width) == (encoder.modality.bands, encoder.width)

    only(CheckpointError, taken)


@settings(FUZZ, max_examples=80)
@given(document=JSON | CHANGES.map(lambda changes: changed({"pairs": 2, "record": {"points": 3}}, changes)))
def test_any_header_of_an_embedding_s_estimators_is_refused_without_them(document):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("misoxr-embedded.json", json.dumps(document))
    with pytest.raises(CheckpointError):
        EmbeddedModel.from_bytes(file.getvalue(), "hostile.zip")


@pytest.mark.parametrize("kind", ["F4", "F8_E8M0", "F8_E4M3", "C64", "BOOL", "I32", "U64", "I64"])
def test_weights_that_are_no_floats_are_refused(small, kind):
    bits = {"F4": 4, "F8_E8M0": 8, "F8_E4M3": 8, "BOOL": 8, "I32": 32}.get(kind, 64)
    data = without_checksum(small._bytes)
    length = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + length])
    begin, end = table["heads.taxonomy.0.weight"]["data_offsets"]
    table["heads.taxonomy.0.weight"] |= {"dtype": kind, "shape": [8, (end - begin) // bits]}
    text = json.dumps(table).encode()
    with pytest.raises(CheckpointError, match=r"no safetensors file|instead of|not finite"):
        Model.from_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 0},
        {"groups": 0.5},
        {"channels": [0, 8]},
        {"channels": []},
        {"channels": [8]},
        {"depths": [1.5, 1]},
        {"depths": "ab"},
    ],
)
def test_options_that_make_no_backbone_are_refused(small, options):
    header, state = parts(small._bytes)
    header["spec"]["modalities"][0]["encoder"]["options"] |= options
    with pytest.raises(CheckpointError, match=r"timm cannot build 'pyramid'|cannot read windows of 16 pixels"):
        Model.from_bytes(save(state, {"misoxr": json.dumps(header)}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec: spec.update(width=2**20), "no network of the weights in the file"),
        (lambda spec: spec["location"].update(frequencies=4096), "instead of"),
        (lambda spec: spec["location"].update(frequencies=10**9), "use 1 to 4096"),
        (lambda spec: spec["modalities"][0]["encoder"].update(hidden=[[2**30, 2**30]] * 2), "no network of the weights"),
        (lambda spec: spec["modalities"][0]["encoder"]["options"].update(channels=[8, 10**9]), "numbers of at most"),
        (lambda spec: spec["modalities"][0]["encoder"]["options"].update(channels=[8, 16384]), "no network of the weights"),
        (lambda spec: spec["modalities"][0]["encoder"]["options"].update(depths=[1, 16384]), "no network of the weights"),
        (lambda spec: spec["modalities"][0]["encoder"]["options"].update(depths=[1] * 10**6), "at most 100 are allowed"),
        (
            lambda spec: spec["modalities"][0]["encoder"].update(backbone="eva02_enormous_patch14_clip_224", options={}),
            "no network of the weights",
        ),
        (lambda spec: spec["windows"].update(size=10**6, input_size=10**6), "too large"),
        (lambda spec: spec.update(tasks=spec["tasks"] * 10**4), "at most 4096 are allowed"),
    ],
)
def test_giant_layers_are_refused_before_they_are_there(small, change, message):
    header, state = parts(small._bytes)
    change(header["spec"])
    damaged = save(state, {"misoxr": json.dumps(header)})
    before, start = peak(), time.monotonic()
    with pytest.raises(CheckpointError, match=message) as error:
        Model.from_bytes(damaged, "giant")
    assert peak() - before < 200e6
    assert time.monotonic() - start < 60
    assert len(str(error.value)) < 10_000


def peak() -> int:
    """The most memory that this process has had, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ---- pickles


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def disguised(marker: Path) -> dict[str, bytes]:
    """A pickle that leaves a file behind, in the files that a checkpoint may look like."""
    plain, state = pickle.dumps(Trap(marker)), {"geo_out.4.bias": Trap(marker), "geo_out.4.weight": torch.zeros(2)}
    new, old = io.BytesIO(), io.BytesIO()
    torch.save(state, new)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("archive/data.pkl", plain)
        file.writestr("archive/version", b"3")
    scripted = zipped.getvalue().replace(b"version", b"constan")
    return {
        "pickle": plain,
        "pickle of protocol 0": pickle.dumps(Trap(marker), protocol=0),
        "torch": new.getvalue(),
        "torch before 1.6": old.getvalue(),
        "zip": zipped.getvalue(),
        "zip of a script": scripted,
        "header of safetensors": len(plain).to_bytes(8, "little") + plain,
        "header of safetensors with bytes of weights": len(plain).to_bytes(8, "little") + plain + bytes(64),
        "text in the header": save({"geo_out.4.bias": torch.zeros(1)}, {"misoxr": base64.b64encode(plain).decode()}),
        "text of protocol 0 in the header": save({"a": torch.zeros(1)}, {"misoxr": pickle.dumps(Trap(marker), 0).decode()}),
        "after a checkpoint's end": save({"geo_out.4.bias": torch.zeros(1)}) + plain,
    }


@pytest.mark.parametrize("kind", disguised(Path("absent")))
@pytest.mark.parametrize("read", [Model.load, Model.from_published])
def test_a_payload_is_refused_and_never_run(tmp_path, kind, read):
    marker = tmp_path / "ran"
    for name in ("model.pth", "model.safetensors", "model.ckpt"):
        (tmp_path / name).write_bytes(disguised(marker)[kind])
        with pytest.raises(CheckpointError):
            read(tmp_path / name)
        assert not marker.exists()
    pickle.loads(pickle.dumps(Trap(marker)))
    assert marker.exists(), "the trap itself must work"


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch on its own kinds of tensors
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(2, 3, device="meta"),
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: torch.zeros(2, dtype=torch.complex64),
        lambda: torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
        lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        lambda: "text",
        lambda: None,
    ],
    ids=["meta", "sparse", "csr", "complex", "quantised", "nested", "text", "none"],
)
def test_pickled_weights_that_are_no_dense_numbers_are_refused(tmp_path, make):
    torch.save({"geo_out.4.weight": make()}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="no tensors|dense real numbers"):
        Model.from_published(tmp_path / "weights.pth")


@settings(FUZZ, max_examples=150)
@given(changes=ANYWHERE, old=st.booleans())
def test_any_pickled_weights_give_tensors_or_an_error_of_checkpoints(changes, old):
    file = io.BytesIO()
    state = {"model": {"a.weight": torch.arange(12.0).reshape(3, 4)[:, ::2], "b": torch.zeros(2, dtype=torch.int64)}, "epoch": 3}
    torch.save(state, file, _use_new_zipfile_serialization=not old)
    path = Path(tempfile.gettempdir()) / f"misoxr-{os.getpid()}.pth"
    try:
        path.write_bytes(damaged(file.getvalue(), changes, 400))
        found = only(CheckpointError, lambda: read_state(path), silent=False)
    finally:
        path.unlink()
    for value in (found or {}).values():
        assert value.numel() < 10**6
        value.double().sum().item()


# ---- what a STAC item may make us read


class Watch:
    """Whether a file is opened while this context lasts, by whatever library: the kernel says so."""

    def __init__(self, path: Path) -> None:
        self.path, self.opened = path, False

    def __enter__(self) -> Self:
        libc = ctypes.CDLL(None, use_errno=True)
        self.events = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self.events, os.fsencode(self.path), 0x20) >= 0  # IN_OPEN
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BlockingIOError):
            self.opened = bool(os.read(self.events, 1 << 16))
        os.close(self.events)


@dataclass(frozen=True)
class Strangers:
    """A server of strangers, the item it serves, and a raster of ours on this disk."""

    address: str
    item: dict[str, Any]
    secret: Path


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strangers]:
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux says who opens a file (inotify)")
    served, ours = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("ours")
    item = make_item(ours, "ours")
    secret = ours / "ours" / "red.tif"
    (ours / "ours.json").write_text(json.dumps(item))
    vrt = (
        f'<VRTDataset rasterXSize="160" rasterYSize="128"><SRS>EPSG:32605</SRS><GeoTransform>5e5,10,0,7.2e6,0,-10</GeoTransform>'
        f'<VRTRasterBand dataType="UInt16" band="1"><SimpleSource><SourceFilename>{secret}</SourceFilename></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )
    (served / "vrt.tif").write_text(vrt)
    (served / "pointer.tif").symlink_to("vrt.tif")
    gti = f"<GDALTileIndexDataset><IndexDataset>{secret}</IndexDataset></GDALTileIndexDataset>"
    (served / "gti.tif").write_text(gti)
    (served / "wms.tif").write_text(f"<GDAL_WMS><Service name='TMS'><ServerUrl>file://{secret}</ServerUrl></Service></GDAL_WMS>")
    redirects = {"/moved.tif": secret.as_uri(), "/path.tif": str(secret), "/vsi.tif": f"/vsicurl/file://{secret}"}
    redirects |= {"/ftp.tif": "ftp://127.0.0.1/a.tif", "/data.tif": "data:image/tiff;base64,SUkqAA=="}
    with range_server(served, redirects) as address:
        yield Strangers(address, item, secret)


HREFS = [
    "{secret}",
    "file://{secret}",
    "FILE://{secret}",
    "file://localhost{secret}",
    "file:{secret}",
    "{up}{secret}",
    "{address}/{up}{secret}",
    "/vsicurl/file://{secret}",
    "/vsisubfile/0_100,{secret}",
    "/VSIZIP/{secret}",
    "\\vsimem\\..{secret}",
    "{address}/vsicurl/file://{secret}",
    "vrt://{secret}",
    "GTIFF_DIR:1:{secret}",
    "DERIVED_SUBDATASET:AMPLITUDE:{secret}",
    "GTI:{secret}",
    "VRT:<VRTDataset/>",
    "<VRTDataset><VRTRasterBand><SimpleSource><SourceFilename>{secret}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>",
    '{{"type": "gdal_streamed_alg", "command_line": "gdal raster pipeline read {secret}"}}',
    "s3://../{secret}",
    "s3://b/../..{secret}",
    "s3://b/x?path=/vsifile{secret}",
    "{address}/vrt.tif",
    "{address}/pointer.tif",
    "{address}/gti.tif",
    "{address}/wms.tif",
    "{address}/moved.tif",
    "{address}/path.tif",
    "{address}/vsi.tif",
    "{address}/ftp.tif",
    "{address}/data.tif",
]


@pytest.mark.parametrize("options", [{}, {"engine": "odc"}, {"reduce": "median"}], ids=str)
def test_an_item_from_elsewhere_reads_nothing_of_ours(strangers, options):
    with Watch(strangers.secret) as watch:
        rasterio.open(strangers.secret).close()
    assert watch.opened, "the watch itself must work"
    for href in HREFS:
        item = copy.deepcopy(strangers.item)
        item["assets"]["red"]["href"] = href.format(secret=strangers.secret, address=strangers.address, up="../" * 12)
        item["links"] = [{"rel": "self", "href": f"{strangers.address}/item.json"}]
        with Watch(strangers.secret) as watch, pytest.raises(AssetError, match="Item 'ours', band 'red'"):
            open_stac([item], bands="red", mask=None, allow_private=True, **options).compute()
        assert not watch.opened, href


def test_a_signing_function_cannot_lead_to_ours(strangers):
    item = copy.deepcopy(strangers.item)
    item["assets"]["red"]["href"] = f"{strangers.address}/vrt.tif"
    for href in HREFS:
        lead = href.format(secret=strangers.secret, address=strangers.address, up="../" * 12)
        with Watch(strangers.secret) as watch, pytest.raises(AssetError, match="Item 'ours', band 'red'"):
            open_stac([item], bands="red", mask=None, allow_private=True, patch_url=lambda _, lead=lead: lead).compute()
        assert not watch.opened, href


@pytest.mark.parametrize("claim", ["{folder}/item.json", "file://{folder}/item.json", "{folder}/ours.json", "{secret}", "{folder}"])
def test_an_item_that_claims_to_lie_beside_ours_reads_nothing_of_ours(strangers, claim):
    """Items that pystac reads from an API keep the self link that the API gave them."""
    folder = strangers.secret.parents[1]
    item = copy.deepcopy(strangers.item)
    item["links"] = [{"rel": "self", "href": claim.format(folder=folder, secret=strangers.secret)}]
    item["assets"]["nir"]["href"] = "ours/red.tif"
    with Watch(strangers.secret) as watch, pytest.raises(AssetError, match="Item 'ours', band 'nir'.*catalogue is not a local one"):
        open_stac([pystac.Item.from_dict(item)], bands="nir", mask=None).compute()
    assert not watch.opened
    own = open_stac([pystac.Item.from_file(folder / "ours.json")], bands="red", mask=None)
    with Watch(strangers.secret) as watch:
        assert np.isfinite(own.red.compute()).any()
    assert watch.opened


def test_a_catalogue_from_elsewhere_reads_nothing_of_ours(strangers, tmp_path):
    base = {"stac_version": "1.0.0", "description": "", "id": "theirs", "type": "Catalog"}
    ours = strangers.secret.parents[1] / "ours.json"
    leads = [
        str(ours),
        ours.as_uri(),
        f"../..{ours}",
        f"%2e%2e/%2e%2e{ours}",
        f"/vsicurl/{ours}",
        "/moved.json",
        "http://[",
        "ftp://a/b.json",
    ]
    with range_server(tmp_path, {"/moved.json": ours.as_uri()}) as address:
        for href in leads:
            (tmp_path / "catalog.json").write_text(json.dumps({**base, "links": [{"rel": "item", "href": href}]}))
            with Watch(ours) as watch, pytest.raises(CatalogError):
                open_stac(f"{address}/catalog.json", bands="red")
            assert not watch.opened, href


# ---- items that are not as they should be


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("assets.red.proj:shape", [10**9, 10**9], "declares proj:transform"),
        ("assets.red.proj:shape", [10**400, 1], "declares proj:transform"),
        ("assets.red.proj:shape", [1_000_000, 1_000_000], "declares proj:transform"),
        ("assets.red.proj:shape", [-128, 160], "declares proj:transform"),
        ("assets.red.proj:shape", [0.5, 160], "declares proj:transform"),
        ("assets.red.proj:shape", [float("inf"), 160], "declares proj:transform"),
        ("assets.red.proj:shape", {"0": 128}, "'proj:shape' as a dict"),
        ("assets.red.proj:transform", [10, 0, float("nan"), 0, -10, 7.2e6], "declares proj:transform"),
        ("assets.red.proj:transform", [float("inf"), 0, 5e5, 0, -10, 7.2e6], "declares proj:transform"),
        ("assets.red.proj:transform", [10, 0, 5e5, 0, float("-inf"), 7.2e6], "declares proj:transform"),
        ("assets.red.proj:transform", [1e300, 0, 5e5, 0, -1e300, 7.2e6], "declares proj:transform"),
        ("assets.red.proj:transform", [1e-300, 0, 5e5, 0, -1e-300, 7.2e6], "declares proj:transform"),
        ("assets.red.proj:transform", [10, 0, 8e5, 0, -10, 1e6], "contradict each other"),
        ("assets.red.proj:transform", "10", "'proj:transform' as a str"),
        ("assets.red.raster:bands", [{"scale": 1e-320}], "declares the scale"),
        ("assets.red.raster:bands", [{"offset": 10**400}], "declares the offset"),
        ("assets.red.href", "http://[", "no address that can be asked for"),
        ("assets.red.href", "https://a..b/red.tif", "no address that can be asked for"),
        ("assets.red", None, "'assets'"),
        ("properties.datetime", None, "has the datetime None"),
        ("properties.datetime", "now", "has the datetime 'now'"),
        ("properties.datetime", "12", "has the datetime '12'"),
        ("properties.datetime", "9999-12-31T23:59:59Z", "has the datetime '9999"),
        ("properties.datetime", {"now": 1}, "has the datetime"),
        ("properties", {}, "has the datetime None"),
        ("properties", 7, "'properties' as a int"),
        ("properties.proj:epsg", 4326, "contradict each other"),
        ("properties.proj:epsg", {}, "'proj:epsg' as a dict"),
        ("geometry.coordinates", [[[0, float("nan")], [1, 0], [1, 1], [0, float("nan")]]], "geometry"),
        ("geometry.coordinates", [[[0, 1e308], [1e308, 0], [1, 1], [0, 1e308]]], "footprint"),
        ("geometry.coordinates", [], "footprint"),
        ("geometry", None, "footprint|contradict"),
        ("collection", {}, "'collection' as a dict"),
    ],
    ids=str,
)
def test_items_that_make_no_sense_are_refused_by_their_id(items, where, value, message):
    item = copy.deepcopy(items[0])
    *parents, key = where.split(".")
    part = item
    for name in parents:
        part = part[name]
    part[key] = value
    if where == "geometry":
        item["bbox"] = [float("nan")] * 4
        message = "neither a geometry nor a bbox"
    for options in ({}, {"reduce": "median"}):
        with pytest.raises((CatalogError, AssetError), match=f"Item 'mine'.*({message})"):
            open_stac([item, items[1]], bands="red", **options)


def test_items_at_both_ends_of_the_earth_make_no_giant_grid(items):
    """Nothing is wrong with either item; a grid over both would have six million blocks."""
    far = []
    for item, west, north in zip(items, (-90.0, 85.0), (80.0, -79.0), strict=True):
        item = copy.deepcopy(item)
        item["geometry"] = shapely.geometry.mapping(shapely.box(west, north - 0.0128, west + 0.016, north))
        item["properties"]["proj:epsg"] = 4326
        for asset in item["assets"].values():
            asset |= {"proj:transform": [1e-4, 0, west, 0, -1e-4, north], "proj:shape": [128, 160]}
        far.append(item)
    for options in ({}, {"engine": "odc"}, {"reduce": "median"}):
        assert open_stac(far[:1], bands="red", **options).sizes["x"] == 160
        with pytest.raises(CatalogError, match=r"makes 2,\d+,\d+ blocks; at most 500,000 are allowed"):
            open_stac(far, bands="red", **options)


# ---- STAC items


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two items of a remote catalogue; nothing is there to be read."""
    directory = tmp_path_factory.mktemp("items")
    options = {"prefix": "https://example.org/", "properties": {"processing:level": "L2A", "earthsearch:boa_offset_applied": False}}
    made = [
        make_item(directory, "mine", "2020-07-01T21:00:00Z", **options),
        make_item(directory, "other", "2021-07-01T21:00:00Z", **options),
    ]
    for item in made:
        item["links"] = [{"rel": "self", "href": f"https://example.org/{item['id']}.json"}]
        item["assets"]["red"]["raster:bands"] = [{"scale": 1e-4, "offset": -0.1, "nodata": 0, "data_type": "uint16"}]
    return made


def opened(items: Any, **options: Any) -> Any:
    """A lazy cube, or None after an error of the package."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # of libraries among each other
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        warnings.simplefilter("ignore", MisoxrWarning)
        try:
            return open_stac(items, bands=["red", "swir16"], **options)
        except MisoxrError:
            return None


@settings(FUZZ, max_examples=150)
@given(
    changes=CHANGES,
    alone=st.booleans(),
    options=st.sampled_from([{}, {"reduce": "median"}, {"engine": "odc"}, {"crs": "EPSG:3338", "resolution": 100}]),
)
def test_any_item_gives_a_cube_or_an_error_of_the_package(items, changes, alone, options):
    strange = changed(items[0], changes)
    cube = opened([strange] if alone else [strange, items[1]], **options)
    if cube is not None:
        assert set(cube.data_vars) - {"observations"} == {"red", "swir16"}
        assert cube.red.chunks is not None
        assert cube.sizes["y"] * cube.sizes["x"] <= 4 * 10**10


@settings(FUZZ, max_examples=100)
@given(changes=CHANGES)
def test_any_item_collection_gives_a_cube_or_an_error_of_the_package(items, changes):
    found = changed({"type": "FeatureCollection", "features": items}, changes)
    if isinstance(found, dict):
        opened(found, reduce="median", mask=None)

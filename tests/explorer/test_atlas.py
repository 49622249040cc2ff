"""An atlas answers with the maps' own colours and values, and reads few blocks; the widget answers as anywidget asks."""

import io
import socket
import threading
from functools import partial

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from PIL import Image

import misoxr
from misoxr.errors import BandError, GridError, MissingDependencyError, SpecError, StoreError
from misoxr.explorer.atlas import atlas_of, is_thinned
from misoxr.explorer.blocks import Blocks, Raster
from misoxr.explorer.tiles import SIDE, Ground, Tile
from misoxr.explorer.workers import Workers
from misoxr.grid.geobox import assign
from tests.conftest import make_cube
from tests.explorer.test_tiles import tile_at

COLORS = ("#1b9e77", "#d95f02", "#7570b3")
FLAGS = {
    "flag_values": np.arange(3, dtype="uint8"),
    "flag_meanings": "dry moist wet",
    "flag_colors": " ".join(COLORS),
    "_FillValue": np.uint8(255),
}
BOX = GeoBox((300, 400), Affine(20, 0, 300_000, 0, -20, 1_500_000), "EPSG:3338")
WHOLE = 10
"""A zoom at which a tile holds the whole of it."""
LARGE = GeoBox((20_000, 20_000), Affine(20, 0, 100_000, 0, -20, 1_800_000), "EPSG:3338")


def make_maps(**attrs):
    """Classes in thirds from north to south, probabilities, a set, a quantity with limits, and imagery; the west is nodata."""
    code = np.repeat(np.arange(300) // 100, 400).reshape(300, 400).astype("uint8")
    code[:, :40] = 255
    gone = code == 255
    one_hot = np.stack([np.where(gone, np.nan, 0.1 + 0.7 * (code == k)) for k in range(3)]).astype("float32")
    ramp = np.where(gone, np.nan, np.linspace(5, 45, 400)[None, :].repeat(300, 0)).astype("float32")
    held = one_hot > 0.5
    maps = xr.Dataset(
        {
            "moisture": (("y", "x"), code, {"long_name": "soil moisture", **FLAGS}),
            "moisture_probability": (("wetness", "y", "x"), one_hot, {"long_name": "probability of soil moisture"}),
            "moisture_set": (("wetness", "y", "x"), held),
            "carbon": (("y", "x"), ramp, {"units": "kg m-2"}),
            "carbon_upper": (("y", "x"), ramp + 5, {"units": "kg m-2"}),
        },
        coords={"wetness": ["dry", "moist", "wet"]},
    )
    for at, band in enumerate(("red", "green", "blue")):
        maps[band] = (("y", "x"), ramp / 50 + at / 10)
    maps.attrs = attrs
    return assign(maps, BOX)


def rgba(answer):
    words, image = answer
    assert "error" not in words, words
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGBA"))


def hexes(pixels):
    return {"#" + bytes(pixel[:3].tolist()).hex() for pixel in np.unique(pixels[pixels[..., 3] == 255], axis=0)}


def request(layer, tile):
    return {"kind": "tile", "layer": layer, "z": tile.zoom, "x": tile.column, "y": tile.row}


def middle(ground):
    west, south, east, north = ground.bounds
    return (west + east) / 2, (south + north) / 2


@pytest.fixture(scope="module")
def atlas():
    return atlas_of(make_maps())


def test_a_tile_has_the_colours_of_the_classes_and_no_others(atlas):
    tile = tile_at(*middle(Ground(BOX)), WHOLE)
    picture = rgba(atlas.answer(request("moisture", tile)))
    assert hexes(picture) == set(COLORS)
    rows, columns = Ground(BOX).under(tile)
    code = make_maps().moisture.values
    inside = np.isfinite(rows)
    there = code[rows[inside].astype(int), columns[inside].astype(int)]
    known = there != 255
    table = np.array([list(bytes.fromhex(color[1:])) for color in COLORS], "uint8")
    np.testing.assert_array_equal(picture[inside][known][:, :3], table[there[known]])
    assert not picture[inside][~known][:, 3].any()
    assert not picture[~inside][:, 3].any()
    assert (~known).any()


def test_probabilities_of_each_class_and_the_greatest_are_layers(atlas):
    names = [name for name in atlas.layers if name.startswith("moisture_probability")]
    assert names == ["moisture_probability", *(f"moisture_probability: {name}" for name in ("dry", "moist", "wet"))]
    tile = tile_at(*middle(Ground(BOX)), 13)
    greatest, dry = (rgba(atlas.answer(request(name, tile))) for name in names[:2])
    assert len(hexes(greatest)) == 1
    assert len(hexes(dry)) == 2
    assert "greatest probability of soil moisture" in atlas.layers[names[0]].title
    assert atlas.layers[names[1]].title == "probability of soil moisture: dry"


def test_legends_are_those_of_the_report(atlas):
    words, _ = atlas.answer({"kind": "legend", "layer": "moisture"})
    assert all(part in words["key"] for part in (*COLORS, "dry", "moist", "wet"))
    assert words["title"] == "soil moisture"
    carbon, upper = (atlas.answer({"kind": "legend", "layer": name})[0] for name in ("carbon", "carbon_upper"))
    assert carbon["key"] == upper["key"]
    assert carbon["unit"] == "kg m-2"
    low, high = atlas.layers["carbon"].legend.ends
    assert 8 < low < 12
    assert 46 < high < 50


def test_true_colour_is_stretched_over_the_image(atlas):
    picture = rgba(atlas.answer(request("true colour", tile_at(*middle(Ground(BOX)), WHOLE))))
    opaque = picture[..., 3] == 255
    assert opaque.any()
    assert np.ptp(picture[opaque][:, 0].astype(int)) > 240
    given = atlas_of(make_maps()[["carbon"]], image=make_maps()[["red", "green", "blue"]])
    assert list(given.layers) == ["carbon", "true colour"]
    with pytest.raises(BandError, match="missing"):
        atlas_of(make_maps(), image=make_maps()[["red"]])


def test_a_click_tells_place_class_probabilities_and_set(atlas):
    from pyproj import Transformer

    x, y = 300_000 + 20 * 200.5, 1_500_000 - 20 * 150.5
    lon, lat = Transformer.from_crs("EPSG:3338", "EPSG:4326", always_xy=True).transform(x, y)
    for turns in (0, 1, -1):
        found, _ = atlas.answer({"kind": "click", "lon": lon + 360 * turns, "lat": lat})
        assert (found["lon"], found["lat"]) == pytest.approx((lon, lat))
        assert (found["x"], found["y"]) == pytest.approx((x, y), abs=1e-3)
        assert found["values"]["moisture"] == "moist"
        assert found["values"]["moisture_probability"] == pytest.approx({"dry": 0.1, "moist": 0.8, "wet": 0.1}, abs=1e-6)
        assert found["values"]["moisture_set"] == ["moist"]
        assert found["values"]["carbon"] == pytest.approx(float(make_maps().carbon[150, 200]), rel=1e-6)
    lon, lat = Transformer.from_crs("EPSG:3338", "EPSG:4326", always_xy=True).transform(300_100, y)
    gone = atlas.answer({"kind": "click", "lon": lon, "lat": lat})[0]["values"]
    assert gone["moisture"] is None
    assert gone["carbon"] is None
    outside, _ = atlas.answer({"kind": "click", "lon": 0, "lat": 0})
    assert outside == {"lon": 0, "lat": 0, "x": None, "y": None, "values": {}}


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"kind": "file"},
        {"kind": "tile", "layer": "moisture", "z": 99, "x": 0, "y": 0},
        {"kind": "tile", "layer": "moisture", "z": 3, "x": -1, "y": 0},
        {"kind": "tile", "layer": "none", "z": 3, "x": 1, "y": 0},
        {"kind": "tile", "layer": ["moisture"], "z": "a", "x": 1, "y": 0},
        {"kind": "click", "lon": "nan", "lat": 1},
        {"kind": "click", "lon": 1e400, "lat": 1},
        {"kind": "view", "layer": "moisture", "z": 3},
    ],
)
def test_requests_that_are_none_are_told(atlas, wrong):
    words, image = atlas.answer(wrong)
    assert "cannot be answered" in words["error"]
    assert not image


# ---- large maps


class Counted:
    """A lazy map whose blocks are counted as they are computed."""

    def __init__(self, box, side=1024, **attrs):
        self.seen, self.lock = [], threading.Lock()
        chunks = da.core.normalize_chunks(side, box.shape.yx)
        data = da.map_blocks(partial(_block, self), chunks=chunks, dtype="uint8", meta=np.empty((0, 0), "uint8"))
        self.blocks = data.npartitions
        self.maps = assign(xr.Dataset({"moisture": (("y", "x"), data, {**FLAGS, **attrs})}), box)

    def __dask_tokenize__(self):
        return id(self)


def _block(counted, block_info=None):
    (place,) = [block_info[None]]
    with counted.lock:
        counted.seen.append(tuple(place["chunk-location"]))
    return np.full(place["chunk-shape"], sum(place["chunk-location"]) % 3, "uint8")


def view_of(box, zoom, size=(1200, 600)):
    """The tiles of a view of the middle, and its bounds."""
    lon, lat = middle(Ground(box))
    centre = tile_at(lon, lat, zoom)
    wide, high = (length // SIDE // 2 + 1 for length in size)
    tiles = [
        Tile(zoom, centre.column + column, centre.row + row) for column in range(-wide, wide + 1) for row in range(-high, high + 1)
    ]
    degrees = 360 / 2**zoom * size[0] / SIDE / 2
    return tiles, {"west": lon - degrees, "east": lon + degrees, "south": lat - degrees / 2, "north": lat + degrees / 2}


def test_a_pan_of_a_large_lazy_map_reads_few_blocks():
    counted = Counted(LARGE)
    atlas = atlas_of(counted.maps)
    assert counted.seen == []
    zoom = Ground(LARGE).fitting()
    tiles, bounds = view_of(LARGE, zoom)
    for tile in tiles:
        rgba(atlas.answer(request("moisture", tile)))
    assert len(counted.seen) == len(set(counted.seen))  # each is computed once
    assert 0 < len(counted.seen) < 0.05 * counted.blocks
    assert atlas.answer({"kind": "view", "layer": "moisture", "z": zoom, **bounds})[0]["note"] == ""
    before = len(counted.seen)
    for tile in tiles:  # half a view to the east
        atlas.answer(request("moisture", tile._replace(column=tile.column + 2)))
    assert len(counted.seen) - before < 0.05 * counted.blocks


def test_a_view_of_all_without_overviews_says_so_and_reads_few_blocks():
    counted = Counted(LARGE)
    atlas = atlas_of(counted.maps)
    zoom = Ground(LARGE).fitting() - 5
    tiles, bounds = view_of(LARGE, zoom)
    words, _ = atlas.answer({"kind": "view", "layer": "moisture", "z": zoom, **bounds})
    assert "would read 400 of 400 blocks (419.4 MB)" in words["note"]
    assert "16 blocks of the map are drawn" in words["note"]
    assert "to_pyramid" in words["note"]
    pictures = [rgba(atlas.answer(request("moisture", tile))) for tile in tiles if atlas.answer(request("moisture", tile))[1]]
    assert len(counted.seen) == 16 < 0.05 * counted.blocks
    assert hexes(np.concatenate(pictures)) == set(COLORS)
    hatched = sum(int((picture[..., 3] == 110).sum()) for picture in pictures)
    assert hatched > 0
    part = {**bounds, "west": bounds["west"] + (bounds["east"] - bounds["west"]) / 2}
    assert 0 < atlas.answer({"kind": "view", "layer": "moisture", "z": zoom, **part})[0]["blocks"] < 400


def test_a_store_that_is_read_quickly_is_drawn_whole(tmp_path):
    box = GeoBox((800, 800), BOX.affine, BOX.crs)
    Counted(box, side=100).maps.to_zarr(tmp_path / "maps.zarr", consolidated=False)
    zoom = Ground(box).fitting() - 3
    for codes in (True, False):
        stored = atlas_of(misoxr.open_maps(tmp_path / "maps.zarr", codes=codes))
        raster = stored.layers["moisture"].levels[0].rasters[0]
        assert (raster.count, raster.is_stored) == (64, True)
        assert not is_thinned(stored.layers["moisture"].levels[0], zoom)
    computed = atlas_of(misoxr.open_maps(tmp_path / "maps.zarr") + 1).layers
    assert not next(iter(computed.values())).levels[0].rasters[0].is_stored
    assert is_thinned(atlas_of(Counted(box, side=100).maps).layers["moisture"].levels[0], zoom)


def test_overviews_are_read_where_there_are_some(tmp_path):
    box = GeoBox((1200, 1200), Affine(20, 0, 300_000, 0, -20, 1_500_000), "EPSG:3338")
    counted = Counted(box, side=300)
    counted.maps.miso.to_pyramid(tmp_path / "levels.zarr", levels=3, progress=False)
    counted.seen.clear()
    atlas = atlas_of(counted.maps, pyramid=tmp_path / "levels.zarr")
    zoom = Ground(box).fitting()
    widths = [atlas.layers["moisture"].level(zoom - back).ground.box.shape.x for back in (0, 1, 2, 3, 4, 7)]
    assert widths == [1200, 1200, 600, 300, 150, 150]
    tiles, bounds = view_of(box, zoom - 3)
    pictures = [rgba(answer) for tile in tiles if (answer := atlas.answer(request("moisture", tile)))[1]]
    assert hexes(np.concatenate(pictures)) == set(COLORS)
    assert counted.seen == []
    assert atlas.answer({"kind": "view", "layer": "moisture", "z": zoom - 3, **bounds})[0]["note"] == ""
    with pytest.raises(GridError, match="give the pyramid that was made of these maps"):
        atlas_of(make_maps(), pyramid=tmp_path / "levels.zarr")
    with pytest.raises(StoreError, match="no store of maps"):
        atlas_of(counted.maps, pyramid=tmp_path / "none.zarr")


def test_what_one_task_computes_is_computed_once_for_all_maps():
    seen = []

    def network(block_info=None):
        seen.append(block_info[None]["chunk-location"])
        return np.full((2, *block_info[None]["chunk-shape"][1:]), 0.25, "float32")

    chunks = ((2,), *da.core.normalize_chunks(100, BOX.shape.yx))
    both = da.map_blocks(network, chunks=chunks, dtype="float32", meta=np.empty((0, 0, 0), "float32"))
    maps = assign(xr.Dataset({name: (("y", "x"), both[at]) for at, name in enumerate(("one_probability", "two_probability"))}), BOX)
    atlas = atlas_of(maps)
    lon, lat = middle(Ground(BOX))
    for name in atlas.layers:
        rgba(atlas.answer(request(name, tile_at(lon, lat, 14))))
    atlas.answer({"kind": "click", "lon": lon, "lat": lat})
    assert seen
    assert len(seen) == len(set(map(tuple, seen)))


def test_a_lazy_prediction_is_shown_as_it_is_computed(model, spec):
    cube = make_cube((40, 40), spec.bands).chunk({"y": 20, "x": 20})
    maps = cube.miso.predict(model, device="cpu")
    atlas, known = atlas_of(maps), maps.compute()
    one, other = (atlas.layers[name].levels[0].rasters[0] for name in ("taxonomy", "permafrost_probability"))
    lon, lat = middle(atlas.layers["taxonomy"].levels[0].ground)
    found = atlas.answer({"kind": "click", "lon": lon, "lat": lat})[0]
    here = known.sel(x=found["x"], y=found["y"], method="nearest")
    names = maps.taxonomy.attrs["flag_meanings"].split()
    assert found["values"]["taxonomy"] == names[int(here.taxonomy)]
    assert found["values"]["permafrost_probability"] == pytest.approx(float(here.permafrost_probability), rel=1e-5)
    assert list(found["values"]["taxonomy_probability"].values()) == pytest.approx(
        here.taxonomy_probability.values.tolist(), rel=1e-5
    )
    assert {key[0] for key in atlas.blocks.read} >= {id(one), id(other)}  # the network answers once for all
    assert len({key[1:] for key in atlas.blocks.read}) == 1


def test_blocks_are_kept_within_a_bound():
    counted = Counted(GeoBox((400, 400), BOX.affine, BOX.crs), side=100)
    raster = Raster.of(counted.maps.moisture)
    blocks = Blocks(kept=25_000)
    for column in (0, 1, 2, 0, 3):
        blocks.block(raster, 0, column)
    assert counted.seen == [(0, 0), (0, 1), (0, 2), (0, 0), (0, 3)]
    assert [blocks.has(raster, 0, column) for column in range(4)] == [True, False, False, True]


def test_two_threads_that_need_a_block_read_it_once():
    counted = Counted(GeoBox((400, 400), BOX.affine, BOX.crs), side=400)
    raster, blocks = Raster.of(counted.maps.moisture), Blocks()
    threads = [threading.Thread(target=blocks.block, args=(raster, 0, 0)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted.seen == [(0, 0)]


def test_a_block_that_cannot_be_read_is_told_and_tried_again():
    counted = Counted(GeoBox((400, 400), BOX.affine, BOX.crs), side=400)
    real = counted.lock
    counted.lock = None  # entering it fails
    atlas = atlas_of(counted.maps)
    tile = tile_at(*middle(Ground(counted_box := GeoBox((400, 400), BOX.affine, BOX.crs))), 13)
    assert counted_box.shape == (400, 400)
    words, image = atlas.answer(request("moisture", tile))
    assert words["error"]
    assert not image
    counted.lock = real
    assert hexes(rgba(atlas.answer(request("moisture", tile)))) == {COLORS[0]}


def test_requests_are_answered_newest_first_and_dropped_ones_never():
    workers, done, begun, go_on = Workers(1), [], threading.Event(), threading.Event()
    ended, dropped = threading.Event(), []

    def first(wanted):
        begun.set()
        go_on.wait(10)
        done.append(("first", wanted()))

    workers.submit("first", first)
    assert begun.wait(10)
    for name in ("a", "b", "c"):
        workers.submit(
            name,
            lambda wanted, name=name: (done.append((name, wanted())), name == "a" and ended.set()),
            partial(dropped.append, name),
        )
    workers.drop("b")
    workers.drop("first")
    go_on.set()
    assert ended.wait(10)
    assert done == [("first", False), ("c", True), ("a", True)]
    assert dropped == ["b"]


def test_a_request_that_fails_ends_no_other(caplog):
    workers, done = Workers(1), threading.Event()
    workers.submit("a", lambda wanted: 1 / 0)
    workers.submit("b", lambda wanted: done.set())
    workers.submit("c", lambda wanted: 1 / 0)
    assert done.wait(10)
    workers.submit("d", lambda wanted: done.set())
    assert done.wait(10)


def test_a_request_that_is_dropped_reads_no_further():
    counted = Counted(LARGE)
    atlas = atlas_of(counted.maps)
    tile = tile_at(*middle(Ground(LARGE)), Ground(LARGE).fitting() - 7)
    asked = iter([True, True])  # before the first block and the second, and no longer
    assert atlas.answer(request("moisture", tile), lambda: next(asked, False)) is None
    assert len(counted.seen) == 2


# ---- arguments


def test_layers_can_be_chosen_and_compared():
    maps = make_maps(simulated=1)
    assert list(atlas_of(maps, variables=["carbon"]).layers) == ["carbon", "true colour"]
    beside = atlas_of(maps, beside="carbon").about
    assert (beside["layer"], beside["other"], beside["compare"]) == ("moisture", "carbon", "swipe")
    both = atlas_of(make_maps(), beside=maps[["moisture"]])
    assert (both.about["other"], both.about["compare"], both.about["simulated"]) == ("beside: moisture", "swipe", True)
    lon, lat = middle(Ground(BOX))
    found = both.answer({"kind": "click", "lon": lon, "lat": lat})[0]
    assert found["beside"]["moisture"] == found["values"]["moisture"] == "moist"
    assert atlas_of(make_maps()).about["simulated"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variables": ["carbn"]}, "variables has 'carbn'.*carbon"),
        ({"variables": []}, "variables is .*give the name of a variable"),
        ({"variables": 5}, "variables is 5"),
        ({"beside": "carbn"}, "beside is 'carbn'.*carbon"),
        ({"beside": 3}, "beside is a int"),
        ({"height": 20}, "height is 20"),
        ({"pyramid": 3}, "pyramid is a int"),
        ({"basemap": "file:///etc/{z}{x}{y}"}, "basemap is"),
        ({"basemap": "https://tiles.example.org/"}, "basemap is"),
    ],
)
def test_arguments_that_are_wrong_are_told(arguments, message):
    with pytest.raises(SpecError, match=message):
        atlas_of(make_maps(), **arguments)


def test_rotated_grids_and_maps_without_a_crs_are_refused():
    rotated = make_maps()
    rotated.spatial_ref.attrs["GeoTransform"] = "300000 20 3 1500000 3 -20"
    with pytest.raises(GridError, match="rotated"):
        rotated.miso.explore()
    with pytest.raises(GridError, match="no CRS"):
        xr.Dataset({"a": (("y", "x"), np.zeros((3, 3)))}, {"y": [3, 2, 1], "x": [1, 2, 3]}).miso.explore()


def test_nothing_is_computed_by_explore(no_compute):
    counted = Counted(LARGE)
    with no_compute():
        counted.maps.miso.explore()
    assert counted.seen == []


# ---- the widget


@pytest.fixture
def asked(monkeypatch):
    """A widget, and what asks it as a page does, by a message of Jupyter."""
    widget = make_maps().miso.explore()
    replies, arrived = [], threading.Event()

    def send(content, buffers=None):
        replies.append((content, buffers))
        arrived.set()

    monkeypatch.setattr(widget, "send", send)

    def ask(**content):
        arrived.clear()
        widget._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})
        assert arrived.wait(20)
        return replies[-1]

    return widget, ask


def test_the_widget_answers_messages_with_pictures_in_buffers(asked, monkeypatch):
    widget, ask = asked
    tile = tile_at(*middle(Ground(BOX)), WHOLE)
    monkeypatch.setattr(socket.socket, "listen", None)  # no port is opened
    content, (image,) = ask(id="a-1", **request("moisture", tile))
    assert content == {"id": "a-1"}
    assert hexes(rgba(({}, image))) == set(COLORS)
    assert ask(id="a-2", **request("none", tile))[0]["id"] == "a-2"


def test_a_click_is_read_back_from_the_widget(asked):
    widget, ask = asked
    lon, lat = middle(Ground(BOX))
    seen = []
    widget.observe(lambda change: seen.append(change.new["values"]["moisture"]), "clicked")
    content, buffers = ask(id="a-1", kind="click", lon=lon, lat=lat)
    assert buffers is None
    assert widget.clicked["values"]["moisture"] == content["values"]["moisture"] == "moist"
    assert seen == ["moist"]


def test_the_widget_has_a_state_that_is_checked(asked):
    widget, _ = asked
    assert (widget.layer, widget.other, widget.compare, widget.opacity) == ("moisture", "moisture_probability", "off", 1.0)
    widget.layer, widget.opacity, widget.compare = "carbon", 0.4, "side"
    with pytest.raises(SpecError, match="There is no layer 'carbn'.*carbon"):
        widget.layer = "carbn"
    assert widget.layer == "carbon"
    state = widget.get_state()
    assert "export default { render }" in state["_esm"]
    assert "url(" not in state["_css"]
    assert state["about"]["bounds"] == pytest.approx(Ground(BOX).bounds)


def test_the_extra_is_named_where_anywidget_is_missing(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(MissingDependencyError, match=r"misoxr\[jupyter\]"):
        make_maps().miso.explore()


def test_misoxr_explore_refuses_what_is_no_store(tmp_path):
    with pytest.raises(StoreError, match="no store of maps"):
        misoxr.explore(tmp_path / "none.zarr", wait=False, open_browser=False)


def test_maps_of_others_are_shown_as_they_are_meant():
    maps = make_maps()[["carbon"]]
    filled = maps.copy()
    filled["carbon"] = maps.carbon.where(maps.carbon > maps.carbon.median(), -1).assign_attrs(maps.carbon.attrs, _FillValue=-1.0)
    layer = atlas_of(filled.expand_dims(band=[1])).layers["carbon"]
    assert layer.legend.ends[0] >= 0


def test_undeclared_nodata_of_classes_is_no_data_where_one_clicks():
    from pyproj import Transformer

    def clicked(maps, column):
        place = 300_000 + 20 * (column + 0.5), 1_500_000 - 20 * 150.5
        lon, lat = Transformer.from_crs("EPSG:3338", "EPSG:4326", always_xy=True).transform(*place)
        return atlas_of(maps).answer({"kind": "click", "lon": lon, "lat": lat})[0]["values"]["moisture"]

    maps = make_maps()[["moisture"]]
    del maps.moisture.attrs["_FillValue"]
    assert clicked(maps, 20) is None
    assert clicked(maps, 200) == "moist"
    maps.moisture.attrs["flag_values"] = [0, 1, 255]  # where it is a class, it stays one
    assert clicked(maps, 20) == "wet"


def test_the_greatest_probability_is_that_of_the_classes_that_have_one():
    maps = make_maps()
    maps["moisture_probability"] = maps.moisture_probability.where(maps.wetness != "dry")
    tile = tile_at(*middle(Ground(BOX)), WHOLE)
    assert rgba(atlas_of(maps).answer(request("moisture_probability", tile)))[..., 3].any()


def test_the_height_may_be_a_number_of_numpy():
    height = atlas_of(make_maps(), height=np.int64(400)).about["height"]
    assert type(height) is int
    assert height == 400

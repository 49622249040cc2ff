"""Pictures show every map, in the classes' own colours, and never load more than they show."""

import dask.array as da
import matplotlib
import numpy as np
import pytest
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

import misoxr
from misoxr.display.pictures import Ground
from misoxr.errors import BandError, GridError, SpecError
from misoxr.grid.geobox import assign
from misoxr.plot.cartography import Frame, true_north
from misoxr.plot.figures import plot
from tests.conftest import make_cube
from tests.display.test_report import SOILS, make_applicability, make_maps

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _closed():
    yield
    matplotlib.pyplot.close("all")


@pytest.fixture(scope="module")
def maps():
    """Maps of two tasks and a quantity, with spread, sets, an interval's end and applicability."""
    found = make_maps()
    found["permafrost_std"] = found.permafrost_probability.assign_attrs(long_name="standard deviation of permafrost") / 4
    found["soil_entropy"] = found.permafrost_probability.assign_attrs(long_name="entropy of soil")
    found["soil_credibility"] = found.permafrost_probability
    return found.assign(make_applicability().data_vars).assign_coords(kind=list(SOILS.classes))


def drawn(figure):
    """Return the axes with a map, and no colour bars."""
    return [axis for axis in figure.axes if axis.images and axis.get_xlabel() == "x (km)"]


def titles(figure):
    return [axis.get_title().replace("\n", " ") for axis in drawn(figure)]


def legend(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def test_a_map_has_a_panel_for_each_layer(model, spec):
    cube = make_cube((40, 40), spec.bands)
    found = cube.miso.predict(model, device="cpu").compute()
    found.attrs["simulated"] = 1
    figure = found.miso.plot()
    probability, classes = drawn(figure)
    assert "SIMULATED" in figure.get_suptitle()
    assert legend(classes) == list(spec.task("taxonomy").classes)
    assert probability.images[0].get_extent() == pytest.approx((300.0, 300.8, 1499.2, 1500.0))


def test_regressions_spread_entropy_sets_and_applicability_are_drawn(maps):
    figure = maps.miso.plot()
    assert titles(figure) == [
        "probability of permafrost",
        "standard deviation of permafrost",
        "soil order",
        "soil_set_size",
        "entropy of soil",
        "carbon to 1 m",
        "upper end of carbon",
        "applicable",
        "dissimilarity_index",
    ]
    rows = [axis.get_subplotspec().rowspan.start for axis in drawn(figure)]
    assert rows == [0, 0, 0, 1, 1, 1, 2, 2, 2], "three in a row, at the most"
    carbon, upper = (axis.images[0].norm for axis in drawn(figure)[5:7])
    assert (carbon.vmin, carbon.vmax) == (upper.vmin, upper.vmax), "a value and its interval have one colour bar"
    assert legend(drawn(figure)[7]) == ["outside", "inside", "no data"]


def test_maps_are_drawn_by_name_in_the_order_given(maps):
    figure = maps.miso.plot(variables=["soil_credibility", "soil_probability", "permafrost"], dpi=50)
    assert titles(figure)[1:] == ["greatest probability of soil order", "near-surface permafrost (within 1 m)"]
    assert figure.dpi == 50
    for wrong, words in {"soils": "Did you mean", "spatial_ref": "no variable", "soil_set_sizes": "soil_set_size"}.items():
        with pytest.raises(BandError, match=words):
            maps.miso.plot(variables=[wrong])
    for wrong in ([], 5, [5]):
        with pytest.raises(SpecError, match="give the name of a variable"):
            maps.miso.plot(variables=wrong)
    with pytest.raises(SpecError, match=r"cannot take \{'figsiz': 3\}.* plot itself takes variables, image"):
        maps.miso.plot(figsiz=3)


def test_prediction_sets_have_a_colour_for_each_set_of_classes(maps):
    (axis,) = drawn(maps.miso.plot(variables=["soil_set"]))
    assert max(map(len, "\n".join(legend(axis)).split("\n"))) <= 30, (
        "long names take several lines, so that the map is no smaller than others"
    )
    names = [name.replace("\n", " ") for name in legend(axis)]
    assert {"Typic Gelisol", "Typic Gelisol, Entisol", "Inceptisol, Entisol", "no data"} <= set(names)
    codes = axis.images[0].get_array()
    row, column = 20, 30
    held = [SOILS.classes[at] for at in np.flatnonzero(maps.soil_set.values[:, row, column])]
    assert names[int(codes[row, column])] == ", ".join(held)
    assert codes.mask[:4].all(), "where the size of sets is nodata"
    assert not codes.mask[4:].any()


def test_rare_sets_share_a_colour():
    names = [f"class {number}" for number in range(8)]
    held = np.random.default_rng(0).random((8, 30, 30)) > 0.5
    found = assign(
        xr.Dataset({"kind_set": (("kind", "y", "x"), held)}, {"kind": names}), GeoBox((30, 30), Affine(20, 0, 0, 0, -20, 600), 3338)
    )
    (axis,) = drawn(found.miso.plot(variables=["kind_set"]))
    assert len(legend(axis)) == 9
    assert legend(axis)[-1] == "other sets"


def test_classes_are_drawn_in_their_colours(model, spec):
    cube = make_cube((20, 20), spec.bands)
    found = cube.miso.predict(model, device="cpu").compute()
    found["taxonomy"][3, 4] = 255
    axes = misoxr.plot.classes(found.taxonomy)
    image = axes.images[0]
    colours = [matplotlib.colors.to_rgb(colour) for colour in spec.task("taxonomy").colors]
    assert image.get_array().mask[3, 4]
    shown = image.to_rgba(image.get_array())[0, 0, :3]
    np.testing.assert_allclose(shown, colours[int(found.taxonomy[0, 0])], atol=0.5 / 255)
    assert legend(axes)[-1] == "no data"
    with pytest.raises(BandError, match="no flag_meanings"):
        misoxr.plot.classes(found.permafrost_probability)


def test_names_with_dollars_are_no_formulas(maps):
    odd = maps.soil.assign_attrs(long_name=r"$\frac$ of $", flag_meanings="$a$ $^$ $_c")
    axes = misoxr.plot.classes(odd)
    axes.figure.canvas.draw()
    assert axes.get_title() == r"\$\frac\$ of \$"


def test_a_probability_reaches_from_0_to_1_whatever_its_name(maps):
    axes = misoxr.plot.probability((maps.permafrost_probability / 2).rename("share"))
    assert (axes.images[0].norm.vmin, axes.images[0].norm.vmax) == (0, 1)
    assert np.nanmax(axes.images[0].get_array()) <= 0.5
    with pytest.raises(BandError, match=r"\('kind', 'y', 'x'\)"):
        misoxr.plot.values(maps.soil_probability)


def test_a_part_of_a_map_says_of_what(maps):
    one = maps.soil_probability.sel(kind="Entisol")
    assert misoxr.plot.probability(one).get_title() == f"{maps.soil_probability.attrs['long_name']}: Entisol"
    dated = maps.carbon.assign_coords(time=np.datetime64("2021-07-01", "ns"), year=2021)
    assert misoxr.plot.values(dated).get_title().endswith(": 2021-07-01, year 2021")


def test_large_maps_are_thinned_and_lie_where_they_are(no_compute):
    box = GeoBox((2000, 1600), Affine(20, 0, 300_000, 0, -20, 1_500_000), "EPSG:3338")
    rows = da.arange(2000, chunks=400)[:, None] + da.zeros((2000, 1600), chunks=400)
    large = assign(xr.Dataset({"carbon": (("y", "x"), rows)}), box)
    axes = misoxr.plot.values(large.carbon)
    picture = axes.images[0]
    assert picture.get_array().shape == (667, 534)
    left, right, bottom, top = picture.get_extent()
    assert (left, top) == (300, 1500)
    assert (right, bottom) == pytest.approx((300 + 534 * 0.06, 1500 - 667 * 0.06))
    assert axes.get_xlim() == pytest.approx((300, 332))
    with no_compute(), pytest.raises(BandError, match="no probability and no class map"):
        large.miso.plot()


def test_north_is_up_and_east_is_right_whatever_the_grid_is():
    values = np.arange(6.0).reshape(2, 3)
    turned = assign(xr.Dataset({"carbon": (("y", "x"), values)}), GeoBox((2, 3), Affine(-20, 0, 60, 0, 20, 0), "EPSG:3338"))
    axes = misoxr.plot.values(turned.carbon)
    assert axes.images[0].get_extent() == pytest.approx([0.06, 0.0, 0.04, 0.0])
    assert axes.get_xlim() == pytest.approx((0, 0.06))
    assert axes.get_ylim() == pytest.approx((0, 0.04))


def test_maps_in_degrees_have_degrees_and_their_proportions():
    box = GeoBox((10, 20), Affine(0.01, 0, -150, 0, -0.01, 65), "EPSG:4326")
    found = assign(xr.Dataset({"carbon": (("y", "x"), np.arange(200.0).reshape(10, 20))}), box)
    axes = misoxr.plot.values(found.carbon)
    assert axes.get_xlabel() == "longitude (°)"
    assert axes.get_aspect() == pytest.approx(1 / np.cos(np.deg2rad(64.95)))
    assert [text.get_text() for text in axes.texts] == ["2 km"], "a scale bar, and no arrow: the axes tell where north is"


# ---- scale and north


@pytest.mark.parametrize(
    ("crs", "place", "angle"),
    [
        ("EPSG:32606", (500_000, 7_200_000), 0.0),
        ("EPSG:3338", (0, 1_500_000), 0.0),
        ("EPSG:3338", (400_000, 1_700_000), -7.4),
        ("EPSG:3413", (0, -2_000_000), 0.0),
        ("EPSG:3413", (2_000_000, 0), -90.0),
    ],
)
def test_the_arrow_points_to_true_north(crs, place, angle):
    box = GeoBox((100, 100), Affine(100, 0, place[0], 0, -100, place[1]), crs)
    assert true_north(box) == pytest.approx(angle, abs=0.4)


@pytest.mark.parametrize(
    ("crs", "affine"),
    [
        ("EPSG:4326", Affine(0.01, 0, -150, 0, -0.01, 65)),
        ("EPSG:3338", Affine(20_000, 0, -1_000_000, 0, -20_000, 2_400_000)),  # most of Alaska
        ("EPSG:3413", Affine(1000, 0, -50_000, 0, -1000, 50_000)),  # around the pole
    ],
)
def test_there_is_no_arrow_where_one_does_not_hold(crs, affine):
    assert true_north(GeoBox((100, 100), affine, crs)) is None


def test_a_map_has_one_scale_bar_and_one_arrow(maps):
    first, *others = drawn(maps.miso.plot(variables=["carbon", "soil"]))
    assert sorted(text.get_text() for text in first.texts) == ["", "200 m", "N"]
    box = GeoBox((40, 60), Affine(20, 0, 300_000, 0, -20, 1_500_000), "EPSG:3338")
    (arrow,) = [text for text in first.texts if text.get_gid()]
    assert float(arrow.get_gid().split()[1]) == pytest.approx(true_north(box), abs=0.1)
    assert Frame.of(box).ratio == pytest.approx(1.5)
    (bar,) = [line for line in first.lines if line.get_label() == "_scale"]
    assert np.ptp(bar.get_xdata()) * 1.2 == pytest.approx(0.2)
    assert [len(axis.texts) for axis in others] == [0]


def test_a_scale_bar_of_web_mercator_is_as_long_as_on_the_ground():
    x, y = -16_500_000, 9_600_000  # 64.9 degrees north, where a metre of the grid is 0.42 m
    ground = Ground.of(GeoBox((100, 100), Affine(100, 0, x, 0, -100, y), "EPSG:3857"))
    assert ground.width == pytest.approx(10_000 * 0.425, rel=0.02)
    assert not Frame.of(GeoBox((100, 100), Affine(0.5, 0, -170, 0, -0.5, 75), "EPSG:4326")).has_one_scale


# ---- imagery


def test_true_colour_needs_its_bands(model, spec, maps):
    cube = make_cube((20, 20), spec.bands)
    with pytest.raises(BandError, match="green"):
        plot(cube.miso.predict(model, device="cpu"), image=cube)
    with pytest.raises(BandError, match="image is a list"):
        maps.miso.plot(image=[1])


def test_imagery_has_the_first_panel_with_scale_and_north(maps):
    image = assign(
        xr.Dataset({name: maps.carbon.variable for name in ("red", "green", "blue")}),
        GeoBox((40, 60), Affine(20, 0, 300_000, 0, -20, 1_500_000), "EPSG:3338"),
    )
    first, second = drawn(maps.miso.plot(variables=["carbon"], image=image))
    assert first.get_title() == "true colour"
    assert first.images[0].get_array().shape == (40, 60, 4)
    assert first.images[0].get_array()[0, 0, 3] == 0, "no data are transparent"
    assert [text.get_text() for text in first.texts][0] == "200 m"
    assert not second.texts
    with pytest.raises(BandError, match="one image"):
        misoxr.plot.true_colour(image.expand_dims("time"))


def test_a_cube_without_maps_is_refused(spec):
    cube = make_cube((20, 20), spec.bands)
    for image in (None, cube):
        with pytest.raises(BandError, match="no probability and no class map among"):
            plot(cube, image=image)
    with pytest.raises(GridError, match="DataArray"):
        plot(cube.red)


def test_maps_of_several_times_tell_how_to_take_one(maps):
    with pytest.raises(BandError, match=r"select one layer, such as maps\.isel\(time=0\)"):
        plot(xr.concat([maps[["soil"]], maps[["soil"]]], "time"), variables=None)


def test_maps_of_others_are_drawn_as_they_are_meant():
    ramp = np.linspace(10, 20, 1200, dtype="float32").reshape(30, 40)
    box = GeoBox((30, 40), Affine(0.01, 0, -150, 0, -0.01, 65), "EPSG:4326")
    plain = assign(xr.Dataset({"soc": (("y", "x"), ramp)}), box)
    filled = plain.copy(deep=True)
    filled.soc[:5] = -1
    filled.soc.attrs["nodata"] = -1
    counts = plain.copy(deep=True)
    counts["soc"] = (plain.soc * 10).round().astype("int16").assign_attrs(plain.soc.attrs, scale_factor=0.1)
    whole = counts.assign(soc=plain.soc.round().astype("int16").assign_attrs(plain.soc.attrs, nodata=-9999))
    whole.soc[:5] = -9999
    single = plain.expand_dims(band=[1]).drop_vars("spatial_ref").rename(y="latitude", x="longitude")
    for other in (filled, counts, whole, single):
        (picture,) = plot(other, variables=["soc"]).axes[0].images
        assert 10 < picture.norm.vmin < 13
        assert 19 < picture.norm.vmax < 20.1
    (picture,) = misoxr.plot.values(filled.soc).images
    assert picture.norm.vmin > 10


@pytest.mark.parametrize("count", [3, 21, 70])
def test_legends_of_many_classes_lie_on_the_figure(count):
    codes = np.arange(4800).reshape(60, 80) % count
    attrs = {"flag_values": np.arange(count, dtype="uint8"), "flag_meanings": " ".join(f"Class_number_{at}" for at in range(count))}
    box = GeoBox((60, 80), Affine(30, 0, 400_000, 0, -30, 7_200_000), "EPSG:32606")
    maps = assign(xr.Dataset({"kind": (("y", "x"), codes.astype("uint8"), attrs)}), box)
    for figure in (plot(maps), misoxr.plot.classes(maps.kind).figure):
        figure.draw_without_rendering()
        whole, (wide, high) = figure.get_tightbbox(), figure.get_size_inches()
        assert whole.x0 >= 0
        assert whole.y0 >= 0
        assert whole.x1 <= wide
        assert whole.y1 <= high
        assert figure.axes[0].get_position().width * wide > 2

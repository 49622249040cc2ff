"""One warning a call, at the user's line."""

import pickle
import warnings

import numpy as np
import pytest
import xarray as xr

import misoxr
from misoxr.cube.stack import stack
from misoxr.errors import BandError, MisoxrWarning, did_you_mean, flush, gathered, heard, note, overheard
from misoxr.mapping.predict import predict
from tests.conftest import make_cube, make_model, tiny_spec


def warned(call):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        result = call()
    return result, [str(one.message) for one in found if issubclass(one.category, MisoxrWarning)], {one.filename for one in found}


@gathered
def inner():
    note("one")
    note("two")
    return 1


@gathered
def outer():
    note("one")
    flush()
    return [inner(), inner()]


def test_a_call_says_everything_once():
    assert warned(inner) == (1, ["one\ntwo"], {__file__})
    assert warned(outer) == ([1, 1], ["one", "two"], {__file__})  # what is said before hours of work is not said again
    assert warned(lambda: note("bare")) == (None, ["bare"], {__file__})
    assert warned(inner)[1] == ["one\ntwo"]  # in the next call again


def test_a_call_that_fails_tells_in_its_error():
    @gathered
    def fails():
        note("beside")
        raise BandError("first of all")

    with pytest.raises(BandError, match="first of all") as raised:
        fails()
    assert raised.value.__notes__ == ["beside"]
    assert warned(inner)[1] == ["one\ntwo"]  # nothing is left of it


def test_what_another_process_says_is_returned_and_not_given():
    def tells():
        for _ in range(2):
            warnings.warn("of others", UserWarning, stacklevel=1)
        return outer()

    (result, notes, foreign), given, _ = warned(lambda: overheard(tells))
    assert (result, notes, given) == ([1, 1], {"one": "one", "two": "two"}, [])
    assert [one[:2] for one in foreign] == [(UserWarning, "of others")]
    before = set()
    with pytest.warns(UserWarning, match="of others") as given:
        heard({}, foreign * 2, before)
    assert len(given) == 1

    def fails():
        note("beside", "a matter")
        raise BandError("first of all")

    with pytest.raises(BandError, match="first of all") as raised:
        overheard(fails)
    assert pickle.loads(pickle.dumps(raised.value)).overheard == ({"a matter": "beside"}, [])


def test_verbs_that_gather_can_be_sent():
    assert pickle.loads(pickle.dumps(inner)) is inner
    assert predict.__doc__.startswith("Map a model")


def without_units(cube: xr.Dataset) -> xr.Dataset:
    return cube.assign({name: band.drop_attrs(deep=False) for name, band in cube.data_vars.items()})


def test_nineteen_bands_without_units_are_one_warning_at_the_line_of_any_verb():
    spec = misoxr.ModelSpec.preset("miso-nano", pixel_size=20)
    cube = without_units(make_cube((20, 20), spec.bands))
    small = tiny_spec()
    bare = without_units(make_cube((16, 16), small.bands))
    model = make_model(small)
    points = xr.Dataset({"x": ("point", bare.x.values[:1]), "y": ("point", bare.y.values[:1])})
    _, said, where = warned(lambda: stack(cube, spec))
    assert len(said) == 1
    assert all(repr(band.name) in said[0] for band in spec.bands)
    calls = [
        lambda: bare.miso.predict(model),
        lambda: bare.miso.predict([model, model]),
        lambda: bare.miso.predict_at(model, points),
        lambda: bare.isel(y=slice(9)).drop_vars("elevation").miso.predict(model),
    ]
    for call in calls:
        _, said, where = warned(call)
        assert len(said) == 1
        assert "['red', 'nir', 'aspect'" in said[0]
        assert where == {__file__}
    assert "optional bands ['elevation']" in said[0]
    assert "less than a window" in said[0]


def test_units_that_are_none_of_a_direction_are_told():
    spec = tiny_spec()
    cube = make_cube((16, 16), spec.bands)
    cube["aspect"].attrs["units"] = "m"
    with pytest.warns(MisoxrWarning, match=r"\['aspect'\] have no units \(but for \{'aspect': 'm'\}.*taken to be in 'degree'"):
        found = stack(cube, spec)
    np.testing.assert_array_equal(found[2], cube["aspect"])


def test_near():
    assert did_you_mean("landcovr", ["landcover", "dem"]) == ' Did you mean "landcover"?'
    assert did_you_mean("NIR", ["nir", "red"]) == ' Did you mean "nir"?'
    assert did_you_mean("x", ["landcover"]) == did_you_mean("x", []) == ""

"""The page in a real browser: known colours, a click that is read back, opacity, swiping, and no request to any other host."""

import io
import json
import os
import shutil
import signal
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import numpy as np
import pytest
import xarray as xr
from PIL import Image

import misoxr
from misoxr.errors import SpecError
from misoxr.explorer.served import Served
from tests.explorer.test_atlas import COLORS, make_maps

TOP, MIDDLE, BOTTOM = (tuple(bytes.fromhex(color[1:])) for color in COLORS)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("explored") / "maps.zarr"
    make_maps(simulated=1).chunk({"y": 128, "x": 128}).miso.to_zarr(path, progress=False)
    return path


@pytest.fixture(scope="module")
def served(store):
    with misoxr.explore(store, wait=False, open_browser=False, height=400) as served:
        yield served


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("there is no chromedriver")
    options = webdriver.ChromeOptions()
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "window-size=1000,700"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture
def page(browser, served):
    browser.get_log("performance")
    browser.get(served.url)
    drawn(browser)
    return browser


def drawn(browser):
    """Wait until all tiles are drawn."""
    until(lambda: browser.execute_script(
        "return document.querySelectorAll('.leaflet-tile-loaded').length > 0 && "
        "document.querySelectorAll('.leaflet-tile:not(.leaflet-tile-loaded)').length === 0 && document.querySelector('.misoxr-busy').hidden"
    ))  # fmt: skip


def until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def box_of(browser):
    return browser.find_element("css selector", ".misoxr-box")


def colour(browser, right, down):
    """The colour of a place of the map, as parts of its box, as the screen shows it."""
    picture = np.asarray(Image.open(io.BytesIO(box_of(browser).screenshot_as_png)).convert("RGB"))
    return tuple(picture[int(down * picture.shape[0]), int(right * picture.shape[1])].tolist())


def choose(browser, label, value):
    browser.execute_script(
        "const one = document.querySelector(`[aria-label='${arguments[0]}']`); one.value = arguments[1];"
        "one.dispatchEvent(new Event('input', {bubbles: true})); one.dispatchEvent(new Event('change', {bubbles: true}));",
        label,
        value,
    )


def click(browser, right, down):
    from selenium.webdriver.common.action_chains import ActionChains

    box = box_of(browser)
    off = [int((part - 0.5) * box.size[side]) for part, side in ((right, "width"), (down, "height"))]
    ActionChains(browser).move_to_element_with_offset(box, *off).click().perform()
    until(lambda: browser.find_elements("css selector", ".misoxr-place"))
    return browser.find_element("css selector", ".misoxr-clicked").text


def test_the_page_shows_the_known_colours_and_says_simulated(page):
    # The map's middle is the box's; thirds from north to south are classes.
    assert [colour(page, 0.5, down) for down in (0.4, 0.5, 0.6)] == [TOP, MIDDLE, BOTTOM]
    assert page.find_element("css selector", ".misoxr-simulated").text == "SIMULATED"
    until(lambda: page.find_elements("css selector", "ul.legend"))
    assert [item.text for item in page.find_elements("css selector", "ul.legend li")] == ["dry", "moist", "wet"]
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_click_tells_class_and_probabilities(page, served):
    told = click(page, 0.5, 0.5)
    assert "moisture moist" in told.replace("\n", " ")
    assert "63." in told
    assert "moist 0.8" in told.replace("\n", " ")
    assert served.clicked["values"]["moisture"] == "moist"
    assert served.clicked["values"]["moisture_set"] == ["moist"]
    assert "moisture wet" in click(page, 0.5, 0.6).replace("\n", " ")


def test_opacity_shows(page):
    before = colour(page, 0.5, 0.5)
    ground = colour(page, 0.95, 0.95)
    choose(page, "Opacity", "0.5")
    until(lambda: colour(page, 0.5, 0.5) != before)
    np.testing.assert_allclose(colour(page, 0.5, 0.5), (np.array(before) + ground) / 2, atol=2)


def test_two_layers_are_swiped_and_shown_side_by_side(page):
    choose(page, "Layer to compare with", "moisture_probability: dry")
    choose(page, "Compare", "swipe")
    drawn(page)
    left, right = colour(page, 0.45, 0.4), colour(page, 0.55, 0.4)
    assert left == TOP
    assert right != TOP
    choose(page, "Divider between both layers", "0.9")
    until(lambda: colour(page, 0.55, 0.4) == TOP)
    choose(page, "Compare", "side")
    drawn(page)
    boxes = page.find_elements("css selector", ".misoxr-box")
    assert [box.is_displayed() for box in boxes] == [True, True]
    pictures = [np.asarray(Image.open(io.BytesIO(box.screenshot_as_png)).convert("RGB")) for box in boxes]
    high, wide, _ = pictures[0].shape
    assert tuple(pictures[0][int(0.4 * high), wide // 2].tolist()) == TOP
    assert tuple(pictures[1][int(0.4 * high), wide // 2].tolist()) == right


def test_the_keyboard_pans_and_both_maps_follow(page):
    from selenium.webdriver.common.keys import Keys

    choose(page, "Layer to compare with", "carbon")
    choose(page, "Compare", "side")
    drawn(page)
    one = box_of(page)
    before = [box.screenshot_as_png for box in page.find_elements("css selector", ".misoxr-box")]
    one.send_keys(Keys.ARROW_RIGHT)
    time.sleep(0.4)
    drawn(page)
    after = [box.screenshot_as_png for box in page.find_elements("css selector", ".misoxr-box")]
    assert all(now != then for now, then in zip(after, before, strict=True))


def test_the_page_asks_no_other_host(page, served):
    click(page, 0.5, 0.5)
    choose(page, "Layer", "carbon")
    drawn(page)
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert len(asked) > 8
    assert [url for url in asked if not url.startswith((served.url, "data:"))] == []


def test_a_notebook_draws_the_same_by_messages(page):
    """The widget's ``render``, with a model as anywidget gives it, whose messages are answered as the kernel does."""
    colours = page.execute_async_script("""
        const done = arguments[arguments.length - 1];
        import("./map.js").then(({ default: widget }) => {
            const about = JSON.parse(document.getElementById("map").dataset.about);
            const values = { about, layer: about.layer, other: about.other, compare: "off", opacity: 1 };
            const calls = {}, sent = [];
            const model = {
                get: (name) => values[name], set: (name, value) => { values[name] = value; }, save_changes: () => {},
                on: (name, call) => { (calls[name] ||= []).push(call); }, off: (name, call) => { calls[name] = calls[name].filter((one) => one !== call); },
                send: async (content) => {
                    sent.push(content.kind);
                    const answer = await fetch("ask?" + new URLSearchParams(content));
                    const image = answer.headers.get("Content-Type") === "image/png";
                    const words = image ? {} : await answer.json();
                    const buffers = image ? [new DataView(await answer.arrayBuffer())] : [];
                    for (const call of calls["msg:custom"] || []) call({ id: content.id, ...words }, buffers);
                },
            };
            const el = document.createElement("div");
            document.body.replaceChildren(el);
            const stop = widget.render({ model, el });
            const look = () => {
                const tiles = [...el.querySelectorAll("canvas.leaflet-tile-loaded")];
                if (!tiles.length || el.querySelector("canvas.leaflet-tile:not(.leaflet-tile-loaded)")) return setTimeout(look, 50);
                const found = new Set();
                for (const tile of tiles) {
                    const pixels = tile.getContext("2d").getImageData(0, 0, 256, 256).data;
                    for (let at = 0; at < pixels.length; at += 4) if (pixels[at + 3]) found.add([...pixels.slice(at, at + 3)].join());
                }
                stop();
                done([[...found], [...new Set(sent)], (calls["msg:custom"] || []).length]);
            };
            look();
        });
    """)
    assert sorted(colours[0]) == sorted(",".join(map(str, one)) for one in (TOP, MIDDLE, BOTTOM))
    assert {"tile", "legend"} <= set(colours[1])
    assert colours[2] == 0  # nothing is left behind


def get(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, b""


def test_only_the_pages_own_paths_are_served(served):
    base = f"http://127.0.0.1:{served.port}"
    assert urlsplit(served.url).hostname == "127.0.0.1"
    status, headers, _ = get(served.url)
    assert status == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert get(f"{served.url}map.css")[0] == 200
    for path in ("/", "/map.js", f"{served.path}../map.js", f"{served.path}static/explore.js", f"{served.path}ask", "//etc/passwd"):
        assert get(base + path)[0] == 404, path
    assert get(served.url, Host="elsewhere.example.org")[0] == 403
    request = urllib.request.Request(served.url, data=b"x")
    with pytest.raises(urllib.error.HTTPError, match="501"):
        urllib.request.urlopen(request, timeout=20)
    words = json.loads(get(f"{served.url}ask?id=a&kind=tile&layer=none&z=1&x=0&y=0")[2])
    assert "cannot be answered" in words["error"]


def test_a_pyramid_is_explored_and_a_store_beside(tmp_path, store):
    make_maps()[["moisture", "carbon"]].miso.to_pyramid(tmp_path / "levels.zarr", levels=1, progress=False)
    with misoxr.explore(tmp_path / "levels.zarr", wait=False, open_browser=False, beside=store) as served:
        assert isinstance(served, Served)
        assert len(served.atlas.layers["moisture"].levels) == 2
        assert served.atlas.about["other"] == "beside: moisture"
        with pytest.raises(SpecError, match=f"Port {served.port} of 127.0.0.1 cannot be used"):
            misoxr.explore(store, port=served.port, wait=False, open_browser=False)
    with misoxr.explore(store, wait=False, open_browser=False, beside="carbon") as served:
        assert served.atlas.about["other"] == "carbon"


@pytest.mark.parametrize("port", ["8765", True, 8765.0, None])
def test_ports_are_whole_numbers(store, port):
    with pytest.raises(SpecError, match="port is .*; give a whole number"):
        misoxr.explore(store, port=port, wait=False, open_browser=False)


def test_a_page_that_is_closed_leaves_no_traceback(store, capfd):
    """A browser resets its open connections."""
    with misoxr.explore(store, wait=False, open_browser=False) as served:
        for _ in range(3):
            page = socket.create_connection(("127.0.0.1", served.port))
            page.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            page.sendall(f"GET {served.path} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode())
            page.recv(100)
            page.close()
        assert get(served.url)[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_basemap_is_asked_of_its_own_host_alone(store):
    with misoxr.explore(store, wait=False, open_browser=False, basemap="https://{s}.tiles.example.org/{z}/{x}/{y}.png") as served:
        policy = get(served.url)[1]["Content-Security-Policy"]
    assert "img-src 'self' data: https://*.tiles.example.org" in policy


def test_it_is_served_until_ctrl_c(store, monkeypatch, capsys):
    seen = []

    def open_browser(url):
        seen.append(url)
        threading.Thread(target=interrupt, args=(url,)).start()

    def interrupt(url):
        seen.append(get(url)[0])
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("webbrowser.open", open_browser)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background, a shell has it ignored
    try:
        served = misoxr.explore(store)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [served.url, 200]
    assert f"{served.url} until Ctrl-C" in capsys.readouterr().out
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(served.url, timeout=5)


def test_maps_of_xarray_alone_are_opened(tmp_path):
    """A store that plain xarray wrote, in one variable."""
    maps = make_maps()[["carbon"]]
    maps.to_zarr(tmp_path / "plain.zarr", consolidated=False)
    assert isinstance(xr.open_zarr(tmp_path / "plain.zarr", consolidated=False), xr.Dataset)
    with misoxr.explore(tmp_path / "plain.zarr", wait=False, open_browser=False) as served:
        assert list(served.atlas.layers) == ["carbon"]

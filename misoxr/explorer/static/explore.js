// The page of a map, in a notebook and served. `L` is Leaflet, which stands before this in one module.
//
// It knows a state, {get, set, on}, which the notebook shares with Python, and a transport, {ask, drop}: ask(id, request) promises an answer,
// words and perhaps an image's bytes.

const DEGREES = 5;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// ---- requests

function asking(transport) {
  const prefix = Math.random().toString(36).slice(2);
  let count = 0;
  return (request) => {
    const id = `${prefix}-${++count}`;
    const wanted = { open: true };
    wanted.answer = transport.ask(id, request).finally(() => { wanted.open = false; });
    wanted.drop = () => { if (wanted.open) transport.drop(id); };
    return wanted;
  };
}

function notebookTransport(model) {
  const waiting = new Map();
  const receive = (words, buffers) => {
    const resolve = waiting.get(words.id);
    if (!resolve) return;  // another view's
    waiting.delete(words.id);
    resolve({ words, bytes: buffers && buffers.length ? buffers[0] : null });
  };
  model.on("msg:custom", receive);
  return {
    ask: (id, request) => new Promise((resolve) => {
      waiting.set(id, resolve);
      model.send({ id, ...request });
    }),
    drop: (id) => {
      const resolve = waiting.get(id);
      waiting.delete(id);
      model.send({ id, kind: "drop" });
      if (resolve) resolve({ words: { dropped: true }, bytes: null });
    },
    close: () => model.off("msg:custom", receive),
  };
}

function servedTransport() {
  const aborts = new Map();
  return {
    ask: async (id, request) => {
      const abort = new AbortController();
      aborts.set(id, abort);
      try {
        const response = await fetch(`ask?${new URLSearchParams({ id, ...request })}`, { signal: abort.signal });
        if (response.headers.get("Content-Type") === "image/png") return { words: {}, bytes: await response.arrayBuffer() };
        return { words: await response.json(), bytes: null };
      } catch (error) {
        const dropped = error.name === "AbortError";
        return { words: dropped ? { dropped } : { error: `The map's server does not answer (${error.message}).` }, bytes: null };
      } finally {
        aborts.delete(id);
      }
    },
    drop: (id) => {
      const abort = aborts.get(id);
      if (abort) abort.abort();
      fetch(`drop?${new URLSearchParams({ id })}`).catch(() => {});
    },
    close: () => {},
  };
}

// ---- a layer of tiles

const Tiles = L.GridLayer.extend({
  initialize(ask, name, tell, options) {
    this.ask = ask;
    this.name = name;
    this.tell = tell;
    L.GridLayer.prototype.initialize.call(this, { updateWhenZooming: false, keepBuffer: 1, ...options });
    this.on("tileunload", (event) => event.tile.wanted.drop());
  },
  createTile(coords, done) {
    const canvas = L.DomUtil.create("canvas", "misoxr-tile");
    canvas.width = canvas.height = 256;
    canvas.wanted = this.ask({ kind: "tile", layer: this.name, z: coords.z, x: coords.x, y: coords.y });
    canvas.wanted.answer.then(async ({ words, bytes }) => {
      if (words.error) this.tell(words.error);
      if (bytes) {
        const image = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
        canvas.getContext("2d").drawImage(image, 0, 0);
      }
      done(null, canvas);
    });
    return canvas;
  },
});

// ---- a map

function makeMap(box, about) {
  const map = L.map(box, {
    zoomSnap: 1, maxZoom: about.deepest, minZoom: 0, worldCopyJump: false, fadeAnimation: false, attributionControl: Boolean(about.basemap),
  });
  if (about.basemap) {
    map.attributionControl.setPrefix(false);
    const base = L.tileLayer(about.basemap.url, { attribution: about.basemap.credit, maxZoom: about.deepest, maxNativeZoom: 19, zIndex: 0 });
    base.on("tileerror", () => { if (!base.worked) map.removeLayer(base); });  // where there is no network, the map does without
    base.on("tileload", () => { base.worked = true; });
    base.addTo(map);
  }
  for (const outline of about.outlines) {
    L.polygon(outline.map(([lon, lat]) => [lat, lon]), { className: "misoxr-outline", interactive: false, weight: 1, fill: false }).addTo(map);
  }
  for (const name of ["first", "second"]) {
    map.createPane(name).classList.add("misoxr-pane");
    map.getPane(name).style.zIndex = 300;
  }
  L.control.scale({ imperial: false, maxWidth: 140 }).addTo(map);
  return map;
}

const fit = (map, about) => {
  const [west, south, east, north] = about.bounds;
  map.fitBounds([[south, west], [north, east]], { animate: false, padding: [8, 8] });
};

// ---- the page

function selector(about, label) {
  const groups = new Map();
  for (const { name, group } of about.layers) {
    if (!groups.has(group)) groups.set(group, element("optgroup", { label: group }));
    groups.get(group).append(element("option", { value: name, text: name }));
  }
  return element("select", { "aria-label": label }, ...groups.values());
}

function said(value) {
  if (value === null || value === undefined) return "no data";
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
  if (Array.isArray(value)) return value.length ? value.join(", ") : "empty";
  return String(value);
}

function rows(values) {
  const made = [];
  for (const [name, value] of Object.entries(values)) {
    if (value !== null && typeof value === "object" && !Array.isArray(value)) {
      made.push(element("tr", { class: "misoxr-of" }, element("th", { scope: "row", colspan: 2, text: name })));
      const sorted = Object.entries(value).sort((one, other) => (other[1] ?? -1) - (one[1] ?? -1));
      for (const [part, share] of sorted) {
        made.push(element("tr", { class: "misoxr-part" }, element("th", { scope: "row", text: part }), element("td", { text: said(share) })));
      }
    } else {
      made.push(element("tr", {}, element("th", { scope: "row", text: name }), element("td", { text: said(value) })));
    }
  }
  return made;
}

function clickTable(found, about) {
  const decimals = about.unit.trim() === "m" ? 1 : 6;
  const place = element("p", { class: "misoxr-place" });
  place.append(`${Math.abs(found.lat).toFixed(DEGREES)}° ${found.lat < 0 ? "S" : "N"}, ${Math.abs(found.lon).toFixed(DEGREES)}° ${found.lon < 0 ? "W" : "E"}`);
  if (found.x !== null) {
    place.append(element("br"), `x ${found.x.toFixed(decimals)}${about.unit}, y ${found.y.toFixed(decimals)}${about.unit}`, element("br"),
      element("small", { text: about.crs }));
  } else {
    place.append(element("br"), "outside of the map");
  }
  const parts = [place];
  if (Object.keys(found.values).length) parts.push(element("table", {}, element("tbody", {}, ...rows(found.values))));
  if (found.beside && Object.keys(found.beside).length) {
    parts.push(element("h4", { text: "Beside" }), element("table", {}, element("tbody", {}, ...rows(found.beside))));
  }
  return parts;
}

function mount(root, about, state, transport) {
  const ask = asking(transport);
  root.classList.add("misoxr-map");
  root.dataset.lmSuppressShortcuts = "true";  // keys belong to the map, not to JupyterLab

  const first = selector(about, "Layer");
  const second = selector(about, "Layer to compare with");
  const compare = element("select", { "aria-label": "Compare" });
  for (const [value, text] of [["off", "one layer"], ["swipe", "swipe"], ["side", "side by side"]]) compare.append(element("option", { value, text }));
  const opacity = element("input", { type: "range", min: 0, max: 1, step: 0.05, "aria-label": "Opacity" });
  const whole = element("button", { type: "button", text: "Whole map" });
  const opacityLabel = element("label", {}, "Opacity ", opacity);
  const bar = element("div", { class: "misoxr-bar" }, first, compare, second, opacityLabel, whole);
  const boxes = [element("div", { class: "misoxr-box", "aria-label": "Map", role: "application" }), element("div", { class: "misoxr-box", "aria-label": "Map beside", role: "application", hidden: "" })];
  const divider = element("input", { type: "range", min: 0, max: 1, step: 0.002, value: 0.5, class: "misoxr-divider", "aria-label": "Divider between both layers", hidden: "" });
  const line = element("div", { class: "misoxr-line", hidden: "" });
  const note = element("p", { class: "misoxr-note", role: "status", hidden: "" });
  const busy = element("p", { class: "misoxr-busy", text: "Reading…", hidden: "" });
  const failed = element("p", { class: "misoxr-note misoxr-failed", role: "alert", hidden: "" });
  const stage = element("div", { class: "misoxr-stage", style: `height:${about.height}px` }, ...boxes, line, divider, busy);
  if (about.simulated) stage.append(element("p", { class: "misoxr-simulated", text: "SIMULATED" }));
  const keys = [element("section", { class: "misoxr-key", "aria-label": "Legend" }), element("section", { class: "misoxr-key", "aria-label": "Legend beside", hidden: "" })];
  const clicked = element("section", { class: "misoxr-clicked", "aria-label": "Clicked place" }, element("p", { class: "misoxr-hint", text: "Click on the map for its values." }));
  root.replaceChildren(bar, note, failed, element("div", { class: "misoxr-body" }, stage, element("aside", {}, ...keys, clicked)));

  const tell = (error) => { failed.textContent = error; failed.hidden = false; };
  const maps = [makeMap(boxes[0], about)];
  const slots = [null, null];  // the layers of tiles that are shown, and on which map
  const markers = [];
  const sides = () => (state.get("compare") === "side" ? 2 : 1);
  const nameOf = (slot) => state.get(slot ? "other" : "layer");

  // ---- layers

  function show(slot) {
    const map = maps[slot === 1 && sides() === 2 ? 1 : 0];
    const name = slot && state.get("compare") === "off" ? null : nameOf(slot);
    const shown = slots[slot];
    if (shown && shown.name === name && shown.shownOn === map) return;
    if (shown) shown.shownOn.removeLayer(shown);
    slots[slot] = null;
    keys[slot].hidden = !name;
    if (name) {
      const layer = new Tiles(ask, name, tell, { pane: slot ? "second" : "first", opacity: state.get("opacity") });
      layer.on("loading load", () => { busy.hidden = !slots.some((one) => one && one.isLoading()); });
      slots[slot] = layer;
      layer.shownOn = map;
      layer.addTo(map);
      legend(slot, name);
    }
    look();
  }

  async function legend(slot, name) {
    keys[slot].replaceChildren(element("h4", { text: name }));
    const { words } = await ask({ kind: "legend", layer: name }).answer;
    if (nameOf(slot) !== name) return;
    if (words.error) tell(words.error);
    const holder = element("div");
    holder.innerHTML = words.key || "";  // made and escaped by misoxr
    const title = words.title && words.title !== name ? [element("p", { text: words.title + (words.unit ? `, ${words.unit}` : "") })] : [];
    keys[slot].replaceChildren(element("h4", { text: name }), ...title, holder);
  }

  // Ask what the view would read, and say so.
  let looked = 0;
  async function look() {
    const turn = ++looked;
    const map = maps[0];
    if (!map.misoxrReady) return;
    const bounds = map.getBounds();
    root.dataset.zoom = map.getZoom();
    const view = { z: map.getZoom(), west: bounds.getWest(), south: bounds.getSouth(), east: bounds.getEast(), north: bounds.getNorth() };
    const names = new Set([0, 1].filter((slot) => slots[slot]).map(nameOf));
    const answers = await Promise.all([...names].map((layer) => ask({ kind: "view", layer, ...view }).answer));
    if (turn !== looked) return;
    note.textContent = answers.map(({ words }) => words.note).find(Boolean) || "";
    note.hidden = !note.textContent;
  }

  // ---- comparing

  function clip() {
    const swiped = state.get("compare") === "swipe";
    line.hidden = divider.hidden = !swiped;
    for (const name of ["first", "second"]) maps[0].getPane(name).style.clip = "";
    if (!swiped || !maps[0].misoxrReady) return;
    const size = maps[0].getSize();
    const at = Math.round(size.x * Number(divider.value));
    const corner = maps[0].containerPointToLayerPoint([0, 0]);
    const end = maps[0].containerPointToLayerPoint(size);
    const [top, right, bottom, left] = [corner.y, end.x, end.y, corner.x];
    maps[0].getPane("first").style.clip = `rect(${top}px, ${left + at}px, ${bottom}px, ${left}px)`;
    maps[0].getPane("second").style.clip = `rect(${top}px, ${right}px, ${bottom}px, ${left + at}px)`;
    line.style.left = `${at}px`;
  }

  let following = false;
  function follow(one, other) {
    one.on("move", () => {
      if (following || !other.misoxrReady || sides() === 1) return;
      following = true;
      other.setView(one.getCenter(), one.getZoom(), { animate: false });
      following = false;
    });
  }

  function arrange() {
    const two = sides() === 2;
    boxes[1].hidden = !two;
    second.hidden = state.get("compare") === "off";
    stage.classList.toggle("misoxr-two", two);
    if (two && maps.length === 1) {
      maps.push(makeMap(boxes[1], about));
      maps[1].on("click", click);
      follow(maps[0], maps[1]);
      follow(maps[1], maps[0]);
    }
    for (const map of maps) map.invalidateSize({ animate: false });
    if (two && maps[0].misoxrReady) {
      maps[1].setView(maps[0].getCenter(), maps[0].getZoom(), { animate: false });
      maps[1].misoxrReady = true;
    }
    show(0);
    show(1);
    clip();
  }

  // ---- clicks

  async function click(event) {
    const { lat, lng } = event.latlng;
    for (const marker of markers.splice(0)) marker.remove();
    for (const map of maps) markers.push(L.circleMarker([lat, lng], { radius: 6, className: "misoxr-marker", interactive: false }).addTo(map));
    clicked.replaceChildren(element("p", { class: "misoxr-hint", text: "Reading…" }));
    const turn = (clicked.turn = (clicked.turn || 0) + 1);
    const { words } = await ask({ kind: "click", lon: lng, lat }).answer;
    if (turn !== clicked.turn) return;
    if (words.error) tell(words.error);
    clicked.replaceChildren(...(words.values ? clickTable(words, about) : []));
  }

  // ---- state

  const controls = { layer: first, other: second, compare, opacity };
  const changed = {
    layer: () => show(0),
    other: () => show(1),
    compare: arrange,
    opacity: () => { for (const layer of slots) if (layer) layer.setOpacity(state.get("opacity")); },
  };
  const stops = [];
  for (const [name, control] of Object.entries(controls)) {
    control.value = state.get(name);
    control.addEventListener(name === "opacity" ? "input" : "change", () => {
      failed.hidden = true;
      state.set(name, name === "opacity" ? Number(control.value) : control.value);
    });
    stops.push(state.on(name, () => { control.value = state.get(name); changed[name](); }));
  }
  divider.addEventListener("input", clip);
  whole.addEventListener("click", () => fit(maps[0], about));
  maps[0].on("click", click);
  maps[0].on("move resize zoom", clip);
  maps[0].on("moveend", look);

  // A notebook draws the element before it has a size.
  const watch = new ResizeObserver(() => {
    if (!boxes[0].clientWidth || !boxes[0].clientHeight) return;
    for (const map of maps) map.invalidateSize({ animate: false });
    if (!maps[0].misoxrReady) {
      fit(maps[0], about);
      maps[0].misoxrReady = true;
      arrange();
    }
    clip();
  });
  watch.observe(stage);

  return () => {
    watch.disconnect();
    for (const stop of stops) stop();
    for (const map of maps) map.remove();
    transport.close();
  };
}

// ---- in a notebook, by anywidget

function render({ model, el }) {
  const state = {
    get: (name) => model.get(name),
    set: (name, value) => { model.set(name, value); model.save_changes(); },
    on: (name, call) => { model.on(`change:${name}`, call); return () => model.off(`change:${name}`, call); },
  };
  const root = element("div");
  el.append(root);
  return mount(root, model.get("about"), state, notebookTransport(model));
}

// ---- on a page of its own

export function serve(root) {
  const about = JSON.parse(root.dataset.about);
  const values = { layer: about.layer, other: about.other, compare: about.compare, opacity: 1 };
  const calls = {};
  const state = {
    get: (name) => values[name],
    set: (name, value) => { values[name] = value; (calls[name] || []).forEach((call) => call()); },
    on: (name, call) => { (calls[name] ||= []).push(call); return () => {}; },
  };
  return mount(root, about, state, servedTransport());
}

export default { render };

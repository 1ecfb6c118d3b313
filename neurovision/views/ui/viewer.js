// Runs as gr.HTML(js_on_load=...): `element`, `props` and `watch` are Gradio's. One controller, two ways to draw:
// NiiVue where the browser has WebGL2, else a plain canvas that shows the slices as they were acquired.
const host = element.closest('#viewer') || element, box = element.querySelector('.nv-v');
const stage = box.querySelector('.nv-v-stage'), hint = box.querySelector('.nv-v-hint'), where = box.querySelector('.nv-v-where');
const slices = box.querySelector('.nv-v-slices'), strip = box.querySelector('.nv-v-strip');
const slider = slices.querySelector('input'), number = slices.querySelector('.nv-v-number'), help = box.querySelector('.nv-v-help');
const opacity = box.querySelector('[data-look=opacity]'), layer = box.querySelector('[data-look=layer]'), legend = box.querySelector('.nv-v-legend');
const page = (path) => new URL(path.replace(/^\//, ''), document.baseURI).href;
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

let canvas = box.querySelector('canvas'), drawer = null, scan = null, voxel = [0, 0, 0], turn = 0, shownLayer = 'mask', tool = 'crosshair', plane = 'one';

const mark = (name, value) => { for (const e of [host, box]) { if (value === null) delete e.dataset[name]; else e.dataset[name] = value; } };
const times = (m, v) => m.slice(0, 3).map((r) => r[0] * v[0] + r[1] * v[1] + r[2] * v[2] + r[3]);

// What both drawers tell back: the crosshair has moved.
function moved(at) {
  if (!scan) return;
  voxel = at.map((x, k) => clamp(Math.round(x), 0, scan.shape[k] - 1));
  mark('slice', voxel[2] + 1);
  slider.value = voxel[2] + 1;
  number.textContent = `Slice ${voxel[2] + 1} of ${scan.shape[2]}`;
  slider.setAttribute('aria-valuetext', `${voxel[2] + 1} of ${scan.shape[2]}`);
  const cursor = strip.querySelector('.nv-v-cursor');
  if (cursor) cursor.setAttribute('x', voxel[2]);
  const mm = times(scan.affine, voxel), value = drawer.value(voxel);
  const place = !scan.letters ? (scan.metric ? `${(voxel[0] * scan.spacing[0]).toFixed(1)}, ${(voxel[1] * scan.spacing[1]).toFixed(1)} mm` : `column ${voxel[0] + 1}, row ${voxel[1] + 1}`)
    : mm.map((x, k) => `${Math.abs(x).toFixed(1)} ${'RLAPIS'[[x < 0 ? 1 : 0, x < 0 ? 3 : 2, x < 0 ? 4 : 5][k]]}`).join('  ') + ' mm';
  const maps = drawer.maps(voxel);
  where.textContent = `${place}   value ${value} of ${scan.levels}` + (maps ? `   tumor probability ${maps}` : '');
}

function go(at) {
  if (!scan || !drawer) return;
  const next = at.map((x, k) => clamp(Math.round(x), 0, scan.shape[k] - 1));
  drawer.go(next);
  moved(next);
}
const step = (n) => go([voxel[0], voxel[1], voxel[2] + n]);

// --- NiiVue ----------------------------------------------------------------------------------------------------------
async function niivueDrawer() {
  const { Niivue, SLICE_TYPE, DRAG_MODE, SHOW_RENDER } = await import(page(props.niivue));
  const nv = new Niivue({
    isRadiologicalConvention: true, crosshairWidth: 0.5, crosshairWidthUnit: 'mm', crosshairColor: [0.2, 0.76, 0.7, 0.8], crosshairGap: 8,
    dragAndDropEnabled: false, loadingText: '', backColor: [0.043, 0.059, 0.078, 1], fontColor: [0.8, 0.84, 0.88, 1], fontMinPx: 12, showAllOrientationMarkers: true,
    rulerColor: [0.8, 0.84, 0.88, 0.9], rulerWidth: 2, measureLineColor: [0.94, 0.64, 0.25, 1], measureTextColor: [0.94, 0.64, 0.25, 1], measureTextHeight: 0.04,
    clipPlaneHotKey: '', cycleClipPlaneHotKey: '', viewModeHotKey: '', logLevel: 'error', multiplanarShowRender: SHOW_RENDER.NEVER,
    multiplanarPadPixels: 4, selectionBoxColor: [0.2, 0.76, 0.7, 0.3], isForceMouseClickToVoxelCenters: false, sagittalNoseLeft: true,
  });
  await nv.attachToCanvas(canvas);
  const tools = { crosshair: DRAG_MODE.crosshair, window: DRAG_MODE.windowing, measure: DRAG_MODE.measurement, pan: DRAG_MODE.pan };
  const planes = { sagittal: SLICE_TYPE.SAGITTAL, coronal: SLICE_TYPE.CORONAL, axial: SLICE_TYPE.AXIAL };
  let inverse = null, files = {}, filled = null, outlined = null;
  nv.onLocationChange = (d) => { if (inverse) moved(times(inverse, d.mm)); };
  const colormap = (classes) => {
    const colors = { I: [0], R: [0], G: [0], B: [0], A: [0], labels: [''] };
    for (const c of [{ index: 1, title: '', color: [0, 0, 0] }, ...classes]) {
      colors.I.push(c.index); colors.R.push(c.color[0]); colors.G.push(c.color[1]); colors.B.push(c.color[2]);
      colors.A.push(c.index > 1 ? 255 : 0); colors.labels.push(c.title);
    }
    return colors;
  };
  const self = {
    threeD: true,
    async load(value) {
      inverse = null; files = {}; filled = outlined = null;
      nv.document.completedMeasurements = [];
      const [low, high] = value.window;
      const list = [{ url: page(value.scan), name: 'scan.nii.gz', colormap: 'gray', cal_min: low, cal_max: high }];
      for (const kind of ['mask', 'probability', 'uncertainty']) {
        if (!value[kind]) continue;
        files[kind] = list.length;
        list.push({ url: page(value[kind]), name: `${kind}.nii.gz`, colormap: kind === 'mask' ? 'gray' : 'inferno', opacity: 0, cal_min: kind === 'mask' ? 0 : 12, cal_max: kind === 'mask' ? value.classes.length + 1 : 255, colormapType: kind === 'mask' ? 0 : 2 });
      }
      nv.opts.isOrientationTextVisible = value.letters;
      nv.opts.isRuler = value.metric;
      nv.opts.showMeasureUnits = value.metric;
      await nv.loadVolumes(list);
      for (const k of Object.values(files)) nv.volumes[k].colorbarVisible = false;
      if (files.mask) {
        nv.volumes[files.mask].setColormapLabel(colormap(value.classes));
        filled = nv.volumes[files.mask].img;
      }
      inverse = value.inverse;
      nv.setPan2Dxyzmm([0, 0, 0, 1]);
      self.plane(plane);
      self.tool(tool);
    },
    clear() { inverse = null; nv.volumes = []; nv.overlays = []; nv.updateGLVolume(); nv.drawScene(); },
    go(at) {
      nv.scene.crosshairPos = nv.mm2frac(times(scan.affine, at), 0, true);
      nv.drawScene();
    },
    value: (at) => nv.volumes[0]?.img[at[0] + scan.shape[0] * (at[1] + scan.shape[1] * at[2])] ?? '',
    maps(at) {
      const p = files.probability && nv.volumes[files.probability]?.img[at[0] + scan.shape[0] * (at[1] + scan.shape[1] * at[2])];
      return p === undefined ? '' : percent(p / 255);
    },
    plane(kind) { nv.setSliceType(kind === 'three' ? SLICE_TYPE.MULTIPLANAR : kind === 'volume' ? SLICE_TYPE.RENDER : planes[scan.plane]); },
    tool(kind) { nv.setMouseEventConfig({ leftButton: { primary: tools[kind], withShift: DRAG_MODE.pan }, rightButton: DRAG_MODE.windowing, centerButton: DRAG_MODE.pan }); nv.setTouchEventConfig?.({ singleTouch: tools[kind], doubleTouch: DRAG_MODE.pan }); },
    look(kind, amount) {
      for (const [name, k] of Object.entries(files)) {
        const on = name === 'mask' ? kind === 'mask' || kind === 'outline' : name === kind;
        if (name === 'mask' && filled) nv.volumes[k].img = kind === 'outline' ? (outlined ??= outline(filled, scan.shape)) : filled;
        nv.volumes[k].opacity = on ? (kind === 'outline' ? Math.max(amount, 0.6) : amount) : 0;
      }
      nv.updateGLVolume();
    },
    zoom(factor) {
      const pan = nv.scene.pan2Dxyzmm;
      nv.setPan2Dxyzmm([pan[0], pan[1], pan[2], clamp(pan[3] * factor, 1, 12)]);
    },
    reset() {
      nv.document.completedMeasurements = [];
      [nv.volumes[0].cal_min, nv.volumes[0].cal_max] = scan.window;
      nv.setPan2Dxyzmm([0, 0, 0, 1]);
      nv.setRenderAzimuthElevation(110, 10);
      nv.updateGLVolume();
    },
    window: () => [nv.volumes[0].cal_min, nv.volumes[0].cal_max],
    niivue: nv,
  };
  return self;
}

// --- without WebGL2 --------------------------------------------------------------------------------------------------
function flatDrawer() {
  const context = canvas.getContext('2d'), picture = document.createElement('canvas'), ink = picture.getContext('2d');
  let data = {}, limits = [0, 1], look = 'mask', amount = 0.45, edges = null, zoomed = 1, drag = null, place = null;
  async function read(path) {
    const answer = await fetch(page(path));
    if (!answer.ok) throw new Error('gone');
    const bytes = await new Response(answer.body.pipeThrough(new DecompressionStream('gzip'))).arrayBuffer();
    const header = new DataView(bytes), start = header.getFloat32(108, true);
    return header.getInt16(70, true) === 2 ? new Uint8Array(bytes, start) : new Int16Array(bytes, start);
  }
  function draw() {
    if (!scan || !data.scan) return;
    const [w, h] = scan.shape, from = w * h * voxel[2];
    picture.width = w; picture.height = h;
    const out = ink.createImageData(w, h), over = look === 'outline' ? edges : data[look];
    for (let i = 0; i < w * h; i++) {
      const g = clamp((data.scan[from + i] - limits[0]) / (limits[1] - limits[0]), 0, 1) * 255;
      let rgb = [g, g, g], a = 0;
      const v = over ? over[from + i] : 0;
      if (look === 'mask' || look === 'outline') {
        const kind = v > 1 && scan.classes.find((c) => c.index === v);
        if (kind) { rgb = kind.color; a = look === 'outline' ? Math.max(amount, 0.6) : amount; }
      } else if (v > 12) { rgb = heat(v / 255); a = amount * Math.sqrt(v / 255) * 1.3; }
      a = Math.min(a, 1);
      for (let c = 0; c < 3; c++) out.data[4 * i + c] = g * (1 - a) + rgb[c] * a;
      out.data[4 * i + 3] = 255;
    }
    ink.putImageData(out, 0, 0);
    const scale = window.devicePixelRatio || 1;
    canvas.width = stage.clientWidth * scale; canvas.height = stage.clientHeight * scale;
    const wide = w * scan.spacing[0], high = h * scan.spacing[1], fit = Math.min(canvas.width / wide, canvas.height / high) * zoomed;
    context.fillStyle = '#0b0f14'; context.fillRect(0, 0, canvas.width, canvas.height);
    const left = (canvas.width - wide * fit) / 2, top = (canvas.height - high * fit) / 2;
    context.drawImage(picture, left, top, wide * fit, high * fit);
    place = { left: left / scale, top: top / scale, x: scan.spacing[0] * fit / scale, y: scan.spacing[1] * fit / scale };
    const x = left + (voxel[0] + 0.5) * scan.spacing[0] * fit, y = top + (voxel[1] + 0.5) * scan.spacing[1] * fit;
    context.strokeStyle = 'rgba(52, 195, 178, 0.8)'; context.beginPath();
    for (const [a, b, c, d] of [[0, y, x - 8, y], [x + 8, y, canvas.width, y], [x, 0, x, y - 8], [x, y + 8, x, canvas.height]]) { context.moveTo(a, b); context.lineTo(c, d); }
    context.stroke();
    if (!scan.letters) return;
    context.fillStyle = '#cbd5e1'; context.font = `${13 * scale}px system-ui, sans-serif`; context.textAlign = 'center'; context.textBaseline = 'middle';
    const [right, down] = [0, 1].map((axis) => letter(scan.affine, axis));
    context.fillText(right[1], 14 * scale, canvas.height / 2); context.fillText(right[0], canvas.width - 14 * scale, canvas.height / 2);
    context.fillText(down[1], canvas.width / 2, 14 * scale); context.fillText(down[0], canvas.width / 2, canvas.height - 14 * scale);
  }
  new ResizeObserver(draw).observe(stage);
  canvas.addEventListener('wheel', (e) => { if (!scan) return; e.preventDefault(); if (e.ctrlKey) self.zoom(e.deltaY < 0 ? 1.15 : 1 / 1.15); else step(Math.sign(e.deltaY)); }, { passive: false });
  canvas.addEventListener('contextmenu', (e) => e.preventDefault());
  const point = (e) => { const at = canvas.getBoundingClientRect(); if (place) go([Math.floor((e.clientX - at.left - place.left) / place.x), Math.floor((e.clientY - at.top - place.top) / place.y), voxel[2]]); };
  canvas.addEventListener('pointerdown', (e) => { if (scan && e.button === 0 && tool === 'crosshair') { point(e); canvas.focus(); } else if (scan && (e.button === 2 || tool === 'window')) { drag = [e.clientX, e.clientY, ...limits]; canvas.setPointerCapture(e.pointerId); } });
  canvas.addEventListener('pointerup', () => { drag = null; });
  canvas.addEventListener('pointermove', (e) => {
    if (!drag) { if (scan && e.buttons === 1 && tool === 'crosshair') point(e); return; }
    const level = (drag[2] + drag[3]) / 2 - (e.clientY - drag[1]) / 300 * scan.levels, width = Math.max(drag[3] - drag[2] + (e.clientX - drag[0]) / 300 * scan.levels, scan.levels / 100);
    limits = [level - width / 2, level + width / 2];
    draw();
  });
  const self = {
    threeD: false,
    async load(value) {
      const loaded = {};
      for (const kind of ['scan', 'mask', 'probability', 'uncertainty']) if (value[kind]) loaded[kind] = await read(value[kind]);
      data = loaded; edges = null; limits = [...value.window]; zoomed = 1;
    },
    clear() { data = {}; context.clearRect(0, 0, canvas.width, canvas.height); },
    go(at) { voxel = at; draw(); },
    value: (at) => data.scan?.[at[0] + scan.shape[0] * (at[1] + scan.shape[1] * at[2])] ?? '',
    maps: () => '',
    plane() {}, tool() {},
    look(kind, opacity) { look = kind; amount = opacity; if (kind === 'outline' && data.mask) edges ??= outline(data.mask, scan.shape); draw(); },
    zoom(factor) { zoomed = clamp(zoomed * factor, 1, 12); draw(); },
    reset() { limits = [...scan.window]; zoomed = 1; draw(); },
    window: () => limits,
  };
  return self;
}
// Where an axis of the voxels points, and where it comes from.
function letter(affine, axis) {
  const toward = affine.slice(0, 3).map((row) => row[axis]), k = toward.map(Math.abs).indexOf(Math.max(...toward.map(Math.abs)));
  const ends = ['RL', 'AP', 'SI'][k];
  return toward[k] > 0 ? [ends[0], ends[1]] : [ends[1], ends[0]];
}
function heat(x) {
  const stops = [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]], k = Math.min(Math.floor(x * 5), 4), t = x * 5 - k;
  return stops[k].map((c, i) => c + t * (stops[k + 1][i] - c));
}
// The pixels of a label map that have another label beside them in their own slice.
function outline(labels, [w, h, n]) {
  const out = new labels.constructor(labels.length);
  for (let k = 0; k < n; k++) for (let j = 0; j < h; j++) for (let i = 0; i < w; i++) {
    const at = i + w * (j + h * k), v = labels[at];
    if (v > 1 && (i === 0 || j === 0 || i === w - 1 || j === h - 1 || labels[at - 1] !== v || labels[at + 1] !== v || labels[at - w] !== v || labels[at + w] !== v)) out[at] = v;
  }
  return out;
}
const percent = (p) => (p < 0.01 ? '< 1 %' : p > 0.99 ? '> 99 %' : `${Math.round(100 * p)} %`);

// --- the controller --------------------------------------------------------------------------------------------------
const webgl = () => { try { return !!document.createElement('canvas').getContext('webgl2'); } catch { return false; } };
async function ready() {
  if (drawer) return;
  if (webgl()) {
    try { drawer = await niivueDrawer(); return; } catch (e) { console.warn('the viewer draws without WebGL2', e); }
    const fresh = canvas.cloneNode(); canvas.replaceWith(fresh); canvas = fresh;
  }
  drawer = flatDrawer();
  box.classList.add('nv-v-flat');
}
function press(group, name, value) { box.querySelectorAll(`[data-${group}]`).forEach((b) => b.setAttribute('aria-pressed', String(b.dataset[name] === value))); }

function drawStrip(value) {
  const n = value.shape[2], area = value.strip.area, chance = value.strip.probability, most = Math.max(...area, 1e-9);
  slices.hidden = n < 2;
  slider.max = n;
  strip.setAttribute('viewBox', `0 0 ${n} 40`);
  strip.replaceChildren();
  const rect = (x, y, w, h, kind) => { const r = document.createElementNS('http://www.w3.org/2000/svg', 'rect'); for (const [a, b] of Object.entries({ x, y, width: w, height: h, class: kind })) r.setAttribute(a, b); strip.append(r); return r; };
  rect(0, 0, n, 40, 'nv-v-ground');
  for (let k = 0; k < n; k++) {
    if (area[k] > 0) rect(k + 0.1, 26 - 25 * area[k] / most, 0.8, 25 * area[k] / most, 'nv-v-area');
    if (chance[k] !== null) rect(k + 0.1, 40 - 12 * chance[k], 0.8, 12 * chance[k], chance[k] >= value.threshold ? 'nv-v-over' : 'nv-v-under');
  }
  rect(0, 0, 1, 40, 'nv-v-cursor');
}

async function show(value) {
  const mine = ++turn, state = value?.scan ? 'loading' : value?.state || 'empty';
  mark('state', state);
  if (state !== 'loading' || !value.scan) {
    scan = null; legend.textContent = ''; mark('slices', null); mark('slice', null); slices.hidden = true; where.textContent = '';
    if (drawer) drawer.clear();
    hint.textContent = state === 'empty' ? 'Open a scan and it is shown here.' : 'Reading the scan';
    canvas.setAttribute('aria-label', state === 'empty' ? 'No scan is open' : 'The scan is being read');
    return;
  }
  hint.textContent = 'Loading the picture';
  await ready();
  if (mine !== turn) return;
  try {
    scan = { ...value };
    legend.innerHTML = value.legend;
    plane = value.shape[2] > 1 && drawer.threeD ? plane : 'one';
    await drawer.load(scan);
  } catch (e) {
    if (mine !== turn) return;
    console.warn('the viewer could not load', e);
    scan = null; mark('state', 'empty'); hint.textContent = 'The picture could not be loaded; open the scan again.';
    return;
  }
  if (mine !== turn) return;
  box.classList.toggle('nv-v-single', value.shape[2] < 2);
  box.classList.toggle('nv-v-no-unit', !value.metric);
  drawStrip(value);
  shownLayer = value.mask ? 'mask' : 'none'; layer.value = shownLayer;
  for (const o of layer.options) o.disabled = o.value !== 'none' && !value[o.value === 'outline' ? 'mask' : o.value];
  drawer.look(shownLayer, +opacity.value);
  press('plane', 'plane', plane);
  hint.textContent = '';
  canvas.setAttribute('aria-label', value.alt);
  mark('slices', value.shape[2]);
  go(value.start);
  mark('state', 'ready');
}

function setLayer(kind) { layer.value = kind; if (drawer && scan) drawer.look(kind, +opacity.value); }
const actions = {
  reset() { if (!scan) return; drawer.reset(); opacity.value = 0.45; setLayer(scan.mask ? 'mask' : 'none'); go(scan.start); },
  help() { help.hidden = !help.hidden; box.querySelector('[data-do=help]').setAttribute('aria-expanded', String(!help.hidden)); },
  overlay() { if (layer.value === 'none') setLayer(shownLayer); else { shownLayer = layer.value; setLayer('none'); } },
  outline() { setLayer(layer.value === 'mask' ? 'outline' : 'mask'); },
  plane(kind) { if (!scan || !drawer.threeD || scan.shape[2] < 2) return; plane = kind; drawer.plane(kind); press('plane', 'plane', kind); },
  tool(kind) { tool = kind; if (drawer && scan) drawer.tool(kind); press('tool', 'tool', kind); },
};
const keys = {
  ArrowUp: () => step(1), ArrowRight: () => step(1), ArrowDown: () => step(-1), ArrowLeft: () => step(-1), PageUp: () => step(5), PageDown: () => step(-5),
  Home: () => scan && go(scan.start), '+': () => scan && drawer.zoom(1.2), '=': () => scan && drawer.zoom(1.2), '-': () => scan && drawer.zoom(1 / 1.2),
  o: actions.overlay, f: actions.outline, r: actions.reset, 1: () => actions.plane('one'), 3: () => actions.plane('three'), v: () => actions.plane('volume'),
  '?': actions.help,
};
box.addEventListener('click', (e) => {
  const b = e.target.closest('button');
  if (!b) return;
  if (b.dataset.plane) actions.plane(b.dataset.plane);
  if (b.dataset.tool) actions.tool(b.dataset.tool);
  if (b.dataset.do) actions[b.dataset.do]();
});
// Before NiiVue's own listeners, whose keys and zoom are others.
stage.addEventListener('keydown', (e) => {
  const act = keys[e.key.length === 1 ? e.key.toLowerCase() : e.key];
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  e.stopPropagation();
  if (act) { e.preventDefault(); act(); }
}, true);
stage.addEventListener('keyup', (e) => e.stopPropagation(), true);
stage.addEventListener('wheel', (e) => {
  if (!e.ctrlKey || !scan || !drawer.threeD) return;
  e.preventDefault(); e.stopPropagation();
  drawer.zoom(e.deltaY < 0 ? 1.15 : 1 / 1.15);
}, { capture: true, passive: false });
let apart = 0;
stage.addEventListener('touchmove', (e) => {
  if (e.touches.length !== 2 || !scan) { apart = 0; return; }
  e.preventDefault(); e.stopPropagation();
  const now = Math.hypot(e.touches[0].clientX - e.touches[1].clientX, e.touches[0].clientY - e.touches[1].clientY);
  if (apart) drawer.zoom(now / apart);
  apart = now;
}, { capture: true, passive: false });
slider.addEventListener('input', () => go([voxel[0], voxel[1], +slider.value - 1]));
strip.addEventListener('click', (e) => { const at = strip.getBoundingClientRect(); go([voxel[0], voxel[1], Math.floor((e.clientX - at.left) / at.width * scan.shape[2])]); });
opacity.addEventListener('input', () => { if (drawer && scan) drawer.look(layer.value, +opacity.value); });
layer.addEventListener('change', () => { if (layer.value !== 'none') shownLayer = layer.value; setLayer(layer.value); });
document.addEventListener('click', (e) => {
  const row = e.target.closest('[data-voxel]');
  if (row && scan) { go(JSON.parse(row.dataset.voxel)); stage.scrollIntoView({ block: 'nearest' }); }
});

window.nvViewer = { go, get voxel() { return voxel; }, get drawer() { return drawer; }, get scan() { return scan; } };
watch('value', () => show(props.value));
show(props.value);

// The panels of the page around one state: the code z (and class y) that is shown.

const content = JSON.parse($("content").textContent);
const page = unpacked(content, bytesOf(content.block));
const model = modelOf(page.model), random = generator(Date.now()), { images, codes } = page;
const SHAPE = images.shape, SIZE = SHAPE[0] * SHAPE[1] * SHAPE[2], L = page.model.latent_dim, CLASSES = page.model.classes;
const classOf = (c) => page.names[c] ?? `class ${c}`;
const NUM_SAMPLES = 64, NUM_ROWS = 12, NUM_STEPS = 9, FIRST = 10;
const labelOf = (i) => (images.labels && images.labels[i] >= 0 ? images.labels[i] : null);
const imageOf = (i) => Float64Array.from(images.pixels.subarray(i * SIZE, (i + 1) * SIZE), (u) => u / (images.steps || 1));
const codeOf = (i) => images.codes.subarray(i * L, (i + 1) * L);
const quantile = (j, q) => codes.quantiles[j * codes.levels.length + q];
const nameOf = (j) => `z${j + 1}`;

/** z and y; x, the data image that z encodes or null; source, in words; base and amounts of directions. */
const state = { z: new Float64Array(L), y: undefined, x: null, exact: false, source: "" };
let base = state.z, amounts = page.vectors.map(() => 0), start = state;
const listeners = [];

/** Change the state, and show it in the next frame. */
function show(changes, keepDirections = false) {
  Object.assign(state, changes);
  if (!keepDirections) {
    base = state.z;
    amounts = amounts.map(() => 0);
  }
  if (!show.frame) show.frame = requestAnimationFrame(() => { show.frame = 0; listeners.forEach((f) => f()); });
}

/** Show a data image: its code is the posterior mean. */
function encode(x, source) {
  const probabilities = CLASSES ? model.classify(x) : null;
  const y = CLASSES ? probabilities.indexOf(Math.max(...probabilities)) : undefined;
  show({ x, y, z: model.posterior(x, y).loc, exact: true, source });
  start = { ...state };
}

const move = (z, source = "changed code") => show({ z, exact: false, source });
const select = (i) => {
  $("number").value = i;
  encode(imageOf(i), `image ${i}${labelOf(i) === null ? "" : `, ${classOf(labelOf(i))}`}`);
};

/** The image in the form of the data: binary, or in grey levels. */
function asData(mean) {
  const { kind, levels } = page.model.likelihood, steps = kind === "discretized_logistic" ? levels - 1 : images.steps;
  return steps ? mean.map((v) => Math.round(Math.min(Math.max(v, 0), 1) * steps) / steps) : mean;
}

// Image, classes and bound
const estimating = slices(12), isProbability = page.model.likelihood.kind !== "bernoulli" || images.steps === 1;

function probabilitiesOf(x) {
  if (CLASSES) return { names: Array.from({ length: CLASSES }, (_, c) => classOf(c)), values: model.classify(x) };
  if (!page.classifier) return null;
  const { w, b, classes } = page.classifier;
  return { names: classes.map(classOf), values: softmax(multiply(w, state.z, b, new Float64Array(b.length), 0, 1)) };
}

function showClasses(x) {
  const prediction = probabilitiesOf(x), bars = $("classes");
  bars.replaceChildren();
  if (!prediction) return "";
  const order = prediction.values.map((_, c) => c).sort((a, b) => prediction.values[b] - prediction.values[a]);
  for (const c of order.slice(0, 3)) {
    const percent = `${(100 * prediction.values[c]).toFixed(1)}%`;
    add(bars, "span", {}, prediction.names[c]);
    add(bars, "meter", { min: 0, max: 1, value: prediction.values[c], ariaLabel: `Probability of ${prediction.names[c]}` });
    add(bars, "span", {}, percent);
  }
  const { accuracy } = page.classifier || {};
  const by = CLASSES ? "q(y | x) of the model." : `Logistic regression on codes${
    accuracy ? `, accuracy ${(100 * accuracy).toFixed(1)}% on the images of this page` : ""}.`;
  add(bars, "span", { className: "wide quiet" }, by);
  return `${prediction.names[order[0]]} with probability ${prediction.values[order[0]].toFixed(2)}`;
}

function* estimate(x, classText) {
  const estimator = model.estimator(x, generator(1));
  const what = state.exact ? state.source : images.steps === 1 ? "the decoded image, thresholded at 1/2" : "the decoded image";
  for (let k = 1; k <= NUM_SAMPLES; k++) {
    estimator.step();
    if (k > 1 && k < NUM_SAMPLES && k % 8) { yield; continue; }
    const { elbo, bound } = estimator.result();
    $("bound").textContent = `log p(x) \u2265 ${signed(bound, 2)} nats`;
    $("bound-note").textContent = `${k} importance samples; ELBO ${signed(elbo, 2)}. x is ${what}.`;
    yield;
  }
  $("status").textContent = [`Shown: ${state.source}`, classText, $("bound").textContent].filter(Boolean).join("; ");
}

function showImage() {
  const mean = model.decode(state.z, state.y);
  paint($("decoded-image"), mean, SHAPE);
  paint($("preview"), mean, SHAPE);
  paint($("data-image"), state.x, SHAPE);
  $("data-caption").textContent = state.exact ? `x: ${state.source}` : state.x ? "x before the change" : "no data";
  $("data-image").setAttribute("aria-label", state.x ? "Data image" : "No data image");
  $("decoded-image").setAttribute("aria-label", `Decoded image: ${state.source}`);
  const x = state.exact ? state.x : asData(mean), classText = showClasses(x);
  if (isProbability) estimating(estimate(x, classText));
  else $("bound-note").textContent = "No log p(x): a Bernoulli likelihood of grey values is no probability.";
}
listeners.push(showImage);
$("random").onclick = () => select(Math.floor(images.count * random.uniform()));
$("number").max = images.count - 1;
$("number").onchange = () => select(Math.min(images.count - 1, Math.max(0, Math.round(Number($("number").value)) || 0)));
$("save").onclick = () => savePNG($("decoded-image"), `${state.source.replace(/\W+/g, "-")}.png`);
const showTemperature = () => { $("temperature-value").textContent = Number($("temperature").value).toFixed(2); };
$("temperature").oninput = showTemperature;
$("sample").onclick = () => {
  const p = CLASSES ? softmax(page.model.label_prior) : [], y = CLASSES ? draw(p) : undefined;
  show({ x: null, y, z: model.samplePrior(random, Number($("temperature").value)), exact: false, source: "sample of the prior" });
  start = { ...state };
};
function draw(probabilities) {
  let u = random.uniform(), c = 0;
  while (c < probabilities.length - 1 && u > probabilities[c]) u -= probabilities[c++];
  return c;
}

// Latent dimensions, classes and directions
const setters = [];
function addSliders(count) {
  for (const j of codes.order.slice(setters.length, count)) {
    const low = Math.min(quantile(j, 0), -3), high = Math.max(quantile(j, codes.levels.length - 1), 3);
    const note = codes.kl ? codes.kl[j].toFixed(2) : "";
    const set = slider($("latents"), nameOf(j), note, { min: low, max: high, step: (high - low) / 400 }, (value) => {
      const shift = state.z[j] - base[j];
      base = Float64Array.from(base, (v, i) => (i === j ? value - shift : v));
      show({ z: Float64Array.from(state.z, (v, i) => (i === j ? value : v)), exact: false, source: "changed code" }, true);
    });
    setters.push(() => set(state.z[j]));
  }
  const rest = L - setters.length;
  $("more").hidden = rest === 0;
  $("more").textContent = `Show ${rest} more`;
}
addSliders(Math.max(FIRST, Math.min(codes.active, 15)));
$("more").onclick = () => { addSliders(L); setters.forEach((set) => set()); };
$("reset").onclick = () => show({ ...start });
$("latents-note").textContent = `${codes.active} of ${L} are active${
  codes.kl ? ", in the order of their KL to the prior in nats" : ", in the order of the variance of their means"}.`;
const classButtons = Array.from({ length: CLASSES }, (_, y) => {
  const button = add($("class-buttons"), "button", { type: "button" }, classOf(y));
  button.onclick = () => show({ y, exact: false, source: classOf(y) });
  return button;
});
$("class-buttons").hidden = CLASSES === 0;
const directionSetters = page.vectors.map(({ name, vector }, k) =>
  slider($("directions"), name, "", { min: -2, max: 2, step: 0.02 }, (value) => {
    amounts[k] = value;
    const z = Float64Array.from(base, (v, i) => v + sum(page.vectors.map((d, m) => amounts[m] * d.vector[i])));
    show({ z, exact: false, source: `direction ${name}` }, true);
  }));
$("directions-panel").hidden = page.vectors.length === 0;
listeners.push(() => {
  setters.forEach((set) => set());
  directionSetters.forEach((set, k) => set(amounts[k]));
  classButtons.forEach((button, y) => button.setAttribute("aria-pressed", String(y === state.y)));
});

// Traversals
const traversing = slices(10), inner = codes.levels.slice(1, -1);
const rows = codes.order.slice(0, Math.min(NUM_ROWS, Math.max(codes.active, 1))).map((j) => {
  const row = add($("traversals"), "div", { className: "traversal" });
  const label = add(row, "span", {}, nameOf(j));
  if (codes.kl) add(label, "small", {}, `KL ${codes.kl[j].toFixed(2)} nats`);
  const canvas = add(row, "canvas", { className: "strip" });
  layStrip(canvas, inner.length, SHAPE);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Traversal of ${nameOf(j)}: ${inner.length} images from its 1% to its 99% quantile`);
  const at = (q) => Float64Array.from(state.z, (v, i) => (i === j ? quantile(j, q + 1) : v));
  canvas.onclick = (event) => move(at(indexAt(event, canvas, inner.length)), `${nameOf(j)} at a quantile`);
  return { canvas, at };
});
listeners.push(() => traversing((function* () {
  for (const { canvas, at } of rows) {
    const context = canvas.getContext("2d");
    for (let q = 0; q < inner.length; q++) {
      context.putImageData(pixelsOf(model.decode(at(q), state.y), SHAPE), placeOf(q, SHAPE), 0);
      yield;
    }
  }
})()));

// Path
const ends = { a: null, b: null }, walking = slices(10), mixed = (a, b, t) => a.map((v, i) => (1 - t) * v + t * b[i]);

/** The code at a fraction of the path; spherical: the direction turns at constant speed, the norm is linear. */
function along(t) {
  const { a, b } = ends, norms = [a.z, b.z].map((z) => Math.hypot(...z));
  const cosine = Math.min(1, Math.max(-1, sum(a.z.map((v, i) => v * b.z[i])) / (norms[0] * norms[1]))), angle = Math.acos(cosine);
  const y = CLASSES ? mixed(model.oneHot(a.y), model.oneHot(b.y), t) : undefined;
  if ($("path-kind").value === "lerp" || !(Math.sin(angle) > 1e-6)) return { z: mixed(a.z, b.z, t), y };
  const norm = (1 - t) * norms[0] + t * norms[1], weights = [Math.sin((1 - t) * angle), Math.sin(t * angle)];
  return { z: a.z.map((v, i) => (norm / Math.sin(angle)) * ((weights[0] * v) / norms[0] + (weights[1] * b.z[i]) / norms[1])), y };
}
function drawPath() {
  const canvas = $("path"), ready = ends.a && ends.b;
  layStrip(canvas, NUM_STEPS, SHAPE);
  $("fraction").disabled = !ready;
  walking((function* () {
    const context = canvas.getContext("2d");
    for (let k = 0; k < NUM_STEPS; k++) {
      const point = ready ? along(k / (NUM_STEPS - 1)) : k === 0 ? ends.a : k === NUM_STEPS - 1 ? ends.b : null;
      if (point) context.putImageData(pixelsOf(model.decode(point.z, point.y), SHAPE), placeOf(k, SHAPE), 0);
      yield;
    }
  })());
}
for (const end of ["a", "b"]) {
  $(`set-${end}`).onclick = () => { ends[end] = { z: state.z, y: state.y }; drawPath(); };
}
$("path-kind").onchange = drawPath;
$("fraction").oninput = () => {
  const t = Number($("fraction").value);
  $("fraction-value").textContent = t.toFixed(2);
  show({ ...along(t), exact: false, source: `${t.toFixed(2)} of the way from A to B` });
};
$("path").onclick = (event) => {
  if (!ends.a || !ends.b) return;
  $("fraction").value = indexAt(event, $("path"), NUM_STEPS) / (NUM_STEPS - 1);
  $("fraction").oninput();
};

// The map of the codes: two axes, each a dimension or a principal component; pointing decodes.

const { pca } = codes;
const unit = (j) => Float64Array.from({ length: L }, (_, i) => (i === j ? 1 : 0));
const AXES = [0, 1].slice(0, pca.share.length).map((k) => ({
  name: `PC ${k + 1} (${(100 * pca.share[k]).toFixed(0)}% of variance)`,
  direction: pca.directions.subarray(k * L, (k + 1) * L),
})).concat(codes.order.map((j) => ({ name: nameOf(j), direction: unit(j) })));
const project = (z, { direction }) => sum(Float64Array.from(direction, (v, i) => v * (z[i] - pca.mean[i])));
const selects = [$("horizontal"), $("vertical")];
selects.forEach((select, k) => {
  AXES.forEach((axis, i) => add(select, "option", { value: i }, axis.name));
  select.value = Math.min(k, AXES.length - 1);
  select.onchange = () => {
    if (selects[0].value === selects[1].value && AXES.length > 1) {
      selects[1 - k].value = (Number(select.value) + 1) % AXES.length;
    }
    place();
  };
});
let points, limits; // coordinates of the images' codes along both axes, and their ranges

function place() {
  points = selects.map((select) => Float64Array.from({ length: images.count }, (_, i) => project(codeOf(i), AXES[select.value])));
  limits = points.map((values) => {
    const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
    const pad = 0.06 * (high - low) || 1;
    return [low - pad, high + pad];
  });
  drawMap();
}

/** Positions in CSS pixels of coordinates, and back. */
const toScreen = (value, axis, size) => {
  const share = (value - limits[axis][0]) / (limits[axis][1] - limits[axis][0]);
  return size * (axis ? 1 - share : share);
};
const fromScreen = (place, axis, size) => {
  const share = place / size;
  return limits[axis][0] + (limits[axis][1] - limits[axis][0]) * (axis ? 1 - share : share);
};

const drawMap = responsive($("map"), (context, width, height) => {
  if (!points) return;
  context.clearRect(0, 0, width, height);
  context.strokeStyle = colourOf("--line");
  context.lineWidth = 1;
  [0, 1].forEach((axis) => {
    const zero = toScreen(0, axis, axis ? height : width);
    context.beginPath();
    context.moveTo(axis ? 0 : zero, axis ? zero : 0);
    context.lineTo(axis ? width : zero, axis ? zero : height);
    context.stroke();
  });
  context.globalAlpha = 0.75;
  for (let i = 0; i < images.count; i++) {
    context.fillStyle = labelOf(i) === null ? colourOf("--accent") : classColour(labelOf(i));
    context.beginPath();
    context.arc(toScreen(points[0][i], 0, width), toScreen(points[1][i], 1, height), 3, 0, 7);
    context.fill();
  }
  context.globalAlpha = 1;
  const [x, y] = selects.map((select, axis) => toScreen(project(state.z, AXES[select.value]), axis, axis ? height : width));
  for (const [colour, line] of [["--card", 5], ["--ink", 2]]) {
    context.strokeStyle = colourOf(colour);
    context.lineWidth = line;
    context.beginPath();
    context.arc(x, y, 8, 0, 7);
    context.moveTo(x - 13, y); context.lineTo(x - 4, y); context.moveTo(x + 4, y); context.lineTo(x + 13, y);
    context.moveTo(x, y - 13); context.lineTo(x, y - 4); context.moveTo(x, y + 4); context.lineTo(x, y + 13);
    context.stroke();
  }
});

/** The code with given coordinates along both axes, and the rest of the present one. */
function codeAt(target) {
  const [a, b] = selects.map((select) => AXES[select.value].direction);
  const inner = (u, v) => sum(Float64Array.from(u, (w, i) => w * v[i]));
  const change = selects.map((select, axis) => target[axis] - project(state.z, AXES[select.value]));
  const [aa, ab, bb] = [inner(a, a), inner(a, b), inner(b, b)], determinant = aa * bb - ab * ab;
  if (determinant < 1e-9 * aa * bb) return Float64Array.from(state.z, (v, i) => v + (change[0] / aa) * a[i]);
  const s = (bb * change[0] - ab * change[1]) / determinant, t = (aa * change[1] - ab * change[0]) / determinant;
  return Float64Array.from(state.z, (v, i) => v + s * a[i] + t * b[i]);
}

function nearestImage(x, y, width, height) {
  let best = -1, distance = Infinity;
  for (let i = 0; i < images.count; i++) {
    const d = Math.hypot(toScreen(points[0][i], 0, width) - x, toScreen(points[1][i], 1, height) - y);
    if (d < distance) [best, distance] = [i, d];
  }
  return { best, distance };
}

const onMap = (event) => {
  const box = $("map").getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top, box.width, box.height];
};
const pointAt = (event) => {
  const [x, y, width, height] = onMap(event);
  move(codeAt([fromScreen(x, 0, width), fromScreen(y, 1, height)]), "place on the map");
};
// Hovering previews a place, and leaving the map returns to the state before; a click or a drag stays.
let before = null, clicked = false;
$("map").addEventListener("pointermove", (event) => {
  if (clicked && !event.buttons) return;
  if (!clicked) before = before || { ...state };
  pointAt(event);
});
$("map").addEventListener("pointerleave", () => {
  if (before) show(before);
  [before, clicked] = [null, false];
});
$("map").addEventListener("pointerdown", (event) => {
  const { best, distance } = nearestImage(...onMap(event));
  [before, clicked] = [null, true];
  if (distance < 8) select(best);
  else pointAt(event);
});
$("map").addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  const place = selects.map((select) => project(state.z, AXES[select.value]));
  if (steps) move(codeAt(place.map((v, k) => v + (steps[k] * (limits[k][1] - limits[k][0])) / 50)), "place on the map");
  if (event.key === "Enter") select(nearestImage(toScreen(place[0], 0, 1), toScreen(place[1], 1, 1), 1, 1).best);
  if (steps || event.key === "Enter") event.preventDefault();
});
const known = images.labels ? [...new Set(images.labels.filter((label) => label >= 0))].sort((a, b) => a - b) : [];
for (const label of known) add($("legend"), "span", {}, `class ${label}`).style.setProperty("--colour", classColour(label));
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  [...$("legend").children].forEach((entry, k) => entry.style.setProperty("--colour", classColour(known[k])));
});
listeners.push(() => drawMap());
place();

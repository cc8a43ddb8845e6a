// The canvas for drawing an image of one channel, and the start of the page.

const [channels, HEIGHT, WIDTH] = SHAPE, canvas = $("draw"), ink = new Float64Array(SIZE);
const RADIUS = Math.max(0.7, 0.045 * Math.min(HEIGHT, WIDTH));
let cursor = [Math.floor(HEIGHT / 2), Math.floor(WIDTH / 2)], showCursor = false, stroke = null;

/** Add ink, or remove it, within a radius of a place, in pixels of the image; soft at the rim. */
function dab(row, column) {
  const erase = $("erase").getAttribute("aria-pressed") === "true";
  for (let i = 0; i < HEIGHT; i++) {
    for (let j = 0; j < WIDTH; j++) {
      const strength = Math.min(1, Math.max(0, RADIUS + 0.5 - Math.hypot(i + 0.5 - row, j + 0.5 - column)));
      const at = i * WIDTH + j;
      ink[at] = erase ? Math.min(ink[at], 1 - strength) : Math.max(ink[at], strength);
    }
  }
}

function line([a, b], [c, d]) {
  const count = Math.max(1, Math.ceil(2 * Math.hypot(c - a, d - b)));
  for (let k = 1; k <= count; k++) dab(a + ((c - a) * k) / count, b + ((d - b) * k) / count);
}

function showDrawing() {
  paint(canvas, ink, SHAPE);
  if (!showCursor) return;
  const context = canvas.getContext("2d");
  context.fillStyle = colourOf("--accent");
  context.fillRect(cursor[1], cursor[0], 1, 1);
}

function drawn() {
  showDrawing();
  encode(asData(ink), "your drawing");
}

const onDrawing = (event) => {
  const box = canvas.getBoundingClientRect();
  return [((event.clientY - box.top) / box.height) * HEIGHT, ((event.clientX - box.left) / box.width) * WIDTH];
};
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  stroke = onDrawing(event);
  dab(...stroke);
  drawn();
});
canvas.addEventListener("pointermove", (event) => {
  if (!stroke) return;
  const next = onDrawing(event);
  line(stroke, next);
  stroke = next;
  drawn();
});
for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { stroke = null; });
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!step && event.key !== " ") return;
  event.preventDefault();
  if (step) {
    cursor = [(cursor[0] + step[0] + HEIGHT) % HEIGHT, (cursor[1] + step[1] + WIDTH) % WIDTH];
    showDrawing();
    return;
  }
  dab(cursor[0] + 0.5, cursor[1] + 0.5);
  drawn();
});
for (const [name, shows] of [["focus", true], ["blur", false]]) {
  canvas.addEventListener(name, () => { showCursor = shows && canvas.matches(":focus-visible"); showDrawing(); });
}

/** Replace the ink, and encode it. */
function setInk(values) {
  ink.set(values);
  drawn();
}

/** The ink with its centre of mass in the middle, as the digits of MNIST. */
function centred() {
  const total = sum(ink), shifted = new Float64Array(SIZE);
  const [di, dj] = [[HEIGHT, (at) => Math.floor(at / WIDTH)], [WIDTH, (at) => at % WIDTH]].map(([size, index]) =>
    Math.round(size / 2 - ink.reduce((t, v, at) => t + v * (index(at) + 0.5), 0) / (total || 1)));
  for (let i = 0; i < HEIGHT; i++) {
    for (let j = 0; j < WIDTH; j++) {
      const [r, c] = [i - di, j - dj];
      if (r >= 0 && r < HEIGHT && c >= 0 && c < WIDTH) shifted[i * WIDTH + j] = ink[r * WIDTH + c];
    }
  }
  return shifted;
}
$("clear").onclick = () => setInk(new Float64Array(SIZE));
$("centre").onclick = () => { if (sum(ink)) setInk(centred()); };
$("copy").onclick = () => setInk(state.exact ? state.x : asData(model.decode(state.z, state.y)));
$("erase").onclick = () => {
  $("erase").setAttribute("aria-pressed", String($("erase").getAttribute("aria-pressed") !== "true"));
};
$("draw-panel").hidden = channels !== 1;

// Start
new IntersectionObserver(([entry]) => { $("preview").hidden = entry.isIntersecting; }).observe($("decoded-image"));
$("title").textContent = page.title;
$("caption").textContent = page.caption;
$("footer").textContent = `Written by pyro_vae ${page.version}. The model runs in this page; nothing is loaded or sent. `
  + "Matrices are stored in half precision.";
showTemperature();
$("fraction-value").textContent = "0.00";
showDrawing();
select(0);
$("set-a").click();
select(Math.min(images.count - 1, 1));
$("set-b").click();
select(0);

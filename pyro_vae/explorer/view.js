// Elements and canvases of the page.

const $ = (id) => document.getElementById(id);
// Okabe and Ito's colours, as in the figures of pyro_vae; black is the colour of the text.
const PALETTE = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#C9BC00", "", "#999999", "#882255"];
const SPACE = 0.08; // between the images of a strip, of their width

const signed = (value, digits) => value.toFixed(digits).replace("-", "\u2212");
const colourOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const classColour = (label) => PALETTE[label % PALETTE.length] || colourOf("--ink");

/** A new element with properties, within a parent. */
function add(parent, tag, properties = {}, text = "") {
  const element = document.createElement(tag);
  Object.assign(element, properties);
  if (text) element.textContent = text;
  parent.append(element);
  return element;
}

/** A labelled slider that calls change(value) on input; returns set(value). */
function slider(parent, name, note, { min, max, step }, change) {
  const row = add(parent, "div", { className: "slider" }), id = `${parent.id}-${name}`.replace(/\W+/g, "-");
  const label = add(row, "label", { htmlFor: id }, name);
  if (note) add(label, "small", {}, ` ${note}`);
  const input = add(row, "input", { id, type: "range", min, max, step });
  const output = add(row, "output", { htmlFor: id });
  input.addEventListener("input", () => change(Number(input.value)));
  return (value) => {
    input.value = value;
    output.textContent = signed(value, 2);
    input.setAttribute("aria-valuetext", signed(value, 2));
  };
}

/** RGBA pixels of an image, channels first, values clamped to [0, 1]. */
function pixelsOf(x, [channels, height, width]) {
  const data = new ImageData(width, height), size = height * width;
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < 3; c++) {
      data.data[4 * i + c] = Math.round(255 * Math.min(Math.max(x[(channels === 3 ? c : 0) * size + i], 0), 1));
    }
    data.data[4 * i + 3] = 255;
  }
  return data;
}

/** Show an image, or with null an empty canvas. */
function paint(canvas, x, shape) {
  [canvas.height, canvas.width] = shape.slice(1);
  const context = canvas.getContext("2d");
  if (x) context.putImageData(pixelsOf(x, shape), 0, 0);
}

/** The place of one image of a strip. */
function placeOf(index, [, , width]) {
  return index * (width + Math.max(1, Math.round(SPACE * width)));
}

/** Make the canvas of a strip of images. */
function layStrip(canvas, count, shape) {
  canvas.width = placeOf(count - 1, shape) + shape[2];
  canvas.height = shape[1];
}

/** The index of the image of a strip at a pointer event. */
function indexAt(event, canvas, count) {
  const box = canvas.getBoundingClientRect();
  return Math.min(count - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * count)));
}

/** A canvas that follows the size of its element; draw(context, width, height) in CSS pixels. */
function responsive(canvas, draw) {
  const redraw = () => {
    const { clientWidth: width, clientHeight: height } = canvas, ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw(context, width, height);
  };
  new ResizeObserver(redraw).observe(canvas);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  return redraw;
}

/** Work in slices of time: each new start replaces the work before. */
function slices(budget) {
  let current = 0;
  return (steps) => {
    const number = ++current, iterator = steps[Symbol.iterator]();
    const next = () => {
      if (number !== current) return;
      const end = performance.now() + budget;
      do { if (iterator.next().done) return; } while (performance.now() < end);
      setTimeout(next);
    };
    setTimeout(next);
  };
}

/** Offer a canvas, enlarged by a whole factor, as a PNG file. */
function savePNG(canvas, name) {
  const factor = Math.max(1, Math.round(280 / canvas.width)), large = document.createElement("canvas");
  large.width = factor * canvas.width;
  large.height = factor * canvas.height;
  const context = large.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(canvas, 0, 0, large.width, large.height);
  large.toBlob((blob) => {
    const url = URL.createObjectURL(blob), link = document.createElement("a");
    Object.assign(link, { href: url, download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  });
}

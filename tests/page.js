// Just enough of a browser for the explorer's page: elements by id, events, animation frames, canvases that record.

class Element {
  constructor(tag, id = "") {
    Object.assign(this, { tag, id, children: [], attributes: {}, handlers: {}, value: "", textContent: "", painted: [] });
    Object.assign(this, { clientWidth: 280, clientHeight: 280, hidden: false, style: { setProperty() {} } });
  }
  append(child) { this.children.push(child); if (this.tag === "select" && this.value === "") this.value = child.value; }
  replaceChildren() { this.children = []; }
  addEventListener(type, handler) { (this.handlers[type] = this.handlers[type] || []).push(handler); }
  setAttribute(name, value) { this.attributes[name] = value; }
  getAttribute(name) { return this.attributes[name] ?? null; }
  setPointerCapture() {}
  matches() { return false; }
  getBoundingClientRect() { return { left: 0, top: 0, width: 280, height: 280 }; }
  getContext() {
    const painted = this.painted;
    return new Proxy({}, {
      get: (_, name) => (...args) => { if (name === "putImageData") painted.push([args[1], [...args[0].data]]); },
      set: () => true,
    });
  }
  click() { this.fire("click"); }
  /** Dispatch an event to the handler property and the listeners. */
  fire(type, event = {}) {
    const whole = { preventDefault() {}, buttons: 0, pointerId: 1, ...event };
    if (this[`on${type}`]) this[`on${type}`](whole);
    for (const handler of this.handlers[type] || []) handler(whole);
  }
  /** Set the value as a user does. */
  enter(value, type = "input") { this.value = String(value); this.fire(type); }
}

const elements = {};
const document = {
  documentElement: new Element("html"),
  createElement: (tag) => new Element(tag),
  getElementById(id) {
    if (!(id in elements)) throw new Error(`no element ${id}`);
    return elements[id];
  },
};
for (const [, tag, id] of TEMPLATE.matchAll(/<(\w+)[^>]* id="([\w-]+)"/g)) elements[id] = new Element(tag, id);
elements.temperature.value = "1";
elements["path-kind"].value = "slerp";
elements.erase.attributes["aria-pressed"] = "false";
elements.content.textContent = CONTENT;
class ResizeObserver { constructor(run) { this.run = run; } observe() { this.run(); } }
class IntersectionObserver { constructor(run) { this.run = run; } observe() { this.run([{ isIntersecting: true }]); } }
class ImageData { constructor(width, height) { this.data = new Uint8ClampedArray(4 * width * height); } }
const window = { devicePixelRatio: 1, matchMedia: () => new Element("media") };
const getComputedStyle = () => ({ getPropertyValue: () => "#000000" });
const requestAnimationFrame = (run) => setTimeout(run) && 1;
const fetch = () => { throw new Error("a request"); };
const XMLHttpRequest = fetch, WebSocket = fetch;
const later = globalThis.setTimeout;
let pending = 0;
globalThis.setTimeout = (run, delay) => {
  pending++;
  return later(() => { try { run(); } finally { pending--; } }, delay);
};
/** Wait until the page has worked through everything that was started. */
const settled = async () => { do await new Promise((go) => later(go, 5)); while (pending > 0); };

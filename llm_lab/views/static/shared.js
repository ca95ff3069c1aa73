/** Pure geometry, numbers and colour for the views. Nothing here touches the page but `el` and `announce`. */

/**
 * Round numbers from low to high, about `count` of them.
 * @param {number} low
 * @param {number} high
 * @param {number} [count]
 * @returns {number[]}
 */
export function ticks(low, high, count = 5) {
  if (!Number.isFinite(low) || !Number.isFinite(high) || high <= low) return Number.isFinite(low) ? [low] : [];
  const rough = (high - low) / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 2.5, 5, 10].find((m) => power * m >= rough * 0.999) ?? 10);
  const first = Math.ceil(low / step - 1e-9);
  const n = Math.floor((high - first * step) / step + 1e-9) + 1;
  return Array.from({ length: n }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/**
 * A tick with the places that its step needs.
 * @param {number} value
 * @param {number} step
 * @returns {string}
 */
export function tickLabel(value, step) {
  let places = 0;
  while (places < 9 && Math.abs(Number(step.toFixed(places)) - step) > 1e-9 * Math.abs(step)) places++;
  return value.toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places }).replace("-", "−");
}

/**
 * Round times in seconds from 0 to high.
 * @param {number} high
 * @param {number} [count]
 * @returns {number[]}
 */
export function timeTicks(high, count = 5) {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];
  if (high <= 5 || high > 86400 * count) return ticks(0, high, count);
  const step = steps.find((s) => high / s <= count + 0.5) ?? 86400;
  return Array.from({ length: Math.floor(high / step + 1e-9) + 1 }, (_, i) => i * step);
}

/**
 * Powers of ten, and their doubles and fives where few, from low to high (both above 0).
 * @param {number} low
 * @param {number} high
 * @returns {number[]}
 */
export function logTicks(low, high) {
  const all = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
    for (const m of [1, 2, 5]) all.push(Number((m * 10 ** e).toPrecision(12)));
  }
  const inside = all.filter((v) => v >= low * 0.999 && v <= high * 1.001);
  return inside.length <= 8 ? inside : inside.filter((v) => /^0*\.?0*1/.test(String(v)));
}

/**
 * A map from [d0, d1] to [r0, r1], linear or logarithmic.
 * @param {[number, number]} domain
 * @param {[number, number]} range
 * @param {boolean} [log]
 * @returns {(value: number) => number}
 */
export function scale([d0, d1], [r0, r1], log = false) {
  const f = log ? (/** @type {number} */ v) => Math.log(Math.max(v, d0)) : (/** @type {number} */ v) => v;
  const span = f(d1) - f(d0) || 1;
  return (value) => r0 + ((r1 - r0) * (f(value) - f(d0))) / span;
}

/**
 * The index of the value in an ascending array that is nearest to x.
 * @param {ArrayLike<number>} sorted
 * @param {number} x
 * @returns {number}
 */
export function nearest(sorted, x) {
  let low = 0;
  let high = sorted.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < x) low = middle;
    else high = middle;
  }
  return Math.abs(sorted[low] - x) <= Math.abs(sorted[high] - x) ? low : high;
}

/**
 * A number with that many significant digits.
 * @param {number} value
 * @param {number} [digits]
 * @returns {string}
 */
export function number(value, digits = 4) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "–" : value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(value)));
  const text =
    size < -4 || size >= 15
      ? value.toExponential(Math.max(digits - 1, 0)).replace(/\.?0*e\+?/, "e")
      : value.toLocaleString("en-US", {
          minimumFractionDigits: Math.max(digits - 1 - size, 0),
          maximumFractionDigits: Math.max(digits - 1 - size, 0),
        });
  return text.replace(/^-/, "−");
}

/**
 * A probability: 0.21, 0.0034, 2.1e-7.
 * @param {number} p
 * @returns {string}
 */
export function probability(p) {
  return p >= 0.9995 ? p.toFixed(4) : p >= 0.01 ? p.toFixed(3) : number(p, 2);
}

/**
 * Seconds as 0:41 or 1:02:33.
 * @param {number} seconds
 * @returns {string}
 */
export function clock(seconds) {
  const whole = Math.round(Math.max(seconds, 0));
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor((whole % 3600) / 60);
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/**
 * How strongly a value of 0 to 1 is inked: a power below one, so that small attention can be seen.
 * @param {number} value
 * @returns {number}
 */
export function ink(value) {
  return Math.min(Math.max(value, 0), 1) ** 0.6;
}

/**
 * RGBA pixels of a map of bytes: one blue, from transparent.
 * @param {Uint8Array} bytes
 * @param {Uint8ClampedArray} pixels four times as long
 */
export function paint(bytes, pixels) {
  for (let i = 0; i < bytes.length; i++) {
    pixels.set([61, 125, 230, Math.round(255 * ink(bytes[i] / 255))], 4 * i);
  }
}

/**
 * Where an arrow key leads in a grid of rows × columns; null for any other key.
 * @param {string} key
 * @param {number} row
 * @param {number} column
 * @param {number} rows
 * @param {number} columns
 * @returns {[number, number] | null}
 */
export function step(key, row, column, rows, columns) {
  const inside = (/** @type {number} */ v, /** @type {number} */ n) => Math.min(Math.max(v, 0), n - 1);
  if (key === "ArrowUp") return [inside(row - 1, rows), column];
  if (key === "ArrowDown") return [inside(row + 1, rows), column];
  if (key === "ArrowLeft") return [row, inside(column - 1, columns)];
  if (key === "ArrowRight") return [row, inside(column + 1, columns)];
  if (key === "Home") return [row, 0];
  if (key === "End") return [row, columns - 1];
  return null;
}

/**
 * The share of a token's ground that is inked, from 0 to 1, by its log-probability in nats.
 * @param {number} logprob
 * @param {string} by surprisal, probability or none
 * @param {number} top bits at which surprisal is inked full
 * @returns {number}
 */
export function tokenInk(logprob, by, top) {
  if (by === "surprisal") return Math.min(Math.max(-logprob / Math.LN2 / top, 0), 1);
  return by === "probability" ? Math.exp(Math.min(logprob, 0)) : 0;
}

/**
 * An element with attributes, text and children.
 * @param {string} tag
 * @param {Record<string, string | number | boolean>} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElement}
 */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children);
  return node;
}

/**
 * An SVG element.
 * @param {string} tag
 * @param {Record<string, string | number>} [attributes]
 * @param {string} [text]
 * @returns {SVGElement}
 */
export function svg(tag, attributes = {}, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  if (text) node.textContent = text;
  return node;
}

/**
 * How a view is worked: a picture that is saved of it goes without.
 * @param {string} text
 * @returns {HTMLElement}
 */
export function howTo(text) {
  return el("span", { class: "lab-muted lab-unsaved" }, text);
}

/**
 * The button that leaves a view that needs no kernel.
 * @param {() => void} freeze
 * @returns {HTMLElement}
 */
export function freezeButton(freeze) {
  const title = "Replace this by a view that needs no kernel and is saved with the notebook";
  const button = el("button", { class: "lab-button", type: "button", title }, "freeze");
  button.addEventListener("click", freeze);
  return button;
}

/**
 * A picture made elsewhere, in a box that scrolls, with how to read it.
 * @param {{ svg: string, alt: string, width: number, height: number, caption: string }} made
 * @returns {HTMLElement}
 */
export function picture({ svg: source, alt, width, height, caption }) {
  const image = el("img", { src: `data:image/svg+xml;charset=utf-8,${encodeURIComponent(source)}`, alt, width, height });
  return el("div", {}, el("div", { class: "lab-scroll", tabindex: 0, role: "group", "aria-label": "tree of beams" }, image), el("div", { class: "lab-muted lab-small" }, caption));
}

import { number, step, el } from "./shared.js";
import { quote } from "./lines.js";

const BLUE = "rgb(61, 125, 230)";
const ORANGE = "rgb(224, 123, 26)";

/** Signed numbers as bars: up and blue, or down and orange. @param {number[]} values @param {number} far */
function barsOf(values, far) {
  const [thick, half] = [Math.max(Math.floor(300 / values.length), 3), 22];
  const canvas = /** @type {HTMLCanvasElement} */ (el("canvas", { class: "lab-bars", width: thick * values.length, height: 2 * half + 2, "aria-hidden": "true" }));
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.fillStyle = "rgba(128, 128, 128, 0.6)";
  context.fillRect(0, half, canvas.width, 1);
  values.forEach((value, i) => {
    const tall = Math.round((half * Math.abs(value)) / far);
    context.fillStyle = value >= 0 ? BLUE : ORANGE;
    context.fillRect(thick * i, value >= 0 ? half - tall : half + 1, thick - 1, tall);
  });
  return canvas;
}

/**
 * A query times keys, number by number: bars of q, of every key and of their products, with what they come to.
 * @param {{ own: number[], listed: { key: number, weight: number, k: number[] }[], names: string[], keyNames: string[],
 *   query: number, scale: number, says: HTMLElement }} given
 */
function productsOf({ own, listed, names, keyNames, query, scale, says }) {
  const width = own.length;
  const farthest = (/** @type {number[][]} */ some) => Math.max(...some.flat().map(Math.abs), 1e-9);
  const products = listed.map(({ k }) => k.map((v, i) => v * own[i]));
  const [farQuery, farKey, farProduct] = [[own], listed.map(({ k }) => k), products].map(farthest);
  const bars = (/** @type {number[]} */ values, /** @type {number} */ far) => el("td", { class: "lab-left" }, barsOf(values, far));
  /** @type {HTMLElement[]} */ const lines = listed.map(({ key, weight, k }, n) => {
    const share = el("td", {}, weight.toFixed(3));
    const end = `${100 * weight}%`;
    share.style.background = `linear-gradient(to right, rgba(61, 125, 230, 0.22) ${end}, transparent ${end})`;
    const score = products[n].reduce((a, b) => a + b, 0) * scale;
    return el("tr", {}, el("td", { class: "lab-left lab-mono lab-clip" }, el("bdi", {}, keyNames[key])), el("td", {}, String(key)), bars(k, farKey), bars(products[n], farProduct), el("td", {}, number(score, 3)), share);
  });
  const scope = (/** @type {string} */ name, /** @type {number} */ i) => el("th", { scope: "col", class: i === 0 || i === 2 || i === 3 ? "lab-left" : false }, name);
  const head = el("tr", {}, ...["key", "", "k", "q × k", "score", "attention"].map(scope));
  const first = el("tr", {}, el("td", { class: "lab-left lab-mono lab-clip" }, el("bdi", {}, names[query])), el("td", {}, "q"), bars(own, farQuery), el("td"), el("td"), el("td"));
  const table = el("table", { class: "lab-table lab-products", tabindex: 0, "aria-label": `Query ${query} times each key, ${width} numbers. Arrow keys read single ones.` }, el("thead", {}, head), el("tbody", {}, first, ...lines));
  /** @type {[number, number] | null} */ let read = null;
  /** @param {number} n @param {number} i */
  function spell(n, i) {
    read = [n, i];
    lines.forEach((line, m) => line.classList.toggle("lab-lit", m === n));
    const { key, k } = listed[n];
    says.replaceChildren(`number ${i} of key ${key} “`, quote(keyNames[key]), `”: q ${number(own[i], 3)} × k ${number(k[i], 3)} = `, el("b", {}, number(products[n][i], 3)));
  }
  table.addEventListener("pointermove", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    const n = lines.findIndex((line) => line.contains(target));
    if (n < 0 || target.tagName !== "CANVAS") return;
    const box = target.getBoundingClientRect();
    spell(n, Math.min(Math.max(Math.floor(((event.clientX - box.left) / box.width) * width), 0), width - 1));
  });
  table.addEventListener("keydown", (event) => {
    const to = step(event.key, read?.[0] ?? 0, read?.[1] ?? -1, lines.length, width);
    if (!to) return;
    event.preventDefault();
    event.stopPropagation();
    spell(to[0], Math.max(to[1], 0));
  });
  return table;
}

export { productsOf };

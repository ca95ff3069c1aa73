import { number, ink, el, howTo } from "./shared.js";

/**
 * One token's way through a model: a layer and a head are chosen, and every step shows its numbers.
 * @typedef {{ key: string, title: string, formula: string, words: string, per: string, over: string, shares: boolean,
 *   length: number, first: number }} Step
 * @typedef {{ get(name: string): any }} Model
 */

const THICK = 18;

/** Halves as numbers (there is no Float16Array everywhere yet). @param {number} bits */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : (fraction / 1024) * 2 ** -14);
}

/**
 * @param {{ model: Model, el: HTMLElement }} context
 */
function render({ model, el: root }) {
  root.classList.add("llm-lab");
  const steps = /** @type {Step[]} */ (model.get("steps"));
  const layers = /** @type {number[]} */ (model.get("layers"));
  const heads = model.get("heads");
  const view = /** @type {DataView} */ (model.get("values"));
  const tokens = /** @type {string[]} */ (model.get("tokens"));
  const names = { tokens: model.get("names"), source: model.get("source"), candidates: model.get("candidates") };
  const at = { layer: layers.indexOf(model.get("layer")), head: model.get("head") };

  /** The numbers of a step. @param {Step} step */
  function numbers(step) {
    const block = step.per === "head" ? at.layer * heads + at.head : step.per === "layer" ? at.layer : 0;
    return Array.from({ length: step.length }, (_, i) => half(view.getUint16(2 * (step.first + block * step.length + i), true)));
  }

  /** @param {number[]} values */
  function strip(values) {
    const far = Math.max(...values.map(Math.abs), 1e-12);
    const canvas = /** @type {HTMLCanvasElement} */ (el("canvas", { width: values.length, height: 1, "aria-hidden": "true" }));
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const image = context.createImageData(values.length, 1);
    values.forEach((v, i) => image.data.set([...(v >= 0 ? [61, 125, 230] : [224, 123, 26]), Math.round(255 * ink(Math.abs(v) / far))], 4 * i));
    context.putImageData(image, 0, 0);
    const length = Math.sqrt(values.reduce((sum, v) => sum + v * v, 0));
    const says = el("div", { class: "lab-muted lab-small", "aria-live": "polite" });
    const rest = () => (says.textContent = `${values.slice(0, 6).map((v) => number(v, 3)).join(", ")}${values.length > 6 ? `, … (${values.length} numbers)` : ""}   |x| = ${number(length, 4)}`);
    const box = el("div", { class: "lab-strip", tabindex: 0, role: "group", "aria-label": `${values.length} numbers. Arrow keys read single ones.` }, canvas);
    box.style.height = `${THICK}px`;
    const mark = el("div", { class: "lab-strip-mark", hidden: true });
    box.append(mark);
    let i = -1;
    const point = (/** @type {number} */ to) => {
      i = to;
      mark.hidden = to < 0;
      if (to < 0) return rest();
      mark.style.left = `${(100 * (to + 0.5)) / values.length}%`;
      return (says.textContent = `number ${to}: ${number(values[to], 4)}`);
    };
    box.addEventListener("pointermove", (event) => {
      const area = box.getBoundingClientRect();
      point(Math.min(Math.max(Math.floor(((event.clientX - area.left) / area.width) * values.length), 0), values.length - 1));
    });
    box.addEventListener("pointerleave", () => point(-1));
    box.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9 }[event.key];
      if (!by && event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      point(by ? Math.min(Math.max(i + by, 0), values.length - 1) : -1);
    });
    rest();
    return [box, says];
  }

  /** What of a step is listed: the largest, in the order of the text. @param {Step} step @param {number[]} values */
  function listed(step, values) {
    const every = values.map((_, i) => i);
    if (step.over === "candidates") return every;
    const other = step.key.endsWith("scores") ? steps.find((s) => s.key === step.key.replace("scores", "pattern")) : null;
    const weights = other ? numbers(other) : values;
    return every.sort((a, b) => weights[b] - weights[a] || a - b).slice(0, model.get("listed")).filter((i) => Number.isFinite(values[i])).sort((a, b) => a - b);
  }

  /** @param {Step} step @param {number[]} values */
  function list(step, values) {
    const order = listed(step, values);
    const top = Math.max(...order.map((i) => values[i]), 1e-12);
    const rows = order.map((i) => {
      const name = step.over === "experts" ? `expert ${i}` : names[/** @type {"tokens"} */ (step.over)][i];
      const cell = el("td", {}, number(values[i], 4));
      const end = `${(100 * Math.max(values[i], 0)) / top}%`;
      if (step.shares) cell.style.background = `linear-gradient(to right, rgba(61, 125, 230, 0.22) ${end}, transparent ${end})`;
      return el("tr", {}, el("td", { class: "lab-left lab-mono" }, el("bdi", {}, name)), el("td", {}, step.over === "tokens" || step.over === "source" ? String(i) : ""), cell);
    });
    const more = values.filter((v) => v > -Infinity).length - order.length;
    return [el("table", { class: "lab-table lab-listed" }, el("tbody", {}, ...rows)), ...(more > 0 ? [el("div", { class: "lab-muted lab-small" }, `and ${more} more`)] : [])];
  }

  const text = el("div", { class: "lab-mono lab-walked" });
  const begin = model.get("start");
  tokens.slice(begin, begin + model.get("around")).forEach((token, i) => {
    text.append(el("bdi", { class: begin + i === model.get("position") ? "lab-token lab-followed" : "lab-token" }, token));
  });
  if (begin) text.prepend("…");
  if (begin + model.get("around") < tokens.length) text.append("…");

  const body = el("div", {});
  function draw() {
    body.replaceChildren(
      ...steps.map((step) => {
        const values = numbers(step);
        const words = el("div", { class: "lab-step-words" }, el("b", {}, step.title), el("div", { class: "lab-mono lab-small" }, step.formula));
        if (step.words) words.append(el("div", { class: "lab-muted lab-small" }, step.words));
        return el("div", { class: "lab-step" }, words, el("div", { class: "lab-step-numbers" }, ...(step.over === "numbers" ? strip(values) : list(step, values))));
      }),
    );
  }

  /** @param {string} label @param {[number, string][]} options @param {number} now @param {(value: number) => void} choose */
  function choice(label, options, now, choose) {
    const select = /** @type {HTMLSelectElement} */ (el("select", {}));
    for (const [value, name] of options) select.append(el("option", { value, selected: value === now }, name));
    select.addEventListener("change", () => {
      choose(Number(select.value));
      draw();
    });
    return el("label", {}, label, select);
  }
  const every = (/** @type {number} */ n) => /** @type {[number, string][]} */ (Array.from({ length: n }, (_, i) => [i, String(i)]));
  root.append(
    text,
    el("div", { class: "lab-bar" },
      choice("layer", layers.map((layer, i) => /** @type {[number, string]} */ ([i, String(layer)])), at.layer, (i) => (at.layer = i)),
      choice("head", every(heads), at.head, (i) => (at.head = i)),
      howTo("Point at a strip, or focus it and use the arrow keys, to read its numbers."),
    ),
    body,
  );
  draw();
}

export default { render };

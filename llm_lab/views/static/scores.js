import { number, el, howTo } from "./shared.js";

/**
 * A text shaded by numbers, one method at a time: pointing at a token, or the arrow keys, read its numbers by every method.
 * @typedef {{ get(name: string): any }} Model
 */

const INK = 0.62;

/**
 * @param {{ model: Model, el: HTMLElement }} context
 */
function render({ model, el: root }) {
  root.classList.add("llm-lab");
  const text = /** @type {string[]} */ (model.get("text"));
  const names = /** @type {string[]} */ (model.get("names"));
  const methods = /** @type {string[]} */ (model.get("methods"));
  const scales = /** @type {number[]} */ (model.get("scales"));
  const view = /** @type {DataView} */ (model.get("values"));
  const rtl = new Set(/** @type {number[]} */ (model.get("rtl")));
  let method = 0;
  let at = -1;
  const valueOf = (/** @type {number} */ m, /** @type {number} */ t) => view.getFloat32(4 * (m * text.length + t), true);

  const spans = text.map((shown, t) => {
    const span = el("span", { class: "lab-token", "data-t": t }, shown);
    if (rtl.has(t)) span.dir = "auto";
    return span;
  });
  const box = el("div", { class: "lab-text", tabindex: 0, role: "group", "aria-label": `${text.length} tokens. Left and right arrow keys read single tokens.` }, ...spans, model.get("cut") ? "…" : "");
  const detail = el("div", { class: "lab-detail lab-small", "aria-live": "polite" });

  function shade() {
    spans.forEach((span, t) => {
      const value = valueOf(method, t);
      const level = scales[method] ? Math.min(Math.abs(value) / scales[method], 1) : 0;
      span.style.background = level > 0.04 ? `rgba(${value >= 0 ? "61, 125, 230" : "224, 123, 26"}, ${(level * INK).toFixed(2)})` : "none";
    });
  }

  /** @param {number} t */
  function choose(t) {
    spans[at]?.classList.remove("lab-chosen");
    at = t;
    spans[t]?.classList.add("lab-chosen");
    if (t < 0) {
      detail.replaceChildren(howTo("Point at a token, or use the arrow keys, to read it."), ...most());
      return;
    }
    const list = el("dl");
    methods.forEach((name, m) => list.append(el("dt", {}, methods.length > 1 ? name : model.get("quantity")), el("dd", {}, number(valueOf(m, t), 4))));
    list.append(el("dt", {}, "position"), el("dd", {}, String(t)));
    detail.replaceChildren(el("div", {}, "“", el("bdi", { class: "lab-mono" }, names[t]), "”"), list);
  }

  /** The tokens with the largest numbers. */
  function most() {
    const order = spans.map((_, t) => t).filter((t) => Number.isFinite(valueOf(method, t)));
    const size = (/** @type {number} */ t) => (model.get("signed") ? Math.abs(valueOf(method, t)) : valueOf(method, t));
    order.sort((a, b) => size(b) - size(a) || a - b);
    const list = el("dl");
    for (const t of order.slice(0, 6)) list.append(el("dt", { class: "lab-mono" }, el("bdi", {}, `${names[t]} `), el("span", { class: "lab-muted" }, String(t))), el("dd", {}, number(valueOf(method, t), 3)));
    return [list];
  }

  const token = (/** @type {Event} */ event) => /** @type {HTMLElement | null} */ (/** @type {HTMLElement} */ (event.target).closest(".lab-token"));
  box.addEventListener("pointerover", (event) => {
    const span = token(event);
    if (span) choose(Number(span.dataset.t));
  });
  box.addEventListener("pointerleave", () => choose(-1));
  box.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9 }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey || (!by && event.key !== "Escape")) return;
    event.preventDefault();
    event.stopPropagation();
    choose(by ? Math.min(Math.max(at + by, 0), spans.length - 1) : -1);
  });

  if (methods.length > 1) {
    const select = /** @type {HTMLSelectElement} */ (el("select", {}));
    methods.forEach((name, m) => select.append(el("option", { value: m }, name)));
    select.addEventListener("change", () => {
      method = Number(select.value);
      shade();
      choose(at);
    });
    root.append(el("div", { class: "lab-bar" }, el("label", {}, "shaded by", select)));
  }
  const ramp = el("span", { class: "lab-ramp" });
  const orange = model.get("signed") ? [`rgba(224, 123, 26, ${INK})`] : [];
  ramp.style.background = `linear-gradient(to right, ${[...orange, "transparent", `rgba(61, 125, 230, ${INK})`].join(", ")})`;
  const legend = el("div", { class: "lab-muted lab-small" }, model.get("signed") ? "below zero " : "0 ", ramp, ` the largest ${model.get("quantity")} of the text`);
  root.append(el("div", { class: "lab-side" }, el("div", { class: "lab-texts" }, box, legend), detail));
  shade();
  choose(-1);
}

export default { render };

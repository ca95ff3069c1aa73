import { number, paint, step, ink, el, freezeButton } from "./shared.js";

/**
 * All heads as small maps, one enlarged. Works alone on 8-bit maps; where a kernel answers, it asks for exact values.
 * @typedef {{ get(name: string): any, set(name: string, value: any): void, on(name: string, f: Function): void,
 *   off(name: string, f: Function): void, save_changes(): void, send(message: any): void }} Model
 */

const SIDE = 360;

/** @param {Uint8Array} bytes @param {number} side */
function canvasOf(bytes, side) {
  const canvas = /** @type {HTMLCanvasElement} */ (el("canvas", { width: side, height: side, "aria-hidden": "true" }));
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(side, side);
  paint(bytes, image.data);
  context.putImageData(image, 0, 0);
  return canvas;
}

/**
 * @param {{ model: Model, el: HTMLElement }} context
 * @returns {() => void} clean-up
 */
function render({ model, el: root }) {
  root.classList.add("llm-lab");
  const layers = model.get("layers");
  const heads = model.get("heads");
  const side = model.get("side");
  const names = /** @type {string[]} */ (model.get("tokens"));
  const facts = model.get("facts");
  const asks = Boolean(model.get("asks"));
  const view = model.get("maps");
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  const T = names.length;
  const exact = side === T;
  const at = { layer: model.get("layer"), head: model.get("head") };
  /** @type {[number, number] | null} */ let cell = null;
  let question = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ let timer;

  /** @param {number} layer @param {number} head */
  const mapOf = (layer, head) => bytes.subarray((layer * heads + head) * side * side, (layer * heads + head + 1) * side * side);

  // the grid of heads
  const tile = Math.min(Math.max(Math.floor(400 / heads) - 6, 18), 56);
  const body = el("tbody");
  /** @type {HTMLElement[][]} */ const buttons = [];
  for (let layer = 0; layer < layers; layer++) {
    const row = el("tr", {}, el("th", { scope: "row" }, `layer ${layer}`));
    buttons.push([]);
    for (let head = 0; head < heads; head++) {
      const button = el("button", { class: "lab-head", type: "button", tabindex: -1, "data-layer": layer, "data-head": head });
      button.setAttribute("aria-label", `layer ${layer} head ${head}`);
      button.title = `layer ${layer} · head ${head}`;
      button.style.width = button.style.height = `${tile + 2}px`;
      button.append(canvasOf(mapOf(layer, head), side));
      buttons[layer].push(button);
      row.append(el("td", {}, button));
    }
    body.append(row);
  }
  const titles = Array.from({ length: heads }, (_, head) => el("th", { scope: "col" }, tile > 44 ? `head ${head}` : String(head)));
  const grid = el("table", { "aria-label": "heads" }, el("thead", {}, el("tr", {}, el("td"), ...titles)), body);
  grid.addEventListener("click", (event) => {
    const button = /** @type {HTMLElement | null} */ (/** @type {HTMLElement} */ (event.target).closest("button.lab-head"));
    if (button) show(Number(button.dataset.layer), Number(button.dataset.head), true);
  });
  grid.addEventListener("keydown", (event) => {
    const to = step(event.key, at.layer, at.head, layers, heads);
    if (!to) return;
    event.preventDefault();
    event.stopPropagation();
    show(to[0], to[1], true);
  });

  // the enlarged head
  const labelled = T <= model.get("labelled");
  const size = labelled ? Math.max(Math.min(Math.floor(SIDE / T), 26), 6) : SIDE / T;
  const cells = el("div", { class: "lab-cells", tabindex: 0, role: "img" });
  cells.style.width = cells.style.height = `${size * T}px`;
  const frame = el("div", { class: "lab-cursor-cell", hidden: true });
  const keys = el("div", { class: "lab-keys", "aria-hidden": "true" });
  const rows = el("div", { class: "lab-rows", "aria-hidden": "true" });
  if (labelled) {
    for (const name of names) {
      const key = el("bdi", { class: "lab-name" }, name);
      const query = el("bdi", { class: "lab-name" }, name);
      key.style.width = key.style.lineHeight = query.style.height = query.style.lineHeight = `${size}px`;
      key.style.fontSize = query.style.fontSize = `${Math.min(11, size)}px`;
      key.style.flex = "none";
      query.style.display = "block";
      query.style.maxWidth = "110px";
      keys.append(key);
      rows.append(query);
    }
  } else {
    keys.append(el("span", { class: "lab-muted lab-small" }, `keys: ${T} tokens →`));
    rows.append(el("span", { class: "lab-muted lab-small" }, "queries ↓"));
  }
  const map = el("div", { class: "lab-map" }, el("div"), keys, rows, cells);
  const title = el("div", { class: "lab-small" });
  const says = el("div", { class: "lab-value", "aria-live": "polite" });

  /** @param {number} q @param {number} k @param {string} value */
  function tell(q, k, value) {
    const quote = (/** @type {number} */ i) => el("bdi", { class: "lab-mono" }, names[i]);
    says.replaceChildren(`query ${q} “`, quote(q), `” reads from key ${k} “`, quote(k), "”: ", el("b", {}, value));
  }

  /** @param {[number, number] | null} to */
  function point(to) {
    cell = to;
    frame.hidden = !to;
    [...keys.children].forEach((name, i) => labelled && name.classList.toggle("lab-lit", i === to?.[1]));
    [...rows.children].forEach((name, i) => labelled && name.classList.toggle("lab-lit", i === to?.[0]));
    clearTimeout(timer);
    if (!to) {
      says.replaceChildren(el("span", { class: "lab-muted" }, "Point at a cell, or focus the map and use the arrow keys, to read its value."));
      return;
    }
    const [q, k] = to;
    Object.assign(frame.style, { left: `${k * size}px`, top: `${q * size}px`, width: `${size}px`, height: `${size}px` });
    if (model.get("causal") && k > q) {
      tell(q, k, "none, it comes later");
      return;
    }
    const r = Math.min(Math.floor((q * side) / T), side - 1);
    const c = Math.min(Math.floor((k * side) / T), side - 1);
    const value = mapOf(at.layer, at.head)[r * side + c] / 255;
    const fine = model.get("levels") === 255 ? 0.002 : 0.033;
    const error = exact ? ` ± ${fine}` : ` at most, of ${Math.ceil(T / side)} × ${Math.ceil(T / side)} cells`;
    tell(q, k, value.toFixed(fine < 0.01 ? 3 : 2) + error);
    if (asks) {
      const id = ++question;
      timer = setTimeout(() => model.send({ kind: "exact", id, layer: at.layer, head: at.head, q, k }), 40);
    }
  }

  const answer = (/** @type {any} */ message) => {
    if (message?.kind === "exact" && message.id === question && cell) tell(cell[0], cell[1], number(message.value, 4));
  };
  model.on("msg:custom", answer);

  cells.addEventListener("pointermove", (event) => {
    const box = cells.getBoundingClientRect();
    const find = (/** @type {number} */ v) => Math.min(Math.max(Math.floor((v / (size * T)) * T), 0), T - 1);
    const to = /** @type {[number, number]} */ ([find(event.clientY - box.top - 1), find(event.clientX - box.left - 1)]);
    if (!cell || cell[0] !== to[0] || cell[1] !== to[1]) point(to);
  });
  cells.addEventListener("keydown", (event) => {
    const next = step(event.key, cell?.[0] ?? 0, cell?.[1] ?? 0, T, T);
    if (!next && event.key !== "Escape") return;
    const to = next && !cell ? /** @type {[number, number]} */ ([0, 0]) : next;
    event.preventDefault();
    event.stopPropagation();
    point(to);
  });

  /** @param {number} layer @param {number} head @param {boolean} [focus] */
  function show(layer, head, focus = false) {
    const old = buttons[at.layer][at.head];
    old.setAttribute("aria-pressed", "false");
    old.tabIndex = -1;
    Object.assign(at, { layer, head });
    const now = buttons[layer][head];
    now.setAttribute("aria-pressed", "true");
    now.tabIndex = 0;
    if (focus) now.focus();
    const canvas = canvasOf(mapOf(layer, head), side);
    canvas.style.width = canvas.style.height = `${size * T}px`;
    cells.replaceChildren(canvas, frame);
    const [entropy, before, first, itself] = facts[layer][head];
    const text =
      `layer ${layer} · head ${head}: entropy ${number(entropy, 2)} bits, to the previous token ${number(before, 2)}, ` +
      `to the first ${number(first, 2)}, to itself ${number(itself, 2)}`;
    title.textContent = text;
    cells.setAttribute("aria-label", `Attention of ${text}. Arrow keys read single cells.`);
    point(cell);
  }

  const ramp = el("span", { class: "lab-ramp" });
  const stops = Array.from({ length: 11 }, (_, i) => `rgba(61, 125, 230, ${ink(i / 10).toFixed(2)})`);
  ramp.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  const legend = el("div", { class: "lab-muted lab-small" }, "0 ", ramp, " 1 of a query's attention");
  const bar = el("div", { class: "lab-bar" });
  if (asks) {
    bar.append(el("b", {}, model.get("title")), el("span", { class: "lab-muted lab-grow" }, model.get("subtitle")), freezeButton(() => model.send({ kind: "freeze" })));
    root.append(bar);
  }
  const help = el("div", { class: "lab-muted lab-small" }, "Each square is one head: queries down, keys across. Click, or move with the arrow keys.");
  root.append(
    el("div", { class: "lab-side" },
      el("div", { class: "lab-heads" }, grid, help),
      el("div", { class: "lab-big" }, el("div", { class: "lab-scroll" }, map), title, says, legend),
    ),
  );
  show(at.layer, at.head);
  return () => {
    clearTimeout(timer);
    model.off("msg:custom", answer);
  };
}

export default { render };

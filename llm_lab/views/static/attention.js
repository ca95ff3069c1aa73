import { number, paint, step, ink, el, howTo } from "./shared.js";
import { linesOf, quote, TOGETHER } from "./lines.js";
import { productsOf } from "./products.js";

/**
 * All heads as small maps; one of them, or several as one, enlarged as a map, as lines between tokens, or as q·k number by
 * number. Works alone on 8-bit maps; where a kernel answers, it asks for finer ones and for exact values.
 * @typedef {{ get(name: string): any, set(name: string, value: any): void, on(name: string, f: Function): void,
 *   off(name: string, f: Function): void, save_changes(): void, send(message: any): void }} Model
 * @typedef {{ bytes: Uint8Array, down: number, across: number, fine?: boolean }} Cells a map of 0–255
 * @typedef {[number, number]} Head where a layer and a head are held
 */

const SIDE = 360;
const LISTED = 12; // keys whose products are shown
const FILTERS = ["all tokens", "within the first text", "first reads second", "second reads first", "within the second text"];

/** @param {Cells} cells */
function canvasOf({ bytes, down, across }) {
  const canvas = /** @type {HTMLCanvasElement} */ (el("canvas", { width: across, height: down, "aria-hidden": "true" }));
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(across, down);
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
  const layerNumbers = /** @type {number[]} */ (model.get("layers"));
  const headNumbers = /** @type {number[]} */ (model.get("heads"));
  const [layers, heads] = [layerNumbers.length, headNumbers.length];
  const [down, across] = [model.get("down"), model.get("across")];
  const names = /** @type {string[]} */ (model.get("tokens"));
  const keyNames = /** @type {string[]} */ (model.get("source") ?? names);
  const facts = model.get("facts");
  const parts = /** @type {number[] | null} */ (model.get("parts"));
  const between = model.get("between");
  const causal = Boolean(model.get("causal"));
  const asks = Boolean(model.get("asks"));
  const sent = /** @type {string[]} */ (model.get("sent"));
  const bytesOf = (/** @type {string} */ name) => {
    const view = model.get(name);
    return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  };
  const bytes = bytesOf("maps");
  const [T, S] = [names.length, keyNames.length];
  const whole = down === T && across === S;
  const many = Math.max(T, S) > model.get("labelled");
  const at = { layer: model.get("layer"), head: model.get("head") };
  /** @type {Head[]} */ let more = []; // heads that are shown beside that one
  let [what, mode, filter] = ["mean", "map", 0];
  let query = -1; // whose lines or products are shown; -1 for all
  /** @type {[number, number] | null} */ let cell = null;
  let question = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ let timer;
  /** @type {Map<string, any>} */ const answers = new Map(); // of the kernel, by what was asked
  if (sent.includes("fine")) {
    const [rows, columns] = model.get("fine_shape");
    answers.set(`head ${at.layer} ${at.head}`, { bytes: bytesOf("fine"), down: rows, across: columns, fine: true });
  }
  const titleOf = (/** @type {number} */ layer, /** @type {number} */ head) => `layer ${layerNumbers[layer]} · head ${headNumbers[head]}`;

  /** What the kernel answered, or null while it is asked. @param {Record<string, any>} message */
  function ask(message) {
    const key = keyOf(message);
    if (!answers.has(key)) {
      answers.set(key, null);
      model.send(message);
    }
    return answers.get(key);
  }
  const keyOf = (/** @type {any} */ { kind, layer, head, query, how }) => [kind, layer, head, query, how].map((part) => part ?? "").join(" ");

  /** @param {number} layer @param {number} head @returns {Cells} */
  const small = (layer, head) => ({ bytes: bytes.subarray((layer * heads + head) * down * across, (layer * heads + head + 1) * down * across), down, across, fine: model.get("levels") === 255 });
  /** @param {number} layer @param {number} head @returns {Cells} */
  const mapOf = (layer, head) => answers.get(`head ${layer} ${head}`) ?? small(layer, head);

  /** Several maps as one. @param {Head[]} some @param {boolean} most the largest, not the mean @returns {Cells} */
  function joined(some, most) {
    const best = some.map(([layer, head]) => mapOf(layer, head));
    const alike = best.every((one) => one.down === best[0].down && one.across === best[0].across);
    const maps = alike ? best : some.map(([layer, head]) => small(layer, head));
    if (maps.length === 1) return maps[0];
    const made = new Uint8Array(maps[0].bytes.length);
    for (let i = 0; i < made.length; i++) {
      let value = 0;
      for (const one of maps) value = most ? Math.max(value, one.bytes[i]) : value + one.bytes[i];
      made[i] = most ? value : Math.round(value / maps.length);
    }
    return { ...maps[0], bytes: made };
  }

  /** The heads that are chosen, the one with the frame first. @returns {Head[]} */
  const chosen = () => [[at.layer, at.head], ...more];
  const largest = () => what.endsWith("largest");

  /** Whether the filter hides what a query reads of a key. @param {number} q @param {number} k */
  function hides(q, k) {
    const pair = [[1, 1], [1, 2], [2, 1], [2, 2]][filter - 1];
    return Boolean(pair && parts && (parts[q] !== pair[0] || parts[k] !== pair[1]));
  }

  /** What is enlarged, without what the filter hides. @returns {Cells} */
  function current() {
    const wide = what.startsWith("layer") || what.startsWith("all") || what === "rollout";
    const how = what === "rollout" ? what : largest() ? "max" : "mean";
    const layer = what.startsWith("layer") ? at.layer : null;
    const told = wide && asks && !whole ? ask({ kind: "together", how, layer }) : null;
    const every = () => Array.from({ length: layers * heads }, (_, i) => /** @type {Head} */ ([Math.floor(i / heads), i % heads]));
    const found =
      told ? told
      : what === "rollout" ? (sent.includes("rolled") ? { bytes: bytesOf("rolled"), down, across, fine: true } : null)
      : joined(wide ? every().filter(([i]) => layer === null || i === layer) : chosen(), largest());
    if (!found) return { bytes: new Uint8Array(1), down: 1, across: 1 }; // blank while the kernel is asked
    if (!filter || !parts) return found;
    const kept = new Uint8Array(found.bytes);
    for (let r = 0; r < found.down; r++)
      for (let c = 0; c < found.across; c++)
        if (hides(Math.floor((r * T) / found.down), Math.floor((c * S) / found.across))) kept[r * found.across + c] = 0;
    return { ...found, bytes: kept };
  }

  // the grid of heads
  const tile = Math.min(Math.max(Math.floor(400 / heads) - 6, 18), 56);
  const body = el("tbody");
  /** @type {HTMLElement[][]} */ const buttons = [];
  for (let layer = 0; layer < layers; layer++) {
    const row = el("tr", {}, el("th", { scope: "row" }, `layer ${layerNumbers[layer]}`));
    buttons.push([]);
    for (let head = 0; head < heads; head++) {
      const button = el("button", { class: "lab-head", type: "button", tabindex: -1, "data-layer": layer, "data-head": head });
      button.setAttribute("aria-label", titleOf(layer, head).replace(" ·", ""));
      button.title = titleOf(layer, head);
      button.style.width = button.style.height = `${tile + 2}px`;
      button.append(canvasOf(small(layer, head)));
      buttons[layer].push(button);
      row.append(el("td", {}, button));
    }
    body.append(row);
  }
  const titles = headNumbers.map((head) => el("th", { scope: "col" }, tile > 44 ? `head ${head}` : String(head)));
  const grid = el("table", { "aria-label": "heads" }, el("thead", {}, el("tr", {}, el("td"), ...titles)), body);
  grid.addEventListener("click", (event) => {
    const button = /** @type {HTMLElement | null} */ (/** @type {HTMLElement} */ (event.target).closest("button.lab-head"));
    if (!button) return;
    const to = /** @type {Head} */ ([Number(button.dataset.layer), Number(button.dataset.head)]);
    if (event.shiftKey) beside(to);
    else show(...to, true);
  });
  grid.addEventListener("keydown", (event) => {
    const held = /** @type {HTMLElement} */ (event.target).dataset;
    const from = event.shiftKey && held.head ? [Number(held.layer), Number(held.head)] : [at.layer, at.head];
    const to = step(event.key, from[0], from[1], layers, heads);
    if (!to) return;
    event.preventDefault();
    event.stopPropagation();
    // With Shift the arrows walk alone, and Enter takes the head in or leaves it out.
    if (event.shiftKey) buttons[to[0]][to[1]].focus();
    else show(...to, true);
  });

  // the enlarged map
  const size = many ? SIDE / Math.max(T, S) : Math.max(Math.min(Math.floor(SIDE / Math.max(T, S)), 26), 6);
  const cells = el("div", { class: "lab-cells", tabindex: 0, role: "img" });
  cells.style.width = `${size * S}px`;
  cells.style.height = `${size * T}px`;
  const frame = el("div", { class: "lab-cursor-cell", hidden: true });
  const keys = el("div", { class: "lab-keys", "aria-hidden": "true" });
  const rows = el("div", { class: "lab-rows", "aria-hidden": "true" });
  if (many) {
    keys.append(el("span", { class: "lab-muted lab-small" }, `keys: ${S} tokens →`));
    rows.append(el("span", { class: "lab-muted lab-small" }, "queries ↓"));
  } else {
    for (const name of keyNames) {
      const key = el("bdi", { class: "lab-name" }, name);
      key.style.width = key.style.lineHeight = `${size}px`;
      key.style.fontSize = `${Math.min(11, size)}px`;
      key.style.flex = "none";
      keys.append(key);
    }
    for (const name of names) {
      const own = el("bdi", { class: "lab-name" }, name);
      own.style.height = own.style.lineHeight = `${size}px`;
      own.style.fontSize = `${Math.min(11, size)}px`;
      own.style.display = "block";
      own.style.maxWidth = "110px";
      rows.append(own);
    }
  }
  const map = el("div", { class: "lab-map" }, el("div"), keys, rows, cells);
  const other = el("div", { hidden: true });
  const title = el("div", { class: "lab-small" });
  const says = el("div", { class: "lab-value", "aria-live": "polite" });

  /** @param {number} q @param {number} k @param {string} value */
  function tell(q, k, value) {
    says.replaceChildren(`query ${q} “`, quote(names[q]), `” reads from key ${k} “`, quote(keyNames[k]), "”: ", el("b", {}, value));
  }

  /** A weight as a map has it: row r of it holds the queries from ⌊r T / rows⌋ on. @param {Cells} shown @param {number} q @param {number} k */
  function weightIn(shown, q, k) {
    const [r, c] = [Math.ceil(((q + 1) * shown.down) / T) - 1, Math.ceil(((k + 1) * shown.across) / S) - 1];
    return shown.bytes[r * shown.across + c] / 255;
  }

  /** … and how far it may be off. @param {Cells} shown @param {number} q @param {number} k */
  function roughly(shown, q, k) {
    const weight = weightIn(shown, q, k);
    const off = shown.fine ? 0.002 : Number(((2 * Math.sqrt(weight) + 1 / 30) / 30 + 0.002).toFixed(3)); // of 16 values, even in their roots
    const exact = shown.down === T && shown.across === S;
    return weight.toFixed(3) + (exact ? ` ± ${off}` : ` at most, of ${Math.ceil(T / shown.down)} × ${Math.ceil(S / shown.across)} cells`);
  }

  /** @param {[number, number] | null} to */
  function point(to) {
    cell = to;
    frame.hidden = !to;
    if (!many) {
      [...keys.children].forEach((name, i) => name.classList.toggle("lab-lit", i === to?.[1]));
      [...rows.children].forEach((name, i) => name.classList.toggle("lab-lit", i === to?.[0]));
    }
    clearTimeout(timer);
    if (!to) return says.replaceChildren(howTo("Point at a cell, or focus the map and use the arrow keys, to read its value."));
    const [q, k] = to;
    Object.assign(frame.style, { left: `${k * size}px`, top: `${q * size}px`, width: `${size}px`, height: `${size}px` });
    if (causal && k > q) return tell(q, k, "none, it comes later");
    tell(q, k, roughly(drawn, q, k));
    if (asks && what === "mean" && !more.length && !filter) {
      const id = ++question;
      timer = setTimeout(() => model.send({ kind: "exact", id, layer: at.layer, head: at.head, query: q, key: k }), 40);
    }
  }

  const answer = (/** @type {any} */ message, /** @type {DataView[]} */ buffers) => {
    if (message?.kind === "exact" && message.id === question && cell) return tell(cell[0], cell[1], number(message.value, 4));
    const view = buffers?.[0];
    if (!view) return;
    const all = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
    const floats = () => Array.from({ length: view.byteLength / 4 }, (_, i) => view.getFloat32(4 * i, true));
    const shape = { down: message.down, across: message.across, fine: true };
    if (message.kind === "layer") {
      const area = message.down * message.across;
      for (let h = 0; h < heads; h++) answers.set(`head ${message.layer} ${h}`, { bytes: all.subarray(h * area, (h + 1) * area), ...shape });
    } else {
      answers.set(keyOf(message), message.kind === "together" ? { bytes: all, ...shape } : { ...message, values: floats() });
    }
    draw();
  };
  model.on("msg:custom", answer);

  cells.addEventListener("pointermove", (event) => {
    const box = cells.getBoundingClientRect();
    const find = (/** @type {number} */ v, /** @type {number} */ n) => Math.min(Math.max(Math.floor(v / size), 0), n - 1);
    const to = /** @type {[number, number]} */ ([find(event.clientY - box.top - 1, T), find(event.clientX - box.left - 1, S)]);
    if (!cell || cell[0] !== to[0] || cell[1] !== to[1]) point(to);
  });
  cells.addEventListener("keydown", (event) => {
    const next = step(event.key, cell?.[0] ?? 0, cell?.[1] ?? 0, T, S);
    if (!next && event.key !== "Escape") return;
    const to = next && !cell ? /** @type {[number, number]} */ ([0, 0]) : next;
    event.preventDefault();
    event.stopPropagation();
    point(to);
  });

  // lines between tokens
  /** The heads whose lines are drawn, each with the weight of a query for a key; null while the kernel is asked. */
  function strands() {
    if (what !== "mean") return [{ name: "", weight: (/** @type {number} */ q, /** @type {number} */ k) => weightIn(drawn, q, k) }];
    const found = chosen().slice(0, TOGETHER).map(([layer, head]) => {
      const name = titleOf(layer, head);
      const held = mapOf(layer, head);
      if (held.down === T && held.across === S) return { name, weight: (/** @type {number} */ q, /** @type {number} */ k) => weightIn(held, q, k) };
      const told = ask({ kind: "row", layer, head, query });
      return told && { name, weight: (/** @type {number} */ _, /** @type {number} */ k) => told.values[k] };
    });
    return found.every(Boolean) ? found : null;
  }

  function lines() {
    const every = strands();
    if (!every) return el("div", { class: "lab-muted" }, "asking the kernel …");
    const made = linesOf({ strands: every, names, keyNames, query, many, hides, says });
    const left = what === "mean" ? chosen().length - every.length : 0;
    if (left > 0) made.append(el("div", { class: "lab-muted lab-small" }, `and ${left} more that are chosen`));
    return made;
  }

  // q · k, number by number
  const width = model.get("width");
  const vectors = sent.includes("vectors") ? new Int8Array(bytesOf("vectors")) : null;

  /** A query or a key of the head, as the bytes have it. @param {number} which 0 for q, 1 for k @param {number} position */
  function vectorOf(which, position) {
    const held = which ? heads / model.get("shared") : heads;
    const head = which ? Math.floor(at.head / model.get("shared")) : at.head;
    const begin = which ? layers * heads * T * width : 0;
    const first = begin + ((at.layer * held + head) * (which ? S : T) + position) * width;
    const scale = model.get("scales")[which][at.layer][head];
    return Array.from(/** @type {Int8Array} */ (vectors).subarray(first, first + width), (v) => v * scale);
  }

  function products() {
    /** @type {{ key: number, weight: number, k: number[] }[]} */ let listed = [];
    /** @type {number[]} */ let own = [];
    if (vectors) {
      own = vectorOf(0, query);
      const shown = mapOf(at.layer, at.head);
      const weights = keyNames.map((_, k) => weightIn(shown, query, k));
      const order = keyNames.map((_, k) => k).filter((k) => !causal || k <= query).sort((a, b) => weights[b] - weights[a] || a - b);
      listed = order.slice(0, LISTED).sort((a, b) => a - b).map((key) => ({ key, weight: weights[key], k: vectorOf(1, key) }));
    } else {
      const told = ask({ kind: "products", layer: at.layer, head: at.head, query });
      if (!told) return el("div", { class: "lab-muted" }, "asking the kernel …");
      own = told.values.slice(0, width);
      listed = told.keys.map((/** @type {number} */ key, /** @type {number} */ i) => ({ key, weight: told.weights[i], k: told.values.slice((i + 1) * width, (i + 2) * width) }));
    }
    return productsOf({ own, listed, names, keyNames, query, scale: model.get("scale"), says });
  }

  /** @type {Cells} */ let drawn = mapOf(at.layer, at.head);
  function draw() {
    const alone = mode === "products" || (mode === "lines" && !whole);
    if (alone) /** @type {HTMLSelectElement} */ (aggregate.querySelector("select")).value = what = "mean";
    drawn = current();
    const one = mode !== "map" && query < 0 && (mode === "products" || many);
    if (one) asked.value = String((query = T - 1));
    map.hidden = mode !== "map";
    other.hidden = mode === "map";
    queries.hidden = mode === "map";
    aggregate.hidden = alone;
    texts.hidden = !parts || mode === "products";
    if (mode === "map") {
      const canvas = canvasOf(drawn);
      canvas.style.width = `${size * S}px`;
      canvas.style.height = `${size * T}px`;
      cells.replaceChildren(canvas, frame);
      point(cell);
    } else {
      const means = `Each row multiplies the query's numbers with a key's, up and blue above zero; their sum × ${number(model.get("scale"), 3)} is the score, before any bias of position. `;
      if (mode === "products") says.replaceChildren(el("span", { class: "lab-muted" }, means), howTo("Point at a number, or use the arrow keys."));
      other.replaceChildren(mode === "lines" ? lines() : products());
    }
    const [entropy, before, first, itself] = facts[at.layer][at.head];
    const shares = model.get("cross") ? `to the first ${number(first, 2)}` : `to the previous token ${number(before, 2)}, to the first ${number(first, 2)}, to itself ${number(itself, 2)}`;
    let text = `${titleOf(at.layer, at.head)}: entropy ${number(entropy, 2)} bits, ${shares}`;
    const how = largest() ? "largest" : "mean";
    if (what === "rollout") text = `attention rollout through all layers${drawn.down > 1 || T === 1 ? "" : ": asking the kernel …"}`;
    else if (what.startsWith("layer")) text = `layer ${layerNumbers[at.layer]}: the ${how} of its heads`;
    else if (what.startsWith("all")) text = `the ${how} of all heads`;
    else if (mode !== "products" && more.length) text = `${chosen().map(([i, j]) => titleOf(i, j)).join(", ")}${mode === "map" || largest() ? `: their ${how}` : ""}`;
    else if (between) text += `. Of each token's attention: ${["1→1", "1→2", "2→1", "2→2"].map((way, i) => `${way} ${number(between[at.layer][at.head][i], 2)}`).join(", ")}`;
    title.textContent = text;
    cells.setAttribute("aria-label", `Attention of ${text}. Arrow keys read single cells.`);
  }

  /** Frames the head that is enlarged and marks those beside it. */
  function mark() {
    const shown = new Set(chosen().map(([layer, head]) => buttons[layer][head]));
    for (const button of grid.querySelectorAll("button.lab-head")) {
      button.setAttribute("aria-pressed", String(shown.has(/** @type {HTMLElement} */ (button))));
      /** @type {HTMLElement} */ (button).tabIndex = button === buttons[at.layer][at.head] ? 0 : -1;
      button.classList.toggle("lab-beside", shown.has(/** @type {HTMLElement} */ (button)) && button !== buttons[at.layer][at.head]);
    }
    if (asks && !whole) for (const [layer] of chosen()) ask({ kind: "layer", layer });
  }

  /** @param {number} layer @param {number} head @param {boolean} [focus] */
  function show(layer, head, focus = false) {
    Object.assign(at, { layer, head });
    more = [];
    mark();
    if (focus) buttons[layer][head].focus();
    draw();
  }

  /** Take a head to those that are shown together, or leave it out. @param {Head} to */
  function beside([layer, head]) {
    if (layer === at.layer && head === at.head) return;
    const rest = more.filter(([i, j]) => i !== layer || j !== head);
    more = rest.length < more.length ? rest : [...more, [layer, head]];
    mark();
    draw();
  }

  /** @param {string} label @param {[string, string][]} options @param {(value: string) => void} choose */
  function choice(label, options, choose) {
    const select = /** @type {HTMLSelectElement} */ (el("select", {}));
    for (const [value, name] of options) select.append(el("option", { value }, name));
    select.addEventListener("change", () => {
      choose(select.value);
      draw();
    });
    return el("label", {}, label, select);
  }
  const modes = /** @type {[string, string][]} */ ([["map", "map"], ...(whole || asks ? [["lines", "lines"]] : []), ...(vectors || asks ? [["products", "q · k"]] : [])]);
  const rolled = sent.includes("rolled") || (asks && model.get("rolls"));
  const how = /** @type {[string, string][]} */ ([["mean", "what is chosen"], ["largest", "largest of what is chosen"], ["layer mean", "mean of the layer"], ["layer largest", "largest of the layer"], ["all mean", "mean of all heads"], ["all largest", "largest of all heads"], ...(rolled ? [["rollout", "rollout"]] : [])]);
  const aggregate = choice("of", how, (value) => (what = value));
  const each = names.map((name, i) => /** @type {[string, string]} */ ([String(i), `${i} ${name.length > 16 ? `${name.slice(0, 15)}…` : name}`]));
  const queries = choice("query", [["-1", "all"], ...each], (value) => (query = Number(value)));
  const asked = /** @type {HTMLSelectElement} */ (queries.querySelector("select"));
  const texts = choice("texts", FILTERS.map((name, i) => /** @type {[string, string]} */ ([String(i), name])), (value) => (filter = Number(value)));
  const controls = el("div", { class: "lab-bar" }, choice("as", modes, (value) => (mode = value)), aggregate, queries, texts);
  const ramp = el("span", { class: "lab-ramp" });
  const stops = Array.from({ length: 11 }, (_, i) => `rgba(61, 125, 230, ${ink(i / 10).toFixed(2)})`);
  ramp.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  const legend = el("div", { class: "lab-muted lab-small" }, "0 ", ramp, " 1 of a query's attention");
  const help = el("div", { class: "lab-muted lab-small" }, "Each square is one head: queries down, keys across. ", howTo("Click, or move with the arrow keys; with Shift, click or Enter takes several heads together."));
  root.append(
    el("div", { class: "lab-side" },
      el("div", { class: "lab-heads" }, grid, help),
      el("div", { class: "lab-big" }, controls, el("div", { class: "lab-scroll" }, map, other), title, says, legend),
    ),
  );
  show(at.layer, at.head);
  return () => {
    clearTimeout(timer);
    model.off("msg:custom", answer);
  };
}

export { render };
export default { render };

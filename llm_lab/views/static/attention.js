import { number, paint, step, ink, el, svg, freezeButton } from "./shared.js";

/**
 * All heads as small maps; one of them, or several as one, enlarged as a map, as lines between tokens, or as q·k number by
 * number. Works alone on 8-bit maps; where a kernel answers, it asks for finer ones and for exact values.
 * @typedef {{ get(name: string): any, set(name: string, value: any): void, on(name: string, f: Function): void,
 *   off(name: string, f: Function): void, save_changes(): void, send(message: any): void }} Model
 * @typedef {{ bytes: Uint8Array, down: number, across: number }} Cells a map of 0–255
 */

const SIDE = 360;
const LINE = 17; // pixels of a row of tokens with lines between them
const SEEN = 0.03; // of attention, from which on a line is drawn
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

/** A vector as fields of two hues. @param {number[]} values @param {number} far */
function stripOf(values, far) {
  const canvas = /** @type {HTMLCanvasElement} */ (el("canvas", { class: "lab-products", width: values.length, height: 1, "aria-hidden": "true" }));
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(values.length, 1);
  values.forEach((v, i) => image.data.set([...(v >= 0 ? [61, 125, 230] : [224, 123, 26]), Math.round(255 * ink(Math.abs(v) / far))], 4 * i));
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
  const down = model.get("down");
  const across = model.get("across");
  const names = /** @type {string[]} */ (model.get("tokens"));
  const keyNames = /** @type {string[]} */ (model.get("source") ?? names);
  const facts = model.get("facts");
  const parts = /** @type {number[] | null} */ (model.get("parts"));
  const between = model.get("between");
  const cross = Boolean(model.get("cross"));
  const asks = Boolean(model.get("asks"));
  const bytesOf = (/** @type {string} */ name) => {
    const view = model.get(name);
    return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  };
  const bytes = bytesOf("maps");
  const T = names.length;
  const S = keyNames.length;
  const at = { layer: model.get("layer"), head: model.get("head") };
  let what = "head";
  let mode = "map";
  let filter = 0;
  let query = -1; // whose lines or products are shown; -1 for all
  /** @type {[number, number] | null} */ let cell = null;
  let question = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ let timer;
  /** @type {Map<number, Cells[]>} */ const fine = new Map(); // by layer, what the kernel sent
  /** @type {any} */ let answered = null; // products that the kernel sent

  /** @param {number} layer @param {number} head @returns {Cells} */
  const small = (layer, head) => ({ bytes: bytes.subarray((layer * heads + head) * down * across, (layer * heads + head + 1) * down * across), down, across });
  /** @param {number} layer @param {number} head @returns {Cells} */
  const mapOf = (layer, head) => fine.get(layer)?.[head] ?? small(layer, head);

  /** Several maps as one. @param {Cells[]} some @param {boolean} most the largest, not the mean @returns {Cells} */
  function joined(some, most) {
    const made = new Uint8Array(some[0].bytes.length);
    for (let i = 0; i < made.length; i++) {
      let value = 0;
      for (const one of some) value = most ? Math.max(value, one.bytes[i]) : value + one.bytes[i];
      made[i] = most ? value : Math.round(value / some.length);
    }
    return { ...some[0], bytes: made };
  }

  /** What is enlarged, without what the filter hides. @returns {Cells} */
  function current() {
    const layer = Array.from({ length: heads }, (_, head) => mapOf(at.layer, head));
    const every = () => Array.from({ length: layers * heads }, (_, i) => small(Math.floor(i / heads), i % heads));
    const found =
      what === "head" ? mapOf(at.layer, at.head)
      : what === "rollout" ? { bytes: bytesOf("rolled"), down, across }
      : what.startsWith("layer") ? joined(layer, what.endsWith("largest"))
      : joined(every(), what.endsWith("largest"));
    if (!filter || !parts) return found;
    const [from, to] = [[1, 1], [1, 2], [2, 1], [2, 2]][filter - 1];
    const kept = new Uint8Array(found.bytes);
    for (let r = 0; r < found.down; r++)
      for (let c = 0; c < found.across; c++)
        if (parts[Math.floor((r * T) / found.down)] !== from || parts[Math.floor((c * S) / found.across)] !== to) kept[r * found.across + c] = 0;
    return { ...found, bytes: kept };
  }

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
      button.append(canvasOf(small(layer, head)));
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

  // the enlarged map
  const labelled = Math.max(T, S) <= model.get("labelled");
  const size = labelled ? Math.max(Math.min(Math.floor(SIDE / Math.max(T, S)), 26), 6) : SIDE / Math.max(T, S);
  const cells = el("div", { class: "lab-cells", tabindex: 0, role: "img" });
  cells.style.width = `${size * S}px`;
  cells.style.height = `${size * T}px`;
  const frame = el("div", { class: "lab-cursor-cell", hidden: true });
  const keys = el("div", { class: "lab-keys", "aria-hidden": "true" });
  const rows = el("div", { class: "lab-rows", "aria-hidden": "true" });
  if (labelled) {
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
  } else {
    keys.append(el("span", { class: "lab-muted lab-small" }, `keys: ${S} tokens →`));
    rows.append(el("span", { class: "lab-muted lab-small" }, "queries ↓"));
  }
  const map = el("div", { class: "lab-map" }, el("div"), keys, rows, cells);
  const other = el("div", { class: "lab-other", hidden: true });
  const title = el("div", { class: "lab-small" });
  const says = el("div", { class: "lab-value", "aria-live": "polite" });

  /** @param {number} q @param {number} k @param {string} value */
  function tell(q, k, value) {
    const quote = (/** @type {string} */ name) => el("bdi", { class: "lab-mono" }, name);
    says.replaceChildren(`query ${q} “`, quote(names[q]), `” reads from key ${k} “`, quote(keyNames[k]), "”: ", el("b", {}, value));
  }

  /** A weight as the map has it, and how far it may be off. @param {Cells} shown @param {number} q @param {number} k */
  function roughly(shown, q, k) {
    const r = Math.min(Math.floor((q * shown.down) / T), shown.down - 1);
    const c = Math.min(Math.floor((k * shown.across) / S), shown.across - 1);
    const value = shown.bytes[r * shown.across + c] / 255;
    const step = fine.has(at.layer) || model.get("levels") === 255 ? 0.002 : 0.033;
    const whole = shown.down === T && shown.across === S;
    return value.toFixed(step < 0.01 ? 3 : 2) + (whole ? ` ± ${step}` : ` at most, of ${Math.ceil(T / shown.down)} × ${Math.ceil(S / shown.across)} cells`);
  }

  /** @param {[number, number] | null} to */
  function point(to) {
    cell = to;
    frame.hidden = !to;
    if (labelled) {
      [...keys.children].forEach((name, i) => name.classList.toggle("lab-lit", i === to?.[1]));
      [...rows.children].forEach((name, i) => name.classList.toggle("lab-lit", i === to?.[0]));
    }
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
    tell(q, k, roughly(drawn, q, k));
    if (asks && what === "head") {
      const id = ++question;
      timer = setTimeout(() => model.send({ kind: "exact", id, layer: at.layer, head: at.head, q, k }), 40);
    }
  }

  const answer = (/** @type {any} */ message, /** @type {DataView[]} */ buffers) => {
    if (message?.kind === "exact" && message.id === question && cell) tell(cell[0], cell[1], number(message.value, 4));
    if (message?.kind === "layer") {
      const all = new Uint8Array(buffers[0].buffer, buffers[0].byteOffset, buffers[0].byteLength);
      const area = message.down * message.across;
      fine.set(message.layer, Array.from({ length: heads }, (_, h) => ({ bytes: all.subarray(h * area, (h + 1) * area), down: message.down, across: message.across })));
      if (message.layer === at.layer) draw();
    }
    if (message?.kind === "products") {
      const view = buffers[0];
      answered = { ...message, values: Array.from({ length: view.byteLength / 4 }, (_, i) => view.getFloat32(4 * i, true)) };
      if (mode === "products") draw();
    }
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
  /** @param {Cells} shown */
  function linesOf(shown) {
    const many = Math.max(T, S);
    const width = 330;
    const [left, right] = [125, width - 125];
    const picture = svg("svg", { class: "lab-chart lab-lines", width, height: many * LINE + 6, viewBox: `0 0 ${width} ${many * LINE + 6}` });
    const y = (/** @type {number} */ i) => (i + 0.5) * LINE + 3;
    const every = svg("g");
    const weight = (/** @type {number} */ q, /** @type {number} */ k) => shown.bytes[Math.floor((q * shown.down) / T) * shown.across + Math.floor((k * shown.across) / S)] / 255;
    const chosen = query < 0 && many > model.get("labelled") ? T - 1 : query;
    for (let q = 0; q < T; q++) {
      if (chosen >= 0 && q !== chosen) continue;
      for (let k = 0; k < S; k++) {
        const w = weight(q, k);
        if (w < SEEN) continue;
        const line = svg("path", { class: "lab-line-of", d: `M${left} ${y(q)}L${right} ${y(k)}`, "stroke-opacity": ink(w).toFixed(2), "stroke-width": (0.6 + 2.4 * w).toFixed(1), "data-q": q, "data-k": k });
        every.append(line);
      }
    }
    picture.append(every);
    const label = (/** @type {string} */ name) => (name.length > 14 ? `${name.slice(0, 13)}…` : name);
    const words = (/** @type {string[]} */ some, /** @type {number} */ x, /** @type {string} */ anchor, /** @type {string} */ side) =>
      some.map((name, i) => {
        const word = svg("text", { class: "lab-mono", x, y: y(i) + 4, "text-anchor": anchor, [`data-${side}`]: i }, label(name));
        if (side === "q" && i === chosen) word.classList.add("lab-lit");
        word.addEventListener("pointerenter", () => {
          for (const line of every.children) line.classList.toggle("lab-dim", line.getAttribute(`data-${side}`) !== String(i));
          const most = Array.from({ length: side === "q" ? S : T }, (_, j) => [side === "q" ? weight(i, j) : weight(j, i), j]).sort((a, b) => b[0] - a[0]).slice(0, 3);
          const list = most.map(([w, j]) => `“${(side === "q" ? keyNames : names)[j]}” ${w.toFixed(3)}`).join(", ");
          says.replaceChildren(side === "q" ? `query ${i} “${name}” reads most from ${list}` : `key ${i} “${name}” is read most by ${list}`);
        });
        word.addEventListener("pointerleave", () => {
          for (const line of every.children) line.classList.remove("lab-dim");
        });
        return word;
      });
    picture.append(...words(names, left - 6, "end", "q"), ...words(keyNames, right + 6, "start", "k"));
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", `Lines from ${T} queries at the left to ${S} keys at the right, the stronger the more attention.`);
    return el("div", { class: "lab-tall" }, picture);
  }

  // q · k, number by number
  const width = model.get("width");
  const vectors = model.get("vectors_in") ? new Int8Array(bytesOf("vectors")) : null;
  const scales = model.get("scales");

  /** A query or a key of the head, as the bytes have it. @param {number} which 0 for q, 1 for k @param {number} position */
  function vectorOf(which, position) {
    const held = which ? heads / model.get("shared") : heads;
    const head = which ? Math.floor(at.head / model.get("shared")) : at.head;
    const begin = which ? layers * heads * T * width : 0;
    const first = begin + ((at.layer * held + head) * (which ? S : T) + position) * width;
    const scale = scales[which][at.layer][head];
    return Array.from(/** @type {Int8Array} */ (vectors).subarray(first, first + width), (v) => v * scale);
  }

  function productsOf() {
    const q = query < 0 ? T - 1 : query;
    const shown = mapOf(at.layer, at.head);
    /** @type {{ key: number, weight: number, values: number[] }[]} */ let listed = [];
    /** @type {number[]} */ let own = [];
    if (vectors) {
      own = vectorOf(0, q);
      const weights = keyNames.map((_, k) => shown.bytes[Math.floor((q * shown.down) / T) * shown.across + Math.floor((k * shown.across) / S)] / 255);
      const order = keyNames.map((_, k) => k).filter((k) => !model.get("causal") || k <= q).sort((a, b) => weights[b] - weights[a] || a - b);
      listed = order.slice(0, LISTED).sort((a, b) => a - b).map((key) => ({ key, weight: weights[key], values: vectorOf(1, key).map((v, i) => v * own[i]) }));
    } else if (answered && answered.layer === at.layer && answered.head === at.head && answered.query === q) {
      own = answered.values.slice(0, width);
      listed = answered.keys.map((/** @type {number} */ key, /** @type {number} */ i) => ({ key, weight: answered.weights[i], values: answered.values.slice((i + 1) * width, (i + 2) * width) }));
    } else {
      model.send({ kind: "products", layer: at.layer, head: at.head, query: q });
      return el("div", { class: "lab-muted" }, "asking the kernel …");
    }
    const far = Math.max(...listed.flatMap((one) => one.values.map(Math.abs)), 1e-9);
    const lines = listed.map(({ key, weight, values }) => {
      const sum = values.reduce((a, b) => a + b, 0);
      const share = el("td", {}, weight.toFixed(3));
      const end = `${100 * weight}%`;
      share.style.background = `linear-gradient(to right, rgba(61, 125, 230, 0.22) ${end}, transparent ${end})`;
      return el("tr", {}, el("td", { class: "lab-left lab-mono" }, el("bdi", {}, keyNames[key])), el("td", {}, String(key)), el("td", {}, stripOf(values, far)), el("td", {}, number(sum * model.get("scale"), 3)), share);
    });
    const head = el("tr", {}, ...["key", "", `q · k, ${width} numbers`, "score", "attention"].map((name, i) => el("th", { scope: "col", class: i ? false : "lab-left" }, name)));
    const top = el("tr", {}, el("td", { class: "lab-left lab-mono" }, el("bdi", {}, names[q])), el("td", {}, "q"), el("td", {}, stripOf(own, Math.max(...own.map(Math.abs), 1e-9))), el("td"), el("td"));
    return el("table", { class: "lab-table" }, el("thead", {}, head), el("tbody", {}, top, ...lines));
  }

  /** @type {Cells} */ let drawn = mapOf(at.layer, at.head);
  function draw() {
    drawn = current();
    map.hidden = mode !== "map";
    other.hidden = mode === "map";
    queries.hidden = mode === "map";
    aggregate.hidden = mode === "products";
    if (mode === "map") {
      const canvas = canvasOf(drawn);
      canvas.style.width = `${size * S}px`;
      canvas.style.height = `${size * T}px`;
      cells.replaceChildren(canvas, frame);
      point(cell);
    } else {
      other.replaceChildren(mode === "lines" ? linesOf(drawn) : productsOf());
      says.replaceChildren(el("span", { class: "lab-muted" }, mode === "lines" ? "Point at a token to see its own lines, and choose a query to keep them." : `Each row multiplies the query's numbers with a key's; their sum × ${number(model.get("scale"), 3)} is the score, before any bias of position.`));
    }
    const [entropy, before, first, itself] = facts[at.layer][at.head];
    const shares = cross ? `to the first ${number(first, 2)}` : `to the previous token ${number(before, 2)}, to the first ${number(first, 2)}, to itself ${number(itself, 2)}`;
    let text = `layer ${at.layer} · head ${at.head}: entropy ${number(entropy, 2)} bits, ${shares}`;
    if (what !== "head" && mode !== "products") text = what === "rollout" ? "attention rollout through all layers" : what.startsWith("layer") ? `layer ${at.layer}: the ${what.slice(6)} of its heads` : `the ${what.slice(4)} of all heads`;
    else if (between) text += `. Of each token's attention: ${["1→1", "1→2", "2→1", "2→2"].map((way, i) => `${way} ${number(between[at.layer][at.head][i], 2)}`).join(", ")}`;
    title.textContent = text;
    cells.setAttribute("aria-label", `Attention of ${text}. Arrow keys read single cells.`);
  }

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
    if (asks && !fine.has(layer) && down < Math.min(T, model.get("sent"))) model.send({ kind: "layer", layer });
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
  const whole = down === T && across === S;
  const modes = /** @type {[string, string][]} */ ([["map", "map"], ...(whole || asks ? [["lines", "lines"]] : []), ...(vectors || asks ? [["products", "q · k"]] : [])]);
  const how = /** @type {[string, string][]} */ ([["head", "this head"], ["layer mean", "mean of the layer"], ["layer largest", "largest of the layer"], ["all mean", "mean of all heads"], ["all largest", "largest of all heads"], ...(model.get("rolled_in") ? [["rollout", "rollout"]] : [])]);
  const aggregate = choice("of", how, (value) => (what = value));
  const asked = names.map((name, i) => /** @type {[string, string]} */ ([String(i), `${i} ${name.length > 16 ? `${name.slice(0, 15)}…` : name}`]));
  const queries = choice("query", [["-1", "all"], ...asked], (value) => (query = Number(value)));
  const controls = el("div", { class: "lab-bar" }, choice("as", modes, (value) => (mode = value)), aggregate, queries);
  if (parts) controls.append(choice("texts", FILTERS.map((name, i) => /** @type {[string, string]} */ ([String(i), name])), (value) => (filter = Number(value))));
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
      el("div", { class: "lab-big" }, controls, el("div", { class: "lab-scroll" }, map, other), title, says, legend),
    ),
  );
  show(at.layer, at.head);
  return () => {
    clearTimeout(timer);
    model.off("msg:custom", answer);
  };
}

export default { render };

import { number, probability, step, ink, el, howTo } from "./shared.js";

/**
 * What every layer would predict: a grid of which a window of tokens is shown; pointing at a cell, or the arrow keys, tell
 * the likeliest tokens there. The ground shows what is chosen.
 * @typedef {{ get(name: string): any }} Model
 */

/**
 * @param {{ model: Model, el: HTMLElement }} context
 * @returns {() => void} clean-up
 */
function render({ model, el: root }) {
  root.classList.add("llm-lab");
  const layers = /** @type {string[]} */ (model.get("layers"));
  const tokens = /** @type {string[]} */ (model.get("tokens"));
  const truth = /** @type {(string | null)[]} */ (model.get("truth"));
  const right = /** @type {number[][]} */ (model.get("right"));
  const names = /** @type {string[]} */ (model.get("names"));
  const [k, wide, left, faint] = ["k", "cell", "left", "faint"].map((name) => /** @type {number} */ (model.get(name)));
  const L = layers.length;
  const T = tokens.length;
  const known = truth.some((name) => name !== null);
  /** @param {string} name @param {number} i */
  const float = (name, i) => /** @type {DataView} */ (model.get(name)).getFloat32(4 * i, true);
  /** @param {string} name @param {number} i */
  const whole = (name, i) => /** @type {DataView} */ (model.get(name)).getUint32(4 * i, true);
  /** @param {string} name */
  const largest = (name) => {
    let most = 0;
    for (let i = 0; i < L * T; i++) most = Math.max(most, float(name, i));
    return most || 1;
  };
  const most = { kl: largest("kl"), entropy: largest("entropy") };
  const worst = Math.log(Math.max(model.get("worst"), 2));

  /** What a cell may be shaded by: its share of full ink, from 0 to 1; what no ink and full ink stand for.
   * @type {Record<string, [string, (i: number) => number, string, string]>} */
  const shades = { top: ["probability of the token shown", (i) => Math.exp(float("topLogprob", i * k)), "0", "1"] };
  if (known) {
    shades.true = ["probability of the true token", (i) => Math.exp(float("trueLogprob", i)) || 0, "0", "1"];
    shades.rank = ["rank of the true token", (i) => (whole("rank", i) ? 1 - Math.log(whole("rank", i)) / worst : 0), number(Math.exp(worst), 3), "1"];
  }
  shades.kl = ["KL to the final, nats", (i) => float("kl", i) / most.kl, "0", number(most.kl, 3)];
  shades.entropy = ["entropy, nats", (i) => float("entropy", i) / most.entropy, "0", number(most.entropy, 3)];

  const select = /** @type {HTMLSelectElement} */ (el("select", {}, ...Object.entries(shades).map(([value, [name]]) => el("option", { value }, name))));
  const back = /** @type {HTMLButtonElement} */ (el("button", { class: "lab-button", type: "button", "aria-label": "earlier tokens" }, "‹"));
  const on = /** @type {HTMLButtonElement} */ (el("button", { class: "lab-button", type: "button", "aria-label": "later tokens" }, "›"));
  const slider = /** @type {HTMLInputElement} */ (el("input", { type: "range", min: 0, value: 0, "aria-label": "first token shown" }));
  const where = el("span", { class: "lab-muted" });
  const windowed = el("span", { class: "lab-window" }, back, slider, on, where);
  const ramp = el("span", { class: "lab-ramp" });
  const stops = Array.from({ length: 11 }, (_, i) => `rgba(61, 125, 230, ${ink((i / 10) * faint).toFixed(2)})`);
  ramp.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  const [low, high] = [el("span", {}), el("span", {})];
  const bar = el("div", { class: "lab-bar" }, el("label", {}, "shade: ", select), el("span", { class: "lab-muted" }, low, " ", ramp, " ", high), windowed);

  const table = el("table", { class: "lab-lens", role: "grid", "aria-label": "the likeliest token at each layer, up, and token, across" });
  const box = el("div", { class: "lab-scroll lab-lens-box" }, table);
  const detail = el("div", { class: "lab-detail lab-small", "aria-live": "polite" });
  root.append(bar, el("div", { class: "lab-side" }, box, detail));

  let first = 0;
  let across = Math.max(Math.min(T, Math.floor((780 - left) / wide)), 1);
  /** @type {[number, number] | null} */ let at = null; // layer, token
  /** @type {HTMLElement[][]} */ let cells = []; // by layer, of the tokens shown

  /** @param {string | null} name @param {string} kind */
  function label(name, kind) {
    const head = el("th", { scope: kind }, el("bdi", { class: "lab-mono" }, name ?? ""));
    head.title = name ?? "";
    return head;
  }

  function draw() {
    first = Math.min(Math.max(first, 0), Math.max(T - across, 0));
    const last = Math.min(first + across, T);
    const shown = Array.from({ length: last - first }, (_, c) => first + c);
    const line = (/** @type {string} */ name, /** @type {(string | null)[]} */ of) =>
      el("tr", {}, el("th", { scope: "row" }, name), ...shown.map((t) => label(of[t], "col")));
    const head = known ? [el("thead", {}, line("true token", truth))] : [];
    const body = el("tbody");
    cells = [];
    for (let layer = L - 1; layer >= 0; layer--) {
      cells[layer] = shown.map((t) => {
        const cell = el("td", { tabindex: -1, "data-layer": layer, "data-token": t }, names[whole("top", (layer * T + t) * k)]);
        if (right[layer][t]) cell.className = "lab-right";
        return cell;
      });
      body.append(el("tr", {}, el("th", { scope: "row" }, layers[layer]), ...cells[layer]));
    }
    const columns = el("colgroup", {}, el("col"), ...shown.map(() => el("col")));
    [...columns.children].forEach((column, i) => (/** @type {HTMLElement} */ (column).style.width = `${i ? wide : left}px`));
    table.style.width = `${left + wide * shown.length}px`;
    table.replaceChildren(columns, ...head, body, el("tfoot", {}, line("token read", tokens)));
    windowed.hidden = across >= T;
    slider.max = String(Math.max(T - across, 0));
    slider.value = String(first);
    where.textContent = `tokens ${first} to ${last - 1} of ${T}`;
    back.disabled = first === 0;
    on.disabled = last === T;
    shade();
    point(at, false);
  }

  function shade() {
    const [, level, none, full] = shades[select.value];
    [low.textContent, high.textContent] = [none, full];
    for (const row of cells) {
      for (const cell of row) {
        const i = Number(cell.dataset.layer) * T + Number(cell.dataset.token);
        cell.style.background = `rgba(61, 125, 230, ${ink(Math.min(Math.max(level(i), 0), 1) * faint).toFixed(3)})`;
      }
    }
  }

  /** @param {[number, number] | null} to @param {boolean} focus */
  function point(to, focus) {
    at = to;
    for (const cell of table.querySelectorAll("td[tabindex='0']")) {
      cell.removeAttribute("aria-selected");
      cell.setAttribute("tabindex", "-1");
    }
    if (!to) {
      cells[L - 1][0].tabIndex = 0;
      detail.replaceChildren(howTo("Point at a cell, or focus the grid and use the arrow keys, to read it."));
      return;
    }
    const [layer, t] = to;
    const cell = cells[layer][t - first] ?? cells[layer][0];
    cell.tabIndex = 0;
    if (cell.dataset.token === String(t)) cell.setAttribute("aria-selected", "true");
    if (focus) cell.focus();
    tell(layer, t);
  }

  /** @param {number} layer @param {number} t */
  function tell(layer, t) {
    const i = layer * T + t;
    const quote = (/** @type {string} */ name) => el("bdi", { class: "lab-mono" }, name);
    const list = el("dl");
    for (let j = 0; j < k; j++) {
      const p = Math.exp(float("topLogprob", i * k + j));
      const name = el("dt", { class: "lab-mono" }, el("bdi", {}, names[whole("top", i * k + j)]));
      name.style.background = `linear-gradient(to right, rgba(61, 125, 230, 0.28) ${(100 * p).toFixed(1)}%, transparent 0)`;
      list.append(name, el("dd", {}, probability(p)));
    }
    const facts = el("dl");
    if (truth[t] !== null) {
      facts.append(el("dt", {}, "true ", quote(/** @type {string} */ (truth[t]))), el("dd", {}, probability(Math.exp(float("trueLogprob", i)))));
      facts.append(el("dt", {}, "its rank"), el("dd", {}, whole("rank", i).toLocaleString("en-US")));
    }
    facts.append(el("dt", {}, "KL to the final, nats"), el("dd", {}, number(float("kl", i), 3)));
    facts.append(el("dt", {}, "entropy, nats"), el("dd", {}, number(float("entropy", i), 3)));
    const place = layer ? `after ${layers[layer]}` : "from the embedding";
    detail.replaceChildren(el("div", {}, el("b", {}, place), `, token ${t} “`, quote(tokens[t]), "”"), list, facts);
  }

  /** @param {Event} event @returns {[number, number] | null} */
  const cellOf = (event) => {
    const cell = /** @type {HTMLElement | null} */ (/** @type {HTMLElement} */ (event.target).closest("td[data-layer]"));
    return cell ? [Number(cell.dataset.layer), Number(cell.dataset.token)] : null;
  };
  for (const kind of ["pointermove", "focusin"]) {
    table.addEventListener(kind, (event) => {
      const to = cellOf(event);
      if (to && (!at || at[0] !== to[0] || at[1] !== to[1])) point(to, false);
    });
  }
  table.addEventListener("keydown", (event) => {
    const from = at ?? [L - 1, first];
    const to = step(event.key, L - 1 - from[0], from[1], L, T);
    if (!to) return;
    event.preventDefault();
    event.stopPropagation();
    const next = /** @type {[number, number]} */ ([L - 1 - to[0], to[1]]);
    if (next[1] < first || next[1] >= first + across) {
      at = next;
      first = next[1] < first ? next[1] : next[1] - across + 1;
      draw();
    }
    point(next, true);
  });
  const move = (/** @type {number} */ to) => {
    first = to;
    at = null;
    draw();
  };
  select.addEventListener("change", shade);
  slider.addEventListener("input", () => move(Number(slider.value)));
  back.addEventListener("click", () => move(first - across));
  on.addEventListener("click", () => move(first + across));

  // As many tokens as there is room for.
  const watch = new ResizeObserver(() => {
    const room = Math.max(Math.min(T, Math.floor((box.clientWidth - left - 8) / wide)), 3);
    if (box.clientWidth && room !== across) {
      across = room;
      draw();
    }
  });
  watch.observe(box);
  draw();
  return () => watch.disconnect();
}

export default { render };

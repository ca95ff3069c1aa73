import { ticks, tickLabel, scale, el, picture, svg, howTo } from "./shared.js";
import { sortable } from "./table.js";

/**
 * Strategies side by side: a table that sorts, a chart of one measure against another, and the texts of the row chosen.
 * @typedef {{ name: string, title: string, more: string, better: string, range: [number, number] | null }} Measure
 * @typedef {{ svg: string, alt: string, width: number, height: number, caption: string }} Picture
 * @typedef {{ name: string, model: string, prompt: number, about: string, notes: string[], shown: string[],
 *   values: (number | null)[], texts: string[], first: string, left: number, beams: Picture | null }} Row
 */

const HEIGHT = 270;
const PAD = { left: 52, right: 14, top: 14, bottom: 38 };
const LABEL = 7.1; // about the width of a character, bold

/**
 * @param {{ model: { get(name: string): any }, el: HTMLElement }} context
 * @returns {() => void} clean-up
 */
function render({ model, el: root }) {
  const measures = /** @type {Measure[]} */ (model.get("measures"));
  const rows = /** @type {Row[]} */ (model.get("rows"));
  const prompts = /** @type {string[]} */ (model.get("prompts"));
  const models = /** @type {string[]} */ (model.get("models"));
  let [across, up] = /** @type {[number, number]} */ (model.get("axes"));
  let chosen = 0;
  let width = 400;

  // the table
  const picks = rows.map((row, i) => {
    const pick = el("button", { type: "button", class: "lab-pick", "aria-pressed": "false", tabindex: -1 }, el("bdi", {}, row.name), el("span", { class: "lab-first" }, row.first));
    pick.addEventListener("focus", () => light(i));
    pick.addEventListener("blur", () => light(null));
    pick.addEventListener("keydown", (event) => {
      const seen = lines.map(({ line }) => line).filter((line) => !line.hidden);
      const at = seen.indexOf(trs[i]);
      const to = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: seen.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      const next = Number(seen[Math.min(Math.max(to, 0), seen.length - 1)].dataset.row);
      choose(next);
      picks[next].focus();
    });
    return pick;
  });
  const lines = rows.map((row, i) => {
    const line = el("tr", { class: "lab-row", "data-row": i }, el("td", { class: "lab-left" }, picks[i]));
    if (prompts.length > 1) line.append(el("td", { class: "lab-left lab-clip" }, el("bdi", {}, prompts[row.prompt])));
    line.append(...row.shown.map((text) => el("td", {}, text)));
    line.addEventListener("click", () => choose(i));
    line.addEventListener("pointerenter", () => light(i));
    line.addEventListener("pointerleave", () => light(null));
    const values = [row.name, ...(prompts.length > 1 ? [prompts[row.prompt]] : []), ...row.values];
    return { line, values };
  });
  const trs = lines.map(({ line }) => line); // in the order of `rows`, which a sorting of `lines` leaves
  const heads = [{ name: "strategy", text: true }, ...(prompts.length > 1 ? [{ name: "prompt", text: true }] : []), ...measures];
  const table = sortable("What each strategy's texts measure. Up and down arrow keys choose a row.", heads, lines);

  // the chart
  const chart = svg("svg", { class: "lab-chart", height: HEIGHT, role: "group" });
  const spots = rows.map((row, i) => {
    const spot = svg("g", { class: "lab-spot", role: "button", tabindex: -1, "aria-pressed": "false" });
    const over = () => light(i);
    const out = () => light(null);
    spot.addEventListener("pointerenter", over);
    spot.addEventListener("pointerleave", out);
    spot.addEventListener("focus", over);
    spot.addEventListener("blur", out);
    spot.addEventListener("click", () => choose(i));
    spot.addEventListener("keydown", (event) => {
      const to = { ArrowLeft: drawn.indexOf(i) - 1, ArrowRight: drawn.indexOf(i) + 1, Home: 0, End: drawn.length - 1 }[event.key];
      if (event.key === "Enter" || event.key === " ") choose(i);
      else if (to !== undefined) spots[drawn[Math.min(Math.max(to, 0), drawn.length - 1)]].focus();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    return spot;
  });
  /** @type {number[]} */ let drawn = []; // the rows that have a point, from left to right

  /** @param {number} measure @param {number[]} seen @returns {[number, number]} */
  function span(measure, seen) {
    const { range } = measures[measure];
    if (range) return range;
    const values = seen.map((i) => /** @type {number} */ (rows[i].values[measure]));
    const low = Math.min(...values);
    const high = Math.max(...values);
    const room = Math.max((high - low) * 0.12, Math.abs(high) * 0.02, 1e-6);
    return [low - room, high + room];
  }

  function draw() {
    const seen = shown().filter((i) => rows[i].values[across] !== null && rows[i].values[up] !== null);
    const right = width - PAD.right;
    const bottom = HEIGHT - PAD.bottom;
    const [xs, ys] = [span(across, seen), span(up, seen)];
    const x = scale(xs, [PAD.left, right]);
    const y = scale(ys, [bottom, PAD.top]);
    const nodes = [];
    chart.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const label = seen.length ? `${measures[up].name} against ${measures[across].name}, a point a row` : "nothing to draw: no row has both measures";
    chart.setAttribute("aria-label", label);
    if (!seen.length) nodes.push(svg("text", { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, label));
    for (const [level, marks] of /** @type {[boolean, number[]][]} */ ([[false, ticks(...xs, 4)], [true, ticks(...ys, 4)]])) {
      if (!seen.length) break;
      for (const tick of marks) {
        const text = tickLabel(tick, marks.length > 1 ? marks[1] - marks[0] : tick || 1);
        nodes.push(svg("path", { class: "lab-grid", d: level ? `M${PAD.left} ${y(tick)}H${right}` : `M${x(tick)} ${PAD.top}V${bottom}` }));
        nodes.push(level ? svg("text", { x: PAD.left - 6, y: y(tick) + 4, "text-anchor": "end" }, text) : svg("text", { x: x(tick), y: bottom + 15, "text-anchor": "middle" }, text));
      }
    }
    const name = (/** @type {number} */ i) => `${measures[i].name}: ${measures[i].more} →`;
    const middle = (PAD.top + bottom) / 2;
    nodes.push(svg("text", { x: (PAD.left + right) / 2, y: HEIGHT - 5, "text-anchor": "middle" }, name(across)));
    nodes.push(svg("text", { x: 11, y: middle, "text-anchor": "middle", transform: `rotate(-90 11 ${middle})` }, name(up)));

    drawn = seen.slice().sort((a, b) => Number(rows[a].values[across]) - Number(rows[b].values[across]));
    const places = drawn.map((i) => [x(Number(rows[i].values[across])), y(Number(rows[i].values[up]))]);
    const taken = places.map(([px, py]) => [px - 6, px + 6, py]); // by points, then by names: from, to, height
    drawn.forEach((i, rank) => {
      const row = rows[i];
      const [px, py] = places[rank];
      const text = row.name.length > 34 ? `${row.name.slice(0, 34)}…` : row.name;
      const size = text.length * LABEL;
      const free = (/** @type {number} */ from, /** @type {number} */ at) =>
        from > PAD.left && from + size < width && !taken.some(([a, b, h], j) => j !== rank && a < from + size && b > from && Math.abs(h - at) < 12);
      const tries = [0, -12, 12, -22].flatMap((dy) => [[px + 9, py + dy], [px - 9 - size, py + dy]]).filter(([, at]) => at > PAD.top && at < bottom);
      const place = tries.find(([from, at]) => free(from, at));
      // Where there is no room, the name comes with the light.
      const [from, at] = place ?? [Math.min(px + 9, width - size), Math.max(py - 12, PAD.top)];
      if (place) taken.push([from, from + size, at]);
      const title = svg("text", { x: from, y: at + 4, class: place ? "" : "lab-spare" }, text);
      spots[i].replaceChildren(svg("circle", { cx: px, cy: py, r: 10, class: "lab-reach" }), svg("circle", { cx: px, cy: py, r: 4.5 }), title);
      const says = [across, up].map((m) => `${measures[m].name} ${row.shown[m]}`).join(", ");
      const after = prompts.length > 1 ? ` after “${prompts[row.prompt]}”` : "";
      spots[i].setAttribute("aria-label", `${row.name}${after}: ${says}`);
    });
    chart.replaceChildren(...nodes, ...drawn.map((i) => spots[i]));
    turns();
  }

  /** One point can be reached by Tab, the others from it: the chosen one where it is drawn. */
  function turns() {
    const first = drawn.includes(chosen) ? chosen : drawn[0];
    spots.forEach((spot, i) => spot.setAttribute("tabindex", i === first ? "0" : "-1"));
    picks.forEach((pick, i) => (pick.tabIndex = i === chosen ? 0 : -1));
  }

  /** @type {number | null} */ let lit = null;

  /** @param {number | null} i */
  function light(i) {
    for (const [row, on] of /** @type {[number | null, boolean][]} */ ([[lit, false], [i, true]])) {
      if (row === null) continue;
      spots[row].classList.toggle("lab-lit", on);
      trs[row].classList.toggle("lab-lit", on);
    }
    lit = i;
  }

  // the texts
  const detail = el("section", { class: "lab-written", "aria-live": "polite", "aria-label": "What the chosen row's strategy wrote" });

  /** @param {number} i */
  function choose(i) {
    for (const [row, on] of /** @type {[number, boolean][]} */ ([[chosen, false], [i, true]])) {
      picks[row].setAttribute("aria-pressed", String(on));
      spots[row].setAttribute("aria-pressed", String(on));
      spots[row].classList.toggle("lab-chosen", on);
      trs[row].classList.toggle("lab-chosen", on);
    }
    chosen = i;
    const row = rows[i];
    const after = el("span", { class: "lab-muted" }, " after “", el("bdi", {}, prompts[row.prompt]), "”");
    detail.replaceChildren(el("div", {}, el("b", {}, el("bdi", {}, row.name)), after));
    for (const line of [row.about, ...row.notes]) detail.append(el("div", { class: "lab-muted lab-small" }, line));
    row.texts.forEach((text, t) => {
      const name = row.texts.length > 1 ? el("span", { class: "lab-muted lab-small" }, `${t + 1}`) : "";
      detail.append(el("div", { class: "lab-sample" }, name, el("div", { class: "lab-text", dir: "auto" }, text)));
    });
    if (row.left) detail.append(el("div", { class: "lab-muted lab-small" }, `${row.left} more texts are not in this view; .to_pandas() has them.`));
    if (row.beams) detail.append(picture(row.beams));
    turns();
  }

  // what is shown, and against what
  const only = { prompt: -1, model: "" };
  const shown = () => rows.map((_, i) => i).filter((i) => (only.prompt < 0 || rows[i].prompt === only.prompt) && (!only.model || rows[i].model === only.model));

  /**
   * @param {string} label @param {[string, string][]} options value and words @param {string} value
   * @param {(value: string) => void} change
   */
  function select(label, options, value, change) {
    const box = /** @type {HTMLSelectElement} */ (el("select", { "aria-label": label }, ...options.map(([value, words]) => el("option", { value }, words))));
    box.value = value;
    box.addEventListener("change", () => {
      change(box.value);
      const kept = new Set(shown());
      trs.forEach((line, i) => (line.hidden = !kept.has(i)));
      if (!kept.has(chosen)) choose(Number(lines.find(({ line }) => !line.hidden)?.line.dataset.row ?? 0));
      draw();
    });
    return el("label", {}, `${label} `, box);
  }

  const help = "A heading sorts. A row, or a point, shows what its strategy wrote.";
  const bar = el("div", { class: "lab-bar" }, el("span", { class: "lab-grow" }, howTo(help)));
  if (prompts.length > 1) bar.append(select("prompt", [["-1", "all"], ...prompts.map((text, i) => /** @type {[string, string]} */ ([String(i), text]))], "-1", (value) => (only.prompt = Number(value))));
  if (models.length > 1) bar.append(select("model", [["", "all"], ...models.map((name) => /** @type {[string, string]} */ ([name, name]))], "", (value) => (only.model = value)));
  const names = measures.map(({ name }, i) => /** @type {[string, string]} */ ([String(i), name]));
  const axes = el("div", { class: "lab-bar" }, select("up", names, String(up), (value) => (up = Number(value))), select("across", names, String(across), (value) => (across = Number(value))));
  root.append(bar, el("div", { class: "lab-side" }, el("div", { class: "lab-map-of" }, chart, axes), el("div", { class: "lab-numbers" }, table)), detail);
  draw();
  choose(0);
  const observer = new ResizeObserver(() => {
    if (Math.abs(chart.clientWidth - width) > 1 && chart.clientWidth > 0) {
      width = chart.clientWidth;
      draw();
    }
  });
  observer.observe(root);
  return () => observer.disconnect();
}

export default { render };

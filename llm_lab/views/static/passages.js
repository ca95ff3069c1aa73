import { number, el, howTo } from "./shared.js";
import { sortable } from "./table.js";

/**
 * Units in a table that sorts; of the one chosen its passages, shaded by its activation, and the tokens that it is about.
 * @typedef {[string, string][]} Words tokens with their numbers
 * @typedef {{ name: string, shown: string[], values: (number | null)[], scale: number, passages: [number, number, number, string][],
 *   tokens: Words, raises: Words, lowers: Words }} Unit a passage is its length, peak, position and value
 * @typedef {{ get(name: string): any }} Model
 */

const INK = 0.62;

/**
 * @param {{ model: Model, el: HTMLElement }} context
 */
function render({ model, el: root }) {
  root.classList.add("llm-lab");
  const units = /** @type {Unit[]} */ (model.get("units"));
  const texts = /** @type {string[]} */ (model.get("texts"));
  const rtl = new Set(/** @type {number[]} */ (model.get("rtl")));
  const ids = /** @type {DataView} */ (model.get("ids"));
  const levels = /** @type {DataView} */ (model.get("levels"));
  let start = 0;
  const starts = units.map((unit) => unit.passages.map(([length]) => (start += length) - length));
  let chosen = 0;

  const picks = units.map((unit, i) => {
    const first = unit.tokens.map(([text]) => text).join(" ");
    const pick = el("button", { type: "button", class: "lab-pick", tabindex: i ? -1 : 0 }, el("bdi", {}, unit.name), el("span", { class: "lab-first" }, first));
    pick.addEventListener("keydown", (event) => {
      const order = lines.map(({ line }) => line);
      const at = order.indexOf(rows[i]);
      const to = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: order.length - 1 }[event.key];
      if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      event.stopPropagation();
      const next = rows.indexOf(order[Math.min(Math.max(to, 0), order.length - 1)]);
      choose(next);
      picks[next].focus();
    });
    return pick;
  });
  const lines = units.map((unit, i) => {
    const line = el("tr", { class: "lab-row" }, el("td", { class: "lab-left" }, picks[i]), ...unit.shown.map((text) => el("td", {}, text)));
    line.addEventListener("click", () => choose(i));
    return { line, values: [unit.name, ...unit.values] };
  });
  const rows = lines.map(({ line }) => line); // in the order of `units`, which a sorting of `lines` leaves
  const heads = [{ name: "unit", text: true }, ...model.get("columns")];
  const table = sortable("Units and their numbers. Up and down arrow keys choose one.", heads, lines);
  table.classList.add("lab-units");
  const detail = el("section", { class: "lab-passages", "aria-live": "polite", "aria-label": "What the chosen unit answers to" });

  /** @param {Unit} unit @param {number} i @param {number} p */
  function passage(unit, i, p) {
    const [length, peak, position, value] = unit.passages[p];
    const text = el("div", { class: "lab-text" });
    for (let t = 0; t < length; t++) {
      const at = starts[i][p] + t;
      const level = levels.getInt8(at) / 127;
      const id = ids.getUint32(4 * at, true);
      const span = el(t === peak ? "mark" : "span", { class: t === peak ? "lab-token lab-peak" : "lab-token", title: number(level * unit.scale, 3) }, texts[id]);
      if (rtl.has(id)) span.dir = "auto";
      if (Math.abs(level) > 0.04) span.style.background = `rgba(${level > 0 ? "61, 125, 230" : "224, 123, 26"}, ${(Math.abs(level) * INK).toFixed(2)})`;
      text.append(span);
    }
    return el("div", { class: "lab-sample", role: "listitem" }, el("span", { class: "lab-muted lab-small lab-peaked", title: `at token ${position} of what was read` }, value), text);
  }

  /** @param {string} name @param {string} title @param {Words} words */
  function list(name, title, words) {
    if (!words.length) return "";
    const found = words.flatMap(([text, value]) => [el("bdi", { class: "lab-mono lab-word", title: value }, text), " "]);
    return el("div", { class: "lab-small", title }, el("span", { class: "lab-muted" }, `${name}  `), ...found);
  }

  /** @param {number} i */
  function choose(i) {
    const unit = units[i];
    rows[chosen].classList.remove("lab-chosen");
    rows[i].classList.add("lab-chosen");
    picks.forEach((pick, j) => {
      pick.tabIndex = j === i ? 0 : -1;
      pick.setAttribute("aria-pressed", String(j === i));
    });
    chosen = i;
    detail.replaceChildren(
      el("div", {}, el("b", {}, el("bdi", {}, unit.name))),
      list("most active at", "the largest mean activation", unit.tokens),
      list("raises", "the largest logit weights", unit.raises),
      list("lowers", "the smallest logit weights", unit.lowers),
      el("div", { role: "list" }, ...unit.passages.map((_, p) => passage(unit, i, p))),
    );
  }

  root.append(
    el("div", { class: "lab-bar" }, howTo("A row, or the up and down arrow keys, choose a unit; a heading sorts. Point at a token to read its activation.")),
    el("div", { class: "lab-side" }, el("div", { class: "lab-unit-list" }, table), detail),
  );
  choose(0);
}

export default { render };

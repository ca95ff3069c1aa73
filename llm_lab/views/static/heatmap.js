import { number, step, ink, el, howTo } from "./shared.js";

/**
 * Maps of numbers: pointing at a cell, or the arrow keys, read one.
 * @typedef {{ svg: string, alt: string, width: number, height: number, left: number, top: number, across: number, down: number,
 *   title: string, rows: string[], columns: string[], texts: string[][] | null, notes: string[][] | null }} Panel
 * @typedef {{ get(name: string): any }} Model
 */

/**
 * @param {{ model: Model, el: HTMLElement }} context
 */
function render({ model, el: root }) {
  root.classList.add("llm-lab");
  const panels = /** @type {Panel[]} */ (model.get("panels"));
  const view = /** @type {DataView} */ (model.get("values"));
  const quantity = model.get("quantity");
  const ends = /** @type {[string, string][]} */ (model.get("ends"));
  const says = el("div", { class: "lab-value", "aria-live": "polite" });
  const note = el("div", { class: "lab-note lab-mono lab-small" });
  const rest = howTo("Point at a cell, or focus a map and use the arrow keys, to read it.");
  says.append(rest);
  let first = 0;
  const boxes = panels.map((panel) => {
    const begins = first;
    first += panel.rows.length * panel.columns.length;
    return mapOf(panel, begins);
  });

  /** @param {Panel} panel @param {number} begins where its numbers begin */
  function mapOf(panel, begins) {
    const image = el("img", { src: `data:image/svg+xml;charset=utf-8,${encodeURIComponent(panel.svg)}`, alt: "", width: panel.width, height: panel.height });
    const frame = el("div", { class: "lab-cursor-cell", hidden: true });
    const label = `${panel.title || quantity}: ${panel.rows.length} rows, ${panel.columns.length} columns. Arrow keys read single cells.`;
    const box = el("div", { class: "lab-pictured", tabindex: 0, role: "group", "aria-label": label }, image, frame);
    /** @type {[number, number] | null} */ let at = null;

    /** @param {[number, number] | null} to */
    function point(to) {
      at = to;
      frame.hidden = !to;
      if (!to) {
        says.replaceChildren(rest);
        note.textContent = "";
        return;
      }
      const [r, c] = to;
      const share = (/** @type {number} */ v, /** @type {number} */ whole) => `${(100 * v) / whole}%`;
      frame.style.left = share(panel.left + c * panel.across, panel.width);
      frame.style.top = share(panel.top + r * panel.down, panel.height);
      frame.style.width = share(panel.across, panel.width);
      frame.style.height = share(panel.down, panel.height);
      const value = view.getFloat32(4 * (begins + r * panel.columns.length + c), true);
      const name = (/** @type {string} */ text) => el("bdi", { class: "lab-mono" }, text);
      says.replaceChildren(
        ...(panel.title && panels.length > 1 ? [`${panel.title}: `] : []), name(panel.rows[r]), " · ", name(panel.columns[c]), ": ",
        ...(panel.texts ? ["“", name(panel.texts[r][c]), "” "] : []), el("b", {}, number(value, 4)), ` ${quantity}`,
      );
      note.textContent = panel.notes ? panel.notes[r][c] : "";
    }

    box.addEventListener("pointermove", (event) => {
      const area = image.getBoundingClientRect();
      const scale = panel.width / area.width;
      const c = Math.floor(((event.clientX - area.left) * scale - panel.left) / panel.across);
      const r = Math.floor(((event.clientY - area.top) * scale - panel.top) / panel.down);
      const inside = r >= 0 && c >= 0 && r < panel.rows.length && c < panel.columns.length;
      if (inside && (!at || at[0] !== r || at[1] !== c)) point([r, c]);
    });
    box.addEventListener("keydown", (event) => {
      const next = step(event.key, at?.[0] ?? 0, at?.[1] ?? 0, panel.rows.length, panel.columns.length);
      if (!next && event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      point(next && !at ? [0, 0] : next);
    });
    const title = panel.title ? [el("div", { class: "lab-small" }, el("b", {}, panel.title))] : [];
    return el("div", { class: "lab-panel-of" }, ...title, el("div", { class: "lab-scroll" }, box), ...(ends.length > 1 ? [legend(ends[panels.indexOf(panel)])] : []));
  }

  /** The colours from one end to the other. @param {[string, string]} numbers */
  function legend([low, high]) {
    const ramp = el("span", { class: "lab-ramp" });
    const blue = Array.from({ length: 11 }, (_, i) => `rgba(61, 125, 230, ${ink(i / 10).toFixed(2)})`);
    const orange = Array.from({ length: 11 }, (_, i) => `rgba(224, 123, 26, ${ink(1 - i / 10).toFixed(2)})`);
    ramp.style.background = `linear-gradient(to right, ${[...(model.get("signed") ? orange : []), ...blue].join(", ")})`;
    return el("div", { class: "lab-muted lab-small" }, `${low} `, ramp, ` ${high} ${quantity}`);
  }

  const most = el("div", { class: "lab-muted lab-small" }, "Largest: ");
  /** @type {[string, string][]} */ (model.get("most")).forEach(([where, value], i) => {
    most.append(i ? "; " : "", el("bdi", {}, where), " ", el("b", {}, value));
  });
  root.append(
    el("div", { class: "lab-side" }, ...boxes),
    ...(ends.length > 1 ? [] : [legend(ends[0])]), says, note, most,
  );
}

export default { render };

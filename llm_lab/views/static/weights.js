import { el, howTo } from "./shared.js";
import { sortable } from "./table.js";

/**
 * Weights as a table that sorts, with a box that keeps those whose names hold what is typed.
 * @typedef {{ name: string, shape: string, size: number, shown: string[][], values: (number | null)[],
 *   charts: { svg: string, alt: string }[] }} Row
 * @param {{ model: { get(name: string): any }, el: HTMLElement }} context
 */
function render({ model, el: root }) {
  const columns = model.get("columns");
  const rows = /** @type {Row[]} */ (model.get("rows"));
  const spread = model.get("spread");
  const [width, height] = model.get("size");

  /** @param {{ svg: string, alt: string }} chart */
  const image = ({ svg, alt }) =>
    el("td", {}, ...(svg ? [el("img", { src: `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`, alt, width, height })] : []));
  /** @param {string[]} texts */
  const cell = (texts) => el("td", {}, ...texts.map((text) => el("div", {}, text)));
  const lines = rows.map((row) => {
    const name = el("td", { class: "lab-left lab-mono lab-small" }, el("bdi", {}, row.name));
    const cells = row.shown.map(cell);
    const line = el("tr", {}, name, cell([row.shape]), image(row.charts[0]), ...cells.slice(0, spread), image(row.charts[1]), ...cells.slice(spread));
    const values = [row.name, row.size, row.values[1], ...row.values.slice(0, spread), row.values[spread], ...row.values.slice(spread)];
    return { line, values };
  });
  const heads = [
    { name: "weight", text: true },
    { name: "shape", title: "sorts by how many numbers it has" },
    { name: "numbers", title: "histogram; sorts by the standard deviation" },
    ...columns.slice(0, spread),
    { name: "singular values", title: "from the largest to the smallest; sorts by the largest" },
    ...columns.slice(spread),
  ];
  const names = rows.map((row) => row.name);
  const trs = lines.map(({ line }) => line);
  const says = el("span", { class: "lab-muted", "aria-live": "polite" }, `${rows.length} weights.`);
  const box = /** @type {HTMLInputElement} */ (el("input", { class: "lab-box", type: "search", size: 18 }));
  box.addEventListener("input", () => {
    trs.forEach((line, i) => (line.hidden = !names[i].includes(box.value.trim())));
    says.textContent = `${trs.filter((line) => !line.hidden).length} of ${rows.length} weights.`;
  });
  root.append(el("div", { class: "lab-bar" }, el("label", {}, "name has ", box), says, howTo("A heading sorts.")), sortable("Weights in numbers", heads, lines));
}

export default { render };

import { el, howTo } from "./shared.js";
import { sortable } from "./table.js";

/**
 * The heads of a model as a table that sorts, all of them or those of one name.
 * @typedef {{ layer: number, head: number, roles: string[], shown: string[], values: number[], full: number[] }} Row
 */

const MANY = 24; // rows from which on the table scrolls by itself

/**
 * @param {{ model: { get(name: string): any }, el: HTMLElement }} context
 */
function render({ model, el: root }) {
  const rows = /** @type {Row[]} */ (model.get("rows"));
  const columns = /** @type {{ name: string, title: string }[]} */ (model.get("columns"));
  const picture = model.get("picture");
  const image = el("img", { src: `data:image/svg+xml;charset=utf-8,${encodeURIComponent(picture.svg)}`, alt: picture.alt, width: picture.width, height: picture.height, class: "lab-still" });
  Object.assign(image.style, { maxWidth: "100%", height: "auto" });

  const lines = rows.map((row) => {
    const cells = row.shown.map((text, i) => {
      const cell = el("td", {}, text);
      const end = `${100 * row.full[i]}%`;
      if (row.full[i]) cell.style.background = `linear-gradient(to right,rgba(61,125,230,.22) ${end},rgba(61,125,230,0) ${end})`;
      return cell;
    });
    const line = el("tr", {}, el("td", { class: "lab-left" }, `${row.layer}.${row.head}`), el("td", { class: "lab-left" }, row.roles.join(", ")), ...cells);
    return { line, values: [row.layer * 1e4 + row.head, row.roles.join(", "), ...row.values], row };
  });
  const heads = [{ name: "head", title: "layer.head", better: "low" }, { name: "seems to be", text: true }, ...columns.map((column) => ({ ...column, better: "high" }))];
  const table = sortable("What every head does, by its scores. The headings sort.", heads, lines);
  const foot = el("tfoot", {}, el("tr", { class: "lab-muted" }, el("td", { class: "lab-left" }, "chance"), el("td", { class: "lab-left" }, "reads all evenly"), ...model.get("chance").map((/** @type {string} */ text) => el("td", {}, text))));
  table.querySelector("table")?.append(foot);
  if (rows.length > MANY) {
    Object.assign(table.style, { maxHeight: "460px", overflow: "auto" });
    for (const head of table.querySelectorAll("th")) Object.assign(head.style, { position: "sticky", top: "-2px", background: "var(--jp-layout-color0, Canvas)" });
  }

  const known = [...new Set(rows.flatMap((row) => row.roles))].sort();
  const many = (/** @type {string} */ role) => rows.filter((row) => !role || row.roles.includes(role)).length;
  const options = ["", ...known].map((role) => el("option", { value: role }, `${role || "all"} (${many(role)})`));
  const select = /** @type {HTMLSelectElement} */ (el("select", { "aria-label": "heads that are shown" }, ...options));
  select.addEventListener("change", () => {
    for (const { line, row } of lines) line.hidden = !!select.value && !row.roles.includes(select.value);
  });
  const help = el("span", { class: "lab-muted lab-grow" }, howTo("A heading sorts. "), "Each square above is a head: layers down, heads across; full is 1.");
  root.append(image, el("div", { class: "lab-bar" }, help, el("label", {}, "heads ", select)), table);
}

export default { render };

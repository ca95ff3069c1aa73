import { el } from "./shared.js";
import { sortable } from "./table.js";

/**
 * A table alone, whose headings sort it.
 * @param {{ model: { get(name: string): any }, el: HTMLElement }} context
 */
function render({ model, el: root }) {
  const columns = model.get("columns");
  const rows = /** @type {{ shown: string[], values: (number | string | null)[] }[]} */ (model.get("rows"));
  const lines = rows.map(({ shown, values }) => {
    const cells = shown.map((text, i) => el("td", columns[i].text ? { class: columns[i].wrap ? "lab-left lab-wrap" : "lab-left" } : {}, el("bdi", {}, text)));
    return { line: el("tr", {}, ...cells), values };
  });
  root.append(sortable(model.get("label"), columns, lines));
}

export default { render };

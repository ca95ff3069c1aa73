import { el } from "./shared.js";

/**
 * A table whose headings sort it: by a click, Enter or Space, what is better first; once more turns it round. What has
 * no value in a column stands last either way.
 * @typedef {{ name: string, title?: string, better?: string, text?: boolean }} Column `better` is high, low or unknown
 * @typedef {{ line: HTMLElement, values: (number | string | null)[] }} Line
 */

/**
 * @param {string} label what the table holds, for screen readers
 * @param {Column[]} columns
 * @param {Line[]} lines in the order that they stand in
 * @returns {HTMLElement}
 */
export function sortable(label, columns, lines) {
  const body = el("tbody", {}, ...lines.map((one) => one.line));
  const first = new Map(lines.map((one, i) => [one, i]));
  const arrows = columns.map(() => el("span", { class: "lab-arrow", "aria-hidden": "true" }));
  const heads = columns.map((column, i) => {
    const button = el("button", { type: "button", class: "lab-sort" }, column.name, arrows[i]);
    if (column.title) button.title = column.title;
    button.addEventListener("click", () => sort(i));
    return el("th", { scope: "col", class: column.text ? "lab-left" : false }, button);
  });
  const table = el("table", { class: "lab-table", "aria-label": label }, el("thead", {}, el("tr", {}, ...heads)), body);

  /** @param {number} i */
  function sort(i) {
    const upward = columns[i].text || columns[i].better === "low" ? "ascending" : "descending";
    const other = upward === "ascending" ? "descending" : "ascending";
    const now = heads[i].getAttribute("aria-sort") === upward ? other : upward;
    heads.forEach((head, j) => (j === i ? head.setAttribute("aria-sort", now) : head.removeAttribute("aria-sort")));
    arrows.forEach((arrow, j) => (arrow.textContent = j !== i ? "" : now === "ascending" ? "↑" : "↓"));
    const sign = now === "ascending" ? 1 : -1;
    lines.sort((one, two) => {
      const [a, b] = [one.values[i], two.values[i]];
      if (a === null || b === null) return Number(a === null) - Number(b === null) || (first.get(one) ?? 0) - (first.get(two) ?? 0);
      const by = typeof a === "string" ? a.localeCompare(String(b)) : a - Number(b);
      return sign * by || (first.get(one) ?? 0) - (first.get(two) ?? 0);
    });
    body.append(...lines.map((one) => one.line));
  }

  return el("div", { class: "lab-scroll" }, table);
}

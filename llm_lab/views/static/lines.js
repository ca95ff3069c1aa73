import { ink, step, el, svg, howTo } from "./shared.js";

const LINE = 17; // pixels of a row of tokens
const SEEN = 0.03; // of attention, from which on a line is drawn
const MOST = 24; // keys that a long text's query is joined to
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "14 4", "1 5"]; // by which heads differ, beside their hue
const TOGETHER = DASHES.length; // heads whose lines are drawn beside each other

/** A token within a sentence. @param {string} name */
const quote = (name) => el("bdi", { class: "lab-mono" }, name);

/**
 * Lines from the tokens that read to those that are read, of one head or of several beside each other.
 * @param {{ strands: { name: string, weight: (q: number, k: number) => number }[], names: string[], keyNames: string[],
 *   query: number, many: boolean, hides: (q: number, k: number) => boolean, says: HTMLElement }} given `query` is the one whose
 *   lines are drawn, −1 for all; of `many` tokens only those that it reads are listed
 */
function linesOf({ strands, names, keyNames, query, many, hides, says }) {
  const [T, S] = [names.length, keyNames.length];
  const top = (/** @type {number} */ q, /** @type {number} */ k) => hides(q, k) ? 0 : Math.max(...strands.map((one) => one.weight(q, k)));
  const all = (/** @type {number} */ n) => Array.from({ length: n }, (_, i) => i);
  const left = query < 0 ? all(T) : many ? [query] : all(T);
  const right = many ? all(S).filter((k) => top(query, k) >= SEEN / 3).sort((a, b) => top(query, b) - top(query, a)).slice(0, MOST).sort((a, b) => a - b) : all(S);
  const [width, tall] = [360, Math.max(left.length, right.length) * LINE + 6];
  const [from, to] = [130, width - 130];
  const y = (/** @type {number[]} */ side, /** @type {number} */ i) => (side.indexOf(i) + 0.5) * LINE + 3 + (side.length === 1 ? (tall - LINE) / 2 - 3 : 0);
  const picture = svg("svg", { class: "lab-chart lab-lines", width, height: tall, viewBox: `0 0 ${width} ${tall}` });
  const lines = svg("g");
  strands.forEach(({ weight }, n) => {
    const aside = strands.length > 1 ? (n - (strands.length - 1) / 2) * 2.4 : 0;
    for (const q of left)
      for (const k of right) {
        const w = weight(q, k);
        if (w < SEEN || (query >= 0 && q !== query) || hides(q, k)) continue;
        const line = svg("path", { class: "lab-line-of", d: `M${from} ${(y(left, q) + aside).toFixed(1)}L${to} ${(y(right, k) + aside).toFixed(1)}`, "stroke-opacity": ink(w).toFixed(2), "stroke-width": (0.6 + 2.4 * w).toFixed(1), "data-q": q, "data-k": k, "stroke-dasharray": DASHES[n] });
        if (n % 2) line.classList.add("lab-second");
        lines.append(line);
      }
  });
  picture.append(lines);
  const label = (/** @type {string} */ name, /** @type {number} */ i) => (many ? `${i} ` : "") + (name.length > 13 ? `${name.slice(0, 12)}…` : name);
  /** @type {SVGElement[]} */ const words = [];
  /** @type {[string, number] | null} */ let lit = null;
  /** @param {string | null} side @param {number} i */
  function light(side, i) {
    lit = side ? [side, i] : null;
    for (const line of lines.children) line.classList.toggle("lab-dim", Boolean(side) && line.getAttribute(`data-${side}`) !== String(i));
    for (const word of words) word.classList.toggle("lab-lit", side ? word.getAttribute(`data-${side}`) === String(i) : word.getAttribute("data-q") === String(query));
    if (!side) return says.replaceChildren(howTo("Point at a token, or focus the lines and use the arrow keys, to see its own. Choose a query to keep them."));
    const weight = (/** @type {number} */ j) => (side === "q" ? top(i, j) : top(j, i));
    const most = (side === "q" ? right : left).slice().sort((a, b) => weight(b) - weight(a)).slice(0, 3);
    const others = side === "q" ? keyNames : names;
    const listed = most.flatMap((j, n) => [n ? ", “" : "“", quote(others[j]), `” ${weight(j).toFixed(3)}`]);
    if (side === "q") says.replaceChildren(`query ${i} “`, quote(names[i]), "” reads most from ", ...listed);
    else says.replaceChildren(`key ${i} “`, quote(keyNames[i]), "” is read most by ", ...listed);
  }
  for (const [side, some, texts, x, anchor] of /** @type {[string, number[], string[], number, string][]} */ ([["q", left, names, from - 6, "end"], ["k", right, keyNames, to + 6, "start"]]))
    for (const i of some) {
      const word = svg("text", { class: "lab-mono", x, y: y(some, i) + 4, "text-anchor": anchor, [`data-${side}`]: i }, label(texts[i], i));
      word.addEventListener("pointerenter", () => light(side, i));
      word.addEventListener("pointerleave", () => light(null, 0));
      words.push(word);
    }
  picture.append(...words);
  const box = el("div", { class: "lab-tall", tabindex: 0, role: "group", "aria-label": `Lines from ${left.length} queries at the left to ${right.length} keys at the right, the stronger the more attention. Up and down choose a token, left and right the side.` }, picture);
  box.addEventListener("keydown", (event) => {
    const side = event.key === "ArrowLeft" ? "q" : event.key === "ArrowRight" ? "k" : (lit?.[0] ?? "q");
    const some = side === "q" ? left : right;
    const to = step(event.key, lit && lit[0] === side ? some.indexOf(lit[1]) : lit ? Math.min((lit[0] === "q" ? left : right).indexOf(lit[1]), some.length - 1) : -1, 0, some.length, 1);
    if (!to && event.key !== "Escape") return;
    event.preventDefault();
    event.stopPropagation();
    if (to) light(side, some[Math.max(to[0], 0)]);
    else light(null, 0);
  });
  light(null, 0);
  const legend = el("div", { class: "lab-small" });
  if (strands.length > 1)
    strands.forEach(({ name }, n) => {
      const sample = svg("svg", { width: 34, height: 8, "aria-hidden": "true" });
      const line = svg("path", { class: "lab-line-of", d: "M0 4H34", "stroke-width": 2, "stroke-dasharray": DASHES[n] });
      if (n % 2) line.classList.add("lab-second");
      sample.append(line);
      legend.append(el("span", { class: "lab-strand" }, sample, ` ${name}`));
    });
  return el("div", {}, box, legend);
}

export { linesOf, quote, TOGETHER };

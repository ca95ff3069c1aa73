import { number, probability, tokenInk, el } from "./shared.js";

/**
 * Generated texts, token by token: hover, focus or arrow keys read one token; the ground shows surprisal or probability.
 * Where the model's thoughts came along, the runners-up stand beside the token as bars.
 * @typedef {{ entropy: number[], rank: number[], names: Record<string, string>, ids: number[][], probs: number[][] }} Thoughts
 * @typedef {{ text: string[], name: string[], rtl: number[], id: number[], logprob: number[], chosen: number[], cut: boolean }} Sample
 */

const INK = 0.62;

/**
 * @param {{ model: { get(name: string): any }, el: HTMLElement }} context
 */
function render({ model, el: root }) {
  const samples = /** @type {Sample[]} */ (model.get("samples"));
  const thoughts = /** @type {Thoughts[]} */ (model.get("thoughts") ?? []);
  const top = model.get("top");
  let by = "surprisal";
  /** @type {HTMLElement | null} */ let chosen = null;
  let pinned = false;

  const select = /** @type {HTMLSelectElement} */ (
    el("select", {}, ...(thoughts.length ? ["surprisal", "probability", "rank", "entropy", "none"] : ["surprisal", "probability", "none"]).map((name) => el("option", { value: name }, name)))
  );
  const texts = el("div", { class: "lab-texts" });
  const detail = el("div", { class: "lab-detail lab-small", "aria-live": "polite" });
  const legend = el("span", {});
  const mean = model.get("mean");

  /** @type {HTMLElement[][]} */
  const tokens = samples.map((sample, s) => {
    const rtl = new Set(sample.rtl);
    const spans = sample.text.map((text, t) => {
      const span = el("span", { class: t % 2 ? "lab-token" : "lab-token lab-even", "data-s": s, "data-t": t }, text);
      if (rtl.has(t)) span.dir = "auto";
      return span;
    });
    const label = `sample ${s + 1} of ${samples.length}`;
    if (samples.length > 1) texts.append(el("div", { class: "lab-muted lab-small" }, label));
    const help = `${label}, ${spans.length} tokens. Left and right arrow keys read single tokens, Enter keeps one.`;
    const box = el("div", { class: "lab-text", tabindex: 0, role: "group", "aria-label": help });
    box.append(el("span", { class: "lab-prompt" }, model.get("prompt")), ...spans, sample.cut ? "…" : "");
    box.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9 }[event.key];
      const here = chosen && Number(chosen.dataset.s) === s ? Number(chosen.dataset.t) : by && by < 0 ? spans.length : -1;
      if (by && spans.length) choose(spans[Math.min(Math.max(here + by, 0), spans.length - 1)], false);
      else if (event.key === "Enter" && chosen) choose(chosen, !pinned);
      else if (event.key === "Escape") choose(null, false);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    texts.append(box);
    return spans;
  });

  /** @param {HTMLElement | null} token @param {boolean} pin */
  function choose(token, pin) {
    chosen?.classList.remove("lab-chosen", "lab-pinned");
    chosen = token;
    pinned = pin && token !== null;
    if (!token) {
      detail.replaceChildren(el("span", { class: "lab-muted" }, "Point at a token, or use the arrow keys, to read it."));
      return;
    }
    token.classList.add("lab-chosen");
    if (pinned) token.classList.add("lab-pinned");
    const sample = samples[Number(token.dataset.s)];
    const t = Number(token.dataset.t);
    const rows = [
      ["probability", probability(Math.exp(sample.logprob[t]))],
      ["after filtering", probability(sample.chosen[t])],
      ["surprisal", `${number(-sample.logprob[t] / Math.LN2, 3)} bits`],
      ["id", String(sample.id[t])],
      ["position", `${t + 1} of ${sample.id.length}`],
    ];
    const known = thoughts[Number(token.dataset.s)];
    if (known) {
      rows.splice(3, 0, ["rank", `${known.rank[t]}`], ["entropy", `${number(known.entropy[t], 3)} nats`]);
    }
    const list = el("dl");
    for (const [name, value] of rows) list.append(el("dt", {}, name), el("dd", {}, value));
    if (known) list.append(...others(known, t, sample.id[t]));
    const head = el("div", {}, "“", el("bdi", { class: "lab-mono" }, sample.name[t]), "”", pinned ? " (kept; Esc frees)" : "");
    detail.replaceChildren(head, list);
  }

  /**
   * The likeliest tokens at one place, a bar each; the one that was written is set apart.
   * @param {Thoughts} known @param {number} t @param {number} written
   * @returns {HTMLElement[]}
   */
  function others(known, t, written) {
    return known.ids[t].flatMap((id, i) => {
      const share = known.probs[t][i];
      const name = el("dt", { class: id === written ? "lab-mono lab-written" : "lab-mono" }, el("bdi", {}, known.names[id] ?? "?"));
      name.style.background = `linear-gradient(to right, rgba(61, 125, 230, 0.28) ${100 * share}%, transparent ${100 * share}%)`;
      return [name, el("dd", {}, probability(share))];
    });
  }

  /** How strongly a token is inked. @param {number} s @param {number} t */
  function ink(s, t) {
    if (by === "rank") return Math.min(Math.log2(thoughts[s].rank[t]) / 6, 1);
    if (by === "entropy") return Math.min(thoughts[s].entropy[t] / Math.LN2 / top, 1);
    return tokenInk(samples[s].logprob[t], by, top);
  }

  function colour() {
    tokens.forEach((spans, s) =>
      spans.forEach((span, t) => span.style.setProperty("--ink", String(INK * ink(s, t)))),
    );
    const ends = {
      surprisal: ["0", `${top} bits and more`],
      probability: ["0", "1"],
      rank: ["1", "64 and more"],
      entropy: ["0", `${top} bits and more`],
      none: ["", ""],
    }[by] ?? ["", ""];
    const bar = el("span", { class: "lab-legend" });
    bar.style.background = `linear-gradient(to right, transparent, rgba(224, 123, 26, ${INK}))`;
    const note = mean === null ? "" : ` · mean surprisal ${number(mean, 2)} bits per token`;
    legend.replaceChildren(...(by === "none" ? [] : [`${by}: ${ends[0]} `, bar, ` ${ends[1]}`]), note);
  }

  texts.addEventListener("pointerover", (event) => {
    const token = /** @type {HTMLElement} */ (event.target).closest?.(".lab-token");
    if (token && !pinned) choose(/** @type {HTMLElement} */ (token), false);
  });
  texts.addEventListener("click", (event) => {
    const token = /** @type {HTMLElement | null} */ (/** @type {HTMLElement} */ (event.target).closest(".lab-token"));
    if (token) choose(token, !(pinned && token === chosen));
  });
  select.addEventListener("change", () => {
    by = select.value;
    colour();
  });
  const legendBox = el("span", { class: "lab-muted lab-grow" }, legend);
  const bar = el("div", { class: "lab-bar" }, legendBox, el("label", {}, "colour by ", select));
  root.append(el("div", { class: "lab-side" }, el("div", { class: "lab-texts" }, texts, bar), detail));
  colour();
  const all = tokens.flat();
  const flat = samples.flatMap((sample) => sample.logprob);
  choose(all[flat.indexOf(Math.min(...flat))] ?? null, false);
}

export default { render };

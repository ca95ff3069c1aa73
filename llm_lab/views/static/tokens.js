import { number, probability, tokenInk, el, howTo } from "./shared.js";

/**
 * Generated texts, token by token: hover, focus or arrow keys read one token; the ground shows surprisal or probability.
 * Where the model's thoughts came along, the runners-up stand beside the token as bars. Texts that left others stand
 * below them. Where a kernel answers, choosing a runner-up writes the text on from there.
 * @typedef {{ entropy: number[], rank: number[], names: Record<string, string>, ids: number[][], probs: number[][] }} Thoughts
 * @typedef {{ sample: number, depth: number, begins: number, length: number, head: string, before: string, text: string[], name: string[],
 *   rtl: number[], id: number[], logprob: (number | null)[], chosen: (number | null)[], cut: boolean,
 *   thoughts: Thoughts | null }} Sample
 * @typedef {{ samples: Sample[], order?: number[], top: number }} Page
 */

const INK = 0.62;
const NARROW = 620; // pixels; below, the token that is read is explained under its own text

/**
 * The texts and the token that is read, to be put on the page; `update` draws another state of them.
 * @param {Page} page
 * @param {((sample: number, at: number, token: number) => void) | null} regrow where a kernel writes on from another token
 */
function tokensView(page, regrow = null) {
  let samples = page.samples;
  let regrows = Boolean(regrow);
  let by = "surprisal";
  /** @type {HTMLElement | null} */ let chosen = null;
  let pinned = false;
  /** @type {HTMLElement[][]} */ let tokens = [];
  /** @type {HTMLElement[]} */ let boxes = [];

  const select = /** @type {HTMLSelectElement} */ (el("select", {}));
  const texts = el("div", { class: "lab-texts" });
  const detail = el("div", { class: "lab-detail lab-small", "aria-live": "polite" });
  const legend = el("span", {});
  const works = () => regrows
    ? "Click a token, or choose it with the arrow keys and press Enter; then click another in its place, or press its number."
    : "Point at a token, or use the arrow keys, to read it.";

  /** @param {Sample} sample @param {number} s */
  function box(sample, s) {
    const rtl = new Set(sample.rtl);
    const spans = sample.text.map((text, t) => {
      const span = el("span", { class: t % 2 ? "lab-token" : "lab-token lab-even", "data-s": s, "data-t": t }, text);
      if (rtl.has(t)) span.dir = "auto";
      return span;
    });
    const help = `${sample.head || "text"}, ${spans.length} tokens. Left and right arrow keys read single tokens, Enter keeps one.`;
    const group = el("div", { class: "lab-text", tabindex: 0, role: "group", "aria-label": help });
    group.append(el("span", { class: sample.depth ? "lab-prompt lab-muted" : "lab-prompt" }, sample.before), ...spans, sample.cut ? "…" : "");
    group.addEventListener("keydown", (event) => keyed(event, s));
    const branch = el("div", { class: sample.depth ? "lab-branch" : "" });
    if (sample.depth) branch.style.marginLeft = `${14 * sample.depth}px`;
    if (sample.head) branch.append(el("div", { class: "lab-muted lab-small" }, sample.head));
    branch.append(group);
    tokens.push(spans);
    boxes.push(group);
    return branch;
  }

  /** @param {KeyboardEvent} event @param {number} s */
  function keyed(event, s) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const spans = tokens[s];
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9 }[event.key];
    const here = chosen && Number(chosen.dataset.s) === s ? Number(chosen.dataset.t) : by && by < 0 ? spans.length : -1;
    const digit = regrows && chosen && pinned && /^[0-9]$/.test(event.key) ? (Number(event.key) + 9) % 10 : -1;
    if (by && spans.length) choose(spans[Math.min(Math.max(here + by, 0), spans.length - 1)], false);
    else if (event.key === "Enter" && chosen) choose(chosen, !pinned);
    else if (event.key === "Escape") choose(null, false);
    else if (digit >= 0) take(digit);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Writes on from the chosen token with the runner-up of that number. @param {number} i */
  function take(i) {
    if (!regrow || !regrows || !chosen) return;
    const sample = samples[Number(chosen.dataset.s)];
    const t = Number(chosen.dataset.t);
    const id = sample.thoughts?.ids[t]?.[i];
    if (id !== undefined) regrow(sample.sample, sample.begins + t, id);
  }

  /** @param {HTMLElement | null} token @param {boolean} pin */
  function choose(token, pin) {
    chosen?.classList.remove("lab-chosen", "lab-pinned");
    chosen = token;
    pinned = pin && token !== null;
    if (!token) {
      detail.replaceChildren(howTo(works()));
      return;
    }
    token.classList.add("lab-chosen");
    if (pinned) token.classList.add("lab-pinned");
    const sample = samples[Number(token.dataset.s)];
    const t = Number(token.dataset.t);
    const known = sample.thoughts;
    const logprob = sample.logprob[t];
    const filtered = sample.chosen[t];
    const rows = logprob === null ? [["given", "not written"]] : [
      ["probability", probability(Math.exp(logprob))],
      ["after filtering", filtered === null ? "you chose it" : probability(filtered)],
      ["surprisal", `${number(-logprob / Math.LN2, 3)} bits`],
    ];
    if (known) rows.push(["rank", `${known.rank[t]}`], ["entropy", `${number(known.entropy[t] / Math.LN2, 3)} bits`]);
    rows.push(["id", String(sample.id[t])], ["position", `${sample.begins + t + 1} of ${sample.length}`]);
    const list = el("dl");
    for (const [name, value] of rows) list.append(el("dt", {}, name), el("dd", {}, value));
    const head = el("div", {}, "“", el("bdi", { class: "lab-mono" }, sample.name[t]), "”", pinned ? " (kept; Esc frees)" : "");
    detail.replaceChildren(head, list);
    if (known) {
      if (regrows) detail.append(el("div", { class: "lab-muted" }, pinned ? "write on with another token:" : "click it, then another in its place:"));
      const others = el("dl", { class: "lab-others" });
      others.append(...bars(known, t, sample.id[t]));
      detail.append(others);
    } else if (regrows) {
      detail.append(el("div", { class: "lab-muted" }, "The texts are too long for its runners-up to be sent along."));
    }
    beside(token);
  }

  /** Puts what is read of a token next to it, so that it is in sight wherever the token is. @param {HTMLElement} token */
  function beside(token) {
    const narrow = root.clientWidth > 0 && root.clientWidth < NARROW;
    const home = narrow ? boxes[Number(token.dataset.s)].parentElement : root;
    if (home && detail.parentElement !== home) home.append(detail);
    detail.style.marginTop = "0";
    if (narrow) return;
    const lower = token.getBoundingClientRect().top - root.getBoundingClientRect().top - 40;
    detail.style.marginTop = `${Math.max(0, Math.min(lower, root.clientHeight - detail.offsetHeight))}px`;
  }

  /**
   * The likeliest tokens at one place, a bar each; the one that was written is set apart.
   * @param {Thoughts} known @param {number} t @param {number} written
   * @returns {HTMLElement[]}
   */
  function bars(known, t, written) {
    return known.ids[t].flatMap((id, i) => {
      const share = known.probs[t][i];
      const shown = el("bdi", {}, known.names[id] ?? "?");
      const name = el("dt", { class: id === written ? "lab-mono lab-written" : "lab-mono" });
      name.style.background = `linear-gradient(to right, rgba(61, 125, 230, 0.28) ${100 * share}%, transparent ${100 * share}%)`;
      if (regrows) {
        const label = `${i + 1}: write on with ${known.names[id] ?? "?"}, probability ${probability(share)}`;
        const button = el("button", { type: "button", class: "lab-other", "aria-label": label }, shown);
        button.addEventListener("click", () => take(i));
        name.append(button);
      } else {
        name.append(shown);
      }
      return [name, el("dd", {}, probability(share))];
    });
  }

  /** How strongly a token is inked. @param {Sample} sample @param {number} t */
  function ink(sample, t) {
    if (by === "rank") return sample.thoughts ? Math.min(Math.log2(sample.thoughts.rank[t]) / 6, 1) : 0;
    if (by === "entropy") return sample.thoughts ? Math.min(sample.thoughts.entropy[t] / Math.LN2 / page.top, 1) : 0;
    const logprob = sample.logprob[t];
    return logprob === null ? 0 : tokenInk(logprob, by, page.top);
  }

  function colour() {
    tokens.forEach((spans, s) => spans.forEach((span, t) => span.style.setProperty("--ink", String(INK * ink(samples[s], t)))));
    const ends = {
      surprisal: ["0", `${page.top} bits and more`],
      probability: ["0", "1"],
      rank: ["1", "64 and more"],
      entropy: ["0", `${page.top} bits and more`],
      none: ["", ""],
    }[by] ?? ["", ""];
    const bar = el("span", { class: "lab-legend" });
    bar.style.background = `linear-gradient(to right, transparent, rgba(224, 123, 26, ${INK}))`;
    const all = samples.flatMap((sample) => sample.logprob).filter((value) => value !== null);
    const mean = all.reduce((sum, value) => sum - value / Math.LN2, 0) / all.length;
    const note = all.length ? ` · mean surprisal ${number(mean, 2)} bits per token` : "";
    legend.replaceChildren(...(by === "none" ? [] : [`${by}: ${ends[0]} `, bar, ` ${ends[1]}`]), note);
  }

  /** @param {Page} next */
  function update(next) {
    const at = chosen && [chosen.dataset.s, chosen.dataset.t].map(Number);
    const had = document.activeElement && texts.contains(document.activeElement) ? boxes.indexOf(/** @type {HTMLElement} */ (document.activeElement)) : -1;
    const kept = pinned;
    // A text that grows comes alone; the others stay as they are.
    const known = new Map(page.samples.map((sample) => [sample.sample, sample]));
    for (const sample of next.samples) known.set(sample.sample, sample);
    samples = (next.order ?? next.samples.map(({ sample }) => sample)).flatMap((i) => known.get(i) ?? []);
    page = { ...next, samples };
    tokens = [];
    boxes = [];
    chosen = null;
    texts.replaceChildren(...samples.map(box));
    if (!detail.isConnected) root.append(detail);
    const thoughts = samples.some((sample) => sample.thoughts);
    const ways = thoughts ? ["surprisal", "probability", "rank", "entropy", "none"] : ["surprisal", "probability", "none"];
    if (!ways.includes(by)) by = "surprisal";
    select.replaceChildren(...ways.map((name) => el("option", { value: name }, name)));
    select.value = by;
    colour();
    choose((at && tokens[at[0]]?.[at[1]]) ?? null, kept);
    if (had >= 0) boxes[had]?.focus({ preventScroll: true });
  }

  /** Reads the least likely token of all, or the first own one of a sample. @param {number} [sample] @param {boolean} [focus] */
  function rest(sample, focus = false) {
    const s = samples.findIndex((one) => one.sample === sample);
    if (s >= 0) {
      choose(tokens[s][0] ?? null, false);
      if (focus) boxes[s].focus();
      return;
    }
    const flat = samples.flatMap((one) => one.logprob.map((value) => value ?? 0));
    choose(tokens.flat()[flat.indexOf(Math.min(...flat))] ?? null, false);
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
  const root = el("div", { class: "lab-side" }, el("div", { class: "lab-texts" }, texts, bar), detail);
  /** Says whether a choice can be written on. @param {boolean} now */
  function allow(now) {
    regrows = Boolean(regrow) && now;
  }

  update(page);
  rest();
  const resized = new ResizeObserver(() => chosen && beside(chosen));
  resized.observe(root);
  return { root, update, rest, allow, destroy: () => resized.disconnect() };
}

/**
 * @param {{ model: { get(name: string): any }, el: HTMLElement }} context
 */
function render({ model, el: root }) {
  root.append(tokensView({ samples: model.get("samples"), top: model.get("top") }).root);
}

export { tokensView };
export default { render };

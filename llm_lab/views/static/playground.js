import { kernelCard } from "./kernel.js";
import { el, picture } from "./shared.js";
import { tokensView } from "./tokens.js";

/**
 * A prompt and the controls of decoding; moving one writes anew, and the text streams in. Without controls: one text that
 * can be regrown. The kernel writes; this draws what it sends and says what was moved.
 * @typedef {{ name: string, kind: string, help: string, unit: string, value: any, low: number, high: number, step: number,
 *   whole: boolean, choices: string[], optional: boolean, on: boolean }} Control
 * @typedef {{ name: string, help: string, draws: boolean, own: Control[], without: string[] }} Strategy
 */

const WAIT = 160; // milliseconds that a moved control rests before it counts

/**
 * @param {{ model: any, el: HTMLElement }} context
 * @returns {() => void} clean-up
 */
function play({ model, el: root }) {
  const card = kernelCard({ model, root });
  const strategies = /** @type {Strategy[]} */ (model.get("strategies"));
  /** Where every control stands, kept while strategies change. @type {Map<string, { value: any, on: boolean }>} */
  const at = new Map();
  let strategy = model.get("strategy");
  /** @type {{ sample: number, focus: boolean } | null} */ let grown = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ let timer;

  const page = () => {
    const given = model.get("page");
    return given?.samples ? given : { samples: [], top: 7 };
  };
  const view = tokensView(page(), (sample, token, id) => {
    if (card.isWriting()) return;
    grown = { sample: page().samples.length, focus: root.contains(document.activeElement) };
    ask({ kind: "regrow", sample, at: token, token: id });
  });

  const code = el("code", { class: "lab-code lab-small" });
  const search = el("div", {});

  /** @param {Record<string, any>} message */
  function ask(message) {
    card.say("");
    card.facts.textContent = [...(model.get("facts") ?? []), "writing…"].join(" · ");
    card.ask(message);
  }

  function settle() {
    const told = model.get("told") ?? {};
    const own = told.facts ?? [];
    card.facts.textContent = (own.length ? own : (model.get("facts") ?? [])).join(" · ");
    code.textContent = told.code ?? "";
    view.allow(told.regrows ?? false);
    search.replaceChildren(...(told.beams ? [picture(told.beams)] : []));
    card.say((told.notes ?? []).join(" · "));
  }

  // the controls
  const prompt = /** @type {HTMLTextAreaElement} */ (
    el("textarea", { class: "lab-box lab-prompt-box", rows: 2, spellcheck: "false", "aria-label": "prompt", placeholder: "prompt" })
  );
  prompt.value = model.get("prompt");
  const select = /** @type {HTMLSelectElement} */ (
    el("select", { "aria-label": "strategy" }, ...strategies.map(({ name }) => el("option", { value: name }, name)))
  );
  const help = el("div", { class: "lab-muted lab-small" });
  const own = el("div", { class: "lab-controls" });
  const filters = el("div", { class: "lab-controls" });
  const general = el("div", { class: "lab-controls" });

  function write() {
    clearTimeout(timer);
    grown = null;
    ask({ kind: "write", prompt: prompt.value, options: options() });
  }

  function moved() {
    clearTimeout(timer);
    timer = setTimeout(write, WAIT);
  }

  /** All that is set, of what the strategy has a use for. */
  function options() {
    const chosen = strategies.find(({ name }) => name === strategy);
    /** @type {Record<string, any>} */ const found = { strategy };
    const others = [...model.get("filters"), ...model.get("general")].filter(({ name }) => !chosen?.without.includes(name));
    for (const control of [...(chosen?.own ?? []), ...others]) {
      const { value, on } = at.get(control.name) ?? control;
      if (on && value !== "" && value !== null) found[control.name] = value;
    }
    return found;
  }

  /** A control with its label, where it stood last. @param {Control} control */
  function row(control) {
    const state = at.get(control.name) ?? { value: control.value, on: control.on };
    at.set(control.name, state);
    const set = (/** @type {any} */ value) => {
      state.value = value;
      state.on = true;
      if (tick) tick.checked = true;
      moved();
    };
    const help = `${control.help}${control.unit ? ` (${control.unit})` : ""}`;
    const label = el("span", { class: "lab-control-name", title: help }, control.name);
    /** @type {HTMLInputElement | null} */ let tick = null;
    if (control.optional && control.kind !== "text") {
      tick = /** @type {HTMLInputElement} */ (el("input", { type: "checkbox", "aria-label": `use ${control.name}` }));
      tick.checked = state.on;
      tick.addEventListener("change", () => {
        state.on = Boolean(tick?.checked);
        moved();
      });
    }
    const line = el("div", { class: "lab-control" }, el("label", { class: "lab-control-label" }, tick ?? "", label));
    const named = { "aria-label": control.name, title: help };
    if (control.kind === "slider") {
      const ends = { min: control.low, max: control.high, step: control.step };
      const slider = /** @type {HTMLInputElement} */ (el("input", { type: "range", ...ends, ...named }));
      const exact = /** @type {HTMLInputElement} */ (el("input", { type: "number", class: "lab-box", step: "any", "aria-label": `${control.name}, exactly` }));
      slider.value = exact.value = String(state.value);
      slider.addEventListener("input", () => {
        exact.value = slider.value;
        set(Number(slider.value));
      });
      exact.addEventListener("change", () => {
        if (exact.value === "") exact.value = String(state.value); // nothing, or no number
        slider.value = exact.value;
        set(Number(exact.value));
      });
      line.append(slider, exact);
    } else if (control.kind === "choice") {
      const list = /** @type {HTMLSelectElement} */ (el("select", named, ...control.choices.map((name) => el("option", { value: name }, name))));
      list.value = state.value;
      list.addEventListener("change", () => set(list.value));
      line.append(list);
    } else if (control.kind === "switch") {
      const box = /** @type {HTMLInputElement} */ (el("input", { type: "checkbox", ...named }));
      box.checked = Boolean(state.value);
      box.addEventListener("change", () => set(box.checked));
      line.append(box);
    } else {
      const type = control.kind === "number" ? "number" : "text";
      const box = /** @type {HTMLInputElement} */ (el("input", { type, class: "lab-box lab-wide", spellcheck: "false", ...named }));
      box.value = state.value ?? "";
      const take = () => set(type === "number" ? (box.value === "" ? null : Number(box.value)) : box.value);
      box.addEventListener("change", take);
      line.append(box);
      if (control.name === "seed") {
        const other = el("button", { class: "lab-button", type: "button", title: "Another seed" }, "another");
        other.addEventListener("click", () => {
          box.value = String(Math.floor(Math.random() * 2 ** 31));
          take();
        });
        line.append(other);
      }
    }
    return line;
  }

  function rows() {
    const chosen = strategies.find(({ name }) => name === strategy);
    help.textContent = chosen?.help ?? "";
    own.replaceChildren(...(chosen?.own ?? []).map(row));
    filters.replaceChildren(...model.get("filters").filter((/** @type {Control} */ { name }) => !chosen?.without.includes(name)).map(row));
  }

  select.value = strategy;
  select.addEventListener("change", () => {
    strategy = select.value;
    rows();
    moved();
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      write();
    }
  });
  prompt.addEventListener("input", moved);

  // the page
  root.append(card.head);
  if (strategies.length) {
    rows();
    general.replaceChildren(...model.get("general").map(row));
    const button = el("button", { class: "lab-button lab-main", type: "button", title: "Ctrl+Enter in the prompt" }, "write");
    button.addEventListener("click", write);
    const panel = el("div", { class: "lab-panel" },
      el("div", { class: "lab-bar" }, el("label", {}, "strategy ", select), button),
      help, own, general,
      el("details", {}, el("summary", {}, "filters and constraints"), filters),
    );
    root.append(prompt, el("div", { class: "lab-side" }, panel, el("div", { class: "lab-written-side" }, view.root, search, card.says, code)));
  } else {
    root.append(view.root, search, card.says, code);
  }

  const heard = (/** @type {any} */ message) => {
    card.heard();
    if (!card.own(message)) return;
    if (message.kind === "state") view.update(message.page);
    if (message.kind === "error") {
      grown = null;
      card.busy(false);
      settle();
      card.say(message.text, true);
    }
    if (message.kind === "done") card.busy(false), settle();
  };
  const changed = () => {
    view.update(page());
    if (!card.isWriting()) settle();
    if (grown && page().samples.length > grown.sample) {
      view.rest(grown.sample, grown.focus);
      grown = null;
    } else if (!grown) {
      view.rest();
    }
  };
  model.on("msg:custom", heard);
  model.on("change:page", changed);
  if (strategies.length && !page().samples.length && prompt.value) write();
  else settle();
  return () => {
    card.destroy();
    view.destroy();
    clearTimeout(timer);
    model.off("msg:custom", heard);
    model.off("change:page", changed);
  };
}

export default { render: play };

import { kernelCard } from "./kernel.js";
import { el } from "./shared.js";
import { tokensView } from "./tokens.js";

/**
 * A conversation: a box to write in, the answer as it streams, and each answer token by token where that is asked for.
 * @typedef {{ who: string, role: string, text: string, tokens: boolean }} Message
 */

/**
 * @param {{ model: any, el: HTMLElement }} context
 * @returns {() => void} clean-up
 */
function talk({ model, el: root }) {
  let said = "";
  const card = kernelCard({ model, root, silence: () => (box.value ||= said) });
  card.facts.textContent = model.get("facts").join(" · ");
  const button = (/** @type {string} */ name, /** @type {string} */ title, /** @type {() => void} */ act) => {
    const made = el("button", { class: "lab-button", type: "button", title }, name);
    made.addEventListener("click", act);
    return made;
  };
  const undo = button("undo", "Take the last exchange away", () => card.tell({ kind: "undo" }));
  const lines = el("div", { class: "lab-lines", role: "log", "aria-live": "polite", tabindex: 0, "aria-label": "conversation" });
  const box = /** @type {HTMLTextAreaElement} */ (
    el("textarea", { class: "lab-box lab-prompt-box", rows: 2, "aria-label": "message", placeholder: "Say something; Enter sends it, Shift+Enter breaks the line" })
  );

  /** @type {Map<number, HTMLElement>} answers whose tokens were asked for, by the message's number */
  const asked = new Map();

  /**
   * @param {Message} message
   * @param {number} i
   */
  function line(message, i) {
    const made = el("div", { class: `lab-line lab-${message.role === "assistant" ? "answer" : "said"}` });
    made.append(el("div", { class: "lab-muted lab-small" }, message.who), el("div", { class: "lab-text", dir: "auto" }, message.text));
    if (message.tokens) {
      const inside = el("details", {}, el("summary", { class: "lab-small lab-muted" }, "token by token"));
      const number = model.get("left_out") + i;
      inside.addEventListener("toggle", () => {
        if (inside.children.length > 1) return;
        asked.set(number, inside);
        model.send({ kind: "tokens", message: number });
      });
      made.append(inside);
    }
    return made;
  }

  /** @param {Message[]} messages */
  function put(messages) {
    const out = model.get("left_out");
    const first = out ? `${out} older messages are left out here; .messages has all.` : messages.length ? "" : "Nothing is said yet.";
    asked.clear();
    lines.replaceChildren(...(first ? [el("div", { class: "lab-muted lab-small" }, first)] : []), ...messages.map(line));
    lines.scrollTop = lines.scrollHeight;
  }

  function draw() {
    const messages = /** @type {Message[]} */ (model.get("messages"));
    put(messages);
    undo.hidden = !messages.some(({ role }) => role === "user");
    card.say(model.get("notes").join(" · "));
  }

  function send() {
    if (card.isWriting() || !box.value.trim()) return;
    said = box.value;
    card.ask({ kind: "say", text: said });
    box.value = "";
  }

  const heard = (/** @type {any} */ message) => {
    card.heard();
    if (message?.kind === "tokens") {
      const inside = asked.get(message.message);
      if (inside?.children.length === 1) inside.append(tokensView(message.page).root);
    } else if (message?.kind === "error" && message.id === undefined) card.say(message.text, true); // what is written goes on
    if (!card.own(message)) return;
    if (message.kind === "state") {
      put([...model.get("messages"), ...message.messages]);
    } else {
      card.busy(false);
      draw();
      if (message.kind === "error") {
        card.say(message.text, true);
        box.value ||= said; // to be said in other words
      }
    }
  };
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
  const changed = () => {
    card.heard();
    draw();
  };
  model.on("msg:custom", heard);
  model.on("change:messages", changed);
  const main = button("say", "Enter", send);
  main.classList.add("lab-main");
  const template = el("div", { class: "lab-muted lab-small" }, `template: ${model.get("template")}`);
  root.append(card.head, lines, card.says, box, el("div", { class: "lab-bar" }, main, undo), template);
  draw();
  return () => {
    card.destroy();
    model.off("msg:custom", heard);
    model.off("change:messages", changed);
  };
}

export default { render: talk };

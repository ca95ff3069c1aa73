import { saveButtons } from "./export.js";
import { el, freezeButton } from "./shared.js";

const PATIENCE = 5000; // milliseconds; a kernel that was started anew knows nothing of its cards, and never answers

/**
 * What all that talks with a kernel has: a line that says how it goes, messages that are missed when no answer comes, and
 * keys of its own.
 * @param {{ model: any, root: HTMLElement, silent: string, silence?: () => void }} context `silent` is said, and `silence`
 *   called, where no answer comes
 */
function kernelLine({ model, root, silent, silence = () => {} }) {
  root.classList.add("llm-lab", "lab-play");
  /** @type {ReturnType<typeof setTimeout> | undefined} */ let timer;
  const says = el("div", { class: "lab-small lab-says", role: "status" });

  /** @param {string} text @param {boolean} [wrong] */
  function say(text, wrong = false) {
    if (says.textContent !== text) says.textContent = text;
    says.classList.toggle("lab-wrong", wrong);
  }

  const heard = () => clearTimeout(timer);
  /** @param {Record<string, any>} message */
  function tell(message) {
    heard();
    timer = setTimeout(() => {
      say(silent, true);
      silence();
    }, PATIENCE);
    model.send(message);
  }

  // A notebook's shortcuts stay away from what has keys of its own, but for those with Ctrl or Cmd, such as saving.
  const held = (/** @type {KeyboardEvent} */ event) => event.key === "Control" || event.key === "Meta";
  const away = () => (root.dataset.lmSuppressShortcuts = "true");
  const up = (/** @type {KeyboardEvent} */ event) => held(event) && away();
  root.addEventListener("keydown", (event) => {
    if (held(event)) delete root.dataset.lmSuppressShortcuts;
    if (!event.ctrlKey && !event.metaKey) event.stopPropagation();
  });
  document.addEventListener("keyup", up);
  window.addEventListener("blur", away);
  away();

  function destroy() {
    heard();
    document.removeEventListener("keyup", up);
    window.removeEventListener("blur", away);
  }
  return { says, say, tell, heard, destroy };
}

/**
 * What every card has that a kernel writes in: a header with its buttons, and turns besides. Messages with the id of an
 * earlier turn are not its own any more.
 * @param {{ model: any, root: HTMLElement, silence?: () => void }} context `silence` is called where no answer comes
 */
function kernelCard({ model, root, silence }) {
  const silent = "The kernel does not answer. It may be busy; if it was restarted, run the cell again.";
  const line = kernelLine({ model, root, silent, silence });
  let turn = 0;
  let writing = false;

  const facts = el("span", { class: "lab-muted lab-grow" });
  const stop = el("button", { class: "lab-button", type: "button", hidden: true }, "stop");
  stop.title = "End the text here (the notebook's own ■ does not reach what a card writes)";
  stop.addEventListener("click", () => model.send({ kind: "stop" }));
  const head = el("div", { class: "lab-bar" }, el("b", {}, model.get("title")), facts, stop, saveButtons(() => root), freezeButton(() => line.tell({ kind: "freeze" })));

  /** @param {boolean} now */
  function busy(now) {
    writing = now;
    stop.hidden = !now;
  }

  /** Begins a turn. @param {Record<string, any>} message */
  function ask(message) {
    turn += 1;
    busy(true);
    line.tell({ ...message, id: turn });
  }

  const own = (/** @type {any} */ message) => message?.id === turn;
  return { ...line, head, facts, busy, ask, own, isWriting: () => writing };
}

export { kernelCard, kernelLine };

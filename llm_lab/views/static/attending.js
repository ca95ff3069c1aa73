import { render } from "./attention.js";
import { saveButtons } from "./export.js";
import { el, freezeButton } from "./shared.js";

/**
 * Attention where a kernel answers: its maps, under the head that a card has elsewhere.
 * @param {{ model: any, el: HTMLElement }} context
 * @returns {() => void} clean-up
 */
function attend({ model, el: root }) {
  const facts = el("span", { class: "lab-muted lab-grow" }, model.get("subtitle"));
  root.append(el("div", { class: "lab-bar" }, el("b", {}, model.get("title")), facts, saveButtons(() => root), freezeButton(() => model.send({ kind: "freeze" }))));
  return render({ model, el: root });
}

export default { render: attend };

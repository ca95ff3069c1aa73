import { kernelLine } from "./kernel.js";
import { el, nearest, number } from "./shared.js";

/**
 * The controls of a run that another process trains: they ask, and say when it is done. They are no output of their own,
 * which would be an error message in a saved notebook: they are put into a place that the cell's HTML keeps for them, and
 * that is empty without them.
 * @typedef {{ status: string, step: number, scale: number, rate: number, says: string, wrong: boolean, drawn: number }} Now
 */

// A factor of the learning rate, ten to a decade, about equally far apart on a logarithmic scale.
const FACTORS = [0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10];
const LOOK = 400; // milliseconds between two looks for the place: a page that is opened again makes it anew
const LATE = 4; // redraws of the card that may be on their way

/**
 * @param {{ model: any, el: HTMLElement }} context
 * @returns {() => void} clean-up
 */
function controls({ model, el: root }) {
  const name = model.get("name");
  const now = () => /** @type {Now} */ (model.get("now"));
  const line = kernelLine({
    model,
    root,
    silent: `The kernel does not answer. It may be busy, and hear this later; if it was restarted, %attach ${name} brings the controls back.`,
    silence: () => settle(),
  });
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", `controls of ${name}`);
  root.classList.add("lab-run");
  let asking = false; // whether the run is to be stopped
  let sliding = false; // the slider shows what a hand chooses, not what the run has

  /**
   * @param {string} text
   * @param {string} title
   * @param {() => void} act
   */
  function button(text, title, act) {
    const made = /** @type {HTMLButtonElement} */ (el("button", { class: "lab-button", type: "button", title }, text));
    made.addEventListener("click", act);
    return made;
  }
  /** @param {string} what @param {Record<string, any>} [more] */
  const ask = (what, more = {}) => line.tell({ kind: "ask", do: what, ...more });
  const again = () => ["paused", "died"].includes(now().status);

  const pause = button("pause", "", () => ask(again() ? "resume" : "pause"));
  const stop = button("stop", "End it for good, and take the model as it is", () => question(true));
  const sure = el("span", {});
  const yes = button("stop it", "The run cannot go on after that", () => {
    question(false);
    ask("stop");
  });
  const no = button("no", "", () => question(false));
  const asked = el("span", { class: "lab-ask" }, sure, yes, no);
  const slider = /** @type {HTMLInputElement} */ (
    el("input", { type: "range", min: 0, max: FACTORS.length - 1, step: 1, "aria-label": "learning rate, as a multiple of its schedule" })
  );
  const reads = el("span", { class: "lab-reads" });
  const reset = button("× 1", "The schedule as it was planned", () => {
    slider.value = String(FACTORS.indexOf(1));
    slid();
    sent();
  });
  const rate = el("label", { class: "lab-rate" }, "learning rate ", slider);
  const detach = button("detach", "Take the controls away; the run goes on", () => line.tell({ kind: "detach" }));
  const bar = el("div", { class: "lab-bar" }, pause, stop, asked, el("span", { class: "lab-rate lab-grow" }, rate, reads, reset), detach);
  root.append(bar, line.says);

  /** @param {boolean} open */
  function question(open) {
    const back = !open && asking;
    asking = open;
    settle();
    if (open) no.focus();
    else if (back) stop.focus();
  }
  asked.addEventListener("keydown", (event) => event.key === "Escape" && question(false));

  /** @param {number} scale */
  function read(scale) {
    const { scale: before, rate: at } = now();
    const exact = at > 0 && before > 0 ? ` = ${number((at * scale) / before, 2)}` : "";
    reads.textContent = `× ${number(scale, 3).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "")}${exact}`;
    slider.setAttribute("aria-valuetext", reads.textContent);
    reset.hidden = scale === 1;
  }

  function slid() {
    sliding = true;
    read(FACTORS[Number(slider.value)]);
  }
  /** @type {ReturnType<typeof setTimeout> | undefined} */ let timer;
  function sent() {
    clearTimeout(timer);
    timer = setTimeout(() => {
      sliding = false;
      const scale = FACTORS[Number(slider.value)];
      if (scale !== now().scale) ask("lr", { scale });
    }, 250); // arrow keys move it one by one
  }
  slider.addEventListener("input", slid);
  slider.addEventListener("change", sent);

  function settle() {
    const { status, step, scale } = now();
    const running = status === "training";
    pause.textContent = again() ? "resume" : "pause";
    pause.title = again() ? "Go on from its last state" : "End its process after the step in progress; resume goes on from there";
    stop.hidden = asking;
    asked.hidden = !asking;
    sure.textContent = `End ${name} for good at step ${step.toLocaleString("en-US")}, its model as it is? `;
    slider.disabled = reset.disabled = !running;
    if (!sliding) {
      slider.value = String(nearest(FACTORS.map(Math.log), Math.log(Math.max(scale, 1e-9))));
      read(scale);
    }
  }

  const changed = () => {
    line.heard();
    line.say(now().says, now().wrong);
    settle();
  };
  model.on("change:now", changed);
  changed();
  return () => {
    line.destroy();
    clearTimeout(timer);
    model.off("change:now", changed);
  };
}

/**
 * Runs in every page that is open on the kernel, one that was closed and opened again too.
 * @param {{ model: any }} context
 * @returns {() => void} clean-up
 */
function initialize({ model }) {
  const key = model.get("key");
  /** @type {Map<HTMLElement, () => void>} */ const mounted = new Map();
  let wanted = 0; // the drawing of the card that was asked for

  function look() {
    for (const place of /** @type {HTMLCollectionOf<HTMLElement>} */ (document.getElementsByClassName(`llm-lab-bar-${key}`))) {
      if (mounted.has(place)) continue;
      const inside = el("div", {});
      place.replaceChildren(inside);
      mounted.set(place, controls({ model, el: inside }));
    }
    for (const [place, end] of mounted) {
      if (place.isConnected) continue;
      end();
      mounted.delete(place);
    }
    // A page that was opened again gets no updates of the outputs that it was opened with: it asks for them.
    const card = document.getElementsByClassName(`llm-lab-card-${key}`)[0];
    const { drawn } = model.get("now");
    const shown = Number(/llm-lab-drawn-(\d+)/.exec(card?.className ?? "")?.[1] ?? drawn);
    if (drawn > shown + LATE && drawn > wanted) {
      wanted = drawn;
      model.send({ kind: "card" });
    }
  }
  const heard = (/** @type {any} */ message) => {
    if (!["card", "end"].includes(message?.kind)) return;
    for (const card of document.getElementsByClassName(`llm-lab-card-${key}`)) {
      card.innerHTML = message.page; // the view's own HTML, escaped as all of it, which an output would show by itself
      card.className = message.classes;
    }
    if (message.kind === "end") close(message.says);
  };
  /** @param {string} [says] */
  function close(says = "") {
    clearInterval(timer);
    for (const [place, end] of mounted) {
      end();
      place.replaceChildren(el("div", { class: "lab-muted lab-small" }, says));
    }
    mounted.clear();
  }
  const timer = setInterval(look, LOOK);
  model.on("msg:custom", heard);
  look();
  return () => {
    model.off("msg:custom", heard);
    close();
  };
}

export default { initialize, render: controls };

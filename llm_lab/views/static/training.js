import { ticks, tickLabel, timeTicks, logTicks, scale, nearest, number, clock, el, svg } from "./shared.js";

/**
 * The loss chart of a finished run: exact values under the pointer or the arrow keys, over time or steps, plain or log.
 * @typedef {{ step: number[], seconds: number[], loss: number[] }} Curve
 * @typedef {{ name: string, dash: string, train: Curve, val: Curve }} Part
 */

const HEIGHT = 240;
const PAD = { left: 42, right: 14, top: 12, bottom: 26 };
const NAMES = 82;

/**
 * @param {{ model: { get(name: string): any }, el: HTMLElement }} context
 * @returns {() => void} clean-up
 */
function render({ model, el: root }) {
  const train = /** @type {Curve} */ (model.get("train"));
  const val = /** @type {Curve} */ (model.get("val"));
  const parts = /** @type {Part[]} */ (model.get("parts") ?? []);
  const right = PAD.right + (parts.length ? NAMES : 0);
  const turns = Boolean(model.get("turns"));
  const unit = model.get("unit");
  const view = { x: model.get("byTime") ? "seconds" : "step", log: false, at: train.step.length - 1 };

  const chart = svg("svg", { class: "lab-chart", height: HEIGHT, tabindex: 0, role: "img" });
  chart.setAttribute("aria-label", `${model.get("alt")}. Left and right arrow keys read single steps.`);
  const says = el("div", { class: "lab-small lab-muted lab-grow", "aria-live": "polite" });
  const axis = /** @type {HTMLSelectElement} */ (el("select", {}, el("option", { value: "seconds" }, "time"), el("option", { value: "step" }, "steps")));
  axis.value = view.x;
  const log = /** @type {HTMLInputElement} */ (el("input", { type: "checkbox" }));
  root.append(chart, el("div", { class: "lab-bar" }, says, el("label", {}, "against ", axis), el("label", {}, log, "log x")));

  let width = 560;
  /** @type {(value: number) => number} */ let x;
  /** @type {(value: number) => number} */ let y;
  const cursor = svg("path", { class: "lab-cursor" });
  const point = svg("circle", { class: "lab-point", r: 3.5 });

  function read() {
    const at = view.at;
    let text = `step ${train.step[at].toLocaleString("en-US")} · ${clock(train.seconds[at])} · training`;
    if (!turns) text += ` ${number(train.loss[at])}`;
    const near = parts.filter((part) => part.train.step.length);
    const said = near.map((part) => `${part.name} ${number(part.train.loss[nearest(part.train.step, train.step[at])])}`);
    if (said.length) text += ` (${said.join(", ")})`;
    if (val.step.length) {
      const i = nearest(val.step, train.step[at]);
      text += ` · validation ${number(val.loss[i])} (step ${val.step[i].toLocaleString("en-US")})`;
    }
    says.textContent = `${text} ${unit}`;
    const px = x(train[view.x][at]);
    cursor.setAttribute("d", `M${px} ${PAD.top}V${HEIGHT - PAD.bottom}`);
    point.setAttribute("cx", String(px));
    point.setAttribute("cy", String(y(train.loss[at])));
  }

  function draw() {
    const curves = [train, val, ...parts.flatMap((part) => [part.train, part.val])];
    const all = curves.flatMap((curve) => curve[view.x]);
    const losses = curves.flatMap((curve) => curve.loss);
    const low = Math.min(...losses);
    const high = Math.max(...losses);
    const pad = Math.max((high - low) * 0.05, Math.abs(high) * 0.005, 1e-6);
    const last = Math.max(...all, 1e-9);
    const first = view.log ? Math.min(...all.filter((v) => v > 0), last / 2) : 0;
    x = scale([first, last], [PAD.left, width - right], view.log);
    y = scale([low - pad, high + pad], [HEIGHT - PAD.bottom, PAD.top]);
    chart.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const nodes = [];
    const lines = ticks(low - pad, high + pad, 7);
    for (const tick of lines) {
      nodes.push(svg("path", { class: "lab-grid", d: `M${PAD.left} ${y(tick)}H${width - right}` }));
      nodes.push(svg("text", { x: PAD.left - 7, y: y(tick) + 4, "text-anchor": "end" }, tickLabel(tick, lines.length > 1 ? lines[1] - lines[0] : tick)));
    }
    const time = view.x === "seconds";
    const marks = view.log ? logTicks(first, last) : time ? timeTicks(last, width / 100) : ticks(0, last, width / 100);
    for (const tick of marks) {
      const unit = tick === marks[marks.length - 1] ? " steps" : "";
      const label = !time ? tick.toLocaleString("en-US") + unit : last > 120 ? clock(tick) : `${tick} s`;
      const anchor = x(tick) > width - 44 ? "end" : "middle";
      nodes.push(svg("text", { x: x(tick), y: HEIGHT - 8, "text-anchor": anchor }, label));
    }
    const path = (/** @type {Curve} */ curve) =>
      curve.loss.length ? `M${curve.loss.map((loss, i) => `${x(curve[view.x][i]).toFixed(1)} ${y(loss).toFixed(1)}`).join("L")}` : "";
    const ends = turns ? [] : [{ at: y(train.loss[train.loss.length - 1]), name: "total", dash: "none" }];
    for (const part of parts) {
      nodes.push(svg("path", { class: "lab-train lab-part", "stroke-dasharray": part.dash, d: path(part.train) }));
      part.val.loss.forEach((loss, i) => nodes.push(svg("circle", { class: "lab-val-part", cx: x(part.val[view.x][i]), cy: y(loss), r: 2.2 })));
      const curve = part.train.loss.length ? part.train : part.val;
      if (curve.loss.length) ends.push({ at: y(curve.loss[curve.loss.length - 1]), name: part.name, dash: part.dash });
    }
    if (!turns) nodes.push(svg("path", { class: "lab-train", d: path(train) }));
    nodes.push(cursor);
    if (parts.length) {
      ends.sort((a, b) => a.at - b.at);
      ends.forEach((end, i) => (end.at = Math.max(end.at, i ? ends[i - 1].at + 12 : PAD.top)));
      const over = Math.max(0, ends[ends.length - 1].at - (HEIGHT - PAD.bottom));
      for (const end of ends) {
        const at = Math.max(end.at - over, 8);
        const kind = end.name === "total" && end.dash === "none" ? "lab-train" : "lab-train lab-part";
        nodes.push(svg("path", { class: kind, "stroke-dasharray": end.dash, d: `M${width - right + 5} ${at}h16` }));
        nodes.push(svg("text", { x: width - right + 25, y: at + 4 }, end.name.length > 9 ? `${end.name.slice(0, 9)}…` : end.name));
      }
    }
    val.loss.forEach((loss, i) => nodes.push(svg("circle", { class: "lab-val", cx: x(val[view.x][i]), cy: y(loss), r: 3.6 })));
    if (val.loss.length) {
      const end = val.loss.length - 1;
      const px = x(val[view.x][end]);
      const anchor = px > width - right - 66 ? "end" : "middle";
      nodes.push(svg("text", { x: px, y: Math.max(y(val.loss[end]) - 9, 12), "text-anchor": anchor }, `val ${number(val.loss[end], 3)}`));
    }
    chart.replaceChildren(...nodes, point);
    read();
  }

  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const px = ((event.clientX - box.left) / box.width) * width;
    view.at = nearest(train[view.x].map(x), px);
    read();
  });
  chart.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -1e9, End: 1e9 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    view.at = Math.min(Math.max(view.at + by, 0), train.step.length - 1);
    read();
  });
  axis.addEventListener("change", () => ((view.x = axis.value), draw()));
  log.addEventListener("change", () => ((view.log = log.checked), draw()));
  const observer = new ResizeObserver(() => {
    if (Math.abs(chart.clientWidth - width) > 1 && chart.clientWidth > 0) {
      width = chart.clientWidth;
      draw();
    }
  });
  observer.observe(root);
  draw();
  return () => observer.disconnect();
}

export default { render };

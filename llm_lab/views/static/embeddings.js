import { el, howTo } from "./shared.js";

/**
 * Tokens as points that can be found, pointed at and followed over several models; in space they can be turned.
 * @typedef {{ get(name: string): any }} Model
 * @typedef {{ x: number, y: number, z: number, i: number }} Spot as it is seen
 */

const SPOT = 3.4;
const PAD = 22;
const FRAME = 800; // milliseconds from one model to the next

/** @param {DataView} view */
const bytes = (view) => view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);

/** @param {{ model: Model, el: HTMLElement }} context @returns {() => void} clean-up */
function render({ model, el: root }) {
  const frames = /** @type {string[]} */ (model.get("frames"));
  const tokens = /** @type {string[]} */ (model.get("tokens"));
  const kinds = /** @type {{ name: string, sign: string, ink: string }[]} */ (model.get("kinds"));
  const kind = /** @type {number[]} */ (model.get("kind"));
  const counts = /** @type {number[] | null} */ (model.get("counts"));
  const shares = /** @type {string[][]} */ (model.get("shares"));
  const names = /** @type {string[]} */ (model.get("names"));
  const point = /** @type {number[]} */ (model.get("point"));
  const dims = /** @type {number} */ (model.get("dims"));
  const kept = /** @type {number} */ (model.get("kept"));
  const many = /** @type {number} */ (model.get("many"));
  const places = new Int16Array(bytes(model.get("places")));
  const near = new Uint16Array(bytes(model.get("near")));
  const cosine = new Int8Array(bytes(model.get("cosine")));
  const solid = dims === 3;
  const N = tokens.length;
  const last = frames.length - 1;
  const most = counts ? Math.log1p(Math.max(...counts)) : 1;

  let time = last; // which frame, between two while it plays
  let colour = model.get("colour");
  let [turn, tilt] = model.get("turn");
  let zoom = 1;
  let shift = [0, 0];
  let width = 0;
  let height = 0;
  /** @type {number | null} */ let chosen = null;
  /** @type {number | null} */ let lit = null;
  /** @type {number[]} */ let named = []; // the tokens whose names found room
  let playing = 0;

  // how large a unit is, the same in every frame where all stand on the same axes
  const reach = frames.map((_, f) => {
    let [low, high, far] = [[Infinity, Infinity], [-Infinity, -Infinity], 0];
    for (let i = 0; i < N; i++) {
      const at = (f * N + i) * dims;
      for (let d = 0; d < 2; d++) {
        low[d] = Math.min(low[d], places[at + d]);
        high[d] = Math.max(high[d], places[at + d]);
      }
      far = Math.max(far, Math.hypot(...places.subarray(at, at + dims)));
    }
    return { low, high, far };
  });
  if (model.get("shared")) {
    const all = {
      low: [0, 1].map((d) => Math.min(...reach.map((r) => r.low[d]))),
      high: [0, 1].map((d) => Math.max(...reach.map((r) => r.high[d]))),
      far: Math.max(...reach.map((r) => r.far)),
    };
    reach.fill(all);
  }

  const canvas = /** @type {HTMLCanvasElement} */ (el("canvas", { class: "lab-cloud", tabindex: 0, role: "application" }));
  const keys = solid ? "Arrow keys turn it, + and − zoom." : "Arrow keys go to the next token, + and − zoom.";
  canvas.setAttribute("aria-label", `Map of ${N} tokens. ${keys}`);
  let context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const says = el("div", { class: "lab-value", "aria-live": "polite" });
  const detail = el("div", { class: "lab-detail lab-near" });

  /** @param {number} a @param {number} b @param {number} share */
  const mix = (a, b, share) => a + (b - a) * share;

  /** Where a token is at the time, in pixels, and how near the eye, from −1 to 1. */
  function spots() {
    const [f, g] = [Math.floor(time), Math.ceil(time)];
    const share = time - f;
    const size = (/** @type {{ low: number[], high: number[], far: number }} */ r) =>
      solid ? (Math.min(width, height) / 2 - PAD) / (r.far || 1) : Math.min((width - 4 * PAD) / (r.high[0] - r.low[0] || 1), (height - 2 * PAD) / (r.high[1] - r.low[1] || 1));
    const unit = mix(size(reach[f]), size(reach[g]), share) * zoom;
    const centre = [0, 1].map((d) => (solid ? 0 : mix((reach[f].low[d] + reach[f].high[d]) / 2, (reach[g].low[d] + reach[g].high[d]) / 2, share)));
    const [ct, st, cl, sl] = [Math.cos(turn), Math.sin(turn), Math.cos(tilt), Math.sin(tilt)];
    const far = mix(reach[f].far, reach[g].far, share) || 1;
    /** @param {number[]} p @param {number} i @returns {Spot} */
    const look = (p, i) => {
      let [x, y, z] = [p[0] - centre[0], p[1] - centre[1], 0];
      if (solid) {
        const [a, b] = [x * ct + p[2] * st, p[2] * ct - x * st];
        [x, y, z] = [a, y * cl - b * sl, y * sl + b * cl];
      }
      return { x: width / 2 + shift[0] + unit * x, y: height / 2 + shift[1] - unit * y, z: z / far, i };
    };
    const all = tokens.map((_, i) => look(Array.from({ length: dims }, (_, d) => mix(places[(f * N + i) * dims + d], places[(g * N + i) * dims + d], share)), i));
    return { all, look, far };
  }

  /** @param {number} x @param {number} y @param {number} r @param {string} sign */
  function mark(x, y, r, sign) {
    context.beginPath();
    if (sign === "disc" || sign === "ring") context.arc(x, y, r, 0, 7);
    else if (sign === "square") context.rect(x - 0.9 * r, y - 0.9 * r, 1.8 * r, 1.8 * r);
    else if (sign === "cross") {
      context.moveTo(x - r, y - r);
      context.lineTo(x + r, y + r);
      context.moveTo(x + r, y - r);
      context.lineTo(x - r, y + r);
    } else if (sign === "triangle") {
      context.moveTo(x, y - 1.2 * r);
      context.lineTo(x + 1.15 * r, y + 0.9 * r);
      context.lineTo(x - 1.15 * r, y + 0.9 * r);
      context.closePath();
    } else {
      for (const [dx, dy] of [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]]) context.lineTo(x + dx * r, y + dy * r);
      context.closePath();
    }
  }

  /** The tokens near the chosen one in the frame that is shown, where they are known. @param {number} i */
  function nearOf(i) {
    const f = Math.round(time) - (frames.length - kept);
    if (f < 0) return [];
    const found = [];
    for (let k = 0; k < many; k++) {
      const at = (f * N + i) * many + k;
      if (near[at] !== 65535) found.push({ name: names[near[at]], point: point[near[at]], cosine: cosine[at] / 127 });
    }
    return found;
  }

  function draw() {
    if (!width) return;
    const style = getComputedStyle(root);
    const blue = style.getPropertyValue("--lab-blue").trim() || "#2563cf";
    const orange = style.getPropertyValue("--lab-orange").trim() || "#c05f08";
    const ink = style.color;
    const { all, look, far } = spots();
    const ratio = devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = "11px system-ui, sans-serif";
    context.lineWidth = 1;
    // the axes
    context.globalAlpha = 0.28;
    context.strokeStyle = context.fillStyle = ink;
    const share = shares[Math.round(time)] ?? [];
    const zero = look(Array(dims).fill(0), -1);
    if (solid) {
      for (let d = 0; d < 3; d++) {
        const end = look([0, 1, 2].map((j) => (j === d ? far : 0)), -1);
        context.beginPath();
        context.moveTo(2 * zero.x - end.x, 2 * zero.y - end.y);
        context.lineTo(end.x, end.y);
        context.stroke();
        context.globalAlpha = 0.7;
        context.fillText(share[d] ? `${d + 1}: ${share[d]}` : String(d + 1), end.x + 3, end.y);
        context.globalAlpha = 0.28;
      }
    } else if (share.length) {
      context.beginPath();
      context.moveTo(zero.x, 0);
      context.lineTo(zero.x, height);
      context.moveTo(0, zero.y);
      context.lineTo(width, zero.y);
      context.stroke();
      context.globalAlpha = 0.7;
      context.textAlign = "right";
      context.fillText(`axis 1: ${share[0]} →`, width - 4, height - 5);
      context.textAlign = "left";
      context.fillText(`axis 2: ${share[1]} ↑`, 4, 12);
    }
    // the points
    const beside = chosen === null ? [] : nearOf(chosen).map((one) => one.point).filter((i) => i >= 0);
    const order = solid ? all.slice().sort((a, b) => a.z - b.z) : all;
    for (const { x, y, z, i } of order) {
      const by = colour === "kind" ? kinds[kind[i]] : { sign: "disc", ink: "bf" };
      const strong = colour === "frequency" && counts ? 0.12 + (0.88 * Math.log1p(counts[i])) / most : 1;
      context.globalAlpha = strong * (solid ? 0.7 + 0.3 * z : 0.92) * (chosen === null || i === chosen || beside.includes(i) ? 1 : 0.55);
      context.fillStyle = context.strokeStyle = by.ink[0] === "b" ? blue : by.ink[0] === "o" ? orange : ink;
      mark(x, y, SPOT * (solid ? 1 + 0.3 * z : 1), by.sign);
      if (["bf", "of", "m"].includes(by.ink)) context.fill();
      else context.stroke();
    }
    // the names: first of those that are looked at, then the most frequent that find room
    context.font = '11px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace';
    const first = [...new Set([lit, chosen, ...beside])].filter((i) => i !== null);
    /** @type {number[][]} */ const boxes = [];
    const free = (/** @type {number[]} */ [l, t, r, b], /** @type {number} */ own) =>
      l > 0 && r < width && t > 0 && b < height && !boxes.some(([x, y, u, v]) => l < u && r > x && t < v && b > y) && !all.some(({ x, y, i }) => i !== own && x > l - 3 && x < r + 3 && y > t - 3 && y < b + 3);
    const moving = time !== Math.round(time) || playing;
    const tried = moving ? named : tokens.map((_, i) => i).slice(0, 400);
    const shown = [];
    for (const i of [...first, ...tried]) {
      if (shown.includes(i)) continue;
      const { x, y } = all[i];
      const text = tokens[i].length > 16 ? `${tokens[i].slice(0, 15)}…` : tokens[i];
      const wide = context.measureText(text).width;
      const spots = [[x + 6, y + 4], [x - 6 - wide, y + 4], [x - wide / 2, y - 7], [x - wide / 2, y + 14]];
      const forced = first.includes(i) || moving;
      const at = spots.find(([l, b]) => free([l - 1, b - 9, l + wide + 1, b + 3], i)) ?? (forced ? [Math.min(x + 6, width - wide), y + 4] : null);
      if (!at) continue;
      boxes.push([at[0] - 1, at[1] - 9, at[0] + wide + 1, at[1] + 3]);
      shown.push(i);
      context.globalAlpha = chosen === null || first.includes(i) ? 0.95 : 0.5;
      if (first.includes(i)) {
        context.lineWidth = 3;
        context.strokeStyle = root.parentElement?.dataset.theme === "dark" ? "rgba(20,24,30,.85)" : "rgba(255,255,255,.85)";
        context.strokeText(text, at[0], at[1]);
        context.lineWidth = 1;
      }
      context.fillStyle = i === chosen ? orange : ink;
      context.fillText(text, at[0], at[1]);
    }
    if (!moving) named = shown.filter((i) => !first.includes(i) || tried.includes(i));
    context.globalAlpha = 1;
    for (const [i, shade] of /** @type {[number | null, string][]} */ ([[lit, ink], [chosen, orange]])) {
      if (i === null) continue;
      context.strokeStyle = shade;
      context.lineWidth = 1.6;
      context.beginPath();
      context.arc(all[i].x, all[i].y, SPOT + 3.5, 0, 7);
      context.stroke();
    }
  }

  /** The map as it is now, in a picture of another size. @param {any} other @param {number} wide @param {number} tall */
  const drawOn = (other, wide, tall) => {
    const own = /** @type {const} */ ([context, width, height]);
    [context, width, height] = [other, wide, tall];
    try {
      draw();
    } finally {
      [context, width, height] = own;
    }
  };
  Object.assign(canvas, { drawOn });

  const rest = solid ? "Drag, or use the arrow keys, to turn it; click a token for its nearest." : "Point at a token; click it for its nearest; drag moves the map.";

  /** @param {number | null} i */
  function light(i) {
    if (i === lit) return;
    lit = i;
    tell();
    draw();
  }

  function tell() {
    const i = lit ?? chosen;
    if (i === null) {
      says.replaceChildren(howTo(rest));
      return;
    }
    const counted = counts ? `, ${counts[i].toLocaleString("en-US")} times in the text counted` : "";
    says.replaceChildren(el("bdi", { class: "lab-mono" }, el("b", {}, tokens[i])), `: ${kinds[kind[i]].name}${counted}`);
  }

  /** @param {number | null} i */
  function choose(i) {
    chosen = i;
    tell();
    detail.replaceChildren();
    if (i !== null) {
      const found = nearOf(i);
      const title = el("div", {}, "nearest to ", el("bdi", { class: "lab-mono" }, el("b", {}, tokens[i])), frames.length > 1 ? ` in ${frames[Math.round(time)]}` : "");
      const list = el("dl");
      for (const one of found) {
        const name = one.point >= 0 ? el("button", { type: "button", class: "lab-other" }, one.name) : el("span", {}, one.name);
        if (one.point >= 0) name.addEventListener("click", () => choose(one.point));
        list.append(el("dt", { class: "lab-mono" }, name), el("dd", {}, one.cosine.toFixed(2).replace("-", "−")));
      }
      detail.append(title, found.length ? list : el("div", { class: "lab-muted lab-small" }, "Known of the last model only."));
    } else detail.append(el("div", { class: "lab-small" }, howTo("The token that is clicked, and those whose vectors are nearest to its, by the cosine, stand here.")));
    draw();
  }

  /** The token under a place of the canvas. @param {number} x @param {number} y */
  function under(x, y) {
    let [best, at] = [12, /** @type {number | null} */ (null)];
    for (const spot of spots().all) {
      const distance = Math.hypot(spot.x - x, spot.y - y) - 2 * spot.z;
      if (distance < best) [best, at] = [distance, spot.i];
    }
    return at;
  }

  /** @type {{ x: number, y: number, moved: boolean } | null} */ let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.offsetX, y: event.offsetY, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag) return light(under(event.offsetX, event.offsetY));
    const [dx, dy] = [event.offsetX - drag.x, event.offsetY - drag.y];
    if (!drag.moved && Math.hypot(dx, dy) < 4) return;
    if (solid) {
      turn += dx / 130;
      tilt = Math.min(Math.max(tilt + dy / 130, -1.5), 1.5);
    } else shift = [shift[0] + dx, shift[1] + dy];
    drag = { x: event.offsetX, y: event.offsetY, moved: true };
    draw();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (drag && !drag.moved) choose(under(event.offsetX, event.offsetY));
    drag = null;
  });
  canvas.addEventListener("pointercancel", () => (drag = null));
  canvas.addEventListener("pointerleave", () => light(null));

  /** The nearest token in the direction of an arrow key. @param {number} dx @param {number} dy */
  function next(dx, dy) {
    const { all } = spots();
    const from = chosen === null ? { x: width / 2, y: height / 2 } : all[chosen];
    let [best, at] = [Infinity, chosen];
    for (const { x, y, i } of all) {
      const along = (x - from.x) * dx + (y - from.y) * dy;
      const off = Math.abs((x - from.x) * dy) + Math.abs((y - from.y) * dx);
      if (i !== chosen && along > 0.5 && along + 2 * off < best) [best, at] = [along + 2 * off, i];
    }
    choose(at);
  }

  canvas.addEventListener("keydown", (event) => {
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (arrow && solid) {
      turn += arrow[0] * 0.12;
      tilt = Math.min(Math.max(tilt + arrow[1] * 0.12, -1.5), 1.5);
    } else if (arrow) next(arrow[0], arrow[1]);
    else if (event.key === "+" || event.key === "=") zoomed(1.25);
    else if (event.key === "-" || event.key === "−") zoomed(0.8);
    else if (event.key === "Home" || event.key === "0") again();
    else if (event.key === "Escape" && chosen !== null) choose(null);
    else return;
    event.preventDefault();
    event.stopPropagation();
    draw();
  });

  /** @param {number} by */
  function zoomed(by) {
    const to = Math.min(Math.max(zoom * by, 0.5), 20);
    shift = shift.map((v) => (v * to) / zoom);
    zoom = to;
    draw();
  }

  function again() {
    zoom = 1;
    shift = [0, 0];
    [turn, tilt] = model.get("turn");
    draw();
  }

  // what stands above the map
  const bar = el("div", { class: "lab-bar" });
  /** @param {string} text @param {string} title @param {() => void} act */
  const button = (text, title, act) => {
    const made = el("button", { type: "button", class: "lab-button", title, "aria-label": title }, text);
    made.addEventListener("click", act);
    return made;
  };
  const find = /** @type {HTMLInputElement} */ (el("input", { class: "lab-box", type: "search", size: 12 }));
  find.addEventListener("input", () => {
    const text = find.value.trim();
    const at = text ? [tokens.indexOf(text), tokens.findIndex((one) => one.startsWith(text)), tokens.findIndex((one) => one.toLowerCase().includes(text.toLowerCase()))].find((i) => i >= 0) : undefined;
    choose(at ?? null);
    if (text && at === undefined) says.textContent = `No token here has “${text}”.`;
  });
  bar.append(el("label", {}, "find ", find));
  if (counts) {
    const box = /** @type {HTMLSelectElement} */ (el("select", {}, el("option", { value: "kind" }, "kind"), el("option", { value: "frequency" }, "frequency")));
    box.value = colour;
    box.addEventListener("change", () => {
      colour = box.value;
      legend();
      draw();
    });
    bar.append(el("label", {}, "colour ", box));
  }
  bar.append(el("span", {}, button("+", "larger", () => zoomed(1.25)), " ", button("−", "smaller", () => zoomed(0.8)), " ", button("reset", "as it was", again)));

  // the film
  const slider = /** @type {HTMLInputElement} */ (el("input", { type: "range", min: 0, max: last, step: 1, value: last, "aria-label": "model" }));
  const which = el("b");
  const film = el("div", { class: "lab-bar lab-film" });
  const play = button("▶ play", "play all models, the first one first", () => (playing ? stop() : start()));
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

  /** @param {number} to */
  function show(to) {
    time = to;
    slider.value = String(Math.round(to));
    which.textContent = frames[Math.round(to)];
    slider.setAttribute("aria-valuetext", frames[Math.round(to)]);
    draw();
  }

  function start() {
    let from = time >= last ? 0 : Math.floor(time);
    let begun = performance.now();
    play.textContent = "❚❚ pause";
    const tick = (/** @type {number} */ now) => {
      const at = from + Math.max(now - begun, 0) / FRAME;
      if (at >= last) {
        stop();
        return;
      }
      playing = requestAnimationFrame(tick);
      const rest = at - Math.floor(at);
      show(still ? Math.floor(at) : Math.floor(at) + (rest < 0.25 ? 0 : ((rest - 0.25) / 0.75) ** 2 * (3 - (2 * (rest - 0.25)) / 0.75)));
    };
    playing = requestAnimationFrame(tick);
  }

  function stop() {
    cancelAnimationFrame(playing);
    playing = 0;
    play.textContent = "▶ play";
    show(Math.round(time) >= last - 1 && time > last - 1 ? last : Math.round(time));
    choose(chosen);
  }

  slider.addEventListener("input", () => {
    if (playing) stop();
    show(Number(slider.value));
    choose(chosen);
  });
  if (last > 0) film.append(play, slider, which);

  // what the signs mean
  const key = el("div", { class: "lab-bar lab-signs" });
  function legend() {
    key.replaceChildren();
    if (colour === "frequency") {
      key.append(el("span", { class: "lab-muted" }, "the fuller, the more frequent"));
      return;
    }
    kinds.forEach((one, k) => {
      const signs = { disc: "●", ring: "○", triangle: "▲", square: "■", diamond: "◇", cross: "×" };
      const sign = el("span", { "aria-hidden": "true", class: one.ink[0] === "b" ? "lab-blue" : one.ink[0] === "o" ? "lab-orange" : "" }, signs[/** @type {keyof typeof signs} */ (one.sign)]);
      key.append(el("span", {}, sign, ` ${one.name} ${kind.filter((v) => v === k).length}`));
    });
  }

  const map = el("div", { class: "lab-mapped" }, canvas, key, says);
  root.append(bar, ...(last > 0 ? [film] : []), el("div", { class: "lab-side" }, map, detail));
  legend();
  choose(null);
  if (last > 0) show(last);
  const resize = () => {
    const wide = map.clientWidth;
    if (!wide || Math.abs(wide - width) < 1) return;
    width = wide;
    height = Math.round(Math.min(Math.max(0.66 * wide, 300), 560));
    const ratio = devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
    draw();
  };
  const observer = new ResizeObserver(resize);
  observer.observe(map);
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const later = () => setTimeout(draw, 60);
  scheme.addEventListener("change", later);
  return () => {
    cancelAnimationFrame(playing);
    observer.disconnect();
    scheme.removeEventListener("change", later);
  };
}

export default { render };

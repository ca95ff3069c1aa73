import { chartOf, HELD } from "./charts.js";
import { enlarged, familyOf, imageOf, painted, paintOf, path, reachOf, shape, ShapePen, widthOf } from "./shapes.js";
import { typeset } from "./typeset.js";

/** @typedef {import("./shapes.js").Box} Box */
/** @typedef {HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement} Control */

const EDGE = 12; // pixels around a view that has no border
const SIDES = /** @type {const} */ (["Top", "Right", "Bottom", "Left"]);

/** What stands between commas that are in no brackets. @param {string} text */
const listed = (text) => (text.match(/(?:[^,(]|\((?:[^()]|\([^()]*\))*\))+/g) ?? []).map((part) => part.trim());

/** @param {string} look @param {number} thick */
const dashes = (look, thick) => ({ "stroke-width": thick, "stroke-dasharray": look === "dashed" ? `${3 * thick} ${2 * thick}` : look === "dotted" ? `${thick} ${thick}` : undefined });

/** @param {Box} box */
const placed = ({ left, top, right, bottom }) => ({ x: left, y: top, width: Math.max(right - left, 0), height: Math.max(bottom - top, 0) });

/** A box with its edges that much further in. @param {Box} box @param {number} by */
const within = ({ left, top, right, bottom }, by) => ({ left: left + by, top: top + by, right: right - by, bottom: bottom - by });

/** One view as plain shapes, text and images, from where the page has put everything. */
class Drawing {
  /** @param {HTMLElement} view */
  constructor(view) {
    this.view = view;
    this.origin = view.getBoundingClientRect();
    this.style = getComputedStyle(view);
    this.ground = paintOf(groundOf(view));
    this.defs = shape("defs");
    this.charts = 0;
    /** @type {Promise<void>[]} */ this.waits = [];
  }

  make() {
    const out = parseFloat(this.style.borderLeftWidth) ? 0 : EDGE;
    const [width, height] = [this.origin.width + 2 * out, this.origin.height + 2 * out];
    const root = shape("svg", { width, height, viewBox: path`${-out} ${-out} ${width} ${height}`, "font-family": familyOf(this.style.fontFamily), "font-size": this.style.fontSize });
    root.setAttributeNS("http://www.w3.org/XML/1998/namespace", "xml:space", "preserve");
    root.append(shape("title", {}, titleOf(this.view).join(" ")), this.defs, shape("rect", { x: -out, y: -out, width, height, ...painted("fill", this.ground) }));
    this.element(this.view, root, Infinity);
    return root;
  }

  /** Where a box of the page stands in the picture. @param {Box} box @returns {Box} */
  at({ left, top, right, bottom }) {
    return { left: left - this.origin.left, top: top - this.origin.top, right: right - this.origin.left, bottom: bottom - this.origin.top };
  }

  /** The box inside an element's borders and padding. @param {Element} element @param {CSSStyleDeclaration} style @returns {Box} */
  inner(element, style) {
    const [t, r, b, l] = SIDES.map((side) => parseFloat(style[`padding${side}`]) + parseFloat(style[`border${side}Width`]));
    const { left, top, right, bottom } = this.at(element.getBoundingClientRect());
    return { left: left + l, top: top + t, right: right - r, bottom: bottom - b };
  }

  /**
   * An element with all that stands in it; what cannot be drawn is left out.
   * @param {Element} element
   * @param {Element} into
   * @param {number} end where lines are cut with …
   */
  element(element, into, end) {
    const style = getComputedStyle(element);
    if (style.display === "none" || style.opacity === "0") return;
    const shown = style.visibility === "visible";
    if (Number(style.opacity) < 1) into = into.appendChild(shape("g", { opacity: style.opacity }));
    try {
      const boxes = (style.display === "inline" ? [...element.getClientRects()] : [element.getBoundingClientRect()]).map((box) => this.at(box));
      if (shown) for (const box of boxes) this.box(box, style, into);
      let inside = into;
      const { scrollWidth, clientWidth, scrollHeight, clientHeight } = element;
      if (style.overflowX !== "visible" && clientWidth && (scrollWidth > clientWidth + 1 || scrollHeight > clientHeight + 1)) {
        if (style.textOverflow === "ellipsis") end = this.inner(element, style).right;
        else inside = this.clipped(this.inner(element, style), into);
      }
      if (shown || element.childElementCount) this.content(element, style, inside, end);
      if (shown) for (const box of boxes) this.outline(box, style, into);
    } catch (error) {
      console.warn("llm_lab: left out of the picture,", error);
    }
  }

  /** @param {Element} element @param {CSSStyleDeclaration} style @param {Element} into @param {number} end */
  content(element, style, into, end) {
    if (element instanceof SVGSVGElement) return void into.append(this.chart(element, this.inner(element, style)));
    if (element instanceof HTMLCanvasElement) return this.canvas(element, this.inner(element, style), into);
    if (element instanceof HTMLImageElement) return this.image(element, style, into);
    if (element instanceof HTMLInputElement || element instanceof HTMLSelectElement || element instanceof HTMLTextAreaElement) return this.control(element, style, into);
    const closed = element instanceof HTMLDetailsElement && !element.open;
    if (element.tagName === "SUMMARY" && style.display === "list-item") this.triangle(element, style, into);
    for (const child of element.childNodes) {
      if (child instanceof Element && (!closed || child.tagName === "SUMMARY")) this.element(child, into, end);
      else if (child instanceof Text && !closed && style.visibility === "visible") this.text(child, style, into, end);
    }
  }

  /** @param {Box} box @param {Element} into */
  clipped(box, into) {
    const id = `clip${this.defs.childElementCount}`;
    this.defs.append(shape("clipPath", { id }, shape("rect", placed(box))));
    return into.appendChild(shape("g", { "clip-path": `url(#${id})` }));
  }

  /** Grounds and borders. @param {Box} box @param {CSSStyleDeclaration} style @param {Element} into */
  box(box, style, into) {
    const { left, top, right, bottom } = box;
    const [width, height] = [right - left, bottom - top];
    if (width <= 0 || height <= 0) return;
    const round = Math.min(parseFloat(style.borderTopLeftRadius) || 0, width / 2, height / 2);
    const ground = paintOf(style.backgroundColor);
    if (ground) into.append(shape("rect", { ...placed(box), rx: round || undefined, ...painted("fill", ground) }));
    for (const layer of listed(style.backgroundImage).reverse()) this.gradient(layer, box, round || undefined, into);
    for (const shadow of listed(style.boxShadow)) this.edge(shadow, box, into);
    const sides = SIDES.map((side) => {
      const look = style[`border${side}Style`];
      const thick = ["none", "hidden"].includes(look) ? 0 : parseFloat(style[`border${side}Width`]);
      return { thick, look, paint: thick ? paintOf(style[`border${side}Color`]) : null };
    });
    const [{ thick, look, paint }] = sides;
    if (paint && new Set(sides.map((side) => JSON.stringify(side))).size === 1) {
      const line = { ...placed(within(box, thick / 2)), rx: round ? Math.max(round - thick / 2, 0) : undefined };
      into.append(shape("rect", { ...line, fill: "none", ...painted("stroke", paint), ...dashes(look, thick) }));
      return;
    }
    // Borders that cells share lie on the line between them.
    const shared = style.borderCollapse === "collapse" && style.display.startsWith("table");
    sides.forEach(({ thick, look, paint }, i) => {
      if (!paint) return;
      const b = within(box, shared ? 0 : thick / 2);
      const d = [path`M${left} ${b.top}H${right}`, path`M${b.right} ${top}V${bottom}`, path`M${left} ${b.bottom}H${right}`, path`M${b.left} ${top}V${bottom}`][i];
      into.append(shape("path", { d, fill: "none", ...painted("stroke", paint), ...dashes(look, thick) }));
    });
  }

  /** A shadow inside one edge of a box. @param {string} shadow @param {Box} box @param {Element} into */
  edge(shadow, { left, top, right, bottom }, into) {
    const colour = shadow.match(/[a-z]+\([^)]*\)/)?.[0];
    if (!colour || !shadow.includes("inset")) return;
    const [x, y] = (shadow.replace(colour, "").match(/-?[\d.]+px/g) ?? []).map(parseFloat);
    const edge = { left: x < 0 ? right + x : left, top: y < 0 ? bottom + y : top, right: x > 0 ? left + x : right, bottom: y > 0 ? top + y : bottom };
    into.append(shape("rect", { ...placed(edge), ...painted("fill", paintOf(colour)) }));
  }

  /** @param {Box} box @param {CSSStyleDeclaration} style @param {Element} into */
  outline(box, style, into) {
    const thick = parseFloat(style.outlineWidth);
    if (style.outlineStyle === "none" || !thick) return;
    const line = placed(within(box, -parseFloat(style.outlineOffset) - thick / 2));
    into.append(shape("rect", { ...line, fill: "none", ...painted("stroke", paintOf(style.outlineColor)), ...dashes(style.outlineStyle, thick) }));
  }

  /**
   * A gradient from the left to the right; one with a sharp edge is two rectangles.
   * @param {string} source
   * @param {Box} box
   * @param {number | undefined} rx
   * @param {Element} into
   */
  gradient(source, box, rx, into) {
    const [way, ...parts] = listed(/^linear-gradient\((.*)\)$/.exec(source)?.[1] ?? "");
    if (way !== "to right" && way !== "90deg") return;
    const width = box.right - box.left;
    let last = 0;
    const stops = parts.map((part, i) => {
      const [end, amount, unit] = / (-?[\d.]+)(%|px)$/.exec(part) ?? ["", (100 * i) / (parts.length - 1), "%"];
      last = Math.min(Math.max(Number(amount) / (unit === "%" ? 100 : width), last), 1);
      return { share: last, paint: paintOf(part.slice(0, part.length - end.length)) };
    });
    if (stops.length === 2 && stops[0].share === stops[1].share) {
      const middle = box.left + width * stops[0].share;
      [{ ...box, right: middle }, { ...box, left: middle }].forEach((half, i) => {
        const { paint } = stops[i];
        if (paint && half.right > half.left) into.append(shape("rect", { ...placed(half), rx, ...painted("fill", paint) }));
      });
      return;
    }
    const id = `ramp${this.defs.childElementCount}`;
    const ramp = shape("linearGradient", { id });
    stops.forEach(({ share, paint }, i) => {
      const { rgb } = paint ?? stops[i - 1]?.paint ?? stops[i + 1]?.paint ?? { rgb: "#000" }; // it fades, and does not darken
      ramp.append(shape("stop", { offset: share, "stop-color": rgb, "stop-opacity": String(paint?.alpha ?? 0) }));
    });
    this.defs.append(ramp);
    into.append(shape("rect", { ...placed(box), rx, fill: `url(#${id})` }));
  }

  /** @param {Text} node @param {CSSStyleDeclaration} style @param {Element} into @param {number} end */
  text(node, style, into, end) {
    const upright = style.writingMode === "horizontal-tb";
    const way = upright ? 0 : new DOMMatrix(style.transform).a < 0 ? -90 : 90;
    for (const { text, box, from } of typeset(node, upright)) {
      const here = this.at(box);
      const long = upright && here.right > end + 0.5;
      this.words(long ? this.cut(node, from, text, style, end) : text, here, style, into, way, long);
    }
  }

  /** The beginning of a line that ends before `end`, with …. @param {Text} node @param {number} from @param {string} text @param {CSSStyleDeclaration} style @param {number} end */
  cut(node, from, text, style, end) {
    const room = end + this.origin.left - widthOf("…", style).width;
    const range = document.createRange();
    range.setStart(node, from);
    let [low, high] = [0, text.length];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      range.setEnd(node, Math.min(from + middle, node.length));
      if (range.getBoundingClientRect().right <= room) low = middle;
      else high = middle - 1;
    }
    return low ? `${text.slice(0, low).replace(/[\ud800-\udbff]$/, "")}…` : "";
  }

  /**
   * One line of text.
   * @param {string} text
   * @param {Box} box
   * @param {CSSStyleDeclaration} style
   * @param {Element} into
   * @param {number} [way] by how much it is turned, in degrees
   * @param {boolean} [left] whether it begins at the box's left whatever its alignment
   */
  words(text, box, style, into, way = 0, left = false) {
    if (!text) return;
    const [up, down] = reachOf(style);
    const rise = up / (up + down || 1);
    const rtl = style.direction === "rtl";
    const align = left || way ? "left" : style.textAlign.replace("-webkit-", "");
    const side = align === "start" ? rtl : align === "end" ? !rtl : align === "right"; // whether it is the right one
    let x = align === "center" ? (box.left + box.right) / 2 : side ? box.right : box.left;
    let y = box.top + (box.bottom - box.top) * rise;
    if (way < 0) [x, y] = [box.left + (box.right - box.left) * rise, box.bottom];
    if (way > 0) [x, y] = [box.right - (box.right - box.left) * rise, box.top];
    const looks = {
      x,
      y,
      "text-anchor": align === "center" ? "middle" : side !== rtl ? "end" : undefined,
      direction: rtl ? "rtl" : undefined,
      "font-family": style.fontFamily === this.style.fontFamily ? undefined : familyOf(style.fontFamily),
      "font-size": style.fontSize === this.style.fontSize ? undefined : style.fontSize,
      "font-weight": style.fontWeight === "400" ? undefined : style.fontWeight,
      "font-style": style.fontStyle === "normal" ? undefined : style.fontStyle,
      style: style.fontVariantNumeric === "normal" ? undefined : `font-variant-numeric:${style.fontVariantNumeric}`,
      transform: way ? path`rotate(${way} ${x} ${y})` : undefined,
      ...painted("fill", paintOf(style.color)),
    };
    into.append(shape("text", looks, text));
  }

  /** The mark of what can be opened. @param {Element} element @param {CSSStyleDeclaration} style @param {Element} into */
  triangle(element, style, into) {
    const { left, top } = this.inner(element, style);
    const size = parseFloat(style.fontSize) / 2;
    const y = top + (parseFloat(style.lineHeight) || 2.4 * size) / 2;
    const open = element.parentElement?.hasAttribute("open");
    const d = open ? path`M${left} ${y - size / 2}h${1.2 * size}l${-0.6 * size} ${size}Z` : path`M${left + 0.2 * size} ${y - 0.6 * size}v${1.2 * size}l${size} ${-0.6 * size}Z`;
    into.append(shape("path", { d, ...painted("fill", paintOf(style.color)) }));
  }

  /** What a control is set to. @param {Control} element @param {CSSStyleDeclaration} style @param {Element} into */
  control(element, style, into) {
    const box = this.inner(element, style);
    const { type } = element;
    const told = element instanceof HTMLSelectElement ? element.selectedOptions[0]?.text ?? "" : element.value;
    const rows = type === "range" ? [] : type === "checkbox" ? [/** @type {HTMLInputElement} */ (element).checked ? "✓" : "–"] : told.split("\n");
    const [up, down] = reachOf(style);
    const line = type === "textarea" ? parseFloat(style.lineHeight) || up + down : box.bottom - box.top;
    const inside = type.startsWith("select") ? into : this.clipped(box, into);
    rows.forEach((row, i) => {
      const y = box.top + (i + 0.5) * line;
      this.words(row, { ...box, top: y - (up + down) / 2, bottom: y + (up + down) / 2 }, style, inside, 0, true);
    });
  }

  /** @param {SVGSVGElement} source @param {Box} box */
  chart(source, box) {
    return chartOf(source, box, `chart${this.charts++}`, this.waits);
  }

  /** @param {HTMLCanvasElement} element @param {Box} box @param {Element} into */
  canvas(element, box, into) {
    const [width, height] = [box.right - box.left, box.bottom - box.top];
    const drawOn = /** @type {any} */ (element).drawOn; // of a canvas whose view can draw it elsewhere
    if (drawOn) {
      const group = this.clipped(box, into).appendChild(shape("g", { transform: path`translate(${box.left} ${box.top})` }));
      drawOn(new ShapePen(group), width, height);
    } else if (element.width && element.height) into.append(imageOf(enlarged(element, element.width, element.height, width), placed(box)));
  }

  /** @param {HTMLImageElement} element @param {CSSStyleDeclaration} style @param {Element} into */
  image(element, style, into) {
    const box = this.inner(element, style);
    const [, base64, source] = /^data:image\/svg\+xml(?:;charset=utf-8)?(;base64)?,(.*)$/s.exec(element.src) ?? [];
    if (source === undefined) {
      if (HELD.test(element.src)) into.append(imageOf(element.src, placed(box)));
      return;
    }
    const text = base64 ? new TextDecoder().decode(Uint8Array.from(atob(source), (c) => c.charCodeAt(0))) : decodeURIComponent(source);
    const parsed = document.importNode(new DOMParser().parseFromString(text, "image/svg+xml").documentElement, true);
    if (!(parsed instanceof SVGSVGElement)) return;
    // Its styles hold in a tree of its own, as they do in an image.
    const host = document.createElement("div");
    host.style.cssText = "all:initial;position:fixed;width:0;height:0;overflow:hidden";
    host.attachShadow({ mode: "closed" }).append(parsed);
    this.view.append(host);
    try {
      into.append(this.chart(parsed, box));
    } finally {
      host.remove();
    }
  }
}

/** The first colour behind a view that hides what lies below. @param {Element} view */
function groundOf(view) {
  for (let node = /** @type {Element | null} */ (view); node; node = node.parentElement) {
    const { backgroundColor } = getComputedStyle(node);
    if (paintOf(backgroundColor)?.alpha === 1) return backgroundColor;
  }
  const probe = document.createElement("i");
  probe.style.cssText = "position:fixed;background:Canvas";
  view.append(probe);
  const { backgroundColor } = getComputedStyle(probe);
  probe.remove();
  return backgroundColor;
}

/**
 * Name and facts of a view, as they stand in its head.
 * @param {Element} view
 * @returns {string[]}
 */
export function titleOf(view) {
  const name = view.querySelector("b");
  return [name, name?.nextElementSibling].map((one) => one?.textContent?.replace(/\s+/g, " ").trim() ?? "").filter(Boolean);
}

/**
 * Lays a view out for paper: what scrolls is spread, and what is there to work it is away, until the function is called
 * that this gives. The page draws nothing in between.
 * @param {HTMLElement} view
 */
function spread(view) {
  const all = (/** @type {string} */ selector) => /** @type {HTMLElement[]} */ ([...view.querySelectorAll(selector)]);
  /** @type {Map<HTMLElement, { style: string | null, left: number, top: number }>} */ const before = new Map();
  /** @param {HTMLElement} node @param {Record<string, string>} styles */
  const set = (node, styles) => {
    if (!before.has(node)) before.set(node, { style: node.getAttribute("style"), left: node.scrollLeft, top: node.scrollTop });
    for (const [name, value] of Object.entries(styles)) node.style.setProperty(name, value, "important");
  };
  const away = (/** @type {HTMLElement} */ node) => set(node, { display: "none" });
  all(".lab-unsaved, button.lab-button").forEach(away);
  // Of the controls in a line only what they are set to is told.
  for (const node of all("select")) set(node, { appearance: "none", "border-color": "transparent", padding: "0" });
  for (const node of /** @type {HTMLInputElement[]} */ (all(".lab-bar input"))) {
    const { type } = node;
    if (type === "checkbox" ? !node.checked : type !== "range" && !node.value) away(node.closest("label") ?? node);
    else if (type === "checkbox" || type === "range") away(node);
  }
  for (const node of all(".lab-bar, .lab-detail, .lab-value")) {
    const drawn = [...node.querySelectorAll("svg, canvas, img, input, select")].some((one) => one.getClientRects().length);
    if (!drawn && !node.innerText.trim()) away(node);
  }
  const scrollers = [view, ...all("*").filter((node) => node instanceof HTMLElement && /auto|scroll/.test(getComputedStyle(node).overflow))];
  for (const node of scrollers) if (node !== view && node.scrollHeight > node.clientHeight + 1) set(node, { "max-height": "none", height: "auto" });
  for (let wider = true, pass = 0; wider && pass < 4; pass++) {
    wider = false;
    for (const node of scrollers.slice().reverse()) {
      const more = node.scrollWidth - node.clientWidth;
      if (more <= 1) continue;
      wider = true;
      const width = node.offsetWidth + more + parseFloat(getComputedStyle(node).paddingRight);
      set(node, { "box-sizing": "border-box", "max-width": "none", "min-width": `${width}px` });
    }
  }
  return () => {
    for (const [node, { style }] of before) style === null ? node.removeAttribute("style") : node.setAttribute("style", style);
    for (const [node, { left, top }] of before) [node.scrollLeft, node.scrollTop] = [left, top];
  };
}

/**
 * A view as an SVG document that needs nothing else: everything in it is a plain shape, text or an image that it holds.
 * What scrolls is in it whole.
 * @param {HTMLElement} view
 * @returns {Promise<Element>}
 */
export async function pictureOf(view) {
  const back = spread(view);
  /** @type {Drawing} */ let drawing;
  /** @type {Element} */ let made;
  try {
    drawing = new Drawing(view);
    made = drawing.make();
  } finally {
    back();
  }
  await Promise.allSettled(drawing.waits);
  return made;
}

/**
 * Saves a view as a picture that opens anywhere: an SVG document of plain shapes, text and images, made from where the
 * page has put everything, or that document as a PNG. What scrolls is drawn whole; what cannot be drawn is left out.
 */

const SVG = "http://www.w3.org/2000/svg";
const SHARP = 2; // pixels of a PNG to one of the page
const LONGEST = 16_000; // pixels that a canvas may have at a side
const ROOM = 120_000_000; // and in all
const HELD = /^data:image\/(png|jpeg|gif|webp);base64,/;
const LEAVES = "path rect circle ellipse line polyline polygon text tspan image use".split(" ");
const PARTS = new Set(["g", "svg", "defs", ...LEAVES]);
const PLACES = "d x y width height cx cy r rx ry x1 y1 x2 y2 points transform dx dy viewBox preserveAspectRatio textLength lengthAdjust".split(" ");
/** How SVG looks where nothing is said, for what its parts have from one another. @type {Record<string, string>} */
const LOOKS = {
  "fill-rule": "nonzero",
  "stroke-width": "1px",
  "stroke-dasharray": "none",
  "stroke-linecap": "butt",
  "stroke-linejoin": "miter",
  "text-anchor": "start",
  "dominant-baseline": "auto",
  "font-family": "",
  "font-size": "",
  "font-weight": "400",
  "font-style": "normal",
};

/** @typedef {{ rgb: string, alpha: number }} Paint */
/** @typedef {{ left: number, top: number, right: number, bottom: number }} Box */

/**
 * An element of the document that is saved.
 * @param {string} tag
 * @param {Record<string, string | number | undefined>} [attributes] what is undefined is left out
 * @param {...(Node | string)} children
 */
function shape(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined) node.setAttribute(name, typeof value === "number" ? String(Math.round(value * 100) / 100) : value);
  }
  node.append(...children);
  return node;
}

const pen = /** @type {CanvasRenderingContext2D} */ (document.createElement("canvas").getContext("2d", { willReadFrequently: true }));

/** Any colour of CSS as SVG of 1999 knows it; null where nothing is seen. @param {string} colour @returns {Paint | null} */
function paintOf(colour) {
  let parts = /^rgba?\(/.test(colour) ? (colour.match(/[\d.]+/g) ?? []).map(Number) : [];
  if (!parts.length) {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = "transparent"; // what stays where the colour is none
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    parts = [r, g, b, a / 255];
  }
  const alpha = parts[3] ?? 1;
  if (!alpha) return null;
  return { rgb: `#${parts.slice(0, 3).map((part) => Math.round(part).toString(16).padStart(2, "0")).join("")}`, alpha };
}

/** @param {"fill" | "stroke"} way @param {Paint | null} paint @param {number} [share] */
function painted(way, paint, share = 1) {
  if (!paint) return { [way]: "none" };
  const alpha = paint.alpha * share;
  return { [way]: paint.rgb, [`${way}-opacity`]: alpha < 1 ? Math.round(alpha * 1000) / 1000 + "" : undefined };
}

/** @param {CSSStyleDeclaration} style */
const fontOf = (style) => `${style.fontStyle} ${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;

/** How far a font reaches above its baseline, and below, in pixels. @param {CSSStyleDeclaration} style */
function reachOf(style) {
  pen.font = fontOf(style);
  const { fontBoundingBoxAscent: up, fontBoundingBoxDescent: down } = pen.measureText("x");
  return [Math.round(up), Math.round(down)];
}

/** What stands between commas that are in no brackets. @param {string} text */
const listed = (text) => (text.match(/(?:[^,(]|\((?:[^()]|\([^()]*\))*\))+/g) ?? []).map((part) => part.trim());

/**
 * A picture whose pixels are cells, so large that no viewer blurs them.
 * @param {CanvasImageSource} source @param {number} across its pixels @param {number} down @param {number} shown its width on the page
 */
function enlarged(source, across, down, shown) {
  const times = Math.max(1, Math.min(Math.ceil((2 * SHARP * shown) / across), Math.floor(4000 / Math.max(across, down))));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [across * times, down * times];
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.imageSmoothingEnabled = false;
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL();
}

/** Every program knows this one, not all of them `href`. @param {Element} node @param {string} href */
const link = (node, href) => node.setAttributeNS("http://www.w3.org/1999/xlink", "xlink:href", href);

/** @param {string} href @param {Record<string, string | number | undefined>} attributes */
function imageOf(href, attributes) {
  const made = shape("image", { preserveAspectRatio: "none", ...attributes });
  link(made, href);
  return made;
}

/** One picture in the making. */
class Drawing {
  /** @param {HTMLElement} view */
  constructor(view) {
    this.view = view;
    const { left, top, width, height } = view.getBoundingClientRect();
    [this.left, this.top, this.width, this.height] = [left, top, width, height];
    this.style = getComputedStyle(view);
    this.defs = shape("defs");
    /** @type {Promise<void>[]} */ this.waits = [];
    this.charts = 0; // so far; their names are kept apart
  }

  /** The document. */
  make() {
    const { width, height, style, view } = this;
    const root = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "font-family": style.fontFamily, "font-size": style.fontSize });
    root.setAttributeNS("http://www.w3.org/XML/1998/namespace", "xml:space", "preserve");
    root.append(shape("title", {}, titleOf(view).join(" ")), this.defs);
    root.append(shape("rect", { width, height, ...painted("fill", paintOf(groundOf(view))) }));
    this.element(view, root, Infinity);
    if (!this.defs.childNodes.length) this.defs.remove();
    return root;
  }

  /** @param {Box} box @returns {Box} the same on the picture */
  at({ left, top, right, bottom }) {
    return { left: left - this.left, top: top - this.top, right: right - this.left, bottom: bottom - this.top };
  }

  /**
   * @param {Element} element
   * @param {Element} into
   * @param {number} end where text is cut with …
   */
  element(element, into, end) {
    const style = getComputedStyle(element);
    if (style.display === "none" || style.opacity === "0") return;
    const hidden = style.visibility !== "visible";
    let group = into;
    const clips = style.overflowX !== "visible" && (element.scrollWidth > element.clientWidth + 1 || element.scrollHeight > element.clientHeight + 1) && element.clientWidth > 0;
    if (Number(style.opacity) < 1) into.append((group = shape("g", { opacity: style.opacity })));
    const outer = group;
    try {
      const boxes = style.display === "inline" ? [...element.getClientRects()] : [element.getBoundingClientRect()];
      if (!hidden) for (const box of boxes) this.box(this.at(box), style, group);
      if (clips && style.textOverflow === "ellipsis") end = this.inner(element, style).right;
      else if (clips) group = this.clipped(this.inner(element, style), group);
      if (element instanceof SVGSVGElement) {
        if (!hidden) group.append(this.chart(element, this.inner(element, style)));
      } else if (element instanceof HTMLImageElement || element instanceof HTMLCanvasElement) {
        if (!hidden) this.image(element, style, group);
      } else if (element instanceof HTMLInputElement || element instanceof HTMLSelectElement || element instanceof HTMLTextAreaElement) {
        if (!hidden) this.control(element, style, group);
      } else {
        if (element.tagName === "SUMMARY" && style.display === "list-item") this.triangle(element, style, group);
        const opened = element.tagName !== "DETAILS" || element.hasAttribute("open");
        for (const child of element.childNodes) {
          if (child instanceof Element && (opened || child.tagName === "SUMMARY")) this.element(child, group, end);
          else if (child instanceof Text && opened && !hidden) this.text(child, style, group, end);
        }
      }
      if (!hidden) for (const box of boxes) this.outline(this.at(box), style, outer);
    } catch (error) {
      console.warn("llm_lab: left out of the picture,", error);
    }
  }

  /** The box inside an element's borders and padding. @param {Element} element @param {CSSStyleDeclaration} style */
  inner(element, style) {
    const { left, top, right, bottom } = this.at(element.getBoundingClientRect());
    const [t, r, b, l] = ["Top", "Right", "Bottom", "Left"].map((side) => parseFloat(style[/** @type {any} */ (`padding${side}`)]) + parseFloat(style[/** @type {any} */ (`border${side}Width`)]));
    return { left: left + l, top: top + t, right: right - r, bottom: bottom - b };
  }

  /** @param {Box} box @param {Element} into */
  clipped({ left, top, right, bottom }, into) {
    const id = `clip${this.defs.childNodes.length}`;
    this.defs.append(shape("clipPath", { id }, shape("rect", { x: left, y: top, width: Math.max(right - left, 0), height: Math.max(bottom - top, 0) })));
    const group = shape("g", { "clip-path": `url(#${id})` });
    into.append(group);
    return group;
  }

  /** Grounds and borders. @param {Box} box @param {CSSStyleDeclaration} style @param {Element} into */
  box({ left, top, right, bottom }, style, into) {
    const [width, height] = [right - left, bottom - top];
    if (width <= 0 || height <= 0) return;
    const round = Math.min(parseFloat(style.borderTopLeftRadius) || 0, width / 2, height / 2);
    const rx = round || undefined;
    const ground = paintOf(style.backgroundColor);
    if (ground) into.append(shape("rect", { x: left, y: top, width, height, rx, ...painted("fill", ground) }));
    for (const layer of listed(style.backgroundImage).reverse()) this.gradient(layer, { left, top, right, bottom }, rx, into);
    for (const shadow of listed(style.boxShadow)) {
      if (!shadow.includes("inset")) continue;
      const [x, y] = (shadow.replace(/[a-z]+\([^)]*\)/, "").match(/-?[\d.]+px/g) ?? []).map(parseFloat);
      const edge = y < 0 ? { x: left, y: bottom + y, width, height: -y } : y > 0 ? { x: left, y: top, width, height: y } : { x: x < 0 ? right + x : left, y: top, width: Math.abs(x), height };
      into.append(shape("rect", { ...edge, ...painted("fill", paintOf(shadow.match(/[a-z]+\([^)]*\)/)?.[0] ?? "transparent")) }));
    }
    const sides = ["Top", "Right", "Bottom", "Left"].map((side) => {
      const get = (/** @type {string} */ what) => style[/** @type {any} */ (`border${side}${what}`)];
      const thick = ["none", "hidden"].includes(get("Style")) ? 0 : parseFloat(get("Width"));
      return { thick, look: get("Style"), colour: get("Color"), paint: thick ? paintOf(get("Color")) : null };
    });
    const [first] = sides;
    if (first.paint && sides.every((side) => side.thick === first.thick && side.look === first.look && side.colour === first.colour)) {
      const half = first.thick / 2;
      const edge = { x: left + half, y: top + half, width: Math.max(width - 2 * half, 0), height: Math.max(height - 2 * half, 0), rx: round ? Math.max(round - half, 0) : undefined };
      into.append(shape("rect", { ...edge, fill: "none", ...painted("stroke", first.paint), "stroke-width": first.thick, ...dashes(first.look, first.thick) }));
      return;
    }
    const joined = style.borderCollapse === "collapse" && style.display.startsWith("table");
    for (const [i, { thick, look, paint }] of sides.entries()) {
      if (!paint) continue;
      // Borders that cells share lie on the line between them.
      const inside = joined ? 0 : thick / 2;
      const d = [
        `M${left} ${top + inside}H${right}`,
        `M${right - inside} ${top}V${bottom}`,
        `M${left} ${bottom - inside}H${right}`,
        `M${left + inside} ${top}V${bottom}`,
      ][i].replace(/-?\d+\.\d{3,}/g, (n) => Number(n).toFixed(2));
      into.append(shape("path", { d, fill: "none", ...painted("stroke", paint), "stroke-width": thick, ...dashes(look, thick) }));
    }
  }

  /** @param {Box} box @param {CSSStyleDeclaration} style @param {Element} into */
  outline({ left, top, right, bottom }, style, into) {
    const thick = parseFloat(style.outlineWidth);
    if (style.outlineStyle === "none" || !thick) return;
    const out = parseFloat(style.outlineOffset) + thick / 2;
    const edge = { x: left - out, y: top - out, width: Math.max(right - left + 2 * out, 0), height: Math.max(bottom - top + 2 * out, 0) };
    into.append(shape("rect", { ...edge, fill: "none", ...painted("stroke", paintOf(style.outlineColor)), "stroke-width": thick, ...dashes(style.outlineStyle, thick) }));
  }

  /** One linear gradient; one with a sharp edge is two rectangles. @param {string} source @param {Box} box @param {number | undefined} rx @param {Element} into */
  gradient(source, { left, top, right, bottom }, rx, into) {
    const inside = /^linear-gradient\((.*)\)$/.exec(source)?.[1];
    if (!inside) return;
    const parts = listed(inside);
    const way = /^(to |[\d.]+deg)/.test(parts[0]) ? /** @type {string} */ (parts.shift()) : "to bottom";
    const stops = parts.map((part, i) => {
      const place = / (-?[\d.]+)(%|px)$/.exec(part);
      const share = place ? Number(place[1]) / (place[2] === "%" ? 100 : right - left) : i / (parts.length - 1);
      return { share: Math.min(Math.max(share, 0), 1), paint: paintOf(part.replace(/ -?[\d.]+(%|px)$/, "")) };
    });
    stops.forEach((stop, i) => (stop.share = Math.max(stop.share, stops[i - 1]?.share ?? 0)));
    const across = way === "to right" || way === "90deg";
    const box = { x: left, y: top, width: right - left, height: bottom - top };
    if (across && stops.length === 2 && stops[0].share === stops[1].share) {
      const edge = (right - left) * stops[0].share;
      for (const [x, width, { paint }] of /** @type {[number, number, any][]} */ ([[left, edge, stops[0]], [left + edge, right - left - edge, stops[1]]])) {
        if (paint && width > 0) into.append(shape("rect", { ...box, x, width, rx, ...painted("fill", paint) }));
      }
      return;
    }
    const id = `ramp${this.defs.childNodes.length}`;
    const made = shape("linearGradient", { id, ...(across ? {} : { x2: 0, y2: 1 }) });
    stops.forEach(({ share, paint }, i) => {
      const { rgb } = paint ?? stops[i - 1]?.paint ?? stops[i + 1]?.paint ?? { rgb: "#000" }; // it fades, and darkens nothing
      made.append(shape("stop", { offset: share, "stop-color": rgb, "stop-opacity": paint?.alpha ?? 0 }));
    });
    this.defs.append(made);
    into.append(shape("rect", { ...box, rx, fill: `url(#${id})` }));
  }

  /** @param {Text} node @param {CSSStyleDeclaration} style @param {Element} into @param {number} end */
  text(node, style, into, end) {
    const [upright, turned] = [style.writingMode === "horizontal-tb", new DOMMatrix(style.transform).a < 0];
    for (const { text, box, from } of linesOf(node, upright)) {
      const here = this.at(box);
      let shown = text;
      if (upright && here.right > end + 0.5) {
        shown = this.cut(node, from, text, style, end);
        if (!shown) continue;
        here.right = end;
      }
      const cut = shown !== text;
      this.words(shown, here, style, into, upright ? "" : turned ? "up" : "down", cut);
    }
  }

  /** The beginning of a line that ends before `end`, with …. @param {Text} node @param {number} from @param {string} text @param {CSSStyleDeclaration} style @param {number} end */
  cut(node, from, text, style, end) {
    pen.font = fontOf(style);
    const room = end + this.left - pen.measureText("…").width;
    const range = document.createRange();
    let [low, high] = [0, text.length];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      range.setStart(node, from);
      range.setEnd(node, Math.min(from + middle, node.length));
      if (range.getBoundingClientRect().right <= room) low = middle;
      else high = middle - 1;
    }
    return low ? `${text.slice(0, low).replace(/[\ud800-\udbff]$/, "")}…` : "";
  }

  /**
   * One line of text in its box.
   * @param {string} text @param {Box} box @param {CSSStyleDeclaration} style @param {Element} into
   * @param {string} [along] "up" or "down" where it does not run across
   * @param {boolean} [cut] whether its width is not the box's
   */
  words(text, { left, top, right, bottom }, style, into, along = "", cut = false) {
    const [up, down] = reachOf(style);
    const share = up / (up + down || 1);
    const rtl = style.direction === "rtl";
    const aligned = along || cut ? "start" : style.textAlign.replace("-webkit-", "");
    const anchor = aligned === "center" ? "middle" : (aligned === "right" || aligned === "end") !== rtl ? "end" : "start";
    let x = aligned === "center" ? (left + right) / 2 : (anchor === "end") !== rtl ? right : left;
    let y = top + (bottom - top) * share;
    if (along === "up") [x, y] = [left + (right - left) * share, bottom];
    if (along === "down") [x, y] = [right - (right - left) * share, top];
    const own = (/** @type {"fontFamily" | "fontSize"} */ name) => (style[name] === this.style[name] ? undefined : style[name]);
    const attributes = {
      x,
      y,
      "text-anchor": anchor === "start" ? undefined : anchor,
      direction: rtl ? "rtl" : undefined,
      "font-family": own("fontFamily"),
      "font-size": own("fontSize"),
      "font-weight": style.fontWeight === "400" ? undefined : style.fontWeight,
      "font-style": style.fontStyle === "normal" ? undefined : style.fontStyle,
      style: style.fontVariantNumeric === "normal" ? undefined : `font-variant-numeric:${style.fontVariantNumeric}`,
      transform: along ? `rotate(${along === "up" ? -90 : 90} ${x.toFixed(2)} ${y.toFixed(2)})` : undefined,
      ...painted("fill", paintOf(style.color)),
    };
    into.append(shape("text", attributes, text));
  }

  /** The mark of what can be opened. @param {Element} element @param {CSSStyleDeclaration} style @param {Element} into */
  triangle(element, style, into) {
    const { left, top } = this.inner(element, style);
    const [size, open] = [parseFloat(style.fontSize), element.parentElement?.hasAttribute("open")];
    const [x, y] = [left + 0.1 * size, top + (parseFloat(style.lineHeight) || 1.2 * size) / 2];
    const d = open ? `M0 -2h${0.6 * size}l${-0.3 * size} ${0.5 * size}z` : `M0 ${-0.3 * size}v${0.6 * size}l${0.5 * size} ${-0.3 * size}z`;
    into.append(shape("path", { d, transform: `translate(${x.toFixed(2)} ${y.toFixed(2)})`, ...painted("fill", paintOf(style.color)) }));
  }

  /** @param {HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement} element @param {CSSStyleDeclaration} style @param {Element} into */
  control(element, style, into) {
    const box = this.inner(element, style);
    const { left, top, right, bottom } = box;
    const middle = (top + bottom) / 2;
    const kind = element.type;
    const [ink, accent] = [paintOf(style.color), paintOf(style.accentColor === "auto" ? style.color : style.accentColor)];
    if (kind === "range" && element instanceof HTMLInputElement) {
      const [low, high] = [Number(element.min || 0), Number(element.max || 100)];
      const x = left + 8 + (right - left - 16) * ((element.valueAsNumber - low) / (high - low || 1));
      into.append(shape("path", { d: `M${left.toFixed(2)} ${middle.toFixed(2)}H${right.toFixed(2)}`, ...painted("stroke", ink, 0.3), "stroke-width": 4, "stroke-linecap": "round" }));
      into.append(shape("circle", { cx: x, cy: middle, r: 7, ...painted("fill", accent) }));
    } else if (kind === "checkbox" && element instanceof HTMLInputElement) {
      const size = Math.min(right - left, bottom - top);
      const ground = element.checked ? painted("fill", accent) : { fill: "none" };
      into.append(shape("rect", { x: left + 0.5, y: middle - size / 2 + 0.5, width: size - 1, height: size - 1, rx: 2, ...ground, ...painted("stroke", element.checked ? accent : ink, element.checked ? 1 : 0.6) }));
      if (element.checked) into.append(shape("path", { d: `M${left + 0.22 * size} ${middle}l${0.2 * size} ${0.22 * size}l${0.36 * size} ${-0.42 * size}`, fill: "none", stroke: groundRgb(this.view), "stroke-width": 1.8 }));
    } else {
      const chosen = element instanceof HTMLSelectElement ? element.selectedOptions[0]?.text ?? "" : element.value;
      const [up, down] = reachOf(style);
      const start = element instanceof HTMLSelectElement ? left + 4 : left;
      const line = parseFloat(style.lineHeight) || up + down;
      const rows = element instanceof HTMLTextAreaElement ? chosen.split("\n") : [chosen];
      const first = element instanceof HTMLTextAreaElement ? top + (line - up - down) / 2 : middle - (up + down) / 2;
      const group = this.clipped(box, into);
      rows.forEach((row, i) => {
        const y = first + i * line;
        if (row) this.words(row, { left: start, top: y, right, bottom: y + up + down }, style, group, "", true);
      });
      if (element instanceof HTMLSelectElement && style.appearance !== "none") {
        into.append(shape("path", { d: `M${(right - 12).toFixed(2)} ${(middle - 2).toFixed(2)}l4 4l4 -4`, fill: "none", ...painted("stroke", ink), "stroke-width": 1.4 }));
      }
    }
  }

  /** @param {HTMLImageElement | HTMLCanvasElement} element @param {CSSStyleDeclaration} style @param {Element} into */
  image(element, style, into) {
    const box = this.inner(element, style);
    const { left, top, right, bottom } = box;
    const place = { x: left, y: top, width: right - left, height: bottom - top };
    if (element instanceof HTMLCanvasElement) {
      if (!element.width || !element.height) return;
      const href = style.imageRendering === "pixelated" ? enlarged(element, element.width, element.height, right - left) : element.toDataURL();
      into.append(imageOf(href, place));
    } else if (element.src.startsWith("data:image/svg+xml")) {
      const [head, body] = [element.src.slice(0, element.src.indexOf(",")), element.src.slice(element.src.indexOf(",") + 1)];
      const source = head.endsWith(";base64") ? new TextDecoder().decode(Uint8Array.from(atob(decodeURIComponent(body)), (c) => c.charCodeAt(0))) : decodeURIComponent(body);
      const parsed = new DOMParser().parseFromString(source, "image/svg+xml").documentElement;
      if (!(parsed instanceof SVGSVGElement)) return;
      // Its styles hold in a tree of its own, as they do in an image.
      const host = document.createElement("div");
      host.setAttribute("style", "all:initial;position:fixed;width:0;height:0;overflow:hidden");
      const tree = host.attachShadow({ mode: "closed" });
      this.view.append(host);
      try {
        const held = document.importNode(parsed, true);
        tree.append(held);
        into.append(this.chart(/** @type {SVGSVGElement} */ (held), box));
      } finally {
        host.remove();
      }
    } else if (HELD.test(element.src)) {
      const cells = style.imageRendering === "pixelated" && element.naturalWidth;
      into.append(imageOf(cells ? enlarged(element, element.naturalWidth, element.naturalHeight, right - left) : element.src, place));
    }
  }

  /** An SVG of the page in its box, each part with its looks at itself. @param {SVGSVGElement} source @param {Box} box */
  chart(source, { left, top, right, bottom }) {
    const view = source.getAttribute("viewBox") ?? `0 0 ${right - left} ${bottom - top}`;
    const made = shape("svg", { x: left, y: top, width: right - left, height: bottom - top, viewBox: view, preserveAspectRatio: source.getAttribute("preserveAspectRatio") ?? undefined });
    const style = getComputedStyle(source);
    if (style.overflowX === "visible") made.setAttribute("overflow", "visible");
    this.charts += 1;
    this.parts(source, made, null);
    return made;
  }

  /** @param {Element} source @param {Element} into @param {CSSStyleDeclaration | null} above of what `source` is */
  parts(source, into, above) {
    const style = getComputedStyle(source);
    for (const [name, rest] of Object.entries(LOOKS)) {
      const value = style.getPropertyValue(name);
      if (value !== (above ? above.getPropertyValue(name) : rest)) into.setAttribute(name, value);
    }
    if (Number(style.opacity) < 1) into.setAttribute("opacity", style.opacity);
    for (const child of source.childNodes) {
      if (child instanceof Text) {
        if (["text", "tspan"].includes(source.localName)) into.append(child.data);
      } else if (child instanceof SVGElement && PARTS.has(child.localName)) {
        try {
          this.part(child, into, style);
        } catch (error) {
          console.warn("llm_lab: left out of the picture,", error);
        }
      }
    }
  }

  /** @param {SVGElement} source @param {Element} into @param {CSSStyleDeclaration} above */
  part(source, into, above) {
    const style = getComputedStyle(source);
    const leaf = LEAVES.includes(source.localName);
    if (style.display === "none" || (leaf && style.visibility !== "visible")) return;
    const href = source.getAttribute("href") ?? "";
    if (source.localName === "image" && !HELD.test(href)) return;
    const made = shape(source.localName);
    if (source.localName === "image") link(made, href);
    if (source.localName === "use" && /^#\w+$/.test(href)) link(made, `#chart${this.charts}-${href.slice(1)}`);
    if (source.id) made.id = `chart${this.charts}-${source.id}`;
    for (const name of PLACES) {
      const value = source.getAttribute(name);
      if (value !== null) made.setAttribute(name, value);
    }
    this.parts(source, made, above);
    if (!leaf || href) {
      if (source.localName === "image" && style.imageRendering === "pixelated") this.waits.push(sharpen(made, href));
      into.append(made);
      return;
    }
    const [fill, stroke] = [painted("fill", paintOf(style.fill), Number(style.fillOpacity)), painted("stroke", paintOf(style.stroke), Number(style.strokeOpacity))];
    // Few programs know another order than the fill first: what lies below is a part of its own.
    const copies = style.paintOrder.startsWith("stroke") && stroke.stroke !== "none" ? [{ fill: "none", ...stroke }, fill] : [{ ...fill, ...(stroke.stroke === "none" ? {} : stroke) }];
    for (const looks of copies) {
      const copy = /** @type {Element} */ (made.cloneNode(true));
      for (const [name, value] of Object.entries(looks)) if (value !== undefined) copy.setAttribute(name, value);
      into.append(copy);
    }
  }
}

/** @param {string} look @param {number} thick */
const dashes = (look, thick) => (look === "dashed" ? { "stroke-dasharray": `${3 * thick} ${2 * thick}` } : look === "dotted" ? { "stroke-dasharray": `${thick} ${thick}` } : {});

/** @param {string} source @returns {Promise<HTMLImageElement>} */
function imageFrom(source) {
  return new Promise((done, fail) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => fail(new Error("an image that cannot be read"));
    image.src = source;
  });
}

/** @param {Element} image @param {string} href */
async function sharpen(image, href) {
  try {
    const loaded = await imageFrom(href);
    link(image, enlarged(loaded, loaded.naturalWidth, loaded.naturalHeight, Number(image.getAttribute("width")) || loaded.naturalWidth));
  } catch (error) {
    console.warn("llm_lab: cells that may look soft,", error);
  }
}

/**
 * What stands on each line of a text, without the spaces at its ends, and where.
 * @param {Text} node @param {boolean} upright
 */
function linesOf(node, upright) {
  const range = document.createRange();
  /** @type {{ text: string, box: Box, from: number }[]} */ const lines = [];
  const rectsOf = (/** @type {number} */ from, /** @type {number} */ to) => {
    range.setStart(node, from);
    range.setEnd(node, to);
    return [...range.getClientRects()].filter((rect) => rect.width && rect.height);
  };
  const same = (/** @type {Box} */ a, /** @type {Box} */ b) =>
    upright ? Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 0.5 * (b.bottom - b.top) : Math.min(a.right, b.right) - Math.max(a.left, b.left) > 0.5 * (b.right - b.left);
  let gap = "";
  let joins = false; // whether the next piece may stand on the line of the last one
  /** @param {string} text @param {number} from @param {Box[]} rects */
  const add = (text, from, rects) => {
    const [first] = rects;
    const last = lines[lines.length - 1];
    if (last && joins && same(last.box, first)) {
      last.text += gap + text;
      for (const { left, top, right, bottom } of rects) last.box = { left: Math.min(last.box.left, left), top: Math.min(last.box.top, top), right: Math.max(last.box.right, right), bottom: Math.max(last.box.bottom, bottom) };
    } else {
      const box = { left: Math.min(...rects.map((r) => r.left)), top: Math.min(...rects.map((r) => r.top)), right: Math.max(...rects.map((r) => r.right)), bottom: Math.max(...rects.map((r) => r.bottom)) };
      lines.push({ text, from, box });
    }
    gap = "";
    joins = true;
  };
  const trimmed = node.data.trim();
  if (!trimmed) return lines;
  const begin = node.data.indexOf(trimmed);
  const whole = rectsOf(begin, begin + trimmed.length);
  if (!whole.length) return lines;
  const kept = getComputedStyle(/** @type {Element} */ (node.parentElement)).whiteSpaceCollapse?.startsWith("preserve") ?? false;
  if (!/\t/.test(trimmed) && whole.every((rect) => same(whole[0], rect))) {
    add(kept ? trimmed : trimmed.replace(/[ \t\n\r]+/g, " "), begin, whole);
    return lines;
  }
  for (const { 0: piece, index } of node.data.matchAll(/\s+|\S+/g)) {
    if (/^\s/.test(piece)) {
      gap = kept ? piece : " ";
      if (kept && /[\t\n]/.test(piece)) joins = false;
      continue;
    }
    const rects = rectsOf(index, index + piece.length);
    if (rects.length && rects.every((rect) => same(rects[0], rect))) {
      add(piece, index, rects);
      continue;
    }
    let at = index;
    for (const character of piece) {
      const own = rectsOf(at, at + character.length);
      if (own.length) add(character, at, own);
      else if (lines.length && joins) lines[lines.length - 1].text += character;
      at += character.length;
    }
  }
  return lines;
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
  const canvas = getComputedStyle(probe).backgroundColor;
  probe.remove();
  return canvas;
}

/** @param {Element} view */
const groundRgb = (view) => paintOf(groundOf(view))?.rgb ?? "#ffffff";

/** Name and facts of a view. @param {Element} view @returns {string[]} */
function titleOf(view) {
  const name = view.querySelector("b");
  const facts = name?.nextElementSibling ?? name?.parentElement?.nextElementSibling;
  return [name?.textContent ?? "", facts?.textContent ?? ""].map((text) => text.replace(/\s+/g, " ").trim()).filter(Boolean);
}

/**
 * Spreads what scrolls, and hides what is for the screen alone, until the function it gives is called.
 * @param {HTMLElement} view
 */
function spread(view) {
  /** @type {Map<HTMLElement, { style: string | null, left: number, top: number }>} */ const before = new Map();
  /** @param {HTMLElement} node @param {Record<string, string>} styles */
  const set = (node, styles) => {
    if (!before.has(node)) before.set(node, { style: node.getAttribute("style"), left: node.scrollLeft, top: node.scrollTop });
    for (const [name, value] of Object.entries(styles)) node.style.setProperty(name, value, "important");
  };
  const all = (/** @type {string} */ selector) => /** @type {NodeListOf<HTMLElement>} */ (view.querySelectorAll(selector));
  const none = { display: "none" };
  for (const node of all(".lab-unsaved, button.lab-button")) set(node, none);
  // Of a view's own controls only what they are set to is told.
  for (const node of all(".lab-bar select")) set(node, { appearance: "none", "border-color": "transparent" });
  for (const node of /** @type {NodeListOf<HTMLInputElement>} */ (view.querySelectorAll(".lab-bar input"))) {
    const off = node.type === "checkbox" ? !node.checked : node.type !== "range" && !node.value;
    if (off) set(node.closest("label") ?? node, none);
    else if (["checkbox", "range"].includes(node.type)) set(node, none);
  }
  for (const node of all(".lab-bar, .lab-detail, .lab-value")) {
    const drawn = [...node.querySelectorAll("svg, canvas, img, input, select")].some((one) => one.getClientRects().length);
    if (!drawn && !node.innerText.trim()) set(node, none);
  }
  const scrollers = [view, ...all("*")].filter((node) => node === view || (node instanceof HTMLElement && /auto|scroll/.test(getComputedStyle(node).overflow))).reverse();
  for (const node of scrollers) {
    if (node !== view && node.scrollHeight > node.clientHeight + 1) set(node, { "max-height": "none", height: "auto" });
  }
  for (let pass = 0; pass < 4; pass++) {
    const narrow = scrollers.filter((node) => {
      const more = node.scrollWidth - node.clientWidth;
      if (more > 1) set(node, { "box-sizing": "border-box", "max-width": "none", "min-width": `${node.offsetWidth + more}px` });
      return more > 1;
    });
    if (!narrow.length) break;
  }
  return () => {
    for (const [node, { style }] of before) style === null ? node.removeAttribute("style") : node.setAttribute("style", style);
    for (const [node, { left, top }] of before) [node.scrollLeft, node.scrollTop] = [left, top];
  };
}

/** A view as an SVG document. @param {HTMLElement} view @returns {Promise<SVGElement>} */
async function pictureOf(view) {
  const back = spread(view);
  let drawing;
  let made;
  try {
    drawing = new Drawing(view);
    made = drawing.make();
  } finally {
    back();
  }
  await Promise.all(drawing.waits);
  return made;
}

/** @param {SVGElement} picture */
const sourceOf = (picture) => new XMLSerializer().serializeToString(picture);

/** @param {SVGElement} picture @returns {Promise<Blob>} */
async function pngOf(picture) {
  const [width, height] = ["width", "height"].map((name) => Number(picture.getAttribute(name)));
  const image = await imageFrom(`data:image/svg+xml;charset=utf-8,${encodeURIComponent(sourceOf(picture))}`);
  const times = Math.min(SHARP, LONGEST / Math.max(width, height), Math.sqrt(ROOM / (width * height)));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.round(width * times), Math.round(height * times)];
  canvas.getContext("2d")?.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done, fail) => canvas.toBlob((blob) => (blob ? done(blob) : fail(new Error("the canvas gave no PNG")))));
}

/** @param {Element} view @param {string} kind */
function nameOf(view, kind) {
  const [name = "view", facts = ""] = titleOf(view);
  const words = `${name.slice(0, 60)} ${facts.split("·")[0].slice(0, 40)}`.normalize("NFC").replace(/[^\p{L}\p{M}\p{N}]+/gu, "-");
  return `${words.replace(/^-|-$/g, "") || "view"}.${kind}`;
}

/** @param {Blob} blob @param {string} name */
function download(blob, name) {
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(blob);
  anchor.download = name;
  document.body.append(anchor);
  anchor.click();
  anchor.remove();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 60_000);
}

/**
 * The buttons that save a view as a file.
 * @param {(button: HTMLElement) => HTMLElement | null} viewOf the view that a button stands in
 * @returns {HTMLElement}
 */
export function saveButtons(viewOf) {
  const both = document.createElement("span");
  both.className = "lab-saves lab-unsaved";
  for (const kind of ["SVG", "PNG"]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = kind;
    button.title = `Save this view as ${kind}, in the colours it has here`;
    button.setAttribute("aria-label", `save this view as ${kind}`);
    button.addEventListener("click", async () => {
      try {
        const view = viewOf(button);
        if (!view) return;
        const picture = await pictureOf(view);
        const blob = kind === "PNG" ? await pngOf(picture) : new Blob([`<?xml version="1.0" encoding="UTF-8"?>\n${sourceOf(picture)}`], { type: "image/svg+xml" });
        download(blob, nameOf(view, kind.toLowerCase()));
      } catch (error) {
        console.warn(`llm_lab: no ${kind} could be made,`, error);
      }
    });
    both.append(button);
  }
  return both;
}

/** The buttons of the card that they stand in. @param {{ el: HTMLElement }} context */
function renderSaves({ el: root }) {
  root.append(saveButtons((button) => button.closest(".llm-lab-card")));
}

export default { render: renderSaves };

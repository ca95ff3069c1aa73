/** What a saved picture is made of: elements, colours and fonts as every program that reads SVG knows them. */

const SVG = "http://www.w3.org/2000/svg";
const FINE = 4; // pixels of a picture of cells to one of the page
const WIDEST = 4000; // pixels of such a picture at a side

/** @typedef {{ rgb: string, alpha: number }} Paint */
/** @typedef {{ left: number, top: number, right: number, bottom: number }} Box */
/** @typedef {Record<string, string | number | undefined>} Attributes */

const scratch = /** @type {CanvasRenderingContext2D} */ (document.createElement("canvas").getContext("2d", { willReadFrequently: true }));

/** @param {number} value */
const brief = (value) => String(Math.round(value * 100) / 100);

/**
 * An element of the picture.
 * @param {string} tag
 * @param {Attributes} [attributes] what is undefined is left out
 * @param {...(Node | string)} children
 */
export function shape(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined) node.setAttribute(name, typeof value === "number" ? brief(value) : value);
  }
  node.append(...children);
  return node;
}

/**
 * The d of a path, by the numbers between its letters.
 * @param {TemplateStringsArray} letters
 * @param {...number} numbers
 */
export const path = (letters, ...numbers) => letters.map((letter, i) => letter + (i < numbers.length ? brief(numbers[i]) : "")).join("");

/**
 * A colour of CSS, and how much it hides; null where nothing is seen of it.
 * @param {string} colour
 * @returns {Paint | null}
 */
export function paintOf(colour) {
  let parts = /^rgba?\(/.test(colour) ? (colour.match(/[\d.]+/g) ?? []).map(Number) : [];
  if (!parts.length) {
    scratch.clearRect(0, 0, 1, 1);
    scratch.fillStyle = "transparent"; // stays where the next is no colour
    scratch.fillStyle = colour;
    scratch.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = scratch.getImageData(0, 0, 1, 1).data;
    parts = [r, g, b, a / 255];
  }
  const [r, g, b, alpha = 1] = parts;
  if (!alpha) return null;
  return { rgb: `#${[r, g, b].map((part) => Math.round(part).toString(16).padStart(2, "0")).join("")}`, alpha };
}

/**
 * The attributes that fill or stroke with it.
 * @param {"fill" | "stroke"} way
 * @param {Paint | null} paint
 * @param {number} [share] of it
 * @returns {Attributes}
 */
export function painted(way, paint, share = 1) {
  if (!paint || !share) return { [way]: "none" };
  const alpha = paint.alpha * share;
  return { [way]: paint.rgb, [`${way}-opacity`]: alpha < 1 ? alpha.toFixed(3).replace(/0+$/, "") : undefined };
}

/**
 * How wide a text is in a font.
 * @param {string} text
 * @param {CSSStyleDeclaration} style
 */
export function widthOf(text, style) {
  scratch.font = `${style.fontStyle} ${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
  return scratch.measureText(text);
}

/** @type {Map<string, string>} */ const families = new Map();

/**
 * A list of fonts with the one first that the page has used: some programs read no further.
 * @param {string} list
 */
export function familyOf(list) {
  if (!families.has(list)) {
    const wide = (/** @type {string} */ fonts) => {
      scratch.font = `64px ${fonts}`;
      return scratch.measureText("mmmmiiii&@0").width;
    };
    const names = list.split(/,\s*/);
    const used = names.find((name) => wide(`${name}, monospace`) === wide(`${name}, serif`)) ?? names[0];
    families.set(list, [used, ...names.filter((name) => name !== used)].join(", "));
  }
  return families.get(list);
}

/**
 * How far a font reaches above its baseline, and below, as the page lays its lines out.
 * @param {CSSStyleDeclaration} style
 */
export function reachOf(style) {
  const { fontBoundingBoxAscent: up, fontBoundingBoxDescent: down } = widthOf("x", style);
  return [Math.round(up), Math.round(down)];
}

/**
 * Lets an element show what lies elsewhere, in the form that every program knows.
 * @param {Element} node
 * @param {string} href
 */
export const link = (node, href) => node.setAttributeNS("http://www.w3.org/1999/xlink", "xlink:href", href);

/**
 * @param {string} href
 * @param {Attributes} place
 */
export function imageOf(href, place) {
  const made = shape("image", { ...place, preserveAspectRatio: "none" });
  link(made, href);
  return made;
}

/**
 * @param {string} source
 * @returns {Promise<HTMLImageElement>}
 */
export function imageFrom(source) {
  return new Promise((done, fail) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => fail(new Error("an image that cannot be read"));
    image.src = source;
  });
}

/**
 * Pixels that are cells, so large that no program blurs them.
 * @param {CanvasImageSource} source
 * @param {number} across its pixels
 * @param {number} down
 * @param {number} shown its width on the page
 */
export function enlarged(source, across, down, shown) {
  const times = Math.max(1, Math.min(Math.ceil((FINE * shown) / across), Math.floor(WIDEST / Math.max(across, down))));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [across * times, down * times];
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.imageSmoothingEnabled = false;
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL();
}

/** A canvas's context, as far as views draw by one, that makes elements instead of pixels. */
export class ShapePen {
  /** @param {Element} into */
  constructor(into) {
    this.into = into;
    this.d = "";
    [this.font, this.textAlign, this.fillStyle, this.strokeStyle] = ["10px sans-serif", "left", "#000", "#000"];
    [this.globalAlpha, this.lineWidth] = [1, 1];
  }

  setTransform() {}
  clearRect() {}
  beginPath() {
    this.d = "";
  }
  closePath() {
    this.d += "Z";
  }
  /** @param {number} x @param {number} y */
  moveTo(x, y) {
    this.d += path`M${x} ${y}`;
  }
  /** @param {number} x @param {number} y */
  lineTo(x, y) {
    this.d += this.d ? path`L${x} ${y}` : path`M${x} ${y}`;
  }
  /** @param {number} x @param {number} y @param {number} width @param {number} height */
  rect(x, y, width, height) {
    this.d += path`M${x} ${y}h${width}v${height}h${-width}Z`;
  }
  /** A whole circle. @param {number} x @param {number} y @param {number} r */
  arc(x, y, r) {
    this.d += path`M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`;
  }
  fill() {
    this.into.append(shape("path", { d: this.d, ...painted("fill", paintOf(this.fillStyle), this.globalAlpha) }));
  }
  stroke() {
    this.into.append(shape("path", { d: this.d, fill: "none", ...this.line() }));
  }
  line() {
    return { ...painted("stroke", paintOf(this.strokeStyle), this.globalAlpha), "stroke-width": this.lineWidth };
  }
  /** @param {string} text @param {number} x @param {number} y */
  fillText(text, x, y) {
    this.word(text, x, y, painted("fill", paintOf(this.fillStyle), this.globalAlpha));
  }
  /** @param {string} text @param {number} x @param {number} y */
  strokeText(text, x, y) {
    this.word(text, x, y, { fill: "none", "stroke-linejoin": "round", ...this.line() });
  }
  /** @param {string} text @param {number} x @param {number} y @param {Attributes} looks */
  word(text, x, y, looks) {
    const [size, family] = this.font.split(/(?<=px) /);
    const anchor = this.textAlign === "right" ? "end" : undefined;
    this.into.append(shape("text", { x, y, "font-size": size, "font-family": familyOf(family), "text-anchor": anchor, ...looks }, text));
  }
  /** @param {string} text */
  measureText(text) {
    scratch.font = this.font;
    return scratch.measureText(text);
  }
}

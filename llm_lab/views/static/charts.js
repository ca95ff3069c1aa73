import { enlarged, familyOf, imageFrom, link, painted, paintOf, shape } from "./shapes.js";

/** An SVG of the page inside a saved picture: what draws is copied with its looks at itself, and nothing else. */

const LEAVES = "path rect circle ellipse line polyline polygon text tspan image use".split(" ");
const PARTS = new Set(["g", "svg", "defs", ...LEAVES]);
const PLACES = "d x y width height cx cy r rx ry x1 y1 x2 y2 points transform dx dy viewBox preserveAspectRatio".split(" ");
/** What a part has of the one around it, and how that is where nothing is said. @type {Record<string, string>} */
const LOOKS = {
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
/** Images that a picture may hold. */
export const HELD = /^data:image\/(png|jpeg|gif|webp);base64,/;

/**
 * @param {SVGSVGElement} source
 * @param {import("./shapes.js").Box} box where it stands
 * @param {string} name no other's in the picture
 * @param {Promise<void>[]} waits what is to be done before it is whole
 * @returns {Element}
 */
export function chartOf(source, { left, top, right, bottom }, name, waits) {
  const [width, height] = [right - left, bottom - top];
  const made = shape("svg", { x: left, y: top, width, height, viewBox: `0 0 ${width} ${height}`, overflow: getComputedStyle(source).overflowX === "visible" ? "visible" : undefined });
  for (const kept of ["viewBox", "preserveAspectRatio"]) {
    const value = source.getAttribute(kept);
    if (value) made.setAttribute(kept, value);
  }
  copyInside(source, made, null, name, waits);
  return made;
}

/**
 * @param {Element} source
 * @param {Element} into what became of it
 * @param {CSSStyleDeclaration | null} around how the element around it looks
 * @param {string} name
 * @param {Promise<void>[]} waits
 */
function copyInside(source, into, around, name, waits) {
  const style = getComputedStyle(source);
  for (const [look, rest] of Object.entries(LOOKS)) {
    const value = style.getPropertyValue(look);
    if (value !== (around ? around.getPropertyValue(look) : rest)) into.setAttribute(look, look === "font-family" ? familyOf(value) : value);
  }
  if (Number(style.opacity) < 1) into.setAttribute("opacity", style.opacity);
  for (const child of source.childNodes) {
    if (child instanceof Text && ["text", "tspan"].includes(source.localName)) into.append(child.data);
    else if (child instanceof SVGElement && PARTS.has(child.localName)) into.append(...copiesOf(child, style, name, waits));
  }
}

/**
 * @param {SVGElement} source
 * @param {CSSStyleDeclaration} around
 * @param {string} name
 * @param {Promise<void>[]} waits
 * @returns {Element[]} most often one
 */
function copiesOf(source, around, name, waits) {
  const [style, tag, href] = [getComputedStyle(source), source.localName, source.getAttribute("href") ?? ""];
  const leaf = LEAVES.includes(tag);
  if (style.display === "none" || (leaf && style.visibility !== "visible")) return [];
  const made = shape(tag);
  if (tag === "image") {
    if (!HELD.test(href)) return [];
    link(made, href);
    if (style.imageRendering === "pixelated") waits.push(sharpen(made, href, Number(source.getAttribute("width"))));
  }
  if (tag === "use") link(made, `#${name}-${href.slice(1)}`);
  if (source.id) made.id = `${name}-${source.id}`;
  for (const place of PLACES) {
    const value = source.getAttribute(place);
    if (value !== null) made.setAttribute(place, value);
  }
  copyInside(source, made, around, name, waits);
  if (!leaf || href) return [made];
  const fill = painted("fill", paintOf(style.fill), Number(style.fillOpacity));
  const stroke = style.stroke === "none" ? {} : painted("stroke", paintOf(style.stroke), Number(style.strokeOpacity));
  // Few programs know another order than the fill first: what lies below becomes a part of its own.
  const below = style.paintOrder.startsWith("stroke") && stroke.stroke;
  return (below ? [{ fill: "none", ...stroke }, fill] : [{ ...fill, ...stroke }]).map((looks) => {
    const copy = /** @type {Element} */ (made.cloneNode(true));
    for (const [look, value] of Object.entries(looks)) if (value !== undefined) copy.setAttribute(look, String(value));
    return copy;
  });
}

/**
 * @param {Element} image
 * @param {string} href
 * @param {number} shown
 */
async function sharpen(image, href, shown) {
  const loaded = await imageFrom(href);
  link(image, enlarged(loaded, loaded.naturalWidth, loaded.naturalHeight, shown || loaded.naturalWidth));
}

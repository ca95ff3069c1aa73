import { pictureOf, titleOf } from "./picture.js";
import { imageFrom } from "./shapes.js";

/** The buttons that save a view as a picture. */

const SHARP = 2; // pixels of a PNG to one of the page
const LONGEST = 16_000; // pixels that a canvas may have at a side
const ROOM = 120_000_000; // and in all

/** @type {Record<string, (picture: Element) => Promise<Blob> | Blob>} */
const KINDS = {
  SVG: (picture) => new Blob(['<?xml version="1.0" encoding="UTF-8"?>\n', sourceOf(picture)], { type: "image/svg+xml" }),
  PNG: pngOf,
};

/** The picture as text, with a sign for what XML cannot hold and for what turns text round. @param {Element} picture */
const sourceOf = (picture) => new XMLSerializer().serializeToString(picture).replace(/[\0-\x08\x0b\x0c\x0e-\x1f\u202a-\u202e\u2066-\u2069\ufffe\uffff\p{Cs}]/gu, "\ufffd");

/** @param {Element} picture @returns {Promise<Blob>} */
async function pngOf(picture) {
  const image = await imageFrom(`data:image/svg+xml;charset=utf-8,${encodeURIComponent(sourceOf(picture))}`);
  const { width, height } = image;
  const times = Math.min(SHARP, LONGEST / Math.max(width, height), Math.sqrt(ROOM / (width * height)));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.round(width * times), Math.round(height * times)];
  canvas.getContext("2d")?.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done, fail) => canvas.toBlob((blob) => (blob ? done(blob) : fail(new Error("the picture is too large")))));
}

/** The name of a view and the first of its facts, as a file's. @param {Element} view @param {string} kind */
function fileOf(view, kind) {
  const [name = "", facts = ""] = titleOf(view);
  const words = `${name.slice(0, 60)} ${facts.split("·").find((fact) => fact.trim())?.slice(0, 40) ?? ""}`;
  return `${words.normalize("NFC").replace(/[^\p{L}\p{M}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "view"}.${kind.toLowerCase()}`;
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
 * @param {(button: HTMLElement) => HTMLElement | null} viewOf the view that they save
 * @returns {HTMLElement}
 */
function saveButtons(viewOf) {
  const both = document.createElement("span");
  both.className = "lab-saves lab-unsaved";
  for (const kind of Object.keys(KINDS)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = kind;
    button.title = `Save this view as ${kind}, in the colours that it has here`;
    button.setAttribute("aria-label", `save this view as ${kind}`);
    button.addEventListener("click", async () => {
      try {
        const view = viewOf(button);
        if (view) download(await KINDS[kind](await pictureOf(view)), fileOf(view, kind));
      } catch (error) {
        console.warn(`llm_lab: no ${kind} was made,`, error);
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

export { saveButtons };
export default { render: renderSaves };

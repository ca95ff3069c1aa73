/** @typedef {import("./shapes.js").Box} Box */
/** @typedef {{ text: string, box: Box, from: number }} Line `from` is where it begins in its node */

/** @param {Box[]} boxes @returns {Box} */
const around = (boxes) => ({
  left: Math.min(...boxes.map((box) => box.left)),
  top: Math.min(...boxes.map((box) => box.top)),
  right: Math.max(...boxes.map((box) => box.right)),
  bottom: Math.max(...boxes.map((box) => box.bottom)),
});

/**
 * What stands on each line of a text on the page, without the spaces at its ends, and where.
 * @param {Text} node
 * @param {boolean} upright whether its lines run across
 * @returns {Line[]}
 */
export function typeset(node, upright) {
  /** @type {Line[]} */ const lines = [];
  const range = document.createRange();
  /** @param {number} from @param {number} to */
  const boxesOf = (from, to) => {
    range.setStart(node, from);
    range.setEnd(node, to);
    return [...range.getClientRects()].filter((box) => box.width && box.height);
  };
  /** Whether the second stands on the line of the first. @param {Box} a @param {Box} b */
  const beside = (a, b) =>
    upright ? Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > (b.bottom - b.top) / 2 : Math.min(a.right, b.right) - Math.max(a.left, b.left) > (b.right - b.left) / 2;
  const alone = (/** @type {Box[]} */ boxes) => boxes.length > 0 && boxes.every((box) => beside(boxes[0], box));
  let gap = ""; // what lies between the last piece and the next
  let broken = true;
  /** @param {string} text @param {number} from @param {Box[]} boxes */
  const add = (text, from, boxes) => {
    const last = lines[lines.length - 1];
    if (last && !broken && beside(last.box, boxes[0])) {
      last.text += gap + text;
      last.box = around([last.box, ...boxes]);
    } else lines.push({ text, from, box: around(boxes) });
    [gap, broken] = ["", false];
  };

  const text = node.data.trim();
  if (!text) return lines;
  const keeps = /^(pre|break)/.test(getComputedStyle(/** @type {Element} */ (node.parentElement)).whiteSpace);
  const begins = node.data.indexOf(text);
  const whole = boxesOf(begins, begins + text.length);
  if (!whole.length) return lines;
  if (alone(whole) && !text.includes("\t")) {
    add(keeps ? text : text.replace(/[ \t\n\r]+/g, " "), begins, whole);
    return lines;
  }
  for (const { 0: piece, index = 0 } of node.data.matchAll(/\s+|\S+/g)) {
    if (!piece.trim()) {
      gap = keeps ? piece : " ";
      broken ||= keeps && /[\t\n]/.test(piece);
      continue;
    }
    const boxes = boxesOf(index, index + piece.length);
    if (alone(boxes)) {
      add(piece, index, boxes);
      continue;
    }
    let at = index;
    for (const character of piece) {
      const own = boxesOf(at, at + character.length);
      if (own.length) add(character, at, own);
      else if (lines.length && !broken) lines[lines.length - 1].text += character; // an accent
      at += character.length;
    }
  }
  return lines;
}

// node --test tests/views/shared.test.mjs
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

// The package is no npm module: its text is imported as an ES module here.
const source = readFileSync(new URL("../../llm_lab/views/static/shared.js", import.meta.url), "utf8");
const shared = await import(`data:text/javascript;base64,${Buffer.from(source).toString("base64")}`);

test("ticks are round and inside", () => {
  assert.deepEqual(shared.ticks(1.4, 4.2, 5), [2, 3, 4]);
  assert.deepEqual(shared.ticks(0, 1, 5), [0, 0.2, 0.4, 0.6, 0.8, 1]);
  assert.deepEqual(shared.ticks(3, 3), [3]);
  assert.deepEqual(shared.ticks(NaN, 3), []);
  assert.deepEqual(shared.timeTicks(60), [0, 15, 30, 45, 60]);
  assert.deepEqual(shared.logTicks(1, 10), [1, 2, 5, 10]);
  assert.deepEqual(shared.logTicks(1, 1e5), [1, 10, 100, 1000, 10000, 100000]);
});

test("tick labels show the places their step needs", () => {
  assert.equal(shared.tickLabel(2, 0.5), "2.0");
  assert.equal(shared.tickLabel(2000, 500), "2,000");
  assert.equal(shared.tickLabel(-0.25, 0.25), "−0.25");
});

test("scales map ends to ends", () => {
  const x = shared.scale([0, 10], [40, 140]);
  assert.equal(x(0), 40);
  assert.equal(x(10), 140);
  const log = shared.scale([1, 100], [0, 2], true);
  assert.ok(Math.abs(log(10) - 1) < 1e-12);
  assert.equal(log(0), 0);
});

test("nearest finds the nearest", () => {
  const values = [0, 1, 4, 9];
  for (const x of [-3, 0.4, 0.6, 2.4, 2.6, 8, 99]) {
    const distances = values.map((v) => Math.abs(v - x));
    assert.equal(distances[shared.nearest(values, x)], Math.min(...distances));
  }
  assert.equal(shared.nearest([5], 1), 0);
});

test("numbers are written as in Python", () => {
  assert.equal(shared.number(1.7123), "1.712");
  assert.equal(shared.number(12345.6), "12,346");
  assert.equal(shared.number(6.4e-7, 2), "6.4e-7");
  assert.equal(shared.number(-0.5), "−0.5000");
  assert.equal(shared.number(NaN), "–");
  assert.equal(shared.clock(3753), "1:02:33");
  assert.equal(shared.probability(0.2134), "0.213");
  assert.equal(shared.probability(0.00034), "0.00034");
});

test("ink and paint fade one blue from transparent", () => {
  assert.equal(shared.ink(0), 0);
  assert.equal(shared.ink(1), 1);
  const pixels = new Uint8ClampedArray(8);
  shared.paint(new Uint8Array([0, 255]), pixels);
  assert.deepEqual([...pixels], [61, 125, 230, 0, 61, 125, 230, 255]);
});

test("token ink follows surprisal or probability", () => {
  assert.equal(shared.tokenInk(0, "surprisal", 7), 0);
  assert.equal(shared.tokenInk(-100, "surprisal", 7), 1);
  assert.ok(Math.abs(shared.tokenInk(Math.log(0.5), "surprisal", 7) - 1 / 7) < 1e-12);
  assert.ok(Math.abs(shared.tokenInk(Math.log(0.5), "probability", 7) - 0.5) < 1e-12);
  assert.equal(shared.tokenInk(-3, "none", 7), 0);
});

test("arrow keys stay in the grid", () => {
  assert.deepEqual(shared.step("ArrowUp", 0, 1, 4, 6), [0, 1]);
  assert.deepEqual(shared.step("ArrowDown", 0, 1, 4, 6), [1, 1]);
  assert.deepEqual(shared.step("ArrowRight", 0, 5, 4, 6), [0, 5]);
  assert.deepEqual(shared.step("End", 2, 1, 4, 6), [2, 5]);
  assert.equal(shared.step("a", 0, 0, 4, 6), null);
});

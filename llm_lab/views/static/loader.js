/**
 * Unpacks one view and mounts it in each of its containers that nobody mounted yet.
 * Runs as a classic script inside an output: the page may be reloaded, the same output may stand in two views, the
 * container may come a little later than the script. If anything fails, the static picture stays.
 */
(function (key, packed) {
  const inflate = (text) =>
    new Response(
      new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))]).stream().pipeThrough(new DecompressionStream("deflate")),
    ).arrayBuffer();
  const shade = (root) => {
    const [r, g, b] = (getComputedStyle(root.parentElement ?? root).color.match(/[\d.]+/g) ?? [0, 0, 0]).map(Number);
    root.dataset.theme = 0.3 * r + 0.6 * g + 0.1 * b > 140 ? "dark" : "light";
  };
  async function mount(root) {
    try {
      const page = JSON.parse(new TextDecoder().decode(await inflate(packed[0])));
      const state = page.data;
      for (const [i, name] of page.buffers.entries()) state[name] = new DataView(await inflate(packed[i + 1]));
      const url = URL.createObjectURL(new Blob([page.esm], { type: "text/javascript" }));
      const view = (await import(url)).default;
      URL.revokeObjectURL(url);
      const el = document.createElement("div");
      const style = document.createElement("style");
      style.textContent = page.css;
      const nothing = () => {};
      const set = (name, value) => void (state[name] = value);
      const model = { get: (name) => state[name], set, on: nothing, off: nothing, save_changes: nothing, send: nothing };
      await view.render({ model, el });
      shade(root);
      root.replaceChildren(style, el);
      root.dataset.live = "yes";
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => shade(root));
    } catch (error) {
      console.warn("llm_lab: the static view stays,", error);
    }
  }
  let tries = 0;
  (function find() {
    const fresh = [...document.getElementsByClassName("llm-lab-" + key)].filter((root) => !root.llmLab);
    for (const root of fresh) {
      root.llmLab = true;
      mount(root);
    }
    if (!fresh.length && tries++ < 50) setTimeout(find, 100);
  })();
})

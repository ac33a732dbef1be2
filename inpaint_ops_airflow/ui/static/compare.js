// Two results of a row side by side, zoomed and panned together. The address holds what is shown.
import { make, seconds } from "./dom.js";
import { startStage } from "./stage.js";
import { startTiles } from "./tiles.js";
import { startTurns } from "./turns.js";

const SMALL = 1600; // pictures.py: pixels of the longer side
const SIDES = ["left", "right"], KINDS = ["source", "result", "mask"];

// Names of runs to choose from, as they are typed.
export const startChooser = () => {
  const list = document.getElementById("compare-runs");
  let timer = 0, asked = 0;
  const fill = async (text) => {
    const mine = ++asked;
    const reply = await fetch(`${document.body.dataset.root}/api/runs?${new URLSearchParams({ text })}`).catch(() => undefined);
    if (!reply?.ok || mine !== asked) return;
    const { entries } = await reply.json();
    if (mine === asked) list.replaceChildren(...entries.filter((one) => one.state !== "refused").map((one) => make("option", { value: one.run })));
  };
  for (const field of document.querySelectorAll("form[data-compare] input[list]")) {
    field.addEventListener("focus", () => fill(field.value), { once: true });
    field.addEventListener("input", () => { window.clearTimeout(timer); timer = window.setTimeout(() => fill(field.value), 250); });
  }
};

export const startCompare = () => {
  const by = (id) => document.getElementById(id);
  const { left, right } = by("compare").dataset, runs = { left, right };
  const api = (side) => `${document.body.dataset.root}/api/runs/${encodeURIComponent(runs[side])}`;
  const stages = by("stages"), status = by("compare-status"), toggle = by("compare-mask");
  const query = new URLSearchParams(window.location.search);
  const number = (name) => (/^[0-9]{1,10}$/.test(query.get(name) ?? "") ? Number(query.get(name)) : undefined);
  const state = { lines: undefined, found: undefined, picture: "result", variants: { left: number("left_variant"), right: number("right_variant") }, bodies: {} };
  let asked = 0;

  // --- two stages that move as one ---
  const stage = {}, tiles = {};
  for (const side of SIDES) {
    const image = (kind) => by(`${kind}-${side}`);
    tiles[side] = Object.fromEntries(KINDS.map((kind) => [kind, startTiles({ picture: image(kind), failed: () => say(side, `It can only be shown ${SMALL} pixels wide or high: download it to see more.`) })]));
    const controls = side === "left" ? { slider: undefined, zoom: by("zoom"), label: by("zoom-label") } : {};
    stage[side] = startStage({
      stage: by(`stage-${side}`), frame: by(`frame-${side}`), ...controls,
      changed: (view) => { for (const one of Object.values(tiles[side])) one.see(view); },
      moved: () => stage[side === "left" ? "right" : "left"]?.follow(stage[side]),
    });
  }
  const say = (side, text) => { by(`note-${side}`).textContent = text; by(`note-${side}`).hidden = !text; };

  const turns = startTurns({ show: (which) => { stages.dataset.side = which; }, first: "left", second: "right" });
  const arrange = (view) => {
    stages.dataset.view = view;
    for (const button of document.querySelectorAll("[data-arrange]")) button.setAttribute("aria-pressed", String(button.dataset.arrange === view));
    by("compare-swap").hidden = view !== "flicker";
    turns.run(view === "flicker");
  };
  const byHand = () => { if (stages.dataset.view !== "flicker") arrange("flicker"); turns.swap(); };

  // --- one row ---
  const variant = (side) => (state.variants[side] === undefined ? "" : `variant=${state.variants[side]}`);
  const draw = () => {
    for (const button of document.querySelectorAll("[data-picture]")) button.setAttribute("aria-pressed", String(button.dataset.picture === state.picture));
    for (const side of SIDES) {
      const kinds = state.bodies[side]?.pictures ?? [];
      const shown = kinds.includes(state.picture) ? state.picture : undefined;
      for (const kind of KINDS) {
        by(`${kind}-${side}`).hidden = !(kind === shown || (kind === "mask" && toggle.checked && shown && kinds.includes("mask")));
        tiles[side][kind].again();
      }
      say(side, state.bodies[side] && !shown ? `There is no picture of it ${state.picture === "result" ? "after" : "before"} painting.` : "");
    }
  };
  const load = (side, line, body) => {
    const { record } = body, tail = variant(side);
    by(`link-${side}`).href = `${document.body.dataset.root}/runs/${encodeURIComponent(runs[side])}/?row=${line}`;
    by(`link-${side}`).textContent = `${record.id}, line ${line}`;
    by(`state-${side}`).textContent = [record.status, record.error?.message].filter(Boolean).join(": ");
    let known = Boolean(record.output);
    if (known) stage[side].show(record.output.width, record.output.height, { isPair: false });
    return body.pictures.map((kind) => new Promise((resolve) => {
      const image = by(`${kind}-${side}`);
      image.alt = `${kind === "result" ? "After" : kind === "source" ? "Before" : "Mask"}: ${record.id} of ${runs[side]}`;
      image.onload = () => {
        if (!known && kind === "source") { known = true; stage[side].show(image.naturalWidth, image.naturalHeight, { isPair: false }); }
        resolve();
      };
      image.onerror = () => { say(side, `The ${kind} could not be loaded.`); resolve(); };
      image.src = `${api(side)}/rows/${line}/pictures/${kind}?size=${SMALL}${tail && `&${tail}`}`;
      if (record.output) tiles[side][kind].show((level, column, row) => `${api(side)}/rows/${line}/tiles/${kind}/${level}/${column}/${row}${tail && `?${tail}`}`, record.output.width, record.output.height);
    }));
  };

  const plain = (value) => (value === null || value === undefined || value === "" ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value));
  const facts = ({ record, seconds: total }) => ({
    id: record.id, status: record.status, prompt: record.prompt, "second prompt": record.prompt_2, seed: record.seed, steps: record.steps ?? record.steps_requested,
    guidance: record.guidance_scale, "steps without guidance": record.unguided_steps, strength: record.strength, fill: record.fill, LoRAs: record.loras, source: record.source, mask: record.mask,
    "painted part": record.mask_area?.box.join(", "), "painted at": record.working_size?.join(" × "), result: record.output && `${record.output.width} × ${record.output.height} ${record.output.format}`,
    joining: record.joining, ...Object.fromEntries(Object.entries(record.measures ?? {}).map(([name, value]) => [name.replaceAll("_", " "), value === null ? value : Number(value.toPrecision(3))])),
    change: record.change, device: record.worker?.device, time: seconds(total),
  });
  const differences = () => {
    const [one, other] = SIDES.map((side) => facts(state.bodies[side]));
    const names = [...new Set([...Object.keys(one), ...Object.keys(other)])].filter((name) => plain(one[name]) !== plain(other[name]));
    const cells = (kind, texts) => make("tr", {}, ...texts.map((text, at) => make(at && kind === "td" ? "td" : "th", { scope: kind === "td" ? "row" : "col" }, text)));
    by("row-differences").replaceChildren(
      make("thead", {}, cells("th", ["", ...SIDES.map((side) => runs[side])])),
      make("tbody", {}, ...(names.length ? names.map((name) => cells("td", [name, plain(one[name]), plain(other[name])])) : [cells("td", ["nothing", "", ""])])),
    );
  };

  const choices = (side, record) => {
    const select = by(`variant-${side}`);
    select.parentElement.hidden = !record.variants?.length;
    select.replaceChildren(make("option", { value: "" }, "the picked one"), ...(record.variants ?? []).map((one) => make("option", { value: one.variant }, `${one.variant}, seed ${one.seed}`)));
    if (state.variants[side] >= (record.variants?.length ?? 0)) state.variants[side] = undefined;
    select.value = state.variants[side] ?? "";
  };

  const fetched = async (url) => {
    const reply = await fetch(url);
    if (reply.ok) return reply.json();
    const body = await reply.json().catch(() => ({}));
    throw new Error(typeof body.detail === "string" ? body.detail : `the server answered ${reply.status}`);
  };
  const only = (side, { rows, first }) => (rows ? `${rows.toLocaleString("en")} row${rows === 1 ? " is" : "s are"} only in ${runs[side]} (line${rows === 1 ? "" : "s"} ${first.join(", ")}${rows > first.length ? ", …" : ""}).` : "");
  const show = async ([line, other]) => {
    const mine = ++asked;
    stages.setAttribute("aria-busy", "true");
    try {
      const wanted = new URLSearchParams({ left, right, row: line, ...(other ? { right_row: other } : {}), ...(query.get("by") ? { by: query.get("by") } : {}) });
      const found = await fetched(`${document.body.dataset.root}/api/compare?${wanted}`);
      if (mine !== asked) return;
      state.found = found;
      state.lines = found.lines;
      by("compare-only").textContent = [only("left", found.only_left), only("right", found.only_right)].filter(Boolean).join(" ");
      by("compare-previous").disabled = !found.previous;
      by("compare-next").disabled = !found.next;
      if (!found.lines) { status.textContent = "These runs have no row in common: choose to have rows belong together by image, or another run."; stages.setAttribute("aria-busy", "false"); return; }
      const rows = await Promise.all(SIDES.map((side, at) => fetched(`${api(side)}/rows/${found.lines[at]}`)));
      if (mine !== asked) return;
      SIDES.forEach((side, at) => choices(side, rows[at].record));
      const bodies = await Promise.all(SIDES.map((side, at) => (variant(side) ? fetched(`${api(side)}/rows/${found.lines[at]}?${variant(side)}`) : rows[at])));
      if (mine !== asked) return;
      const before = { fitted: stage.left.isFitted, middle: stage.left.middle, scale: stage.left.scale, width: stage.left.width, isSame: state.bodies.left?.record.source === bodies[0].record.source };
      SIDES.forEach((side, at) => {
        state.bodies[side] = bodies[at];
        for (const kind of KINDS) { tiles[side][kind].hide(); by(`${kind}-${side}`).removeAttribute("src"); }
      });
      const loads = SIDES.flatMap((side, at) => load(side, found.lines[at], bodies[at]));
      if (before.isSame && !before.fitted) stage.left.follow({ ...before, isFitted: false }); // another variant of the same picture
      stage.right.follow(stage.left);
      draw();
      differences();
      remember();
      await Promise.all(loads);
      if (mine !== asked) return;
      status.textContent = `Row ${found.place.toLocaleString("en")} of ${found.total.toLocaleString("en")} that both have, by ${found.by}.`;
    } catch (error) {
      if (mine !== asked) return;
      status.textContent = `This row could not be shown: ${error.message}.`;
    }
    stages.setAttribute("aria-busy", "false");
  };
  const remember = () => {
    const values = { row: state.lines[0], right_row: state.lines[1], left_variant: state.variants.left, right_variant: state.variants.right };
    for (const [name, value] of Object.entries(values)) { if (value === undefined) query.delete(name); else query.set(name, value); }
    window.history.replaceState(null, "", `${window.location.pathname}?${query}`);
  };

  const step = (direction) => { const to = direction > 0 ? state.found?.next : state.found?.previous; if (to) show(to); };
  const toMask = () => { const box = state.bodies.left?.record.mask_area?.box ?? state.bodies.right?.record.mask_area?.box; if (box) stage.left.toBox(box); };
  const take = (picture) => { state.picture = picture; draw(); };
  const keys = {
    ArrowLeft: () => step(-1), ArrowRight: () => step(1), m: () => { toggle.checked = !toggle.checked; draw(); }, j: toMask,
    s: () => arrange("side"), f: () => arrange(stages.dataset.view === "flicker" ? "side" : "flicker"), b: byHand, o: () => take(state.picture === "source" ? "result" : "source"),
    "+": () => stage.left.zoomBy(1.5), "=": () => stage.left.zoomBy(1.5), "-": () => stage.left.zoomBy(1 / 1.5), 0: () => stage.left.fit(), 1: () => stage.left.toOwnSize(),
  };
  const panned = { ArrowLeft: [80, 0], ArrowRight: [-80, 0], ArrowUp: [0, 80], ArrowDown: [0, -80] };
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input:not([type=checkbox]), select, .scroll") || event.altKey || event.ctrlKey || event.metaKey) return;
    const work = event.shiftKey && panned[event.key] ? () => stage.left.pan(...panned[event.key]) : keys[event.key];
    if (!work) return;
    event.preventDefault();
    work();
  });
  toggle.addEventListener("change", draw);
  for (const button of document.querySelectorAll("[data-arrange]")) button.addEventListener("click", () => arrange(button.dataset.arrange));
  for (const button of document.querySelectorAll("[data-picture]")) button.addEventListener("click", () => take(button.dataset.picture));
  by("compare-swap").addEventListener("click", byHand);
  by("compare-previous").addEventListener("click", () => step(-1));
  by("compare-next").addEventListener("click", () => step(1));
  by("zoom-fit").addEventListener("click", () => stage.left.fit());
  by("zoom-own").addEventListener("click", () => stage.left.toOwnSize());
  by("to-mask").addEventListener("click", toMask);
  for (const side of SIDES) {
    by(`variant-${side}`).addEventListener("change", (event) => {
      state.variants[side] = event.target.value === "" ? undefined : Number(event.target.value);
      show(state.lines);
    });
  }
  arrange("side");
  show([number("row") || 1, number("right_row")]);
};

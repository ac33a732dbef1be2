// One row, large: before and after on a stage, the mask over both, all its parameters and times, its files and its log.
import { bytes, make, seconds } from "./dom.js";
import { startComparing } from "./comparing.js";
import { history } from "./history.js";
import { startStage } from "./stage.js";
import { startTiles } from "./tiles.js";
import { variantList } from "./variants.js";

const LABELS = { source: "Before", mask: "Mask", result: "After" };
const SMALL = 1600; // pictures.py: pixels of the longer side

export const startViewer = ({ api, here, neighbour, shown, ended, closed }) => {
  const by = (id) => document.getElementById(id);
  const dialog = by("viewer"), frame = by("frame"), slider = by("slider"), toggle = by("mask-toggle"), note = by("stage-note");
  const images = { source: by("view-before"), mask: by("view-mask"), result: by("view-after") };
  let row, pictures = [], known = false, asked = 0, box;

  // Where more screen pixels are needed than a small picture has, tiles lie over it.
  const tiles = {};
  for (const [kind, picture] of Object.entries({ ...images, difference: by("view-difference") })) {
    tiles[kind] = startTiles({ picture, failed: () => say(`The ${kind} can only be shown ${SMALL} pixels wide or high: download it to see more.`) });
  }
  const tile = (kind, width, height) => {
    const mine = row;
    tiles[kind].show((level, column, line) => `${api}/rows/${mine}/tiles/${kind}/${level}/${column}/${line}`, width, height);
  };

  const changed = (view) => { for (const one of Object.values(tiles)) one.see(view); };
  const stage = startStage({ stage: by("stage"), frame, slider, zoom: by("zoom"), label: by("zoom-label"), changed });
  const comparing = startComparing({ api, frame, image: by("view-difference"), tile: (width, height) => tile("difference", width, height), untile: () => tiles.difference.hide() });

  const busy = (is) => by("stage").setAttribute("aria-busy", String(is));
  const say = (text) => { note.textContent = text; note.hidden = !text; };
  const settled = (text) => { say(text); busy(false); };
  const mask = () => { images.mask.hidden = !(toggle.checked && pictures.includes("mask")); tiles.mask.again(); };

  const run = decodeURIComponent(api.split("/").pop());
  const compareWith = (record, more) => `${document.body.dataset.root}/compare?${new URLSearchParams({ left: run, row: record.row, ...more })}`;

  const list = (title, pairs) => {
    const filled = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
    if (!filled.length) return undefined;
    const items = filled.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value))));
    return make("div", {}, make("h3", {}, title), make("dl", { className: "facts" }, ...items));
  };

  const facts = ({ record, stages, seconds: total, cure }) => {
    const size = record.working_size, output = record.output, batch = record.batch, memory = record.memory;
    const parts = [
      record.error ? make("div", { className: "why" }, make("p", {}, make("strong", {}, `${record.error.type}: `), record.error.message), make("p", {}, make("strong", {}, "What to do: "), cure)) : undefined,
      make("p", { className: "prompt" }, record.prompt || "(no prompt)"),
      variantList(api, record, (picked, other) => compareWith(record, { right: run, left_variant: picked, right_variant: other })),
      list("Parameters", [
        ["Line", record.row], ["Status", record.status], ["Seed", record.seed], ["Steps", record.steps ?? record.steps_requested],
        ["Guidance", record.unguided_steps ? `${record.guidance_scale}, off in the last ${record.unguided_steps === 1 ? "step" : `${record.unguided_steps} steps`}` : record.guidance_scale], ["Strength", record.strength], ["Painted at", size && `${size[0]} × ${size[1]}`],
        ["Result", output && `${output.width} × ${output.height} ${output.format}, ${bytes(output.bytes)}`],
        ["Batch", batch && `${batch.size} row${batch.size === 1 ? "" : "s"}`], ["Peak memory", memory && bytes(memory.peak_reserved)],
        ["Device", record.worker?.device], ["Converted", record.conversions.join("; ")],
      ]),
      list("Timings", [...Object.entries(stages).map(([name, value]) => [name, seconds(value)]), ["Together", seconds(total)]]),
      history(here, record, stages, document.querySelector("main[data-state]").dataset.state === "finished"),
    ];
    by("viewer-facts").replaceChildren(...parts.filter(Boolean));
  };

  const links = (record, files) => {
    const saved = files.map((kind) => make("a", { href: `${api}/rows/${record.row}/files/${kind}`, download: "" }, `Download the ${kind}`));
    const log = record.worker ? make("a", { href: `${here}/rows/${record.row}/log`, target: "_top" }, "Task log") : undefined;
    const link = make("a", { href: `${here}/?row=${record.row}`, target: "_top" }, "Link to this row");
    const compare = make("a", { href: compareWith(record, {}), target: "_top" }, "Compare with another run");
    by("viewer-files").replaceChildren(...[...saved, log, link, compare].filter(Boolean).flatMap((one) => [one, " "]));
  };

  // The stage tells what is missing: a picture that cannot be had never stands there as a broken one.
  const missing = () => {
    const lacking = ["source", "result"].filter((kind) => !pictures.includes(kind));
    if (lacking.length === 2) settled("There is no picture of this row: no source was read, and none was painted.");
    else if (lacking[0] === "source") settled("There is no source to compare with: the record names none.");
    else if (lacking[0] === "result") settled("There is no result: this is the source.");
    else settled("");
  };
  // No result tells how large the source is, so it is asked for.
  const wholeSize = async (kind) => {
    const mine = row;
    const reply = await fetch(`${api}/rows/${mine}/size`).catch(() => undefined);
    if (!reply?.ok || mine !== row) return;
    const { width, height } = await reply.json();
    if (mine !== row) return;
    tile(kind, width, height);
    stage.show(width, height, { same: true });
  };
  // The painted part: as the record has it, else what the mask's own picture covers.
  const maskBox = () => {
    if (box || !pictures.includes("mask") || !images.mask.naturalWidth) return box;
    const { naturalWidth: width, naturalHeight: height } = images.mask;
    const canvas = make("canvas", { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(images.mask, 0, 0);
    const { data } = context.getImageData(0, 0, width, height);
    let x0 = width, y0 = height, x1 = 0, y1 = 0;
    for (let at = 3; at < data.length; at += 4) {
      if (!data[at]) continue;
      const x = ((at - 3) / 4) % width, y = Math.floor((at - 3) / 4 / width);
      [x0, y0, x1, y1] = [Math.min(x0, x), Math.min(y0, y), Math.max(x1, x + 1), Math.max(y1, y + 1)];
    }
    const scale = stage.width / width;
    return x1 > x0 ? [x0, y0, x1, y1].map((one) => one * scale) : undefined;
  };
  const toMask = () => { const found = maskBox(); if (found) stage.toBox(found); };

  const load = (record) => {
    known = Boolean(record.output);
    box = record.mask_area?.box;
    for (const one of Object.values(tiles)) one.hide();
    for (const kind of record.output ? pictures : []) tile(kind, record.output.width, record.output.height);
    frame.classList.toggle("alone", !(pictures.includes("source") && pictures.includes("result")));
    slider.disabled = frame.classList.contains("alone");
    toggle.disabled = by("to-mask").disabled = !pictures.includes("mask");
    comparing.shown(slider.disabled ? undefined : record);
    if (pictures.length) say("Loading…");
    const main = pictures.includes("result") ? "result" : "source";
    let waiting = pictures.filter((kind) => kind !== "mask").length;
    if (record.output) stage.show(record.output.width, record.output.height, { isPair: !slider.disabled });
    for (const [kind, image] of Object.entries(images)) {
      image.onload = image.onerror = null;
      image.hidden = !pictures.includes(kind);
      image.alt = image.hidden ? "" : `${LABELS[kind]}: ${kind} of ${record.id}`;
      image.removeAttribute("src");
      if (image.hidden) continue;
      image.onload = async () => {
        const mine = row;
        image.onload = null;
        if (!known && kind === main) {
          stage.show(image.naturalWidth, image.naturalHeight, { isPair: !slider.disabled });
          if (Math.max(image.naturalWidth, image.naturalHeight) === SMALL) await wholeSize(kind);
          if (mine !== row) return;
        }
        if (kind !== "mask" && --waiting === 0) missing();
      };
      image.onerror = () => { // the answer was no picture at all: the session has ended, or the row has gone
        image.hidden = true;
        if (kind !== "mask") waiting = -1;
        settled(`The ${kind} could not be loaded.`);
      };
      image.src = `${api}/rows/${record.row}/pictures/${kind}?size=${SMALL}`;
    }
    if (!pictures.length) missing();
    mask();
  };

  const show = async (wanted) => {
    const mine = ++asked;
    busy(true);
    const reply = await fetch(`${api}/rows/${wanted}`);
    if (mine !== asked) return;
    if (!reply.ok) {
      const body = await reply.json().catch(() => ({}));
      throw new Error(reply.status === 404 && typeof body.detail === "string" ? `Line ${wanted}: ${body.detail}.` : "This row could not be loaded.");
    }
    const body = await reply.json();
    if (mine !== asked) return;
    row = wanted;
    pictures = body.pictures.some((kind) => kind !== "mask") ? body.pictures : []; // a mask over nothing shows nothing
    by("viewer-title").textContent = body.record.id;
    load(body.record);
    links(body.record, body.pictures);
    facts(body);
    shown(row, body);
  };

  const quietly = (promise) => promise.catch((error) => {
    pictures = [];
    comparing.shown(undefined);
    for (const one of Object.values(tiles)) one.hide();
    for (const image of Object.values(images)) { image.hidden = true; image.removeAttribute("src"); }
    by("viewer-title").textContent = error.message;
    by("viewer-facts").replaceChildren();
    by("viewer-files").replaceChildren();
    settled("");
  });

  // Steps follow one another from the row that was asked for last, however fast the keys are pressed.
  let goal, steps = Promise.resolve();
  const step = (direction) => {
    steps = steps.then(async () => {
      const next = await neighbour(goal, direction);
      if (next === undefined && direction > 0) ended();
      if (next === undefined || !dialog.open) return;
      goal = next;
      quietly(show(next));
    }).catch(() => {});
  };

  const keys = {
    ArrowLeft: () => step(-1), ArrowRight: () => step(1),
    m: () => { if (!toggle.disabled) { toggle.checked = !toggle.checked; mask(); } },
    "+": () => stage.zoomBy(1.5), "=": () => stage.zoomBy(1.5), "-": () => stage.zoomBy(1 / 1.5), 0: stage.fit, 1: () => stage.toOwnSize(),
    j: toMask, ...comparing.keys,
  };
  const panned = { ArrowLeft: [80, 0], ArrowRight: [-80, 0], ArrowUp: [0, 80], ArrowDown: [0, -80] };
  dialog.addEventListener("keydown", (event) => {
    if (["range", "text"].includes(event.target.type) || event.altKey || event.ctrlKey || event.metaKey) return;
    const work = event.shiftKey && panned[event.key] ? () => stage.pan(...panned[event.key]) : keys[event.key];
    if (!work) return;
    event.preventDefault();
    work();
  });
  toggle.addEventListener("change", mask);
  by("viewer-previous").addEventListener("click", () => step(-1));
  by("viewer-next").addEventListener("click", () => step(1));
  by("to-mask").addEventListener("click", toMask);
  by("zoom-fit").addEventListener("click", stage.fit);
  by("zoom-own").addEventListener("click", () => stage.toOwnSize());
  dialog.addEventListener("close", () => { asked += 1; comparing.shown(undefined); closed(row); });
  return {
    get isOpen() { return dialog.open; },
    get row() { return row; },
    step,
    close: () => dialog.close(),
    open: (wanted) => {
      busy(true);
      if (!dialog.open) { dialog.showModal(); by("stage").focus(); }
      goal = wanted;
      quietly(show(wanted));
    },
  };
};

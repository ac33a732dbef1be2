// One row, large: before and after on a stage, the mask over both, all its parameters and times, its files and its log.
import { bytes, make, seconds } from "./dom.js";
import { startStage } from "./stage.js";
import { variantList } from "./variants.js";

const LABELS = { source: "Before", mask: "Mask", result: "After" };
const SMALL = 1600, LARGE = 8192; // pictures.py: pixels of the longer side

export const startViewer = ({ api, here, neighbour, shown, ended, closed }) => {
  const by = (id) => document.getElementById(id);
  const dialog = by("viewer"), frame = by("frame"), slider = by("slider"), toggle = by("mask-toggle"), note = by("stage-note");
  const images = { source: by("view-before"), mask: by("view-mask"), result: by("view-after") };
  let row, pictures = [], known = false, enlarged = false, timer = 0, asked = 0;

  // Once more screen pixels than a small picture has are needed, the large ones take its place, if there are any.
  const enlarge = () => {
    const mine = row;
    enlarged = true;
    for (const kind of pictures.filter((one) => one !== "mask")) {
      const large = new Image();
      large.addEventListener("load", () => {
        if (mine !== row) return;
        images[kind].src = large.src;
        if (!known && kind === "source" && large.naturalWidth > images[kind].naturalWidth) stage.show(large.naturalWidth, large.naturalHeight, { same: true });
      });
      large.addEventListener("error", () => { if (mine === row) say(`The ${kind} can only be shown ${SMALL} pixels wide or high: download it to see more.`); });
      large.src = `${api}/rows/${mine}/pictures/${kind}?size=${LARGE}`;
    }
  };
  const changed = (pixels) => {
    window.clearTimeout(timer);
    if (!enlarged && pictures.length && pixels > SMALL) timer = window.setTimeout(enlarge, 200);
  };
  const stage = startStage({ stage: by("stage"), frame, slider, zoom: by("zoom"), label: by("zoom-label"), changed });

  const busy = (is) => by("stage").setAttribute("aria-busy", String(is));
  const say = (text) => { note.textContent = text; note.hidden = !text; };
  const settled = (text) => { say(text); busy(false); };
  const mask = () => { images.mask.hidden = !(toggle.checked && pictures.includes("mask")); };

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
      variantList(api, record),
      list("Parameters", [
        ["Line", record.row], ["Status", record.status], ["Seed", record.seed], ["Steps", record.steps ?? record.steps_requested],
        ["Guidance", record.guidance_scale], ["Strength", record.strength], ["Painted at", size && `${size[0]} × ${size[1]}`],
        ["Result", output && `${output.width} × ${output.height} ${output.format}, ${bytes(output.bytes)}`],
        ["Batch", batch && `${batch.size} row${batch.size === 1 ? "" : "s"}`], ["Peak memory", memory && bytes(memory.peak_reserved)],
        ["Device", record.worker?.device], ["Converted", record.conversions.join("; ")],
      ]),
      list("Timings", [...Object.entries(stages).map(([name, value]) => [name, seconds(value)]), ["Together", seconds(total)]]),
    ];
    by("viewer-facts").replaceChildren(...parts.filter(Boolean));
  };

  const links = (record, files) => {
    const saved = files.map((kind) => make("a", { href: `${api}/rows/${record.row}/files/${kind}`, download: "" }, `Download the ${kind}`));
    const log = record.worker ? make("a", { href: `${here}/rows/${record.row}/log`, target: "_top" }, "Task log") : undefined;
    const link = make("a", { href: `${here}/?row=${record.row}`, target: "_top" }, "Link to this row");
    by("viewer-files").replaceChildren(...[...saved, log, link].filter(Boolean).flatMap((one) => [one, " "]));
  };

  // The stage tells what is missing: a picture that cannot be had never stands there as a broken one.
  const missing = () => {
    const lacking = ["source", "result"].filter((kind) => !pictures.includes(kind));
    if (lacking.length === 2) settled("There is no picture of this row: no source was read, and none was painted.");
    else if (lacking[0] === "source") settled("There is no source to compare with: the record names none.");
    else if (lacking[0] === "result") settled("There is no result: this is the source.");
    else settled("");
  };
  const load = (record) => {
    known = Boolean(record.output);
    enlarged = false;
    frame.classList.toggle("alone", !(pictures.includes("source") && pictures.includes("result")));
    slider.disabled = frame.classList.contains("alone");
    toggle.disabled = !pictures.includes("mask");
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
      image.onload = () => {
        image.onload = null;
        if (!known && kind === main) stage.show(image.naturalWidth, image.naturalHeight, { isPair: !slider.disabled });
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
  by("zoom-fit").addEventListener("click", stage.fit);
  by("zoom-own").addEventListener("click", () => stage.toOwnSize());
  dialog.addEventListener("close", () => { asked += 1; closed(row); });
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

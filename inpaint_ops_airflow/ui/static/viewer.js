// One row, large: before and after under a slider, the mask over both, zoom, all its parameters and times, its files.
import { bytes, make, seconds } from "./dom.js";

const LABELS = { source: "Before", mask: "Mask", result: "After" };

export const startViewer = (api, neighbour, closed) => {
  const by = (id) => document.getElementById(id);
  const dialog = by("viewer"), frame = by("frame"), slider = by("slider"), zoom = by("zoom"), toggle = by("mask-toggle");
  const images = { source: by("view-before"), mask: by("view-mask"), result: by("view-after") };
  let row, pictures = [];

  const split = () => {
    frame.style.setProperty("--split", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${slider.value}% before, ${100 - slider.value}% after`);
  };
  const scale = () => { frame.style.setProperty("--zoom", zoom.value); zoom.setAttribute("aria-valuetext", `${zoom.value} times`); };
  const mask = () => { images.mask.hidden = !(toggle.checked && pictures.includes("mask")); };

  const list = (title, pairs) => {
    const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
    if (!known.length) return undefined;
    const items = known.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value))));
    return make("div", {}, make("h3", {}, title), make("dl", { className: "facts" }, ...items));
  };

  const facts = ({ record, stages, seconds: total, cure }) => {
    const size = record.working_size, output = record.output, batch = record.batch, memory = record.memory;
    const parts = [
      record.error ? make("div", { className: "why" }, make("p", {}, make("strong", {}, `${record.error.type}: `), record.error.message), make("p", {}, make("strong", {}, "What to do: "), cure)) : undefined,
      make("p", { className: "prompt" }, record.prompt || "(no prompt)"),
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

  const show = async (wanted) => {
    const reply = await fetch(`${api}/rows/${wanted}`);
    if (!reply.ok) throw new Error(`${reply.status}`);
    const body = await reply.json();
    row = wanted;
    pictures = body.pictures;
    by("viewer-title").textContent = body.record.id;
    for (const [kind, image] of Object.entries(images)) {
      image.hidden = !pictures.includes(kind);
      image.alt = image.hidden ? "" : `${LABELS[kind]}: ${kind} of ${body.record.id}`;
      if (image.hidden) image.removeAttribute("src"); else image.src = `${api}/rows/${wanted}/pictures/${kind}?size=1600`;
    }
    frame.classList.toggle("alone", !(pictures.includes("source") && pictures.includes("result")));
    slider.disabled = frame.classList.contains("alone");
    toggle.disabled = !pictures.includes("mask");
    mask();
    by("viewer-files").replaceChildren(...pictures.flatMap((kind) => [make("a", { href: `${api}/rows/${wanted}/files/${kind}`, download: "" }, `Download the ${kind}`), " "]));
    facts(body);
  };

  const step = async (by_) => {
    const next = await neighbour(row, by_);
    if (next !== undefined) await show(next);
  };
  const quietly = (promise) => promise.catch(() => { by("viewer-title").textContent = "This row could not be loaded."; });

  slider.addEventListener("input", split);
  zoom.addEventListener("input", scale);
  toggle.addEventListener("change", mask);
  by("viewer-previous").addEventListener("click", () => quietly(step(-1)));
  by("viewer-next").addEventListener("click", () => quietly(step(1)));
  dialog.addEventListener("keydown", (event) => {
    if (event.target.type === "range" || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") { event.preventDefault(); quietly(step(-1)); }
    if (event.key === "ArrowRight") { event.preventDefault(); quietly(step(1)); }
    if (event.key === "m") { toggle.checked = !toggle.checked; mask(); }
  });
  dialog.addEventListener("close", () => closed(row));
  split();
  scale();
  return {
    open: (wanted) => {
      dialog.showModal();
      by("stage").focus();
      quietly(show(wanted));
    },
  };
};

// How before and after are compared on a stage: by a split, by one in the other's place in turn, or by what differs.
import { startTurns } from "./turns.js";

const AGAIN = 8; // requests for a comparison that takes longer than one may

export const startComparing = ({ api, frame, image, tile, untile }) => {
  const by = (id) => document.getElementById(id);
  const side = by("stage-side"), words = by("stage-changes"), swapButton = by("view-swap");
  const buttons = [...document.querySelectorAll("button[data-view]")];
  let wanted = "split", record, asked = 0;

  const turns = startTurns({
    first: "before", second: "after",
    show: (which) => {
      frame.dataset.side = which;
      side.textContent = which === "before" ? "Before" : "After";
    },
  });

  const number = (value) => value.toLocaleString("en");
  const share = (part, of) => { const percent = (100 * part) / of; return percent > 0 && percent < 0.01 ? "less than 0.01 %" : `${Number(percent.toPrecision(3))} %`; };
  const inWords = ({ changed, outside, highest }) => {
    if (!changed) return "No pixel differs.";
    const parts = [`${number(changed)} pixels changed (${share(changed, record.output.width * record.output.height)}), by up to ${highest} of 255 levels.`];
    if (outside === null) parts.push("Where it was painted is not recorded.");
    else parts.push(outside ? `${number(outside)} of them lie outside of the painted part and are shown red.` : "None of them lies outside of the painted part.");
    const lossy = { jpeg: "A JPEG", avif: "An AVIF" }[record.output.format];
    if (outside && lossy) parts.push(`${lossy} changes pixels everywhere.`);
    return parts.join(" ");
  };
  const reason = async (reply) => {
    const body = await reply.json().catch(() => ({}));
    return typeof body.detail === "string" ? body.detail : `the server answered ${reply.status}`;
  };
  const compare = async () => {
    const mine = ++asked, of = record;
    words.textContent = "Comparing every pixel…";
    image.hidden = true;
    for (let tries = 0; tries < AGAIN; tries += 1) {
      const reply = await fetch(`${api}/rows/${of.row}/difference`).catch(() => undefined);
      if (mine !== asked) return;
      if (reply?.ok) {
        const found = await reply.json();
        if (mine !== asked) return;
        image.alt = `What differs between source and result of ${of.id}`;
        image.onload = () => {
          if (mine !== asked) return;
          image.hidden = false;
          words.textContent = inWords(found);
          tile(of.output.width, of.output.height);
        };
        image.onerror = () => { if (mine === asked) words.textContent = "The difference could not be loaded."; };
        image.src = `${api}/rows/${of.row}/pictures/difference`;
        return;
      }
      if (reply && reply.status !== 503) { words.textContent = `The difference cannot be shown: ${await reason(reply)}.`; return; }
      await new Promise((resolve) => { window.setTimeout(resolve, 1000 * Math.min(10, Number(reply?.headers.get("Retry-After")) || 2)); });
      if (mine !== asked) return;
    }
    words.textContent = "The difference could not be made in time: choose it again later.";
  };

  const draw = () => {
    asked += 1;
    const view = record ? wanted : "split";
    frame.dataset.view = view;
    for (const button of buttons) {
      button.disabled = !record;
      button.setAttribute("aria-pressed", String(Boolean(record) && button.dataset.view === view));
    }
    const flickers = view === "flicker";
    side.hidden = !flickers;
    swapButton.hidden = !flickers;
    side.setAttribute("aria-live", turns.isStill ? "polite" : "off"); // what changes by itself is not read out
    words.textContent = flickers && turns.isStill ? "This system asks for less motion: b, or the button, puts one in the other's place." : "";
    image.hidden = true;
    untile();
    turns.run(flickers);
    if (view === "difference") compare();
  };
  const turnTo = (view) => {
    if (!record) return;
    wanted = view;
    draw();
  };
  const toggle = (view) => turnTo(wanted === view ? "split" : view);

  // By hand: the pictures stop taking turns.
  const byHand = () => {
    if (!record) return;
    if (wanted !== "flicker") turnTo("flicker");
    side.setAttribute("aria-live", "polite");
    turns.swap();
  };

  for (const button of buttons) button.addEventListener("click", () => turnTo(button.dataset.view));
  swapButton.addEventListener("click", byHand);
  turns.changed(draw);
  return {
    keys: { s: () => turnTo("split"), f: () => toggle("flicker"), d: () => toggle("difference"), b: byHand },
    // The record of a row with both pictures; undefined for one that lacks one, or when nothing is seen.
    shown: (found) => { record = found; draw(); },
  };
};

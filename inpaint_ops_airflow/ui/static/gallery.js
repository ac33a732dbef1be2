// The gallery: a page of thumbnails at a time, loaded as they come into view, and a viewer over it.
import { startViewer } from "./viewer.js";
import { watch } from "./live.js";
import { make, seconds } from "./dom.js";

// The placeholder of a picture that was not made in time is 240 x 241 pixels (pictures.py): such a picture is requested once more.
const askOnceMore = (picture) => {
  if (picture.naturalWidth !== 240 || picture.naturalHeight !== 241) return;
  window.setTimeout(() => { if (picture.isConnected) picture.src = `${picture.src}&again=1`; }, 8000 + 8000 * Math.random());
};

export const startGallery = () => {
  const main = document.querySelector("main[data-api]");
  const list = document.getElementById("gallery");
  const status = document.getElementById("gallery-status");
  const form = document.getElementById("gallery-filters");
  const pager = document.getElementById("gallery-pager");
  const view = { page: 1, pages: 1, items: [], asked: 0, shown: "" };

  const tile = (item) => {
    const picture = item.picture
      ? make("img", { src: `${main.dataset.api}/rows/${item.row}/pictures/${item.picture}?size=256`, alt: "", loading: "lazy", decoding: "async", width: 160, height: 160 })
      : make("span", { className: "no-picture" }, item.status);
    if (item.picture) picture.addEventListener("load", () => askOnceMore(picture), { once: true });
    if (item.picture) picture.addEventListener("error", () => picture.replaceWith(make("span", { className: "no-picture" }, "no picture")));
    const button = make("button", { type: "button", className: `thumb ${item.status}`, title: item.reason || item.prompt }, picture,
      make("span", { className: "thumb-name" }, item.id),
      make("span", { className: "thumb-note" }, item.status === "done" ? seconds(item.seconds) : item.status));
    button.setAttribute("aria-label", `Line ${item.row}, ${item.id}, ${item.status}: ${item.reason || item.prompt}`);
    button.dataset.row = item.row;
    button.addEventListener("click", () => viewer.open(item.row));
    return make("li", {}, button);
  };

  const load = async () => {
    const mine = ++view.asked;
    const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
    query.set("page", view.page);
    if (main.dataset.shard) query.set("shard", main.dataset.shard);
    const reply = await fetch(`${main.dataset.api}/rows?${query}`);
    if (!reply.ok) throw new Error(`${reply.status}`);
    const body = await reply.text();
    if (mine !== view.asked || body === view.shown) return;
    const found = JSON.parse(body);
    Object.assign(view, { page: found.page, pages: found.pages, items: found.items, shown: body });
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.row : undefined;
    list.replaceChildren(...found.items.map(tile));
    if (focused) list.querySelector(`[data-row="${CSS.escape(focused)}"]`)?.focus();
    const rows = `${found.total.toLocaleString("en")} row${found.total === 1 ? "" : "s"}`;
    status.textContent = found.total ? rows + (found.unread ? `; ${found.unread.toLocaleString("en")} more are being read` : "") : "No row matches.";
    pager.hidden = found.pages < 2;
    pager.querySelector("span").textContent = `Page ${found.page} of ${found.pages.toLocaleString("en")}`;
    pager.querySelector('[data-step="-1"]').disabled = found.page <= 1;
    pager.querySelector('[data-step="1"]').disabled = found.page >= found.pages;
  };

  const show = () => load().catch(() => { status.textContent = "The rows could not be loaded."; });
  const turn = async (step) => {
    const page = view.page + step;
    if (page < 1 || page > view.pages) return false;
    view.page = page;
    await load();
    return true;
  };

  // The viewer goes from row to row, and over the edge of a page to the next one.
  const viewer = startViewer(main.dataset.api, async (row, step) => {
    const index = view.items.findIndex((item) => item.row === row);
    const next = view.items[index + step];
    if (next) return next.row;
    return (await turn(step)) ? view.items.at(step > 0 ? 0 : -1)?.row : undefined;
  }, (row) => list.querySelector(`[data-row="${row}"]`)?.focus());

  let timer = 0;
  form.addEventListener("input", () => { window.clearTimeout(timer); timer = window.setTimeout(() => { view.page = 1; show(); }, 250); });
  form.addEventListener("submit", (event) => event.preventDefault());
  pager.addEventListener("click", (event) => {
    const step = Number(event.target.dataset?.step);
    if (step) turn(step).then(() => document.getElementById("gallery-section").scrollIntoView()).catch(() => {});
  });
  show();
  if (main.dataset.state !== "finished") watch(6, load);
};

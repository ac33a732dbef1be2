// The gallery: a page of thumbnails at a time, loaded as they come into view, and a viewer over it. The address holds
// what is shown (filters, page, row), so that a reload, Back and a link lead to the same.
import { startViewer } from "./viewer.js";
import { inWords, startReview } from "./review.js";
import { startSaved } from "./saved.js";
import { startMeasures } from "./measures.js";
import { startThumbnails } from "./thumbnails.js";
import { keepAddress, takeAddress } from "./framed.js";
import { watch } from "./live.js";
import { make, seconds } from "./dom.js";

const FILTERS = ["status", "mark", "flag", "device", "measure", "least", "most", "order", "text"];
const OF_THE_RUN = ["flag", "device", "measure"]; // what there is to choose from is known later than the address

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
  const jump = document.getElementById("gallery-jump");
  const view = { page: 1, pages: 1, items: [], asked: 0, shown: "", current: 0, at: 0, changes: 0, reviewed: 0 };

  // --- what the address says ---
  const number = (text) => (/^[1-9][0-9]{0,9}$/.test(text ?? "") ? Number(text) : 0);
  const read = () => {
    const query = new URLSearchParams(window.location.search);
    for (const name of FILTERS) {
      const wanted = query.get(name) ?? "";
      if (OF_THE_RUN.includes(name) && wanted && ![...form.elements[name].options].some((one) => one.value === wanted)) form.elements[name].append(make("option", { value: wanted }, wanted));
      form.elements[name].value = wanted;
      if (form.elements[name].selectedIndex === -1) form.elements[name].selectedIndex = 0;
    }
    if (OF_THE_RUN.concat("least", "most").some((name) => form.elements[name].value)) document.getElementById("more-filters").open = true;
    measures.draw();
    view.page = number(query.get("page")) || 1;
    return { row: number(query.get("row")), hasPage: query.has("page") };
  };
  const write = ({ row = 0, push = false, opened = false } = {}) => {
    const query = new URLSearchParams(window.location.search);
    const wanted = Object.fromEntries(FILTERS.map((name) => [name, form.elements[name].value]));
    if (wanted.order === "row") wanted.order = "";
    Object.assign(wanted, { page: view.page > 1 ? String(view.page) : "", row: row ? String(row) : "" });
    for (const [name, value] of Object.entries(wanted)) { if (value) query.set(name, value); else query.delete(name); }
    const address = `${window.location.pathname}${query.size ? `?${query}` : ""}`;
    const state = { opened: push ? opened : Boolean(opened || (row && window.history.state?.opened)) };
    window.history[push ? "pushState" : "replaceState"](state, "", address);
    keepAddress();
  };

  // --- the grid: one stop for Tab, arrow keys from row to row ---
  const buttons = () => [...list.querySelectorAll(".thumb")];
  const settle = (button) => {
    for (const one of buttons()) one.tabIndex = one === button ? 0 : -1;
    view.current = button ? Number(button.dataset.row) : 0;
  };
  const focus = (row) => {
    const button = list.querySelector(`[data-row="${row}"]`) ?? buttons()[0];
    settle(button);
    button?.focus();
  };

  const label = (button, item) => {
    const words = inWords(item), flags = item.flags?.length ? `flags: ${item.flags.map((flag) => flag.replaceAll("_", " ")).join(", ")}` : "";
    button.setAttribute("aria-label", [`Line ${item.row}, ${item.id}, ${item.status}`, words, flags].filter(Boolean).join(", ") + `: ${item.reason || item.prompt}`);
    button.title = [item.reason || item.prompt, flags].filter(Boolean).join("\n");
    button.classList.toggle("flagged", Boolean(flags));
    button.dataset.marked = item.mark ?? "";
    button.querySelector(".thumb-mark").textContent = words;
  };
  const tile = (item) => {
    const picture = item.picture
      ? make("img", { alt: "", loading: "lazy", decoding: "async", width: 160, height: 160 })
      : make("span", { className: "no-picture" }, "no picture");
    if (item.picture) picture.addEventListener("load", () => askOnceMore(picture), { once: true });
    if (item.picture) picture.addEventListener("error", () => picture.replaceWith(make("span", { className: "no-picture" }, "no picture")));
    const button = make("button", { type: "button", className: `thumb ${item.status}`, tabIndex: -1 }, picture,
      make("span", { className: "thumb-name" }, item.id),
      make("span", { className: "thumb-note" }, item.status === "done" ? seconds(item.seconds) : item.status), make("span", { className: "thumb-mark" }));
    button.dataset.row = item.row;
    label(button, item);
    button.addEventListener("click", () => open(item.row));
    button.addEventListener("focus", () => settle(button));
    return make("li", {}, button);
  };

  const show = startThumbnails(main.dataset.api);
  const load = async (at = 0) => {
    const mine = ++view.asked;
    const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
    query.set("page", view.page);
    if (at) query.set("at", at);
    if (main.dataset.shard) query.set("shard", main.dataset.shard);
    const reply = await fetch(`${main.dataset.api}/rows?${query}`);
    if (!reply.ok) throw new Error(`${reply.status}`);
    const body = await reply.text();
    if (mine !== view.asked || body === view.shown) return;
    const found = JSON.parse(body);
    Object.assign(view, { page: found.page, pages: found.pages, items: found.items, shown: body });
    review.progress(found.review);
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.row : undefined;
    list.replaceChildren(...found.items.map(tile));
    show(found.items.map((item) => [item, list.querySelector(`[data-row="${item.row}"] img`)]).filter(([, picture]) => picture));
    settle(list.querySelector(`[data-row="${view.current}"]`) ?? buttons()[0]);
    if (focused) list.querySelector(`[data-row="${CSS.escape(focused)}"]`)?.focus();
    const rows = `${found.total.toLocaleString("en")} row${found.total === 1 ? "" : "s"}`;
    status.textContent = found.total ? rows + (found.unread ? `; ${found.unread.toLocaleString("en")} more are being read` : "") : "No row matches.";
    pager.hidden = found.pages < 2;
    jump.hidden = found.total < 2;
    pager.querySelector("span").textContent = `Page ${found.page} of ${found.pages.toLocaleString("en")}`;
    jump.elements.page.max = found.pages;
    pager.querySelector('[data-step="-1"]').disabled = found.page <= 1;
    pager.querySelector('[data-step="1"]').disabled = found.page >= found.pages;
  };

  const complain = () => { status.textContent = "The rows could not be loaded."; };
  const turnTo = async (page) => {
    if (page < 1 || page > view.pages || page === view.page) return false;
    view.page = page;
    await load();
    return true;
  };
  // By the pager or by keys: a step of its own in the browser's history.
  const turn = (page, place) => turnTo(page).then((turned) => {
    if (!turned) return;
    write({ push: true });
    document.getElementById("gallery-section").scrollIntoView();
    if (place) focus(view.items.at(place === "last" ? -1 : 0)?.row);
  }).catch(complain);

  // --- the viewer: from row to row, and over the edge of a page to the next one ---
  const viewer = startViewer({
    api: main.dataset.api,
    here: main.dataset.run,
    neighbour: async (row, step) => {
      const index = view.items.findIndex((item) => item.row === row);
      const next = index < 0 ? view.items[step > 0 ? view.at : view.at - 1] : view.items[index + step]; // it may have left the list
      if (next) return next.row;
      if (step > 0 && marksDecide() && review.changes !== view.changes) { // rows that were marked leave the list, and others move up
        view.changes = review.changes;
        const before = new Set(view.items.map((item) => item.row));
        await review.stored();
        await load();
        const first = view.items.find((item) => !before.has(item.row));
        if (first) return first.row;
      }
      return (await turnTo(view.page + step)) ? view.items.at(step > 0 ? 0 : -1)?.row : undefined;
    },
    shown: (row, body) => {
      view.current = row;
      view.at = Math.max(0, view.items.findIndex((item) => item.row === row));
      write({ row });
      review.shown(row, body);
    },
    ended: () => review.ended(),
    closed: (row) => {
      if (new URLSearchParams(window.location.search).has("row")) {
        if (window.history.state?.opened) { leaving = view.page; window.history.back(); } else write();
      }
      focus(row);
      if (review.changes === view.reviewed) return;
      view.reviewed = review.changes;
      review.stored().then(() => load()).then(() => focus(row)).catch(complain); // rows may have left the list, or come into it
    },
  });
  const review = startReview({
    api: main.dataset.api,
    advance: () => viewer.step(1),
    open: (row) => viewer.open(row),
    upcoming: (row) => { const index = view.items.findIndex((item) => item.row === row); return index < 0 ? [] : view.items.slice(index + 1, index + 3); },
    reload: () => { view.shown = ""; load().catch(complain); },
    marked: (row, now) => {
      const item = view.items.find((one) => one.row === row), button = list.querySelector(`[data-row="${row}"]`);
      if (item) Object.assign(item, now);
      if (item && button) label(button, item);
    },
  });
  let leaving = 0; // the page to stay on where the viewer went over its edge
  const open = (row) => { write({ row, push: true, opened: true }); viewer.open(row); };
  const marksDecide = () => form.elements.mark.value !== "" || form.elements.order.value === "rating";

  window.addEventListener("popstate", () => {
    keepAddress();
    const { row } = read();
    if (leaving) { view.page = leaving; leaving = 0; write(); return; }
    load().catch(complain);
    if (row) viewer.open(row); else if (viewer.isOpen) viewer.close();
  });

  list.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const all = buttons(), index = all.indexOf(event.target);
    if (index < 0) return;
    const first = all[0].getBoundingClientRect().top;
    const columns = all.filter((one) => Math.abs(one.getBoundingClientRect().top - first) < 2).length;
    const to = { ArrowLeft: index - 1, ArrowRight: index + 1, ArrowUp: index - columns, ArrowDown: index + columns, Home: 0, End: all.length - 1 }[event.key];
    if (event.key === "PageDown" || (to >= all.length && event.key === "ArrowRight")) turn(view.page + 1, "first");
    else if (event.key === "PageUp" || (to < 0 && event.key === "ArrowLeft")) turn(view.page - 1, event.key === "PageUp" ? "first" : "last");
    else if (to !== undefined) all[to]?.focus();
    else return;
    event.preventDefault();
  });

  let timer = 0;
  const changed = () => {
    window.clearTimeout(timer);
    timer = window.setTimeout(() => { view.page = 1; write(); load().catch(complain); }, 250);
  };
  const measures = startMeasures({ form, changed });
  form.addEventListener("input", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  pager.addEventListener("click", (event) => {
    const step = Number(event.target.dataset?.step);
    if (step) turn(view.page + step);
  });
  jump.addEventListener("submit", (event) => {
    event.preventDefault();
    const page = number(jump.elements.page.value), line = number(jump.elements.line.value);
    jump.elements.page.value = jump.elements.line.value = "";
    if (line) {
      load(line).then(() => {
        const there = view.items.some((item) => item.row === line);
        write({ push: there });
        if (there) focus(line); else status.textContent = `Line ${line} is not among these rows.`;
      }).catch(complain);
    } else if (page) turn(Math.min(page, view.pages), "first");
  });

  // Begins with the rows that nobody has given a verdict on, unless the list is of marks already.
  document.getElementById("review-start").addEventListener("click", () => {
    window.clearTimeout(timer);
    if (!form.elements.mark.value) { form.elements.mark.value = "none"; view.page = 1; write(); }
    load().then(() => {
      if (view.items.length) open(view.items[0].row); else status.textContent = "No row of this list is left to review.";
    }).catch(complain);
  });

  const choices = (name, found) => {
    const wanted = form.elements[name].value;
    const options = [...form.elements[name].options].filter((one) => one.value === "" || one.value === "any");
    form.elements[name].replaceChildren(...options, ...found.map(([value, text]) => make("option", { value }, text)));
    if (wanted && ![...form.elements[name].options].some((one) => one.value === wanted)) form.elements[name].append(make("option", { value: wanted }, wanted));
    form.elements[name].value = wanted;
  };
  review.info().then((info) => {
    choices("flag", Object.entries(info.flags).map(([flag, count]) => [flag, `${flag.replaceAll("_", " ")} (${count.toLocaleString("en")})`]));
    choices("device", info.devices.map((device) => [device, device]));
    choices("measure", info.measures.map((measure) => [measure.name, measure.label]));
    measures.take(info.measures);
  }).catch(() => {}); // the rows are shown without it

  startSaved({
    now: () => { const query = new URLSearchParams(window.location.search); return new URLSearchParams(FILTERS.filter((name) => query.get(name)).map((name) => [name, query.get(name)])); },
    choose: (kept) => {
      window.clearTimeout(timer);
      const query = new URLSearchParams(window.location.search);
      for (const name of [...FILTERS, "page", "row"]) query.delete(name);
      for (const name of FILTERS) { if (kept.get(name)) query.set(name, kept.get(name)); }
      window.history.pushState({}, "", `${window.location.pathname}${query.size ? `?${query}` : ""}`);
      keepAddress();
      read();
      load().catch(complain);
    },
  });

  takeAddress();
  keepAddress();
  const { row, hasPage } = read();
  load(hasPage ? 0 : row).then(() => { if (row) viewer.open(row); }).catch(complain);
  if (main.dataset.state !== "finished") watch(6, () => load());
};

// A review: marks by keyboard or touch in the viewer, sent in the order in which they were given, and undone.
//
// A mark is shown at once and sent as soon as the ones before it are stored. One that could not be sent is tried again.
import { make } from "./dom.js";
import { startRedo } from "./redo.js";

const DONE = { accept: "accepted", reject: "rejected", redo: "to be done again" };
const SIGNS = { accept: "✓", reject: "✗", redo: "↻" };
const AT_ONCE = 100, RECENT = 10000;
const KEYS = { a: "accept", r: "reject" };

export const inWords = ({ mark, rating, disputed }) =>
  [mark ? `${SIGNS[mark]} ${DONE[mark]}` : "", rating ? `${"★".repeat(rating)}` : "", disputed ? "disputed" : ""].filter(Boolean).join(" ");

export const startReview = ({ api, advance, open, marked, reload, upcoming }) => {
  const by = (id) => document.getElementById(id);
  const bar = by("review-bar"), dialog = by("viewer"), status = by("review-status"), reasonForm = by("review-redo"), reason = by("review-reason"), note = by("review-note"), onward = by("review-onward");
  const queue = [], undone = [], recent = new Map(), fetched = new Map();
  let info, body, waiting = false, sending = false, changes = 0, idle = Promise.resolve(), settle = () => {};

  const redo = startRedo({ api });

  // --- what is known of a row ---
  const own = () => {
    const kept = recent.get(body.record.id);
    if (kept && (kept.pending || Date.now() - kept.at < RECENT)) return kept.state;
    return body.review.opinions.find((one) => one.reviewer === info.reviewer) ?? {};
  };
  const progress = (tally) => {
    if (!tally) return;
    const number = (value) => value.toLocaleString("en");
    const parts = Object.entries(DONE).map(([mark, words]) => `${number(tally[mark])} ${words}`);
    if (tally.disputed) parts.push(`${number(tally.disputed)} disputed`);
    if (tally.outdated) parts.push(`${number(tally.outdated)} painted again since they were reviewed`);
    by("review-count").textContent = `${number(tally.reviewed)} of ${number(tally.rows)} reviewed`;
    by("review-parts").textContent = parts.join(", ");
    by("review-meter").value = tally.rows ? tally.reviewed / tally.rows : 0;
    redo.progress(tally, info?.may_review);
    by("review-left").textContent = `${number(tally.reviewed)} of ${number(tally.rows)} reviewed`;
  };

  const draw = () => {
    const can = Boolean(body?.record.output);
    by("review-tools").hidden = !(info?.may_review && can);
    by("review-others").replaceChildren();
    bar.hidden = !info || !can;
    if (bar.hidden) return;
    const state = info.may_review ? own() : {};
    for (const button of bar.querySelectorAll("[data-mark]")) button.setAttribute("aria-pressed", String(button.dataset.mark === state.mark));
    for (const button of bar.querySelectorAll("[data-rating]")) button.setAttribute("aria-pressed", String(Number(button.dataset.rating) === (state.rating ?? 0)));
    const accepted = state.mark === "accept" ? state.variant ?? body.record.pick?.variant : undefined;
    for (const button of dialog.querySelectorAll("button[data-variant]")) {
      button.hidden = !info.may_review;
      button.setAttribute("aria-pressed", String(Number(button.dataset.variant) === accepted));
    }
    if (document.activeElement !== note) note.value = state.note ?? "";
    by("review-undo").disabled = !undone.length;
    const others = body.review.opinions.filter((one) => !info.may_review || one.reviewer !== info.reviewer);
    const lines = others.map((one) => make("li", {}, make("strong", {}, one.reviewer), ": ", [inWords(one), one.reason, one.note].filter(Boolean).join("; ") || "nothing"));
    if (state.mark && state.reason) lines.unshift(make("li", {}, `Your reason: ${state.reason}`));
    if (body.review.outdated.length) lines.push(make("li", {}, `Painted again since ${body.review.outdated.join(", ")} reviewed it.`));
    if (body.review.disputed) lines.push(make("li", {}, `Reviewers disagree: the latest mark counts, that of ${body.review.reviewer}.`));
    if (!lines.length && !info.may_review) lines.push(make("li", {}, "Nobody has reviewed this row yet."));
    by("review-others").replaceChildren(...lines);
  };

  // --- sending ---
  const announce = (text) => { status.textContent = text; };
  const problem = async (reply) => {
    const answer = await reply.json().catch(() => ({}));
    if (reply.status === 401) return "your session has ended: sign in to Airflow in another tab";
    if (reply.status === 403) return "you may not review here";
    return typeof answer.detail === "string" ? answer.detail : `the server answered ${reply.status}`;
  };
  const takeBack = (ids, text) => {
    for (const id of ids) recent.delete(id);
    undone.splice(0, undone.length, ...undone.filter((one) => !ids.includes(one.id)));
    announce(text);
    draw();
    reload();
  };
  const send = async () => {
    if (sending) return;
    sending = true;
    idle = new Promise((resolve) => { settle = resolve; });
    let pause = 1000;
    while (queue.length) {
      const batch = queue.slice(0, AT_ONCE);
      let wrong = "", again = true;
      try {
        const reply = await fetch(`${api}/reviews`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ marks: batch }) });
        if (reply.ok) {
          const { tally, refused } = await reply.json();
          queue.splice(0, batch.length);
          pause = 1000;
          for (const mark of batch) {
            const kept = recent.get(mark.id);
            if (kept && !queue.some((one) => one.id === mark.id)) Object.assign(kept, { pending: false, at: Date.now() });
          }
          progress(tally);
          if (Object.keys(refused).length) takeBack(Object.keys(refused), Object.entries(refused).map(([id, why]) => `${id} was not marked: ${why}.`).join(" "));
          continue;
        }
        again = reply.status >= 500 || reply.status === 401 || reply.status === 429;
        wrong = await problem(reply);
      } catch { wrong = "the server did not answer"; }
      if (!again) { // a mark that is refused would be refused again
        takeBack(queue.splice(0, batch.length).map((mark) => mark.id), `Not saved: ${wrong}.`);
        continue;
      }
      announce(`${queue.length} mark${queue.length === 1 ? " is" : "s are"} not saved yet: ${wrong}. They are sent again.`);
      settle(); // whoever waits for the list goes on with what is stored
      await new Promise((resolve) => { window.setTimeout(resolve, pause); });
      pause = Math.min(30000, pause * 2);
    }
    sending = false;
    settle();
  };
  window.addEventListener("beforeunload", (event) => { if (queue.length) event.preventDefault(); });

  // --- marking ---
  const put = (change, { undoable = true, words }) => {
    const { id, row, attempt } = body.record, before = own();
    const state = { ...before };
    if (change.mark) delete state.variant;
    if (change.mark === "clear") for (const name of Object.keys(state)) delete state[name];
    for (const [name, value] of Object.entries(change)) if (value !== "clear") state[name] = value;
    if (undoable) undone.push({ id, row, attempt, before });
    recent.set(id, { state, pending: true, at: Date.now() });
    queue.push({ id, attempt, ...change });
    changes += 1;
    marked(row, { mark: state.mark ?? null, rating: state.rating || null, disputed: body.review.disputed });
    announce(`${id}: ${words}.`);
    draw();
    send();
  };
  const may = () => Boolean(info?.may_review && body?.record.output);
  // A key that is pressed before the next picture is there must mark neither that one, unseen, nor the one before.
  const ready = () => {
    if (!may()) return false;
    if (!waiting && by("stage").getAttribute("aria-busy") !== "true") return true;
    announce("The picture is not there yet.");
    return false;
  };
  const hideReason = () => {
    if (reasonForm.contains(document.activeElement)) by("stage").focus(); // or the keys would have nowhere to go
    reasonForm.hidden = true;
  };
  const decide = (mark, more = {}) => {
    if (!ready()) return;
    hideReason();
    put({ mark, ...more }, { words: "variant" in more ? `variant ${more.variant} ${DONE[mark]}` : DONE[mark] });
    waiting = onward.checked;
    if (waiting) advance();
  };
  const rate = (rating) => {
    if (!ready()) return;
    const wanted = own().rating === rating ? 0 : rating;
    put({ rating: wanted }, { words: wanted ? `rated ${wanted}` : "no rating" });
  };
  const askWhy = () => {
    if (!ready()) return;
    reasonForm.hidden = false;
    reason.value = own().reason ?? "";
    reason.focus();
  };
  const undo = () => {
    const last = undone.pop();
    if (!last) { announce("There is nothing to undo."); return; }
    const { before } = last;
    const variant = before.mark === "accept" && Number.isInteger(before.variant) ? { variant: before.variant } : {};
    const change = { mark: before.mark ?? "clear", ...variant, rating: before.rating ?? 0, reason: before.reason ?? "", note: before.note ?? "" };
    recent.set(last.id, { state: { ...before }, pending: true, at: Date.now() });
    queue.push({ id: last.id, attempt: last.attempt, ...change });
    changes += 1;
    marked(last.row, { mark: before.mark ?? null, rating: before.rating || null });
    announce(`${last.id}: undone.`);
    send();
    open(last.row);
  };
  const keepNote = () => {
    if (!may() || note.value.trim() === (own().note ?? "")) return;
    put({ note: note.value.trim() }, { words: note.value.trim() ? "note kept" : "note removed" });
  };

  bar.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.mark === "redo") askWhy();
    else if (button.dataset.mark) decide(button.dataset.mark);
    else if (button.dataset.rating) rate(Number(button.dataset.rating));
    else if (button.id === "review-undo") undo();
    else if (button.id === "review-cancel") hideReason();
  });
  by("viewer-facts").addEventListener("click", (event) => {
    const button = event.target.closest("button[data-variant]");
    if (button) decide("accept", { variant: Number(button.dataset.variant) });
  });
  reasonForm.addEventListener("submit", (event) => { event.preventDefault(); decide("redo", { reason: reason.value.trim() }); });
  note.addEventListener("change", keepNote);
  for (const field of [reason, note]) {
    field.addEventListener("keydown", (event) => {
      event.stopPropagation(); // letters are text here
      if (event.key !== "Escape" && !(event.key === "Enter" && field === note)) return;
      event.preventDefault();
      if (field === reason) hideReason(); else if (event.key === "Escape") note.value = own().note ?? "";
      by("stage").focus(); // a note that was changed is kept by its change event
    });
  }
  dialog.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !may()) return;
    const digit = /^Digit([1-5])$/.exec(event.code)?.[1];
    const key = event.key.toLowerCase();
    if (event.shiftKey && digit && event.key !== digit) rate(Number(digit));
    else if (event.shiftKey) return;
    else if (KEYS[key]) decide(KEYS[key]);
    else if (key === "e") askWhy();
    else if (key === "u") undo();
    else if (key === "n") note.focus();
    else return;
    event.preventDefault();
  });
  try { onward.checked = window.localStorage.getItem("inpaint:onward") !== "no"; } catch { /* no storage: on */ }
  onward.addEventListener("change", () => {
    try { window.localStorage.setItem("inpaint:onward", onward.checked ? "yes" : "no"); } catch { /* kept for this page */ }
  });

  // The pictures of the next rows are there before they are asked for.
  const fetchAhead = (row) => {
    for (const item of upcoming(row)) {
      if (item.status !== "done" || fetched.has(item.row)) continue;
      fetched.set(item.row, ["result", "source"].map((kind) => {
        const picture = new Image();
        picture.src = `${api}/rows/${item.row}/pictures/${kind}?size=1600`;
        return picture;
      }));
      if (fetched.size > 8) fetched.delete(fetched.keys().next().value);
    }
  };

  return {
    info: async () => {
      const reply = await fetch(`${api}/reviews`);
      if (!reply.ok) throw new Error(`${reply.status}`);
      info = await reply.json();
      redo.take(info);
      progress(info.tally);
      by("review-part").hidden = !info.tally.rows;
      by("review-start").hidden = !info.may_review;
      draw();
      if (body) redo.shown(body.record).catch(() => {});
      return info;
    },
    progress,
    shown: (row, shownBody) => {
      body = shownBody;
      waiting = false;
      hideReason();
      draw();
      redo.shown(body.record).catch(() => {});
      fetchAhead(row);
    },
    ended: () => { waiting = false; announce("That was the last row of this list."); },
    get changes() { return changes; },
    stored: () => (queue.length ? idle : Promise.resolve()),
  };
};

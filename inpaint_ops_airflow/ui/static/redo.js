// Rows that are painted again: a child run is triggered with the user's own rights, and its results are shown under the
// row that they do again, where one of them is picked.
import { inWords } from "./review.js";
import { make } from "./dom.js";
import { triggerRun } from "./rerun.js";

const NUMBERS = ["variants", "steps", "strength", "mask_dilate", "mask_blur"];
const UNDER_WAY = ["asked", "waiting", "running", "stalled", "stopped", "reporting"];
const AGAIN_AFTER = 3000; // milliseconds between two looks at what is under way
const PLACEHOLDER = [240, 241]; // pictures.py: the heights of what stands in for a picture

const count = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;

export const startRedo = ({ api }) => {
  const by = (id) => document.getElementById(id);
  const dialog = by("redo-dialog"), form = by("redo-form"), status = by("redo-status"), start = by("redo-start");
  const part = by("redone-part"), list = by("review-redone"), picked = by("redone-status");
  const { root, airflow } = document.body.dataset;
  let ids = null, children = [], may = false, asked = 0, timer = 0, childTimer = 0, prepared, current;

  const linkTo = (run, row) => make("a", { href: `${root}/runs/${encodeURIComponent(run)}/${row ? `?row=${row}` : ""}` }, run);
  const answer = async (url, options) => {
    const reply = await fetch(url, options);
    const body = await reply.json().catch(() => ({}));
    if (!reply.ok) throw new Error(typeof body.detail === "string" ? body.detail : `the server answered ${reply.status}`);
    return body;
  };
  const post = (url, body) => answer(url, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

  // --- asking for a child run ---
  const open = (rows, wanted) => {
    ids = wanted;
    status.textContent = "";
    by("redo-go").disabled = false;
    by("redo-title").textContent = wanted ? `Paint ${wanted[0]} again` : `Paint ${count(rows, "row")} again`;
    dialog.showModal();
  };
  form.addEventListener("submit", async (event) => {
    if (event.submitter?.value === "close") return; // the dialog closes by itself
    event.preventDefault();
    const wanted = ids ? { ids } : {};
    for (const name of NUMBERS) { if (form.elements[name].value !== "") wanted[name] = Number(form.elements[name].value); }
    if (form.elements.prompt.value.trim()) wanted.prompt = form.elements.prompt.value.trim();
    by("redo-go").disabled = true;
    status.textContent = "Writing the manifest…";
    try {
      const key = JSON.stringify(wanted);
      if (prepared?.key !== key) prepared = { key, body: await post(`${api}/redo`, wanted) };
      const { body } = prepared;
      status.textContent = "Asking Airflow…";
      const made = await triggerRun(dialog.dataset.dag, body.conf);
      if (made.problem) throw new Error(made.problem); // the manifest is there: the next try triggers with it
      prepared = undefined;
      const before = Object.entries(body.asked_before ?? {}).map(([run, rows]) => ` ${count(rows, "row")} had been triggered already as ${run}.`);
      status.replaceChildren(
        `${count(body.rows, "row")}, triggered as `, linkTo(body.run), ": ",
        make("a", { href: `${airflow}/dags/${dialog.dataset.dag}/runs/${made.id}`, target: "_top" }, "its DAG run"), ".", ...before,
      );
      children = [...children, body.run];
      lookAtChildren();
      if (current) shown(current).catch(() => {});
    } catch (error) {
      status.textContent = `Not triggered: ${error.message}`;
      by("redo-go").disabled = false;
    }
  });
  start.addEventListener("click", () => open(Number(start.dataset.rows), null));
  by("redo-row").addEventListener("click", (event) => open(1, [event.target.dataset.id]));

  // --- the child runs, on the run's page ---
  const stateOf = (one) => {
    if (one.state === "finished") return `${one.verdict}, ${one.done.toLocaleString("en")} of ${count(one.rows, "row")} done${one.failed ? `, ${one.failed.toLocaleString("en")} failed` : ""}`;
    if (one.state === "asked") return "asked for, not planned yet";
    if (one.state === "gone") return "not there: it was never triggered, or it was removed";
    if (one.problem) return `${one.state}: ${one.problem}`;
    return `${one.state}, ${one.done.toLocaleString("en")} of ${count(one.rows, "row")} done`;
  };
  const lookAtChildren = async () => {
    window.clearTimeout(childTimer);
    by("redo-children").hidden = !children.length;
    if (!children.length) return;
    const found = await answer(`${api}/children`).catch(() => []);
    if (!found.length) return;
    const there = (one) => (["asked", "gone"].includes(one.state) ? one.run : linkTo(one.run));
    by("redo-children").replaceChildren(
      make("p", {}, "Painted again in:"),
      make("ul", {}, ...found.map((one) => make("li", {}, there(one), ` · ${stateOf(one)}`))),
      ...(children.length > found.length ? [make("p", { className: "soft" }, `and ${count(children.length - found.length, "older run")}`)] : []),
    );
    if (found.some((one) => UNDER_WAY.includes(one.state))) childTimer = window.setTimeout(lookAtChildren, AGAIN_AFTER);
  };

  // --- the rows that do one row again, under it ---
  const pick = async (one, button) => {
    button.disabled = true;
    picked.textContent = "Saving…";
    try {
      const { refused } = await post(`${root}/api/runs/${encodeURIComponent(one.run)}/reviews`, { marks: [{ id: one.id, attempt: one.attempt, mark: "accept" }] });
      const why = Object.values(refused)[0];
      if (why) throw new Error(why);
      await draw(asked, { focus: `${one.run}/${one.id}` });
      picked.textContent = `${one.id} of ${one.run} is the final image.`;
    } catch (error) {
      button.disabled = false;
      picked.textContent = `Not picked: ${error.message}`;
    }
  };
  const item = (one, record) => {
    const at = `${root}/api/runs/${encodeURIComponent(one.run)}/rows/${one.row}`;
    const what = [
      one.is_final ? "final image" : "",
      one.status === "done" ? inWords(one) : one.status ? `${one.status}: ${one.problem}` : stateOf({ ...one, state: one.run_state, rows: 0, done: 0 }).replace(/, 0 of 0 rows done$/, ""),
      one.depth > 1 ? `does ${one.parent_id} of ${one.parent_run} again` : "",
      one.seed === null ? "" : `seed ${one.seed}`,
      one.steps && one.steps !== (record.steps ?? record.steps_requested) ? `${one.steps} steps` : "",
      one.prompt && one.prompt !== record.prompt.slice(0, 300) ? `prompt: ${one.prompt}` : "",
    ].filter(Boolean).join(" · ");
    const name = one.row ? make("a", { href: `${root}/runs/${encodeURIComponent(one.run)}/?row=${one.row}` }, `${one.id} in ${one.run}`) : `${one.id} in ${one.run}`;
    const children = [make("div", { className: "small" }, make("strong", {}, name), make("br"), what)];
    if (one.status === "done") {
      const picture = make("img", { src: `${at}/pictures/result?size=256`, alt: `Result of ${one.id} in ${one.run}`, width: 192, height: 192 });
      if (may) {
        const button = make("button", { type: "button", disabled: true }, "Use this one");
        button.dataset.key = `${one.run}/${one.id}`;
        button.setAttribute("aria-pressed", String(one.is_final));
        button.setAttribute("aria-label", `Use this one: ${one.id} in ${one.run}`);
        const seen = () => { button.disabled = PLACEHOLDER.includes(picture.naturalHeight) && picture.naturalWidth === 240; };
        picture.addEventListener("load", seen); // what has not been seen is not picked
        button.addEventListener("click", () => pick(one, button));
        children.push(button);
      }
      children.unshift(picture);
    }
    const element = make("li", { className: "redone" }, ...children);
    element.dataset.final = String(one.is_final);
    return element;
  };
  const draw = async (mine, { focus } = {}) => {
    window.clearTimeout(timer);
    const record = current;
    const { rows, more } = await answer(`${api}/rows/${record.row}/redone`);
    if (mine !== asked || !by("viewer").open) return;
    const focused = focus ?? list.querySelector("button:focus")?.dataset.key;
    list.replaceChildren(...rows.map((one) => item(one, record)));
    part.hidden = !rows.length;
    by("redone-more").textContent = more ? `${count(more, "older result")} not shown.` : "";
    if (focused) {
      const button = [...list.querySelectorAll("button")].find((one) => one.dataset.key === focused);
      if (button) { button.disabled = false; button.focus(); }
    }
    if (rows.some((one) => UNDER_WAY.includes(one.run_state) && !one.status)) timer = window.setTimeout(() => draw(mine).catch(() => {}), AGAIN_AFTER);
  };
  // What the row does again, and the rows that do it again.
  const shown = async (record) => {
    const mine = ++asked;
    window.clearTimeout(timer);
    current = record;
    by("redo-row").dataset.id = record.id;
    list.replaceChildren();
    part.hidden = true;
    picked.textContent = "";
    by("redone-of").replaceChildren();
    const of = record.extra?.redo_of;
    if (of && typeof of.run === "string" && typeof of.id === "string") {
      const link = make("a", { href: `${root}/runs/${encodeURIComponent(of.run)}/?text=${encodeURIComponent(of.id)}` }, `${of.id} of ${of.run}`);
      by("redone-of").append("Does ", link, " again", typeof of.by === "string" && of.by ? `, as ${of.by} asked` : "", typeof of.reason === "string" ? `: ${of.reason}` : "", ".");
    }
    if (children.length) await draw(mine);
  };

  return {
    take: (info) => {
      children = info.children;
      may = info.may_review;
      by("redo-parent").hidden = !info.parent;
      if (info.parent) by("redo-parent").replaceChildren("Does rows of ", linkTo(info.parent), " again.");
      lookAtChildren();
    },
    progress: (tally, mayReview) => {
      start.hidden = !mayReview || !tally.redo;
      start.dataset.rows = tally.redo;
      start.textContent = `Paint ${count(tally.redo, "row")} again…`;
    },
    shown,
  };
};

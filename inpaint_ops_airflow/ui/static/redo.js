// Rows that are painted again: a child run is triggered with the user's own rights, and shown beside the rows it redoes.
import { inWords } from "./review.js";
import { make } from "./dom.js";
import { triggerRun } from "./rerun.js";

const NUMBERS = ["variants", "steps", "strength", "mask_dilate", "mask_blur"];

export const startRedo = ({ api }) => {
  const by = (id) => document.getElementById(id);
  const dialog = by("redo-dialog"), form = by("redo-form"), status = by("redo-status"), start = by("redo-start"), part = by("review-redone");
  const { root, airflow } = document.body.dataset;
  let ids = null, children = [], asked = 0;

  const open = (rows, wanted) => {
    ids = wanted;
    status.textContent = "";
    by("redo-go").disabled = false;
    by("redo-title").textContent = wanted ? `Paint ${wanted[0]} again` : `Paint ${rows.toLocaleString("en")} row${rows === 1 ? "" : "s"} again`;
    dialog.showModal();
  };
  const linkTo = (child) => make("a", { href: `${root}/runs/${encodeURIComponent(child)}/` }, child);

  form.addEventListener("submit", async (event) => {
    if (event.submitter?.value === "close") return; // the dialog closes by itself
    event.preventDefault();
    const wanted = ids ? { ids } : {};
    for (const name of NUMBERS) { if (form.elements[name].value !== "") wanted[name] = Number(form.elements[name].value); }
    if (form.elements.prompt.value.trim()) wanted.prompt = form.elements.prompt.value.trim();
    by("redo-go").disabled = true;
    status.textContent = "Writing the manifest…";
    try {
      const reply = await fetch(`${api}/redo`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(wanted) });
      const body = await reply.json();
      if (!reply.ok) throw new Error(typeof body.detail === "string" ? body.detail : `the server answered ${reply.status}`);
      status.textContent = "Asking Airflow…";
      const made = await triggerRun(dialog.dataset.dag, body.conf);
      if (made.problem) throw new Error(made.problem);
      status.replaceChildren(
        `${body.rows.toLocaleString("en")} row${body.rows === 1 ? "" : "s"}, triggered as `, linkTo(body.run), ": ",
        make("a", { href: `${airflow}/dags/${dialog.dataset.dag}/runs/${made.id}`, target: "_top" }, "its DAG run"), ".",
      );
      take({ children: [...children, body.run] });
    } catch (error) {
      status.textContent = `Not triggered: ${error.message}`;
      by("redo-go").disabled = false;
    }
  });
  start.addEventListener("click", () => open(Number(start.dataset.rows), null));
  by("redo-row").addEventListener("click", (event) => open(1, [event.target.dataset.id]));

  const take = (info) => {
    children = info.children;
    by("redo-children").hidden = !children.length;
    by("redo-children").replaceChildren("Painted again in: ", ...children.slice(-20).reverse().flatMap((child) => [linkTo(child), " "]));
  };

  return {
    take,
    progress: (tally, may) => {
      start.hidden = !may || !tally.redo;
      start.dataset.rows = tally.redo;
      start.textContent = `Paint ${tally.redo.toLocaleString("en")} row${tally.redo === 1 ? "" : "s"} again…`;
    },
    // What the row does again, and the rows that do it again.
    shown: async (record) => {
      const mine = ++asked;
      by("redo-row").dataset.id = record.id;
      part.replaceChildren();
      const of = record.extra?.redo_of;
      if (of && typeof of.run === "string" && typeof of.id === "string") {
        const link = make("a", { href: `${root}/runs/${encodeURIComponent(of.run)}/?text=${encodeURIComponent(of.id)}` }, `${of.id} of ${of.run}`);
        part.append(make("li", {}, "Does ", link, " again", typeof of.reason === "string" ? `: ${of.reason}` : "", "."));
      }
      if (!children.length) return;
      const reply = await fetch(`${api}/rows/${record.row}/redone`);
      if (mine !== asked || !reply.ok) return;
      const found = await reply.json();
      if (mine !== asked) return;
      part.append(...found.map((one) => {
        const there = `${root}/runs/${encodeURIComponent(one.run)}/?row=${one.row}`;
        const picture = one.status === "done" ? make("img", { src: `${root}/api/runs/${encodeURIComponent(one.run)}/rows/${one.row}/pictures/result?size=256`, alt: "", width: 96, height: 96, loading: "lazy" }) : undefined;
        return make("li", { className: "redone" }, make("a", { href: there }, picture, ` ${one.id} in ${one.run}: ${[one.status, inWords(one)].filter(Boolean).join(", ")}`));
      }));
    },
  };
};

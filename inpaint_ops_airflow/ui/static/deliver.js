// Delivers a run to a prefix: the server checks the place, and Airflow runs the DAG with the rights of the signed-in user.
import { make } from "./dom.js";
import { refresh } from "./live.js";
import { triggerRun } from "./rerun.js";

const AGAIN_AFTER = 3000; // milliseconds between two looks at what is under way

export const startDeliver = () => {
  const list = document.getElementById("deliveries"), form = document.getElementById("deliver-form");
  let timer = 0;
  const look = async () => {
    window.clearTimeout(timer);
    await refresh(list).catch(() => {}); // the next look may work
    if (list.querySelector("[data-under-way]")) timer = window.setTimeout(look, AGAIN_AFTER);
  };
  look();
  if (!form) return;
  const status = document.getElementById("deliver-status"), go = document.getElementById("deliver-go");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const { prefix, folder, only, sheet } = form.elements, { airflow } = document.body.dataset;
    const wanted = { to: prefix.value + folder.value.trim(), only: only.value, sheet: sheet.value };
    go.disabled = true;
    status.textContent = "Asking Airflow…";
    try {
      const reply = await fetch(form.action, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(wanted) });
      const body = await reply.json().catch(() => ({}));
      if (reply.status === 403) throw new Error("You may not trigger this DAG.");
      if (!reply.ok) throw new Error(typeof body.detail === "string" ? body.detail : `the server answered ${reply.status}`);
      const { id, problem } = await triggerRun(form.dataset.dag, body.conf);
      if (problem) throw new Error(problem);
      status.replaceChildren("Triggered: ", make("a", { href: `${airflow}/dags/${form.dataset.dag}/runs/${id}`, target: "_top" }, "its DAG run"), ".");
      await look();
    } catch (error) {
      status.textContent = `Not triggered: ${error.message}`;
    } finally {
      go.disabled = false;
    }
  });
};

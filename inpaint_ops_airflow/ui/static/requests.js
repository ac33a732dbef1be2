// Cancels and resumes DAG runs by Airflow's own public API, with the rights of the signed-in user.
import { refresh } from "./live.js";
import { triggerRun } from "./rerun.js";

const ASKS = {
  cancel: { title: "Cancel", text: "Its painting tasks are stopped by SIGTERM: Airflow gives them five seconds to store what they have. What is stored is kept, and the run can be resumed." },
  resume: { title: "Resume", text: "A DAG run of the same name and options is triggered: it finds what is there, and paints what is missing." },
};

// A scheduler that evaluates the run at the same moment can overwrite the state with success, since no last task has failed.
const LOOK_AFTER = 1000, TRIES = 3;

const cancel = async (dag, id) => {
  const place = `${document.body.dataset.airflow}/api/v2/dags/${dag}/dagRuns/${encodeURIComponent(id)}`;
  for (let tries = 0; tries < TRIES; tries += 1) {
    const reply = await fetch(place, { method: "PATCH", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ state: "failed" }) });
    if (!reply.ok) return reply.status === 403 ? "You may not cancel runs of this DAG." : `Airflow refused the request (status ${reply.status}).`;
    await new Promise((resolve) => { window.setTimeout(resolve, LOOK_AFTER); });
    const found = await fetch(place);
    if (!found.ok || (await found.json()).state === "failed") return "";
  }
  return "Airflow accepted the request, but the run is not marked as failed: look at it in Airflow.";
};

const resume = async (dag, again) => {
  const { id, conf } = JSON.parse(again);
  const { problem, exists } = await triggerRun(dag, conf, id);
  return exists ? "" : problem;
};

export const startRequests = () => {
  const part = document.getElementById("requests"), dialog = document.getElementById("request-dialog"), by = (id) => document.getElementById(id);
  let asked = null;
  part.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-request]");
    if (!button) return;
    asked = { ...button.dataset };
    by("request-ask").textContent = `${ASKS[asked.request].title} ${asked.name}?`;
    by("request-text").textContent = asked.request === "cancel" && asked.state === "queued" ? "It has not begun." : ASKS[asked.request].text;
    by("request-yes").textContent = `${ASKS[asked.request].title} it`;
    dialog.returnValue = "";
    dialog.showModal();
  });
  dialog.addEventListener("close", async () => {
    if (dialog.returnValue !== "yes" || !asked) return;
    const { request: what, dag, id, name, again } = asked, status = by("requests-status");
    status.textContent = "Asking Airflow…";
    try {
      const problem = what === "cancel" ? await cancel(dag, id) : await resume(dag, again);
      status.textContent = problem || (what === "cancel" ? `${name} is cancelled; its tasks end within seconds.` : `${name} goes on.`);
      await refresh(part);
    } catch {
      status.textContent = "Airflow did not answer.";
    }
  });
};

// Has Airflow run the failed rows again, by its own public API and with the rights of the signed-in user.
import { make } from "./dom.js";

// Returns the DAG run's id as a part of an address, or what is wrong; `exists` where a DAG run of the wanted id is there.
export const triggerRun = async (dag, conf, id) => {
  const reply = await fetch(`${document.body.dataset.airflow}/api/v2/dags/${dag}/dagRuns`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ logical_date: null, conf, ...(id ? { dag_run_id: id } : {}) }),
  });
  if (reply.ok) return { id: encodeURIComponent((await reply.json()).dag_run_id) };
  const detail = await reply.json().then((body) => body.detail, () => "");
  return { exists: Boolean(id) && reply.status === 409, problem: reply.status === 403 ? "You may not trigger this DAG."
    : `Airflow refused the request (status ${reply.status}${typeof detail === "string" && detail ? `: ${detail.slice(0, 300)}` : ""}).` };
};

const trigger = async (button, status) => {
  const stamp = new Date().toISOString().replace(/[-:]|\.\d+Z/g, "");
  const run = `${button.dataset.name.slice(0, 120)}-rerun-${stamp}`;
  const { root, airflow } = document.body.dataset;
  const { id, problem } = await triggerRun(button.dataset.dag, { ...JSON.parse(button.dataset.conf), run });
  if (problem) {
    button.disabled = false;
    status.textContent = problem;
    return;
  }
  status.replaceChildren(
    "Triggered as ", make("a", { href: `${root}/dag-runs/${button.dataset.dag}/${id}` }, run), ": ",
    make("a", { href: `${airflow}/dags/${button.dataset.dag}/runs/${id}`, target: "_top" }, "its DAG run"), ".",
  );
};

// The button comes with the part of the page that shows the failures, after the page itself.
export const startRerun = () => {
  const dialog = document.getElementById("rerun-dialog");
  const part = (id) => document.getElementById(id);
  document.addEventListener("click", (event) => {
    if (event.target.id !== "rerun") return;
    dialog.returnValue = "";
    dialog.showModal();
  });
  dialog.addEventListener("close", () => {
    if (dialog.returnValue !== "yes") return;
    part("rerun").disabled = true;
    part("rerun-status").textContent = "Asking Airflow…";
    trigger(part("rerun"), part("rerun-status")).catch(() => {
      part("rerun").disabled = false;
      part("rerun-status").textContent = "Airflow did not answer.";
    });
  });
};

// Has Airflow run the failed rows again, by its own public API and with the rights of the signed-in user.
import { make } from "./dom.js";

const trigger = async (button, status) => {
  const stamp = new Date().toISOString().replace(/[-:]|\.\d+Z/g, "");
  const run = `${button.dataset.name.slice(0, 120)}-rerun-${stamp}`;
  const conf = { ...JSON.parse(button.dataset.conf), run };
  const { root, airflow } = document.body.dataset;
  const reply = await fetch(`${airflow}/api/v2/dags/${button.dataset.dag}/dagRuns`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ logical_date: null, conf }),
  });
  if (reply.ok) {
    const id = encodeURIComponent((await reply.json()).dag_run_id);
    status.replaceChildren(
      "Triggered as ", make("a", { href: `${root}/dag-runs/${button.dataset.dag}/${id}` }, run), ": ",
      make("a", { href: `${airflow}/dags/${button.dataset.dag}/runs/${id}`, target: "_top" }, "its DAG run"), ".",
    );
    return;
  }
  button.disabled = false;
  const detail = await reply.json().then((body) => body.detail, () => "");
  status.textContent = reply.status === 403 ? "You may not trigger this DAG."
    : `Airflow refused the request (status ${reply.status}${typeof detail === "string" && detail ? `: ${detail.slice(0, 300)}` : ""}).`;
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

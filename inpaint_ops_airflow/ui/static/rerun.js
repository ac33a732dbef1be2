// Has Airflow run the failed rows again, by its own public API and with the rights of the signed-in user.

export const startRerun = () => {
  const button = document.getElementById("rerun");
  const dialog = document.getElementById("rerun-dialog");
  const status = document.getElementById("rerun-status");

  const trigger = async () => {
    const stamp = new Date().toISOString().replace(/[-:]|\.\d+Z/g, "");
    const run = `${button.dataset.name.slice(0, 120)}-rerun-${stamp}`;
    const conf = { ...JSON.parse(button.dataset.conf), run };
    const reply = await fetch(`${document.body.dataset.airflow}/api/v2/dags/${button.dataset.dag}/dagRuns`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ logical_date: null, conf }),
    });
    if (reply.ok) {
      status.textContent = `Triggered as ${run}.`;
      return;
    }
    button.disabled = false;
    status.textContent = reply.status === 403 ? "You may not trigger this DAG." : `Airflow refused the request (status ${reply.status}).`;
  };

  button.addEventListener("click", () => { dialog.returnValue = ""; dialog.showModal(); });
  dialog.addEventListener("close", () => {
    if (dialog.returnValue !== "yes") return;
    button.disabled = true;
    status.textContent = "Asking Airflow…";
    trigger().catch(() => { button.disabled = false; status.textContent = "Airflow did not answer."; });
  });
};

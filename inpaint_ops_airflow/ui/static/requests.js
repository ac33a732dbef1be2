// Cancels and resumes DAG runs by Airflow's own public API, with the rights of the signed-in user.
import { refresh } from "./live.js";

const ASKS = {
  cancel: { title: "Cancel", text: "Its painting tasks are stopped by SIGTERM: Airflow gives them five seconds to store what they have. What is stored is kept, and the run can be resumed." },
  resume: { title: "Resume", text: "Its DAG run is cleared: it plans again, finds what is there, and paints what is missing." },
};

const request = (what, dag, id) => {
  const place = `${document.body.dataset.airflow}/api/v2/dags/${dag}/dagRuns/${encodeURIComponent(id)}`;
  const send = (method, url, body) => fetch(url, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  return what === "cancel" ? send("PATCH", place, { state: "failed" }) : send("POST", `${place}/clear`, { dry_run: false });
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
    const { request: what, dag, id, name } = asked, status = by("requests-status");
    status.textContent = "Asking Airflow…";
    try {
      const reply = await request(what, dag, id);
      if (reply.ok) status.textContent = what === "cancel" ? `${name} is cancelled; its tasks end within seconds.` : `${name} goes on.`;
      else if (reply.status === 403) status.textContent = `You may not ${what} runs of this DAG.`;
      else status.textContent = `Airflow refused the request (status ${reply.status}).`;
      await refresh(part);
    } catch {
      status.textContent = "Airflow did not answer.";
    }
  });
};

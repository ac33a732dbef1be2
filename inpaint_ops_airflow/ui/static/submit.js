// The page that submits: collects a job, has it looked at, and has Airflow trigger it with the rights of who is signed in.
import { make } from "./dom.js";
import { triggerRun } from "./rerun.js";

const PARTS = { options: "Options", run: "Name", rows: "Rows", forecast: "The whole", sample: "The sample", model: "Model", files: "Images and masks", pictures: "Their content" };
const STATES = { good: "in order", odd: "look at this", wrong: "in the way", unknown: "not known" };
const PAUSE = 250;

const ask = async (path, body) => {
  const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const reply = await fetch(`${document.body.dataset.root}/api/${path}`, options);
  const found = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Error(typeof found.detail === "string" ? found.detail : `the server answered ${reply.status}`);
  return found;
};

export const startSubmit = () => {
  const by = (id) => document.getElementById(id);
  const form = by("submit-form"), checked = by("checked"), options = [...form.querySelectorAll("[data-option]")];
  let known = null, loaded = { name: "", etag: null }, checks = 0;

  const source = () => form.elements.source.value;
  const text = (id) => by(id).value.trim();

  const valueOf = (one) => {
    const value = one.value.trim();
    if (one.validity.badInput) throw new Error(`${one.labels[0].textContent}: write a number`);
    if (value === "") return undefined;
    switch (one.dataset.kind) {
      case "integer": case "number": return Number(value);
      case "boolean": return value === "true";
      case "lines": return value.split("\n").map((line) => line.trim()).filter(Boolean);
      case "object":
        try { return JSON.parse(value); } catch { throw new Error(`${one.labels[0].textContent}: this is no JSON object`); }
      default: return value;
    }
  };
  const chosen = () => Object.fromEntries(options.map((one) => [one.dataset.option, valueOf(one)]).filter(([, value]) => value !== undefined));
  const asText = (value) => (Array.isArray(value) ? value.join("\n") : typeof value === "object" ? JSON.stringify(value) : String(value));

  const job = () => {
    const found = { options: chosen() };
    const names = source() === "manifest" ? ["manifest"] : ["images", "masks", "mask_suffix", "glob"];
    for (const name of [...names, "run"]) if (text(name)) found[name] = text(name);
    const rows = Number(by("sample").value);
    if (!Number.isInteger(rows) || rows < 1) throw new Error("Rows of the sample: write a whole number from 1 on");
    found.sample = rows;
    return found;
  };

  // What was checked is what is triggered: a change asks for another check.
  const forget = () => {
    checks += 1;
    if (!known) return;
    known = null;
    for (const id of ["run-sample", "run-whole"]) by(id).disabled = true;
    by("check-status").textContent = "Changed: check again.";
  };
  form.addEventListener("input", (event) => { if (event.target.id !== "preset-name") forget(); });
  by("sample").addEventListener("input", forget);

  for (const one of form.elements.source) {
    one.addEventListener("change", () => {
      for (const part of form.querySelectorAll("[data-source]")) part.hidden = part.dataset.source !== source();
    });
  }

  const show = (found) => {
    by("findings").replaceChildren(...found.findings.flatMap((one) => [
      make("dt", {}, PARTS[one.part], " ", make("span", { className: `badge ${{ good: "good", odd: "going", wrong: "wrong", unknown: "plain" }[one.state]}` }, STATES[one.state])),
      make("dd", {}, one.text, one.lines.length ? make("ul", {}, ...one.lines.map((line) => make("li", {}, line))) : undefined),
    ]));
    by("left-out").textContent = found.left_out;
    by("left-out").hidden = !found.left_out;
    for (const id of ["run-sample", "run-whole"]) by(id).disabled = !found.may_run;
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const status = by("check-status");
    let asked;
    try { asked = job(); } catch (error) { status.textContent = error.message; return; }
    const mine = ++checks;
    by("check").disabled = true;
    status.textContent = "Looking at it…";
    try {
      const found = await ask("submit/check", asked);
      if (mine !== checks) { status.textContent = "Changed: check again."; return; }
      known = { asked, ...found };
      show(found);
      checked.hidden = false;
      status.textContent = found.may_run ? "" : "Something is in the way: see below.";
      by("checked-title").focus();
    } catch (error) {
      status.textContent = mine === checks ? `Not checked: ${error.message}` : "Changed: check again.";
    } finally {
      by("check").disabled = false;
    }
  });

  const trigger = async (button, sample) => {
    if (!known) return;
    const { asked, run, sample_run: sampleRun } = known, { airflow, root } = document.body.dataset, dag = form.dataset.dag;
    const line = make("li", {}, `${sample ? "The sample" : "The whole run"}: asking…`);
    by("triggered").append(line);
    button.disabled = true;
    try {
      const made = await ask("submit/prepare", { request: asked, run: sample ? sampleRun : run, sample });
      const { id, problem, exists } = await triggerRun(dag, made.conf, made.dag_run_id);
      if (problem && !exists) throw new Error(problem);
      const there = id ?? encodeURIComponent(made.dag_run_id);
      const page = make("a", { href: `${root}/dag-runs/${dag}/${there}` }, made.run);
      line.replaceChildren(exists ? "Nothing was triggered: there is a DAG run of this name, " : "Triggered as ", page, ": ", make("a", { href: `${airflow}/dags/${dag}/runs/${there}`, target: "_top" }, "its DAG run"), ".");
      page.focus();
    } catch (error) {
      line.textContent = `Not triggered: ${error.message}`;
      button.disabled = !known;
    }
  };
  by("run-sample").addEventListener("click", (event) => trigger(event.currentTarget, true));
  by("run-whole").addEventListener("click", (event) => trigger(event.currentTarget, false));

  // Suggestions: what lies in the prefix that has been written so far; without one, in the inbox.
  const suggested = new Map();
  const suggest = async (input) => {
    const prefix = input.value.slice(0, input.value.lastIndexOf("/") + 1);
    const under = /^(s3:\/\/[^/]+|file:\/\/|)\/./.test(prefix) || /^s3:\/\/[^/]+\/$/.test(prefix) ? prefix : "";
    if (suggested.get(input) === under) return;
    suggested.set(input, under);
    try {
      const found = await ask(`submit/places?under=${encodeURIComponent(under)}`);
      if (suggested.get(input) !== under) return;
      const values = input.dataset.place === "manifest" ? [...found.manifests, ...found.folders] : found.folders;
      input.list.replaceChildren(...values.map((value) => make("option", { value })));
    } catch { /* nothing is suggested: the check says what is wrong with the place */ }
  };
  for (const input of form.querySelectorAll("[data-place]")) {
    let timer = 0;
    input.addEventListener("focus", () => suggest(input));
    input.addEventListener("input", () => { window.clearTimeout(timer); timer = window.setTimeout(() => suggest(input), PAUSE); });
  }

  // Presets.
  const about = by("preset-status");
  by("preset").addEventListener("change", async (event) => {
    const name = event.target.value;
    if (!name) { loaded = { name: "", etag: null }; return; }
    try {
      const found = await ask(`presets/${encodeURIComponent(name)}`);
      if (by("preset").value !== name) return;
      for (const one of options) one.value = one.dataset.option in found.options ? asText(found.options[one.dataset.option]) : "";
      loaded = { name, etag: found.etag };
      by("preset-name").value = name;
      about.textContent = `Loaded ${name}, saved by ${found.saved_by || "somebody"} on ${found.saved_at.slice(0, 10)}.`;
      forget();
    } catch (error) {
      about.textContent = `Not loaded: ${error.message}`;
    }
  });
  by("preset-save").addEventListener("click", async (event) => {
    const name = text("preset-name"), button = event.currentTarget;
    if (!name) { about.textContent = "Give it a name."; by("preset-name").focus(); return; }
    button.disabled = true;
    try {
      const etag = loaded.name === name ? loaded.etag : null;
      const found = await ask(`presets/${encodeURIComponent(name)}`, { options: chosen(), etag });
      loaded = { name, etag: found.etag };
      const list = by("preset");
      if (![...list.options].some((one) => one.value === name)) list.append(make("option", {}, name));
      list.value = name;
      about.textContent = `Saved as ${name}.`;
    } catch (error) {
      about.textContent = `Not saved: ${error.message}`;
    } finally {
      button.disabled = false;
    }
  });
  by("check").dataset.ready = "";
};

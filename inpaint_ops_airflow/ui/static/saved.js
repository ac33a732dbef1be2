// Views of the gallery by name: filters and order, for every run. The store keeps them for who may review, in every browser
// of theirs; else this browser does, each under a key of its own, so that two windows that save at once lose none.
import { make } from "./dom.js";

const PREFIX = "inpaint:view:", MOST = 50;

const here = () => {
  try { return Object.keys(window.localStorage).filter((key) => key.startsWith(PREFIX)).map((key) => key.slice(PREFIX.length)); } catch { return []; }
};

// `now` is the present view as a query, `choose` takes one that was kept.
export const startSaved = ({ now, choose }) => {
  const part = document.getElementById("saved-views"), list = document.getElementById("saved-list"), form = document.getElementById("saved-form"), status = document.getElementById("saved-status");
  const url = `${document.body.dataset.root}/api/views`;
  let stored = null; // the views that the store keeps, by name; null: it keeps none for this person

  const read = (name) => (stored && Object.hasOwn(stored, name) ? stored[name] : window.localStorage.getItem(PREFIX + name));
  const names = () => [...new Set([...Object.keys(stored ?? {}), ...here()])].sort((a, b) => a.localeCompare(b));
  const post = async (name, view) => {
    const reply = await fetch(url, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ name, view }) });
    const body = await reply.json().catch(() => ({}));
    if (!reply.ok) throw new Error(typeof body.detail === "string" ? body.detail : `the server answered ${reply.status}`);
    stored = body.views;
    try { window.localStorage.removeItem(PREFIX + name); } catch { /* this browser keeps nothing */ }
  };
  const remove = async (name) => {
    try {
      if (stored && Object.hasOwn(stored, name)) await post(name, null); else window.localStorage.removeItem(PREFIX + name);
      status.textContent = `${name} was removed.`;
    } catch (error) { status.textContent = `Not removed: ${error.message}`; }
    draw();
    form.elements.name.focus();
  };
  const draw = () => {
    const all = names();
    part.querySelector("summary").textContent = all.length ? `Saved views (${all.length})` : "Saved views";
    list.replaceChildren(...all.map((name) => {
      const open = make("button", { type: "button" }, name), drop = make("button", { type: "button", ariaLabel: `Remove the view ${name}` }, "✕");
      open.addEventListener("click", () => { const kept = read(name); if (kept === null) draw(); else choose(new URLSearchParams(kept)); });
      drop.addEventListener("click", () => remove(name));
      const only = stored && !Object.hasOwn(stored, name) ? make("span", { className: "soft small" }, " in this browser") : undefined;
      return make("li", {}, open, " ", drop, only);
    }));
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const name = form.elements.name.value.trim(), view = now().toString();
    if (!name) return;
    const replaced = names().includes(name);
    try {
      if (stored) await post(name, view);
      else if (!replaced && here().length >= MOST) { status.textContent = `There are ${MOST} views already: remove one first.`; return; }
      else window.localStorage.setItem(PREFIX + name, view);
      status.textContent = `${name} was ${replaced ? "replaced" : "saved"}: ${view || "no filter"}.`;
      form.elements.name.value = "";
    } catch (error) {
      status.textContent = stored ? `Not saved: ${error.message}` : "This browser keeps nothing: the address holds the view, as a bookmark does.";
    }
    draw();
  });
  const look = async () => {
    const reply = await fetch(url);
    const body = reply.ok ? await reply.json() : { may_save: false };
    stored = body.may_save ? body.views : null;
    draw();
  };
  window.addEventListener("storage", (event) => { if (event.key === null || event.key.startsWith(PREFIX)) draw(); }); // another window of this browser
  part.addEventListener("toggle", () => { if (part.open && stored) look().catch(() => {}); }); // another browser may have saved
  draw();
  look().catch(() => {}); // those of this browser are there
};

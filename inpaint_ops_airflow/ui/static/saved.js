// Views of the gallery by name: filters and order, kept by this browser for every run. Each has a key of its own, so that
// two windows that save at once lose none.
import { make } from "./dom.js";

const PREFIX = "inpaint:view:", MOST = 50;

const stored = () => {
  try { return Object.keys(window.localStorage).filter((key) => key.startsWith(PREFIX)).sort((a, b) => a.localeCompare(b)); } catch { return []; }
};

// `now` is the present view as a query, `choose` takes one that was kept.
export const startSaved = ({ now, choose }) => {
  const part = document.getElementById("saved-views"), list = document.getElementById("saved-list"), form = document.getElementById("saved-form"), status = document.getElementById("saved-status");
  const draw = () => {
    const keys = stored();
    part.querySelector("summary").textContent = keys.length ? `Saved views (${keys.length})` : "Saved views";
    list.replaceChildren(...keys.map((key) => {
      const name = key.slice(PREFIX.length);
      const open = make("button", { type: "button" }, name), remove = make("button", { type: "button", ariaLabel: `Remove the view ${name}` }, "✕");
      open.addEventListener("click", () => { const kept = window.localStorage.getItem(key); if (kept === null) draw(); else choose(new URLSearchParams(kept)); });
      remove.addEventListener("click", () => { window.localStorage.removeItem(key); draw(); status.textContent = `${name} was removed.`; form.elements.name.focus(); });
      return make("li", {}, open, " ", remove);
    }));
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const name = form.elements.name.value.trim(), key = PREFIX + name;
    if (!name) return;
    const view = now().toString();
    try {
      const replaced = window.localStorage.getItem(key) !== null;
      if (!replaced && stored().length >= MOST) { status.textContent = `There are ${MOST} views already: remove one first.`; return; }
      window.localStorage.setItem(key, view);
      status.textContent = `${name} was ${replaced ? "replaced" : "saved"}: ${view || "no filter"}.`;
      form.elements.name.value = "";
    } catch { status.textContent = "This browser keeps nothing: the address holds the view, as a bookmark does."; }
    draw();
  });
  window.addEventListener("storage", (event) => { if (event.key === null || event.key.startsWith(PREFIX)) draw(); }); // another window of this browser
  draw();
};

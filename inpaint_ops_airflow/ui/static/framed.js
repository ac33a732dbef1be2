// Within Airflow's frame the address of the gallery is lost when the page around it is reloaded: the frame then begins
// anew with its first address. So the last address is kept for this tab, and taken once after such a reload.

const key = `inpaint:${window.location.pathname}`;

const around = () => {
  if (window.parent === window) return undefined;
  try { return window.parent.performance; } catch { return undefined; } // framed by another origin
};

export const keepAddress = () => {
  const page = around();
  if (!page) return;
  try {
    window.sessionStorage.setItem(key, JSON.stringify({ search: window.location.search, origin: page.timeOrigin }));
  } catch { /* no storage: then nothing is kept */ }
};

export const takeAddress = () => {
  const page = around();
  if (!page) return;
  let kept;
  try { kept = JSON.parse(window.sessionStorage.getItem(key)); } catch { return; }
  const reloaded = page.getEntriesByType("navigation")[0]?.type === "reload";
  if (!kept || !reloaded || kept.origin === page.timeOrigin || typeof kept.search !== "string") return;
  window.history.replaceState(null, "", `${window.location.pathname}${kept.search}`);
};

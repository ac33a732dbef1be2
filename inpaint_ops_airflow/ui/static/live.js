// Parts of a page that are fetched anew: `data-live` is where from, `data-every` how many seconds lie between (0: once).

export const watch = (seconds, work) => {
  // Runs `work` again and again, one at a time, and only while the page is visible.
  let timer = 0;
  const again = () => { timer = window.setTimeout(step, seconds * 1000); };
  const step = async () => {
    if (!document.hidden) { try { await work(); } catch { /* the next time may work */ } }
    again();
  };
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) { window.clearTimeout(timer); step(); }
  });
  again();
};

export const fetchText = async (url) => {
  const reply = await fetch(url, { headers: { Accept: "text/plain" } });
  if (!reply.ok) throw new Error(`${reply.status}`);
  return reply.text();
};

const shown = new WeakMap();

const replace = (part, html) => {
  if (shown.get(part) === html) return;
  shown.set(part, html);
  const focused = part.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  const open = new Map([...part.querySelectorAll("details[data-key]")].map((one) => [one.dataset.key, one.open]));
  const scrolled = new Map([...part.querySelectorAll(".scroll[data-key]")].map((one) => [one.dataset.key, one.scrollTop]));
  part.innerHTML = html;
  for (const one of part.querySelectorAll("[data-key]")) {
    const key = one.dataset.key;
    if (open.has(key)) one.open = open.get(key);
    if (scrolled.has(key)) one.scrollTop = scrolled.get(key);
    if (key === focused) one.focus({ preventScroll: true });
  }
};

export const refresh = async (part) => {
  const url = part.dataset.live;
  const html = await fetchText(url);
  if (part.dataset.live !== url) return; // another view was requested in the meantime
  replace(part, html);
  const main = document.querySelector("main[data-state]");
  const now = part.querySelector("[data-state]");
  if (main && now && (now.dataset.state === "finished") !== (main.dataset.state === "finished")) window.location.reload();
};

export const startLive = () => {
  for (const part of document.querySelectorAll("[data-live]")) {
    if ("now" in part.dataset) refresh(part).catch(() => { part.textContent = "This part could not be loaded."; });
    const seconds = Number(part.dataset.every);
    if (seconds > 0) watch(seconds, () => refresh(part));
  }
};

// Takes Airflow's light or dark from the page around this one, before the first paint; otherwise the system's theme applies.
(() => {
  const apply = (around) => {
    const theme = around.classList.contains("dark") || around.dataset.theme === "dark" ? "dark"
      : around.classList.contains("light") || around.dataset.theme === "light" ? "light" : "";
    if (theme) document.documentElement.dataset.theme = theme;
  };
  if (window.parent === window) return;
  try {
    const around = window.parent.document.documentElement;
    apply(around);
    new MutationObserver(() => apply(around)).observe(around, { attributes: true, attributeFilter: ["class", "data-theme"] });
  } catch { /* framed by another origin: the system's theme stays */ }
})();

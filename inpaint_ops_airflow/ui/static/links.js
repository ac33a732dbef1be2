// Links that leave the frame in which Airflow shows these pages. Its sandbox lets no page in it open a window or replace
// the one around it, so a link of the page around does it. Loaded before the body: a link works as soon as it is seen.
(() => {
  if (window.parent === window) return;
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[target=_top], a[target=_blank]");
    if (!link || event.defaultPrevented || event.button !== 0) return;
    let around;
    try { around = window.parent.document; } catch { return; } // framed by another origin: the browser decides
    event.preventDefault();
    const copy = around.createElement("a");
    copy.href = link.href;
    copy.rel = "noopener";
    if (link.target === "_blank" || event.ctrlKey || event.metaKey || event.shiftKey) copy.target = "_blank";
    around.body.append(copy);
    copy.click();
    copy.remove();
  });
})();

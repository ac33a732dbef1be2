// The filters of the list of runs: a plain form that works without this, and at once with it.
import { refresh } from "./live.js";

export const startFilters = () => {
  const form = document.querySelector("form[data-filters]");
  if (!form) return;
  const part = document.getElementById(form.dataset.filters);
  let timer = 0;
  const apply = () => {
    const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
    const tail = query.size ? `?${query}` : "";
    part.dataset.live = `${document.body.dataset.root}/fragments/runs${tail}`;
    window.history.replaceState(null, "", `${document.body.dataset.root}/${tail}`);
    refresh(part).catch(() => {});
  };
  form.addEventListener("input", () => { window.clearTimeout(timer); timer = window.setTimeout(apply, 250); });
  form.addEventListener("submit", (event) => { event.preventDefault(); apply(); });
  const isEdited = (one) => one.value !== (one.options ? [...one.options].find((option) => option.defaultSelected)?.value ?? "" : one.defaultValue);
  if ([...form.querySelectorAll("input, select")].some(isEdited)) apply(); // before this script was there
};

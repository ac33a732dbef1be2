// A measure's histogram under two sliders: which values the gallery shows. The form's hidden fields hold the limits.
import { make } from "./dom.js";

const figures = (value) => String(Number(value.toPrecision(3)));

export const startMeasures = ({ form, changed }) => {
  const part = document.getElementById("measure-range"), bars = document.getElementById("measure-bars"), words = document.getElementById("measure-words");
  const sliders = { least: document.getElementById("measure-least"), most: document.getElementById("measure-most") };
  let measures = [], edges = [];

  const limits = () => Object.fromEntries(["least", "most"].map((name) => [name, form.elements[name].value === "" ? undefined : Number(form.elements[name].value)]));
  const draw = () => {
    const found = measures.find((one) => one.name === form.elements.measure.value);
    part.hidden = !found || found.bars.length < 2;
    if (part.hidden) return;
    edges = [...found.bars.map(([from]) => from), found.bars.at(-1)[1]];
    const { least, most } = limits();
    const nearest = (value) => edges.reduce((best, edge, at) => (Math.abs(edge - value) < Math.abs(edges[best] - value) ? at : best), 0);
    for (const slider of Object.values(sliders)) slider.max = edges.length - 1;
    sliders.least.value = least === undefined ? 0 : nearest(least);
    sliders.most.value = most === undefined ? edges.length - 1 : nearest(most);
    const highest = Math.max(...found.bars.map(([, , count]) => count));
    bars.replaceChildren(...found.bars.map(([, , count], at) => {
      const bar = make("span", {});
      bar.style.height = `${Math.max(count ? 4 : 0, (100 * count) / highest)}%`;
      bar.classList.toggle("out", at < Number(sliders.least.value) || at >= Number(sliders.most.value));
      return bar;
    }));
    const [low, high] = [edges[sliders.least.value], edges[sliders.most.value]].map(figures);
    words.textContent = `${low} to ${high}`;
    sliders.least.setAttribute("aria-valuetext", `from ${low}`);
    sliders.most.setAttribute("aria-valuetext", `to ${high}`);
  };
  for (const [name, slider] of Object.entries(sliders)) {
    slider.addEventListener("input", (event) => {
      event.stopPropagation(); // the form hears of it below, once its fields say what the sliders do
      const at = Number(slider.value), end = name === "least" ? 0 : edges.length - 1;
      form.elements[name].value = at === end ? "" : String(edges[at]);
      draw();
      changed();
    });
  }
  form.elements.measure.addEventListener("input", () => { form.elements.least.value = form.elements.most.value = ""; draw(); });
  return {
    draw,
    take: (found) => { measures = found; draw(); },
  };
};

// Images per second over time, drawn by Chart.js in the colours of the page.
import { watch } from "./live.js";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const clock = (seconds) => new Date(seconds * 1000).toISOString().slice(11, 19);

export const startThroughput = () => {
  const canvas = document.getElementById("throughput");
  const status = document.getElementById("throughput-status");
  let chart;

  const paint = () => chart?.update("none");

  const load = async () => {
    const reply = await fetch(canvas.dataset.url);
    if (!reply.ok) throw new Error(`${reply.status}`);
    const { points } = await reply.json();
    if (!points.length) { status.textContent = "No image is finished yet."; return; }
    const rates = points.map((point) => point.images_per_second);
    const labels = points.map((point) => clock(point.start + point.width / 2));
    const most = Math.max(...rates);
    const mean = rates.reduce((sum, rate) => sum + rate, 0) / rates.length;
    const text = `${mean.toPrecision(3)} images/s on average from ${labels[0]} to ${labels.at(-1)} UTC, ${most.toPrecision(3)} at most.`;
    canvas.setAttribute("aria-label", `Images per second over time: ${text}`);
    status.textContent = text;
    if (chart) {
      chart.data.labels = labels;
      chart.data.datasets[0].data = rates;
      chart.update("none");
      return;
    }
    const [soft, line] = [() => colour("--soft"), () => colour("--line")];
    const axis = (title) => ({
      title: { display: true, text: title, color: soft }, ticks: { maxRotation: 0, autoSkipPadding: 24, color: soft }, grid: { color: line },
    });
    chart = new window.Chart(canvas, {
      type: "bar",
      data: { labels, datasets: [{ label: "images/s", data: rates, backgroundColor: () => colour("--denoise"), categoryPercentage: 1, barPercentage: 0.92, maxBarThickness: 60 }] },
      options: {
        animation: false, responsive: true, maintainAspectRatio: false, interaction: { mode: "index", intersect: false },
        plugins: { legend: { display: false } },
        scales: { x: axis("time of day, UTC"), y: { ...axis("images/s"), beginAtZero: true } },
      },
    });
  };

  const start = () => {
    load().catch(() => { status.textContent = "The figures could not be loaded."; });
    if (Number(canvas.dataset.every) > 0) watch(Number(canvas.dataset.every), load);
  };
  if (window.Chart) start(); else window.addEventListener("load", start);
  new MutationObserver(paint).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
};

// How a row came about: where its time went, each attempt with its task's log, what was logged of the row, and the
// worker that ended it.
import { make, seconds } from "./dom.js";

const SHARD = /^([0-9]{5,9}(?:r[0-9]{4}_[0-9a-f]{8})?)-/; // layout.py: the shard that an attempt's name begins with

const moment = (text) => `${text.slice(0, 19).replace("T", " ")} UTC`;

// Each stage as a part of a bar, as wide as it took.
const timeBar = (stages) => {
  const parts = Object.entries(stages).filter(([, value]) => value > 0);
  if (!parts.length) return undefined;
  const words = parts.map(([name, value]) => `${name} ${seconds(value)}`);
  const bar = make("div", { className: "time-bar", title: words.join("\n") });
  bar.setAttribute("role", "img");
  bar.setAttribute("aria-label", `Where the time went: ${words.join(", ")}`);
  bar.append(...parts.map(([name, value], at) => {
    const part = make("span", { className: `part-${at % 6}` });
    part.dataset.stage = name;
    part.style.flexGrow = value;
    return part;
  }));
  return bar;
};

const attempt = (here, one) => {
  const shard = SHARD.exec(one.attempt)?.[1];
  const what = one.retry ? `Retry ${one.retry}` : "The run itself";
  const log = shard ? make("a", { href: `${here}/shards/${shard}/log`, target: "_top", ariaLabel: `Log of ${what.toLowerCase()}` }, "log") : undefined;
  return make("li", {}, `${what}: ${one.status}, ${moment(one.finished_at)} `, log, one.error ? make("div", { className: "why" }, `${one.error.type}: ${one.error.message}`) : undefined);
};

// The lines that the row's record keeps; most rows have none.
const logged = (lines) => {
  if (!lines?.length) return undefined;
  const title = `${lines.length} ${lines.length === 1 ? "line" : "lines"} of log`;
  const text = make("pre", { className: "log", tabIndex: 0, ariaLabel: title }, lines.join("\n"));
  text.setAttribute("role", "region");
  return make("details", { open: lines.length <= 8 }, make("summary", {}, title), text);
};

export const history = (here, record, stages, isFinished) => {
  const { worker } = record;
  const painter = worker ? make("p", { className: "small" }, `Painted by process ${worker.pid} of ${worker.host} on ${worker.device}, from ${moment(record.started_at)} on.`) : undefined;
  const trace = isFinished && worker ? make("p", { className: "small" }, make("a", { href: `${here}/trace.json`, download: "" }, "Trace of the run"), ", for Perfetto") : undefined;
  return make("div", { className: "history" }, make("h3", {}, "History"), timeBar(stages),
    make("ol", {}, ...[...(record.earlier ?? []), record].map((one) => attempt(here, one))), logged(record.log), painter, trace);
};

// Elements made of text that is never read as HTML, and durations in readable units.

export const make = (name, properties = {}, ...children) => {
  const element = document.createElement(name);
  Object.assign(element, properties);
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
};

export const seconds = (value) => {
  if (value < 0.9995) return `${Number((value * 1000).toPrecision(3))} ms`;
  if (value < 59.95) return `${Number(value.toPrecision(3))} s`;
  const whole = Math.round(value);
  return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
};

export const bytes = (value) => {
  for (const unit of ["bytes", "KiB", "MiB"]) {
    if (value < 1024) return `${Number(value.toPrecision(3))} ${unit}`;
    value /= 1024;
  }
  return `${Number(value.toPrecision(3))} GiB`;
};

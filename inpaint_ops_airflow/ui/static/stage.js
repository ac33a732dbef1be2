// The picture on the stage: zoom at the pointer, pan, pinch, and the split between before and after.
//
// Lengths are CSS pixels of the stage. `scale` is CSS pixels per pixel of the picture, so at 1:1 it is 1 / devicePixelRatio.
// `slider`, `zoom` and `label` may be missing: a stage that follows another one has none.

const between = (low, value, high) => Math.min(Math.max(value, low), high);
const NEAR = 24; // how far from the split a finger or a pointer may be to take hold of it
const BEYOND = 8; // the largest zoom: this many screen pixels per pixel of the picture, or times its fitted size

const NONE = { value: 0, addEventListener: () => {}, setAttribute: () => {} };

export const startStage = ({ stage, frame, slider = NONE, zoom = NONE, label = NONE, changed, moved = () => {} }) => {
  const size = { width: 1, height: 1 };
  const view = { scale: 1, x: 0, y: 0 };
  const pointers = new Map();
  let fitted = true, pair = false, dragged = "", following = false;

  const ratio = () => window.devicePixelRatio || 1;
  const least = () => Math.min(stage.clientWidth / size.width, stage.clientHeight / size.height) || 1;
  const most = () => Math.max(BEYOND / ratio(), BEYOND * least());
  const shown = () => { // the part of the picture that is on the stage, from left to right
    const left = Math.max(0, view.x), right = Math.min(stage.clientWidth, view.x + size.width * view.scale);
    return { left, width: Math.max(1, right - left) };
  };

  const place = () => {
    if (!stage.clientWidth || !stage.clientHeight) return; // the viewer is closed
    const width = size.width * view.scale, height = size.height * view.scale;
    const across = stage.clientWidth - width, down = stage.clientHeight - height;
    view.x = across >= 0 ? across / 2 : between(across, view.x, 0); // the picture covers the stage, or stands in its middle
    view.y = down >= 0 ? down / 2 : between(down, view.y, 0);
    frame.style.width = `${width}px`;
    frame.style.height = `${height}px`;
    frame.style.transform = `translate(${view.x}px, ${view.y}px)`;
    frame.classList.toggle("pixels", view.scale * ratio() >= 4);
    stage.classList.toggle("zoomed", !fitted);
    const part = shown();
    frame.style.setProperty("--split", `${Number((((part.left + (part.width * slider.value) / 100 - view.x) / width) * 100).toFixed(4))}%`);
    slider.setAttribute("aria-valuetext", `${Math.round(slider.value)}% before, ${100 - Math.round(slider.value)}% after`);
    const range = Math.log(most() / least());
    zoom.value = range > 0 ? (100 * Math.log(view.scale / least())) / range : 0;
    const percent = `${Math.round(view.scale * ratio() * 100)}%`;
    zoom.setAttribute("aria-valuetext", `${percent} of the picture's own size`);
    label.textContent = percent;
    changed({
      scale: view.scale * ratio(), // screen pixels per pixel of the picture
      left: Math.max(0, -view.x / view.scale), top: Math.max(0, -view.y / view.scale), // what is on the stage, in pixels of the picture
      right: Math.min(size.width, (stage.clientWidth - view.x) / view.scale), bottom: Math.min(size.height, (stage.clientHeight - view.y) / view.scale),
    });
    if (!following) moved();
  };

  const zoomTo = (wanted, x = stage.clientWidth / 2, y = stage.clientHeight / 2) => {
    const scale = between(least(), wanted, most());
    view.x = x - ((x - view.x) * scale) / view.scale; // the point under the pointer stays there
    view.y = y - ((y - view.y) * scale) / view.scale;
    view.scale = scale;
    fitted = scale <= least() * 1.001;
    place();
  };
  const fit = () => { fitted = true; view.scale = least(); place(); };
  const pan = (x, y) => { view.x += x; view.y += y; place(); };
  const toOwnSize = (x, y) => zoomTo(1 / ratio(), x, y);
  const middle = () => ({ x: (stage.clientWidth / 2 - view.x) / (size.width * view.scale), y: (stage.clientHeight / 2 - view.y) / (size.height * view.scale) });
  const centre = ({ x, y }, scale) => { // shares of the picture's width and height
    view.scale = between(least(), scale, most());
    view.x = stage.clientWidth / 2 - x * size.width * view.scale;
    view.y = stage.clientHeight / 2 - y * size.height * view.scale;
    fitted = view.scale <= least() * 1.001;
    place();
  };

  const at = (event) => {
    const box = stage.getBoundingClientRect();
    return { x: event.clientX - box.left - stage.clientLeft, y: event.clientY - box.top - stage.clientTop };
  };
  const splitTo = (x) => {
    const part = shown();
    slider.value = between(0, (100 * (x - part.left)) / part.width, 100);
    place();
  };
  const splitAt = () => { const part = shown(); return part.left + (part.width * slider.value) / 100; };

  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    const { x, y } = at(event);
    zoomTo(view.scale * Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002)), x, y); // ctrl: a pinch on a touchpad
  }, { passive: false });

  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.target.closest("button, a")) return;
    const point = at(event);
    pointers.set(event.pointerId, point);
    stage.setPointerCapture(event.pointerId);
    const holdsSplit = pair && (fitted || Math.abs(point.x - splitAt()) < NEAR);
    dragged = pointers.size > 1 ? "pinch" : holdsSplit ? "split" : "picture";
  });
  stage.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = at(event);
    if (dragged === "pinch" && pointers.size > 1) {
      const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
      const distance = (one) => Math.hypot(one.x - other.x, one.y - other.y) || 1;
      view.x += (now.x - before.x) / 2;
      view.y += (now.y - before.y) / 2;
      zoomTo((view.scale * distance(now)) / distance(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
    } else if (dragged === "split") splitTo(now.x);
    else if (dragged === "picture") pan(now.x - before.x, now.y - before.y);
    pointers.set(event.pointerId, now);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    stage.addEventListener(name, (event) => {
      pointers.delete(event.pointerId);
      dragged = pointers.size ? "picture" : "";
    });
  }
  stage.addEventListener("dblclick", (event) => { const { x, y } = at(event); if (fitted) toOwnSize(x, y); else fit(); });
  stage.addEventListener("dragstart", (event) => event.preventDefault());

  slider.addEventListener("input", place);
  zoom.addEventListener("input", () => zoomTo(least() * Math.exp((zoom.value / 100) * Math.log(most() / least()))));
  new ResizeObserver(() => { if (fitted) fit(); else zoomTo(view.scale); }).observe(stage);

  return {
    fit,
    toOwnSize,
    pan,
    zoomBy: (factor) => zoomTo(view.scale * factor),
    // A box of the picture in the middle, with as much around it.
    toBox: ([x0, y0, x1, y1]) => {
      const scale = Math.min(stage.clientWidth / (x1 - x0), stage.clientHeight / (y1 - y0)) / 2;
      centre({ x: (x0 + x1) / 2 / size.width, y: (y0 + y1) / 2 / size.height }, scale);
    },
    // The same part of the picture as another stage has, which may show it in another number of pixels.
    follow: (other) => {
      following = true;
      if (other.isFitted) fit(); else centre(other.middle, (other.scale * other.width) / size.width);
      following = false;
    },
    get middle() { return middle(); },
    get scale() { return view.scale; },
    get width() { return size.width; },
    // `pixels` is how large the picture is; what is seen stays where it is when the same picture turns out to be larger.
    show: (width, height, { isPair = pair, same = false } = {}) => {
      pair = isPair;
      if (same && !fitted) view.scale *= size.width / width;
      Object.assign(size, { width, height });
      if (same && !fitted) zoomTo(view.scale); else fit();
    },
    get isFitted() { return fitted; },
  };
};

// Tiles over one picture of a frame: what is on the stage, once it needs more pixels than the picture under them has.
//
// A tile lies where its pixels are, in shares of the frame, so that the frame's own size places and scales it.
import { make } from "./dom.js";

const TILE = 1024; // images/tiles.py: pixels of a tile's side
const SMALL = 1600; // pictures.py: pixels of the longer side of the picture that is under the tiles
const KEPT = 60; // tiles that stay when they have left the stage: one takes 4 MB of the browser's memory
const AGAIN = [2000, 6000, 15000]; // milliseconds until a tile that could not be had is requested again
const WAIT = 150; // milliseconds that the view has to stand still

export const startTiles = ({ picture, failed }) => {
  const layer = make("div", { className: `tile-layer ${picture.className}` });
  layer.dataset.of = picture.id;
  picture.after(layer);
  let url, size, tiles = new Map(), timer = 0, view;

  const clear = () => { tiles.clear(); layer.replaceChildren(); };
  const place = (tile, level, column, row) => {
    const span = TILE * 2 ** level;
    const share = (pixels, of) => `${(100 * pixels) / of}%`;
    tile.style.left = share(column * span, size.width);
    tile.style.top = share(row * span, size.height);
    // The last of a line ends where the level does, which is up to a pixel of the level beyond the picture.
    tile.style.width = share(Math.min(span, Math.ceil(size.width / 2 ** level) * 2 ** level - column * span), size.width);
    tile.style.height = share(Math.min(span, Math.ceil(size.height / 2 ** level) * 2 ** level - row * span), size.height);
    tile.style.zIndex = 20 - level;
  };
  const request = (tile, address, tries = 0) => {
    tile.onload = () => { tile.hidden = false; prune(); };
    tile.onerror = () => {
      if (tries >= AGAIN.length) { failed(); return; }
      window.setTimeout(() => { if (tile.isConnected) request(tile, `${address}${address.includes("?") ? "&" : "?"}again=${tries + 1}`, tries + 1); }, AGAIN[tries]);
    };
    tile.src = address;
  };
  // Tiles that left the stage go, the oldest first; those of another level once all that are seen have come.
  const prune = () => {
    const seen = [...tiles.values()].filter((one) => one.seen);
    const ready = seen.every((one) => !one.tile.hidden);
    let beyond = tiles.size - KEPT;
    for (const [key, one] of tiles) {
      if (one.seen || !(ready || beyond > 0)) continue;
      if (one.level === view.level && beyond <= 0) continue;
      one.tile.remove();
      tiles.delete(key);
      beyond -= 1;
    }
  };
  const draw = () => {
    if (!url || picture.hidden) return;
    const level = Math.max(0, Math.floor(Math.log2(1 / view.scale) + 0.01));
    const longest = Math.max(size.width, size.height);
    for (const one of tiles.values()) one.seen = false;
    view.level = level;
    if (longest * view.scale > SMALL && Math.ceil(longest / 2 ** level) > SMALL) {
      const span = TILE * 2 ** level;
      for (let row = Math.floor(view.top / span); row * span < view.bottom; row += 1) {
        for (let column = Math.floor(view.left / span); column * span < view.right; column += 1) {
          const key = `${level}/${column}/${row}`;
          if (!tiles.has(key)) {
            const tile = make("img", { alt: "", hidden: true, decoding: "async" });
            place(tile, level, column, row);
            layer.append(tile);
            tiles.set(key, { tile, level });
            request(tile, url(level, column, row));
          }
          tiles.get(key).seen = true;
        }
      }
    }
    prune();
    layer.dataset.level = [...tiles.values()].some((one) => one.seen) ? level : "";
  };
  const see = (now) => {
    view = { ...now };
    window.clearTimeout(timer);
    timer = window.setTimeout(draw, WAIT);
  };
  return {
    // `address(level, column, row)` is a tile's address; the picture has `width` by `height` pixels.
    show: (address, width, height) => { clear(); url = address; size = { width, height }; if (view) see(view); },
    hide: () => { clear(); url = undefined; },
    see,
    again: () => { if (view) see(view); }, // the picture was hidden, or is so no longer
  };
};

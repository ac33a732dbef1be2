// Small pictures of rows: those that painting wrote come in one reply for all rows that are shown, any other by itself.

const MOST = 480; // kept by this page, so that who turns back does not ask again: 10 kB each

// Where the picture of an item is, asked for by itself.
const placeOf = (api, item) => `${api}/rows/${item.row}/pictures/${item.picture}?size=256`;

export const startThumbnails = (api) => {
  const kept = new Map(); // of a row and its thumbnail: an address that only this page has; the oldest first
  const missed = new Set(); // those that did not come with the others: each is asked for by itself
  let last = Promise.resolve(), shown = new Set();
  const key = (item) => `${item.row} ${item.thumbnail}`;

  const take = async (items) => {
    const reply = await fetch(`${api}/thumbnails?rows=${items.map((item) => item.row).join(",")}`);
    if (!reply.ok) throw new Error(`${reply.status}`);
    const body = new Uint8Array(await reply.arrayBuffer()), end = body.indexOf(10);
    const index = JSON.parse(new TextDecoder().decode(body.subarray(0, end)));
    let at = end + 1;
    for (const [row, type, length] of index) {
      const item = items.find((one) => one.row === row);
      kept.set(key(item), URL.createObjectURL(new Blob([body.subarray(at, at + length)], { type })));
      at += length;
    }
    for (const item of items) if (!kept.has(key(item))) missed.add(key(item));
  };
  const forget = () => {
    for (const [name, address] of kept) {
      if (kept.size <= MOST) return;
      if (!shown.has(name)) { kept.delete(name); URL.revokeObjectURL(address); }
    }
  };
  const fill = async (tiles) => {
    const wanted = tiles.filter(([item]) => !kept.has(key(item))).map(([item]) => item);
    if (!tiles.some(([, picture]) => picture.isConnected)) return; // another page is shown by now
    if (wanted.length) await take(wanted).catch(() => {}); // each by itself, then
    for (const [item, picture] of tiles) picture.src = kept.get(key(item)) ?? placeOf(api, item);
    forget();
  };

  // `tiles`: items, each with the image that is to show it.
  return (tiles) => {
    const written = [];
    shown = new Set(tiles.map(([item]) => key(item)));
    for (const [item, picture] of tiles) {
      if (!item.thumbnail || item.picture !== "result" || missed.has(key(item))) picture.src = placeOf(api, item);
      else if (kept.has(key(item))) picture.src = kept.get(key(item));
      else written.push([item, picture]);
    }
    if (written.length) last = last.then(() => fill(written));
  };
};

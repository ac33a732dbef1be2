// A row's variants: a small picture of each, with its score; the picked one is marked. A large one opens on its own, and
// any other one can be compared with the picked one.
import { make } from "./dom.js";

export const variantList = (api, record, compare) => {
  if (!record.variants?.length) return undefined;
  const items = record.variants.map((one) => {
    const picked = record.pick?.variant === one.variant;
    const name = `Variant ${one.variant}${picked ? " (picked)" : ""}`;
    const clip = one.measures?.clip == null ? "" : `, CLIP score ${one.measures.clip.toFixed(3)}`;
    const said = one.error ? `${one.error.type}: ${one.error.message}` : `seed ${one.seed}${one.score === null ? "" : `, score ${one.score.toFixed(2)}`}${clip}`;
    const at = `${api}/rows/${record.row}/pictures/result?variant=${one.variant}`;
    const picture = one.output ? make("a", { href: `${at}&size=1600`, target: "_blank" }, make("img", { src: `${at}&size=256`, alt: name, loading: "lazy" })) : undefined;
    const figure = make("figure", { className: picked ? "picked" : "" }, ...[picture, make("figcaption", {}, make("strong", {}, name), ` ${said}`)].filter(Boolean));
    if (one.output && record.pick && !picked) {
      figure.append(" ", make("a", { href: compare(record.pick.variant, one.variant), target: "_top", ariaLabel: `Compare variant ${one.variant} with the picked one` }, "Compare"));
    }
    if (one.output) { // shown by the review to those who may
      const accept = make("button", { type: "button", hidden: true }, "Accept this one");
      accept.dataset.variant = one.variant;
      accept.setAttribute("aria-label", `Accept variant ${one.variant}`);
      figure.append(accept);
    }
    return figure;
  });
  return make("div", { className: "variants" }, make("h3", {}, "Variants"), ...items);
};

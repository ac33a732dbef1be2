// Two pictures that take turns in one place: by themselves only where motion is welcome, and slowly enough for WCAG 2.3.1
// (three flashes per second); else, and at any time, by hand.

const TURN = 700; // milliseconds

export const startTurns = ({ show, first, second }) => {
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  let timer = 0, on = false, now = first;
  const turn = () => { now = now === first ? second : first; show(now); };
  const run = (wanted) => {
    window.clearInterval(timer);
    on = wanted;
    now = first;
    show(now);
    if (on && !still.matches) timer = window.setInterval(() => { if (!document.hidden) turn(); }, TURN);
  };
  still.addEventListener("change", () => { if (on) run(true); });

  return {
    run,
    get isStill() { return still.matches; },
    // By hand: they stop taking turns.
    swap: () => { window.clearInterval(timer); turn(); },
    changed: (work) => still.addEventListener("change", work),
  };
};

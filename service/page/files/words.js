// Numbers and names as people read them.

/** A word for a probability. */
export function sureness(probability) {
  if (probability >= 0.95) return "very sure";
  if (probability >= 0.8) return "sure";
  if (probability >= 0.5) return "unsure";
  return "guessing";
}

export function percent(share, digits = 0) {
  const value = share * 100;
  if (digits === 0 && value > 0 && value < 0.5) return "<1%";
  if (digits === 0 && value > 99 && value < 100) return `${(Math.floor(value * 10) / 10).toFixed(1)}%`;
  return `${value.toFixed(digits)}%`;
}

export const short = (version) => version.slice(0, 8);

export const same = (one, other) => tidy(one) === tidy(other);
const tidy = (text) => text.toLowerCase().split(/\s+/).filter(Boolean).join(" ");

/** The 95% interval of a share of `rows` by Wilson's score, as [low, high]. */
export function interval(right, rows) {
  const z = 1.959964, share = right / rows, scale = 1 + (z * z) / rows;
  const centre = (share + (z * z) / (2 * rows)) / scale;
  const half = (z / scale) * Math.sqrt((share * (1 - share)) / rows + (z * z) / (4 * rows * rows));
  return [Math.max(0, centre - half), Math.min(1, centre + half)];
}

export const day = (iso) => iso.slice(0, 10);
export const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

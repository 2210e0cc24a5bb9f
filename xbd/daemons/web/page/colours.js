// Colours of owners and states, and those that the style sheet sets for light and dark.

const HUE_STEP = 0.61803398875;
const OWNERS = new Map();
let themed = new Map();

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  themed = new Map();
  OWNERS.clear();
});

// Reads a colour of the style sheet, such as "--free".
export function theme(name) {
  if (!themed.has(name)) themed.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return themed.get(name);
}

function isDark() {
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

function rgbOfHsl(hue, saturation, lightness) {
  const part = (n) => {
    const k = (n + hue * 12) % 12;
    const a = saturation * Math.min(lightness, 1 - lightness);
    return Math.round(255 * (lightness - a * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [part(0), part(8), part(4)];
}

// Chooses a domain's colour, always the same: what is shattered is farther from the text than what is whole.
export function ownerColour(domid, isWhole) {
  const key = domid * 2 + (isWhole ? 1 : 0);
  if (!OWNERS.has(key)) {
    const hue = (domid * HUE_STEP) % 1;
    const lightness = isDark() ? (isWhole ? 0.6 : 0.34) : (isWhole ? 0.45 : 0.72);
    OWNERS.set(key, rgbOfHsl(hue, isWhole ? 0.55 : 0.45, lightness));
  }
  return OWNERS.get(key);
}

export const KINDS = ["free", "whole", "shattered", "offline"];

// Reads a colour that is written as #rrggbb.
export function rgbOf(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

// The colours of the states, in the order of KINDS.
export function stateColours() {
  if (!themed.has("states")) themed.set("states", KINDS.map((kind) => rgbOf(theme(`--${kind}`))));
  return themed.get("states");
}

export function css([red, green, blue]) {
  return `rgb(${red},${green},${blue})`;
}

// How figures are written for people, and how elements are made: text is always text, never markup.

const UNITS = [["TiB", 2 ** 28], ["GiB", 2 ** 18], ["MiB", 2 ** 8]];

// Writes a number of 4 KiB pages as a size.
export function size(pages) {
  if (pages === null || pages === undefined || Number.isNaN(pages)) return "–";
  if (!pages) return "0";
  for (const [unit, inPages] of UNITS) {
    if (Math.abs(pages) >= inPages) {
      const amount = pages / inPages;
      return `${Number.isInteger(amount) ? amount : amount.toFixed(1)} ${unit}`;
    }
  }
  return `${pages * 4} KiB`;
}

// Writes a difference of pages, with its sign.
export function sizeChange(pages) {
  if (!pages) return "0";
  return (pages > 0 ? "+" : "−") + size(Math.abs(pages));
}

export function count(number) {
  return number === null || number === undefined ? "–" : number.toLocaleString("en-US");
}

export function percent(share) {
  return share === null || share === undefined || Number.isNaN(share) ? "–" : `${Math.round(share * 100)}%`;
}

// Before this, a time is one since a run began (of a virtual host), not one of a clock.
const FIRST_CLOCK_S = 1e8;

// Writes a time: of a live host the time of day, of a virtual one the seconds since it began.
export function moment(seconds) {
  if (seconds < FIRST_CLOCK_S) return `${Math.round(seconds * 10) / 10} s`;
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

// Makes an element with properties and children; a string becomes a text.
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// Writes pairs of a name and a text into a definition list.
export function fillList(list, pairs) {
  list.replaceChildren(...pairs.map(([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, text))));
}

// Decodes base64 to bytes.
export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

// Reads uint16, little-endian, as most machines have them anyway.
export function shortsOf(bytes) {
  return new Uint16Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}

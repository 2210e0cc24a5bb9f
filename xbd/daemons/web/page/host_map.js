// The map of a host: superframes by owner or by state; a square is many of them, one, or a frame of one.

import { KINDS, css, ownerColour, stateColours } from "./colours.js";
import { bytesOf, count, element, percent, shortsOf } from "./format.js";
import { FREE, OFFLINE, SUPER_PAGES, WHOLE } from "./frames.js";
import { Grid } from "./grid.js";

const OWNERS_LISTED = 12;

// The kinds to speak of, by number: offline only where any is.
function shownKinds(counts) {
  return KINDS.map((_, kind) => kind).filter((kind) => kind !== OFFLINE || counts[kind] > 0);
}

export class HostMap {
  // *parts*: canvas, says, legend, where, out, by; elements of the page. *name*: tells a domain's name.
  constructor(parts, { name, openDomain = () => {}, canZoomToFrames = true }) {
    Object.assign(this, { parts, name, openDomain, canZoomToFrames });
    this.frames = null;
    this.ranges = [];
    // The superframe whose frames are shown, and their owners; or null.
    this.inside = null;
    this.grid = new Grid(parts.canvas, {
      colourOf: (i) => this.#colourOf(i),
      says: (i) => this.#say(i),
      opened: (i) => this.#open(i),
      outwards: () => this.zoomOut(),
    });
    this.grid.resized = () => this.#show();
    parts.by.addEventListener("change", () => this.#show());
    parts.out.addEventListener("click", () => this.zoomOut());
  }

  // Shows a host, and flashes what *changed*; null: nothing is known of that.
  set(frames, changed = null) {
    if (this.frames && frames.length !== this.frames.length) this.#reset();
    this.frames = frames;
    this.#show();
    if (changed && !this.inside) {
      const { first, end } = this.#range;
      const inRange = [...changed].filter((i) => i >= first && i < end);
      this.grid.flash(new Set(inRange.map((i) => Math.floor((i - first) / this.each))));
    } else if (changed && this.inside && changed.includes(this.inside.index)) this.#openSuperframe(this.inside.index);
  }

  #reset() {
    this.ranges = [];
    this.inside = null;
  }

  get #range() {
    return this.ranges.at(-1) ?? { first: 0, end: this.frames.length };
  }

  // How many superframes a square is.
  get each() {
    const { first, end } = this.#range;
    let each = 1;
    while (Math.ceil((end - first) / each) > this.grid.most) each *= 2;
    return each;
  }

  #show() {
    if (!this.frames) return;
    const { first, end } = this.#range;
    this.shownEach = this.each;
    this.grid.show(this.inside ? SUPER_PAGES : Math.ceil((end - first) / this.shownEach));
    this.#tellWhere();
    this.#legend();
  }

  #span(i) {
    const { first, end } = this.#range;
    const from = first + i * this.shownEach;
    return [from, Math.min(from + this.shownEach, end)];
  }

  get #isByState() {
    return this.parts.by.value === "state";
  }

  #colourOf(i) {
    const states = stateColours();
    if (this.inside) {
      const owner = this.inside.owner[i];
      if (!owner) return states[FREE];
      return this.#isByState ? states[this.frames.kind[this.inside.index] || WHOLE] : ownerColour(owner - 1, true);
    }
    const [from, end] = this.#span(i);
    if (end - from === 1) return this.#colourOfOne(from, states);
    const sum = [0, 0, 0];
    for (let at = from; at < end; at += 1) {
      const colour = this.#colourOfOne(at, states);
      for (let part = 0; part < 3; part += 1) sum[part] += colour[part];
    }
    return sum.map((part) => Math.round(part / (end - from)));
  }

  #colourOfOne(at, states) {
    const kind = this.frames.kind[at];
    if (this.#isByState || kind === FREE || kind === OFFLINE) return states[kind];
    return ownerColour(this.frames.owner[at] - 1, kind === WHOLE);
  }

  #say(i) {
    if (this.inside) {
      const owner = this.inside.owner[i];
      const whose = owner ? `held by ${this.name(owner - 1)} (d${owner - 1})` : "free";
      this.parts.says.textContent = `Frame ${i} of superframe ${count(this.inside.index)}: ${whose}.`;
      return;
    }
    const [from, end] = this.#span(i);
    if (end - from === 1) {
      const kind = this.frames.kind[from];
      const [owner, used] = [this.frames.owner[from], this.frames.used[from]];
      const most = kind === WHOLE ? "one superpage of" : "most of it held by";
      const whose = owner ? `, ${most} ${this.name(owner - 1)} (d${owner - 1})` : "";
      this.parts.says.textContent = `Superframe ${count(from)}: ${KINDS[kind]}${whose}; ${used} of ${SUPER_PAGES} frames in use.`;
      return;
    }
    const { kinds, used, owners } = this.frames.counts(from, end);
    const whose = owners.length ? `; most of ${owners.slice(0, 3).map(({ domid }) => `${this.name(domid)} (d${domid})`).join(", ")}` : "";
    const states = shownKinds(kinds).map((at) => `${count(kinds[at])} ${KINDS[at]}`).join(", ");
    this.parts.says.textContent =
      `Superframes ${count(from)} to ${count(end - 1)}: ${states}; ${percent(used / (end - from) / SUPER_PAGES)} in use${whose}.`;
  }

  #open(i) {
    if (this.inside) return;
    const [first, end] = this.#span(i);
    if (end - first > 1) {
      this.ranges.push({ first, end });
      this.grid.cursor = 0;
      this.#show();
    } else if (this.canZoomToFrames && this.frames.kind[first] !== OFFLINE) this.#openSuperframe(first);
  }

  async #openSuperframe(index) {
    const answer = await fetch(`/superframe?index=${index}`);
    if (!answer.ok) {
      this.parts.says.textContent = await answer.text();
      return;
    }
    const isNew = this.inside?.index !== index;
    this.inside = { index, owner: shortsOf(bytesOf((await answer.json()).owner)) };
    if (isNew) this.grid.cursor = 0;
    this.#show();
    if (isNew) this.#say(0);
  }

  zoomOut() {
    if (this.inside) {
      this.grid.cursor = Math.floor((this.inside.index - this.#range.first) / this.shownEach);
      this.inside = null;
    } else if (this.ranges.length) {
      const { first } = this.ranges.pop();
      this.grid.cursor = Math.floor((first - this.#range.first) / this.each);
    }
    this.#show();
  }

  #tellWhere() {
    const { first, end } = this.#range;
    const square = this.shownEach === 1 ? "a square is a superframe (2 MiB)" : `a square is ${count(this.shownEach)} superframes`;
    this.parts.where.textContent = this.inside
      ? `the ${SUPER_PAGES} frames of superframe ${count(this.inside.index)}; a square is 4 KiB`
      : `superframes ${count(first)} to ${count(end - 1)}; ${square}`;
    this.parts.out.disabled = !this.inside && !this.ranges.length;
  }

  #legend() {
    const { kinds, owners } = this.frames.counts();
    const states = stateColours();
    const swatch = (colour) => {
      const made = element("span", { className: "swatch", ariaHidden: "true" });
      made.style.backgroundColor = css(colour);
      return made;
    };
    const meanings = ["free as a whole", "whole: one superpage of a domain", "shattered: held or free in pieces", "offline: out of use"];
    const lines = shownKinds(kinds).map((at) => {
      const text = element("span", {}, `${count(kinds[at])} ${meanings[at]}`);
      const line = element("p", {}, ...(this.#isByState || at === FREE || at === OFFLINE ? [swatch(states[at])] : []), text);
      line.dataset.kind = KINDS[at];
      line.dataset.count = kinds[at];
      return line;
    });
    if (!this.#isByState) {
      for (const { domid, whole, shattered } of owners.slice(0, OWNERS_LISTED)) {
        const link = element("button", { type: "button", className: "link" }, this.name(domid));
        link.addEventListener("click", () => this.openDomain(domid));
        const counts = element("span", {}, `${count(whole)} whole, ${count(shattered)} shattered`);
        const line = element("p", {}, swatch(ownerColour(domid, true)), swatch(ownerColour(domid, false)), link, counts);
        Object.assign(line.dataset, { domid, whole, shattered });
        lines.push(line);
      }
      if (owners.length > OWNERS_LISTED) lines.push(element("p", {}, `and ${count(owners.length - OWNERS_LISTED)} domains more`));
    }
    // Not while a name in it is held by the keyboard: it would lose that.
    if (!this.parts.legend.contains(document.activeElement)) this.parts.legend.replaceChildren(...lines);
  }
}

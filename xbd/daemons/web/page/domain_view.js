// One domain: its memory block by block, what its balloon does, why, and what its guest says of itself.

import { stateColours } from "./colours.js";
import { bytesOf, count, element, fillList, moment, percent, shortsOf, size } from "./format.js";
import { FREE, SUPER_PAGES, WHOLE } from "./frames.js";
import { Grid } from "./grid.js";

const LOOK_EVERY_MS = 1000;
const EVENTS_SHOWN = 50;
// Of the picture of its blocks, in pixels: a block where there is place for all, and the most that they may take.
const SIDE = 22;
const BLOCKS_HEIGHT_MOST = 198;
// What is said first of a guest's own figures; the rest follows in the order of its report.
const FIRST = ["worker_state", "schedule_delay", "balloon_2m_pages", "balloon_4k_pages", "slots", "pages_migrated", "pages_moved"];
const KINDS = ["not populated", "one superpage", "populated in pieces"];

export class DomainView {
  constructor(store, place) {
    this.store = store;
    this.domid = null;
    this.isShown = false;
    this.blocks = null;
    this.before = null;
    const list = (id) => element("dl", { className: "figures", id });
    this.choice = element("select", { ariaLabel: "Domain" });
    this.title = element("h2", { id: "domain-name" });
    this.trouble = element("p", { className: "trouble", role: "status" });
    this.figures = list("domain-figures");
    this.reasons = element("ul", { id: "domain-reasons" });
    this.canvas = element("canvas", { id: "blocks", tabIndex: 0, ariaLabel: "2 MiB blocks of the domain's memory. Arrow keys move." });
    this.canvas.setAttribute("role", "application");
    this.says = element("p", { className: "says", ariaLive: "polite" }, "Point at a block, or move with the arrow keys.");
    this.legend = element("div", { className: "legend in-line", id: "block-legend" });
    this.calls = list("domain-calls");
    this.word = list("domain-word");
    this.wordAge = element("span", { className: "faint" });
    this.events = element("ol", { id: "domain-events", className: "events" });
    this.parts = element("div", {},
      this.figures,
      element("h3", {}, "Why it holds what it holds"), this.reasons,
      element("h3", {}, "Its memory, block by block"), this.legend, this.canvas, this.says,
      element("h3", {}, "Its operations"), this.calls,
      element("div", { className: "word" }, element("h3", {}, "What its guest says of itself "), element("p", { className: "faint" }, "Its own word, not checked by the host; ", this.wordAge), this.word),
      element("h3", {}, "Events"), this.events);
    place.replaceChildren(element("div", { className: "bar" }, element("label", {}, "Domain ", this.choice)), this.title, this.trouble, this.parts);
    this.grid = new Grid(this.canvas, { colourOf: (i) => this.#colourOf(i), says: (i) => this.#say(i), sideLeast: 1 });
    this.choice.addEventListener("change", () => {
      location.hash = `domain/${this.choice.value}`;
    });
    store.addEventListener("look", () => this.isShown && this.#drawAround());
  }

  show(isShown, domid) {
    this.isShown = isShown;
    if (domid !== null && domid !== this.domid) {
      this.domid = domid;
      this.blocks = this.before = null;
    }
    clearTimeout(this.timer);
    if (isShown) {
      this.#drawAround();
      this.#look();
    }
  }

  #drawAround() {
    const { rows, events } = this.store;
    this.domid ??= [...rows.keys()].sort((a, b) => a - b)[0] ?? null;
    const known = [...rows.values()].sort((a, b) => a.domid - b.domid).map((row) => `${row.domid} ${row.name}`);
    if (document.activeElement !== this.choice && this.listed !== known.join()) {
      this.listed = known.join();
      this.choice.replaceChildren(...[...rows.values()].sort((a, b) => a.domid - b.domid).map((row) => element("option", { value: row.domid }, `${row.name} (d${row.domid})`)));
    }
    this.choice.value = String(this.domid);
    const own = events.filter((event) => event.domid === this.domid).slice(-EVENTS_SHOWN).reverse();
    this.events.replaceChildren(...own.map((event) => {
      const { number, time, event: what, domid, name, uuid, ...rest } = event;
      const words = Object.entries(rest).map(([key, value]) => `${key}: ${key.endsWith("pages") ? size(value) : value}`);
      return element("li", {}, element("time", {}, moment(time)), ` ${what} `, element("span", { className: "faint" }, words.join(", ")));
    }));
  }

  async #look() {
    clearTimeout(this.timer);
    const asked = this.domid;
    if (asked !== null && !document.hidden) {
      try {
        const answer = await fetch(`/domain?domid=${asked}`);
        if (asked === this.domid) {
          if (answer.ok) this.#draw(await answer.json());
          this.trouble.textContent = answer.ok ? "" : await answer.text();
        }
      } catch {
        this.trouble.textContent = "the server of this page cannot be reached";
      }
    }
    clearTimeout(this.timer);
    if (this.isShown) this.timer = setTimeout(() => this.#look(), LOOK_EVERY_MS);
  }

  #draw(told) {
    this.title.textContent = `${told.name} (d${told.domid})`;
    fillList(this.figures, [
      ["State", told.state + (told.mode === "normal" ? "" : `, mode ${told.mode}`)],
      ["Holds", size(told.held)],
      ["Target", size(told.target)],
      ["Limit", size(told.limit)],
      ["Minimum", size(told.least)],
      ["Maximum", size(told.maximum)],
      ["In superpages", `${percent(told.coverage)}, ${count(told.superpages)} superpages`],
      ["Claimed", size(told.claimed)],
      ["Mapped by others", size(told.referenced)],
      ["Maps of others", size(told.mapped_grants)],
    ]);
    this.reasons.replaceChildren(...told.reasons.map((reason) => element("li", {}, reason.text)));
    this.#drawBlocks(told.blocks);
    this.#drawCalls(told);
    this.wordAge.textContent = told.word_age_s === null ? "it has not reported." : `reported ${Math.round(told.word_age_s)} s ago.`;
    const names = [...FIRST.filter((name) => name in told.word), ...Object.keys(told.word).filter((name) => !FIRST.includes(name))];
    fillList(this.word, names.map((name) => [name.replaceAll("_", " "), this.#said(name, told.word[name])]));
  }

  #said(name, said) {
    if (typeof said !== "number") return String(said);
    return name.endsWith("_pages") && !name.startsWith("pages_") ? size(said) : count(said);
  }

  #drawBlocks(packed) {
    const blocks = { kind: bytesOf(packed.kind), populated: shortsOf(bytesOf(packed.populated)), slots: shortsOf(bytesOf(packed.slots)) };
    const old = this.blocks;
    this.blocks = blocks;
    const length = blocks.kind.length;
    const columns = Math.max(Math.floor(this.canvas.clientWidth / SIDE), 1);
    this.canvas.style.height = `${Math.min(Math.max(Math.ceil(length / columns) * SIDE, SIDE), BLOCKS_HEIGHT_MOST)}px`;
    this.grid.show(length);
    if (old && old.kind.length === length) {
      const changed = [];
      for (let i = 0; i < length; i += 1) if (old.kind[i] !== blocks.kind[i]) changed.push(i);
      this.grid.flash(new Set(changed));
    }
    const counts = [0, 0, 0];
    blocks.kind.forEach((kind) => {
      counts[kind] += 1;
    });
    this.legend.replaceChildren(...KINDS.map((words, kind) => element("span", { className: `key area ${["free", "whole", "shattered"][kind]}` }, `${count(counts[kind])} ${words}`)));
  }

  #colourOf(i) {
    const states = stateColours();
    const kind = this.blocks.kind[i];
    if (kind === FREE || kind === WHOLE) return states[kind];
    // The fuller, the nearer to the colour of what is shattered.
    const share = 0.35 + 0.65 * (this.blocks.populated[i] / SUPER_PAGES);
    return states[kind].map((part, at) => Math.round(states[FREE][at] + (part - states[FREE][at]) * share));
  }

  #say(i) {
    const slots = this.blocks.slots[i] ? `, ${this.blocks.slots[i]} map frames of other domains` : "";
    const end = (i + 1) * SUPER_PAGES;
    this.says.textContent =
      `Block ${count(i)} (gfns ${count(i * SUPER_PAGES)} to ${count(end - 1)}): ${KINDS[this.blocks.kind[i]]}; ${this.blocks.populated[i]} of ${SUPER_PAGES} populated${slots}.`;
  }

  #drawCalls(told) {
    const now = { ms: performance.now(), calls: told.hypercalls };
    const pairs = Object.entries(told.hypercalls).map(([call, number]) => {
      const [operation, outcome] = call.split(":");
      const since = this.before ? number - (this.before.calls[call] ?? 0) : 0;
      const rate = since ? `, ${(since / ((now.ms - this.before.ms) / 1000)).toFixed(1)} a second` : "";
      return [`${operation} (${outcome})`, count(number) + rate];
    });
    fillList(this.calls, pairs.length ? pairs : [["none", "so far"]]);
    this.before = now;
  }
}

// What the page knows of the host: filled by the stream, read by the views.

import { fetchFrames } from "./frames.js";

// How many looks a sparkline shows, and what of a domain: held, target, demand (pages) and superpages (share).
export const SPARK_POINTS = 60;
export const SPARK_KINDS = ["held", "target", "demand", "coverage"];
const EVENTS_KEPT = 500;
const LOOKS_KEPT = 600;

// The last figures of one domain, in a ring.
class Spark {
  constructor() {
    this.points = SPARK_KINDS.map(() => new Float32Array(SPARK_POINTS).fill(NaN));
    this.next = 0;
  }

  add(row) {
    SPARK_KINDS.forEach((kind, i) => {
      this.points[i][this.next] = row[kind] ?? NaN;
    });
    this.next = (this.next + 1) % SPARK_POINTS;
  }

  // Puts what was before this page's first look before that.
  fill(earlier) {
    const known = SPARK_KINDS.map((kind) => this.of(kind).filter((point) => !Number.isNaN(point)).length);
    const seen = Math.max(...known);
    for (let i = 0; i < SPARK_POINTS - seen; i += 1) {
      const at = (this.next + i) % SPARK_POINTS;
      SPARK_KINDS.forEach((kind, k) => {
        this.points[k][at] = earlier[i * SPARK_KINDS.length + k];
      });
    }
  }

  // Lists the figures of a kind, the oldest first.
  of(kind) {
    const points = this.points[SPARK_KINDS.indexOf(kind)];
    return [...points.subarray(this.next), ...points.subarray(0, this.next)];
  }
}

export class Store extends EventTarget {
  constructor() {
    super();
    this.host = null;
    this.rows = new Map();
    this.sparks = new Map();
    this.events = [];
    this.looks = [];
    this.lost = "";
    this.seconds = 0;
    this.frames = null;
    this.framesVersion = 0;
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  // Takes what a look found.
  takeLook(look) {
    this.lost = "";
    this.seconds = look.t_s;
    this.host = look.host;
    if (look.whole) {
      const there = new Set(look.rows.map((row) => row.domid));
      for (const domid of [...this.rows.keys()].filter((one) => !there.has(one))) this.#forget(domid);
    }
    look.gone.forEach((domid) => this.#forget(domid));
    for (const row of look.rows) {
      if (this.rows.has(row.domid) && this.rows.get(row.domid).life !== row.life) this.sparks.delete(row.domid);
      this.rows.set(row.domid, row);
    }
    for (const row of this.rows.values()) {
      if (!this.sparks.has(row.domid)) this.sparks.set(row.domid, new Spark());
      this.sparks.get(row.domid).add(row);
    }
    const known = this.events.at(-1)?.number ?? 0;
    const isRestarted = look.whole && look.events.length > 0 && look.events.at(-1).number < known;
    if (isRestarted) this.events = [];
    this.events.push(...look.events.filter((event) => isRestarted || event.number > known));
    this.events.splice(0, this.events.length - EVENTS_KEPT);
    this.addLook({ t_s: look.t_s, free_pages: look.host.free_frames, free_superframes: look.host.free_superframes });
    this.#tell("look", look);
  }

  // Takes what /recent says of the looks before this page's own.
  takeRecent(buffer) {
    const each = 1 + SPARK_POINTS * SPARK_KINDS.length;
    const numbers = new Uint32Array(buffer);
    const figures = new Float32Array(buffer);
    for (let at = 0; at < numbers.length; at += each) this.sparks.get(numbers[at])?.fill(figures.subarray(at + 1, at + each));
  }

  // Takes a point of the host's own figures over time; one that is not later is known already.
  addLook(point) {
    if (this.looks.length && this.looks.at(-1).t_s >= point.t_s) return;
    this.looks.push(point);
    this.looks.splice(0, this.looks.length - LOOKS_KEPT);
  }

  #forget(domid) {
    this.rows.delete(domid);
    this.sparks.delete(domid);
  }

  takeLost(lost) {
    this.lost = lost.why;
    this.#tell("lost");
  }

  // Takes what the stream says of superframes: changes of what is known, or that all are to be asked for.
  async takeFrames(told) {
    if (this.frames && told.packed && told.version === this.framesVersion + 1) {
      this.framesVersion = told.version;
      this.#tell("frames", this.frames.apply(told.packed, told.count));
    } else if (!this.frames || told.version !== this.framesVersion) {
      try {
        const { version, frames } = await fetchFrames();
        this.frames = frames;
        this.framesVersion = version;
        this.#tell("frames", null);
      } catch {
        // The hypervisor is gone just now; the next look asks again.
        this.framesVersion = -1;
      }
    }
  }

  name(domid) {
    return this.rows.get(domid)?.name ?? `d${domid}`;
  }
}


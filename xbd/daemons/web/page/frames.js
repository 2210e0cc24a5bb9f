// The superframes of a host, as /frames and the stream tell them: what each is, whose, and how full.

import { bytesOf } from "./format.js";

export const FREE = 0;
export const WHOLE = 1;
export const SHATTERED = 2;
export const OFFLINE = 3;
export const SUPER_PAGES = 512;
// For each superframe a kind of one byte, an owner and a use of two.
const BYTES_EACH = 5;

export class Frames {
  constructor(kind, owner, used) {
    this.kind = kind;
    this.owner = owner;
    this.used = used;
  }

  get length() {
    return this.kind.length;
  }

  // Reads all kinds, then all owners, then all uses; *skip* bytes come before.
  static read(buffer, skip = 0, given = null) {
    const length = given ?? (buffer.byteLength - skip) / BYTES_EACH;
    const at = skip + length;
    return new Frames(
      new Uint8Array(buffer.slice(skip, at)),
      new Uint16Array(buffer.slice(at, at + 2 * length)),
      new Uint16Array(buffer.slice(at + 2 * length, at + 4 * length)),
    );
  }

  // Takes changes as the stream packs them; returns which superframes are otherwise now.
  apply(packed, length) {
    const buffer = bytesOf(packed).buffer;
    const changed = new Uint32Array(buffer.slice(0, 4 * length));
    const now = Frames.read(buffer, 4 * length, length);
    for (let i = 0; i < length; i += 1) {
      this.kind[changed[i]] = now.kind[i];
      this.owner[changed[i]] = now.owner[i];
      this.used[changed[i]] = now.used[i];
    }
    return changed;
  }

  // Lists the superframes that are otherwise in *other*, a host of the same size.
  differing(other) {
    const found = [];
    for (let i = 0; i < this.length; i += 1) {
      if (this.kind[i] !== other.kind[i] || this.owner[i] !== other.owner[i]) found.push(i);
    }
    return found;
  }

  // Counts by kind, and by owner how many are its leaves and of how many shattered ones it holds most; largest first.
  counts(first = 0, end = this.length) {
    const kinds = [0, 0, 0, 0];
    const owners = new Map();
    let used = 0;
    for (let i = first; i < end; i += 1) {
      const kind = this.kind[i];
      kinds[kind] += 1;
      used += this.used[i];
      if (kind === FREE || kind === OFFLINE) continue;
      const domid = this.owner[i] - 1;
      let of = owners.get(domid);
      if (!of) owners.set(domid, (of = { domid, whole: 0, shattered: 0 }));
      if (kind === WHOLE) of.whole += 1;
      else of.shattered += 1;
    }
    const sorted = [...owners.values()].sort((a, b) => b.whole + b.shattered - a.whole - a.shattered || a.domid - b.domid);
    return { kinds, used, owners: sorted };
  }
}

// Asks for all superframes; returns them and their version.
export async function fetchFrames() {
  const answer = await fetch("/frames");
  if (!answer.ok) throw new Error(await answer.text());
  return { version: Number(answer.headers.get("X-Frames-Version")), frames: Frames.read(await answer.arrayBuffer()) };
}

// The host: its map, its figures, and its free memory over the last hour.

import { Chart } from "./chart.js";
import { count, element, fillList, percent, size } from "./format.js";
import { SUPER_PAGES } from "./frames.js";
import { HostMap } from "./host_map.js";

// Free memory by how it lies, of a point of the host's figures over time.
export const FREE_AREAS = [
  { name: "free in whole superframes", colour: "--free-whole", of: (point) => (point.free_superframes ?? 0) * SUPER_PAGES },
  { name: "free in pieces", colour: "--free-pieces", of: (point) => (point.free_pages ?? 0) - (point.free_superframes ?? 0) * SUPER_PAGES },
];

export function areaLegend(place, areas) {
  place.replaceChildren(...areas.map(({ name, colour }) => element("span", { className: `key area ${colour.slice(2)}` }, name)));
}

export class HostView {
  constructor(store, openDomain) {
    this.store = store;
    const byId = (id) => document.getElementById(id);
    const parts = { canvas: byId("map"), says: byId("map-says"), legend: byId("map-legend"), where: byId("map-where"), out: byId("map-out"), by: byId("map-by") };
    this.map = new HostMap(parts, { name: (domid) => store.name(domid), openDomain });
    this.figures = byId("host-figures");
    this.chart = new Chart(byId("free-chart"), FREE_AREAS);
    areaLegend(byId("free-legend"), FREE_AREAS);
    store.addEventListener("look", () => this.#look());
    store.addEventListener("frames", ({ detail }) => this.map.set(store.frames, detail));
  }

  // Asks for the last hour, so that the chart does not begin with the page.
  async begin() {
    const answer = await fetch("/times");
    if (!answer.ok) return;
    const before = (await answer.json()).filter((point) => !this.store.looks.length || point.t_s < this.store.looks[0].t_s);
    this.store.looks.unshift(...before);
    this.#look();
  }

  #look() {
    const { host, looks } = this.store;
    if (!host) return;
    const inWhole = host.free_frames ? (host.free_superframes * SUPER_PAGES) / host.free_frames : NaN;
    fillList(this.figures, [
      ["Memory", size(host.frames)],
      ["Free", size(host.free_frames)],
      ["of that in whole superframes", percent(inWhole)],
      ["Claimed", size(host.claimed_frames)],
      ["Superframes in use in part", `${count(host.shattered_superframes)} of ${count(host.superframes)}`],
      ["Domains", count(host.domains)],
    ]);
    this.chart.set(looks);
  }
}

// The last hour, or a series that was written: one moment, and what is otherwise in another one.

import { Chart } from "./chart.js";
import { count, element, moment, percent, size, sizeChange } from "./format.js";
import { Frames } from "./frames.js";
import { HostMap } from "./host_map.js";
import { FREE_AREAS, areaLegend } from "./host_view.js";
import { readMoment } from "./series.js";
import { Table } from "./table.js";

const AREAS = [{ name: "held by domains", colour: "--held-area", of: (point) => point.held_pages ?? 0 }, ...FREE_AREAS];
const HOST_FIGURES = [
  ["held_pages", "Held", size, sizeChange],
  ["free_pages", "Free", size, sizeChange],
  ["free_superframes", "Free whole superframes", count],
  ["shattered_superframes", "Superframes in use in part", count],
  ["superpages", "Superpages of domains", count],
  ["claimed_pages", "Claimed", size, sizeChange],
];

function countChange(number) {
  return number ? (number > 0 ? "+" : "−") + count(Math.abs(number)) : "0";
}

export class TimeView {
  constructor(place) {
    this.times = [];
    this.run = "";
    this.chosen = [0, 0];
    const canvas = (id, label) => element("canvas", { id, ariaLabel: label });
    this.runs = element("select", { ariaLabel: "Run" });
    this.runsLabel = element("label", { hidden: true }, "Run ", this.runs);
    const slider = (id) => element("input", { id, type: "range", min: 0, max: 0, value: 0, step: 1 });
    this.sliders = [slider("moment-a"), slider("moment-b")];
    this.said = [element("output"), element("output")];
    const chart = canvas("time-chart", "The host's memory over time");
    chart.className = "chart";
    chart.setAttribute("role", "img");
    const legend = element("div", { className: "legend in-line" });
    this.hostTable = element("tbody");
    this.note = element("p", { className: "says", id: "time-says", role: "status" });
    const names = ["Moment A", "Moment B", "From A to B"].map((name) => element("th", { scope: "col" }, name));
    const domains = element("div", { className: "table" });
    this.mapPlace = element("div", { hidden: true });
    place.replaceChildren(
      element("div", { className: "bar" }, this.runsLabel),
      chart, legend,
      ...[0, 1].map((i) => element("div", { className: "bar slider" }, element("label", { htmlFor: this.sliders[i].id }, `Moment ${"AB"[i]} `), this.sliders[i], this.said[i])),
      this.note,
      element("table", { className: "compared" }, element("thead", {}, element("tr", {}, element("th", {}, "Host"), ...names)), this.hostTable),
      this.mapPlace,
      element("h3", {}, "Domains: at moment B, and what changed since A"), domains);
    this.chart = new Chart(chart, AREAS);
    areaLegend(legend, AREAS);
    this.table = this.#makeTable(domains);
    this.map = this.#makeMap();
    this.sliders.forEach((one, i) => one.addEventListener("input", () => this.#choose(i, Number(one.value))));
    chart.addEventListener("click", (event) => this.#choose(event.shiftKey ? 0 : 1, this.chart.at(event.offsetX)));
    this.runs.addEventListener("change", () => this.load());
  }

  #makeTable(place) {
    const pages = (key, name) => ({ key, name, className: `number ${key}`, text: (row) => size(row[key]), order: (row) => row[key] ?? -1 });
    const change = (key, name) => ({ key, name, className: `number ${key}`, text: (row) => row[key] === null ? "–" : sizeChange(row[key]), order: (row) => -Math.abs(row[key] ?? 0) });
    const columns = [
      { key: "name", name: "Name", className: "name", text: (row) => row.name, order: (row) => row.name.toLowerCase() },
      { key: "state", name: "State", className: "state", text: (row) => row.state || row.there, order: (row) => row.state },
      pages("held_pages", "Holds"),
      change("held_change", "Since A"),
      pages("target_pages", "Target"),
      change("target_change", "Since A"),
      { key: "superpage_coverage", name: "Superpages", className: "number coverage", text: (row) => percent(row.superpage_coverage), order: (row) => row.superpage_coverage ?? -1 },
      { key: "there", name: "There", className: "there", text: (row) => row.there, order: (row) => row.there },
    ];
    return new Table(place, columns, { label: "Domains of two moments", sortedBy: "held_change" });
  }

  #makeMap() {
    const parts = {
      canvas: element("canvas", { className: "map", tabIndex: 0, ariaLabel: "Superframes at moment B" }),
      says: element("p", { className: "says" }),
      legend: element("div", { className: "legend" }),
      where: element("span", { className: "path" }),
      out: element("button", { type: "button" }, "Zoom out"),
      by: element("select", { ariaLabel: "Colours mean" }, element("option", { value: "owner" }, "owner"), element("option", { value: "state" }, "state")),
    };
    parts.canvas.setAttribute("role", "application");
    this.mapSays = element("p", { id: "map-changes", className: "says" });
    this.mapPlace.replaceChildren(element("h3", {}, "The map at moment B"), this.mapSays, element("div", { className: "bar" }, parts.by, parts.where, parts.out), element("div", { className: "map-and-legend" }, parts.canvas, parts.legend), parts.says);
    return new HostMap(parts, { name: (domid) => this.names?.get(domid) ?? `d${domid}`, canZoomToFrames: false });
  }

  // Asks which moments there are, and shows the first and the last.
  async load(runs = null) {
    if (runs) {
      this.runs.replaceChildren(...runs.map((run) => element("option", { value: run }, run)));
      this.runsLabel.hidden = runs.length < 2;
    }
    this.run = this.runs.value;
    const answer = await fetch(`/times?run=${encodeURIComponent(this.run)}`);
    if (!answer.ok) {
      this.note.textContent = await answer.text();
      return;
    }
    this.times = await answer.json();
    this.note.textContent = this.times.length ? "Click into the chart for moment B, with Shift for A; or move the sliders." : "There is no moment yet.";
    for (const one of this.sliders) one.max = Math.max(this.times.length - 1, 0);
    this.chosen = [0, Math.max(this.times.length - 1, 0)];
    await this.#show();
  }

  #choose(which, at) {
    this.chosen[which] = at;
    this.#show();
  }

  async #show() {
    const [a, b] = this.chosen;
    this.sliders.forEach((one, i) => {
      one.value = this.chosen[i];
      this.said[i].textContent = this.times.length ? moment(this.times[this.chosen[i]].t_s) : "";
      one.setAttribute("aria-valuetext", this.said[i].textContent);
    });
    this.chart.set(this.times, [{ at: a, name: "A" }, { at: b, name: "B" }]);
    if (!this.times.length) return;
    const asked = this.chosen.join();
    const moments = await Promise.all([this.#moment(a), this.#moment(b)]);
    // Another one may have been chosen meanwhile.
    if (asked !== this.chosen.join() || moments.includes(null)) return;
    this.#compareHosts(moments[0].host, moments[1].host);
    this.#compareDomains(moments[0].domains, moments[1].domains);
    await this.#compareMaps(a, b);
  }

  async #moment(at) {
    const answer = await fetch(`/moment?t=${this.times[at].t_s}&run=${encodeURIComponent(this.run)}`);
    return answer.ok ? readMoment(await answer.text()) : null;
  }

  #compareHosts(before, now) {
    this.hostTable.replaceChildren(...HOST_FIGURES.map(([key, name, write, writeChange]) => {
      const known = before[key] !== null && now[key] !== null && before[key] !== undefined && now[key] !== undefined;
      const change = known ? (writeChange ?? countChange)(now[key] - before[key]) : "–";
      const row = element("tr", {}, element("th", { scope: "row" }, name), ...[write(before[key]), write(now[key]), change].map((text) => element("td", {}, text)));
      row.dataset.key = key;
      return row;
    }));
  }

  #compareDomains(before, now) {
    const rows = [...now].map(([key, row]) => {
      const old = before.get(key);
      const change = (name) => old && old[name] !== null && row[name] !== null ? row[name] - old[name] : null;
      return { ...row, held_change: change("held_pages"), target_change: change("target_pages"), there: old ? "" : "new since A" };
    });
    const gone = [...before].filter(([key]) => !now.has(key)).map(([, row]) => ({ ...row, held_pages: null, target_pages: null, superpage_coverage: null, held_change: -row.held_pages, target_change: null, there: "gone by B" }));
    this.names = new Map(rows.map((row) => [row.domid, row.name]));
    this.table.set([...rows, ...gone]);
  }

  async #compareMaps(a, b) {
    const both = this.times[a].has_frames && this.times[b].has_frames;
    this.mapPlace.hidden = !both;
    if (!both) return;
    const [before, now] = await Promise.all([a, b].map(async (at) => {
      const answer = await fetch(`/moment-frames?t=${this.times[at].t_s}`);
      return answer.ok ? Frames.read(await answer.arrayBuffer()) : null;
    }));
    if (!before || !now || before.length !== now.length) return;
    const changed = before.differing(now);
    this.mapSays.textContent = `${count(changed.length)} superframes are of another state or owner than at moment A; they flash.`;
    this.map.set(now, changed);
  }
}

// All domains: a row each, with what they hold over the last minute, and why they do not hold what they should.

import { drawLines } from "./canvas.js";
import { theme } from "./colours.js";
import { count, element, percent, size } from "./format.js";
import { Table } from "./table.js";

const LINES = [
  { kind: "held", colour: "--held", words: "held" },
  { kind: "target", colour: "--target", dashes: [3, 2], words: "target" },
  { kind: "demand", colour: "--demand", dashes: [1, 2], words: "demand, by the guest's word" },
];
// Of the lines in a cell, in pixels of the style sheet, and how many pixels of the screen each of these is.
const SPARK_WIDTH = 128;
const SUPERPAGES_WIDTH = 60;
const HEIGHT = 22;
const SCALE = Math.ceil(devicePixelRatio || 1);

export class DomainsView {
  constructor(store, openDomain) {
    this.store = store;
    this.filter = document.getElementById("filter");
    this.counted = document.getElementById("domain-count");
    const number = (key, name, write, title = "") => ({ key, name, title, className: `number ${key}`, text: (row) => write(row[key]), order: (row) => row[key] ?? -1 });
    const words = (key, name) => ({ key, name, className: key, text: (row) => String(row[key] ?? ""), order: (row) => String(row[key] ?? "").toLowerCase() });
    const columns = [
      words("name", "Name"),
      number("domid", "ID", String),
      words("state", "State"),
      number("held", "Holds", size),
      number("target", "Target", size),
      number("limit", "Limit", size),
      number("demand", "Demand", size, "what its programs and kernel want, by the guest's own word"),
      { key: "spark", name: "Lately", className: "spark", order: (row) => row.held - row.target, fill: (cell, row) => this.#spark(cell, row) },
      { ...number("coverage", "Superpages", percent, "share of what it holds that lies in superpages"), className: "number coverage", text: undefined, fill: (cell, row) => this.#superpages(cell, row) },
      words("why", "Why it is not at its target"),
    ];
    this.table = new Table(document.getElementById("domain-table"), columns, { label: "Domains", opened: (row) => openDomain(row.domid) });
    this.filter.addEventListener("input", () => this.draw());
    document.getElementById("spark-legend").replaceChildren(
      ...LINES.map(({ kind, words: said }) => element("span", { className: `key ${kind}` }, said)),
    );
    store.addEventListener("look", () => this.draw());
  }

  // Asks for the looks before the page's first one, so that the lines do not begin with the page.
  async begin() {
    const answer = await fetch("/recent");
    if (!answer.ok) return;
    this.store.takeRecent(await answer.arrayBuffer());
    this.draw();
  }

  draw() {
    if (this.table.scroller.closest("section").hidden) return;
    const wanted = this.filter.value.trim().toLowerCase();
    const all = [...this.store.rows.values()];
    const rows = wanted ? all.filter((row) => `${row.name} d${row.domid} ${row.state} ${row.why}`.toLowerCase().includes(wanted)) : all;
    this.counted.textContent = wanted ? `${count(rows.length)} of ${count(all.length)} domains` : `${count(all.length)} domains`;
    this.table.set(rows);
  }

  // Returns what draws in a cell, which is always of the same size: to measure each would take longer than to draw.
  #canvas(cell, width) {
    if (cell.firstElementChild?.tagName !== "CANVAS") {
      const canvas = element("canvas", { ariaHidden: "true", width: width * SCALE, height: HEIGHT * SCALE });
      canvas.style.width = `${width}px`;
      canvas.style.height = `${HEIGHT}px`;
      cell.replaceChildren(canvas, element("span"));
    }
    const pen = cell.firstElementChild.getContext("2d");
    pen.setTransform(SCALE, 0, 0, SCALE, 0, 0);
    pen.clearRect(0, 0, width, HEIGHT);
    return pen;
  }

  #spark(cell, row) {
    const pen = this.#canvas(cell, SPARK_WIDTH);
    const spark = this.store.sparks.get(row.domid);
    if (!spark) return;
    const lines = LINES.map(({ kind, colour, dashes }) => ({ points: spark.of(kind), colour: theme(colour), dashes }));
    const top = Math.max(...lines.flatMap(({ points }) => points.filter((point) => !Number.isNaN(point))), 1);
    drawLines(pen, SPARK_WIDTH, HEIGHT, lines, top);
  }

  #superpages(cell, row) {
    const pen = this.#canvas(cell, SUPERPAGES_WIDTH);
    const spark = this.store.sparks.get(row.domid);
    if (spark) drawLines(pen, SUPERPAGES_WIDTH, HEIGHT, [{ points: spark.of("coverage"), colour: theme("--whole") }], 1);
    cell.lastElementChild.textContent = percent(row.coverage);
  }
}

// A chart of a host over time: stacked areas of pages, with a scale, and marks for moments that are chosen.

import { drawnOnce, fitted } from "./canvas.js";
import { moment, size } from "./format.js";
import { theme } from "./colours.js";

const LEFT = 70;
const BOTTOM = 18;

// Chooses how many pages lie between two lines of the scale, of which there are five at most: a power of two.
function stepFor(most) {
  return 2 ** Math.max(Math.ceil(Math.log2(Math.max(most, 1) / 4)), 0);
}

export class Chart {
  // *areas*: [{ name, colour (of the style sheet), of(point) }], drawn from the bottom up.
  constructor(canvas, areas) {
    this.canvas = canvas;
    this.areas = areas;
    this.points = [];
    this.marks = [];
    this.draw = drawnOnce(() => this.#draw());
    new ResizeObserver(this.draw).observe(canvas);
  }

  set(points, marks = []) {
    this.points = points;
    this.marks = marks;
    this.draw();
  }

  // Tells which point lies at an x of the canvas.
  at(x) {
    const { width } = this.canvas.getBoundingClientRect();
    const seconds = this.#start + ((x - LEFT) / Math.max(width - LEFT, 1)) * this.#length;
    let best = 0;
    this.points.forEach((point, i) => {
      if (Math.abs(point.t_s - seconds) < Math.abs(this.points[best].t_s - seconds)) best = i;
    });
    return best;
  }

  get #start() {
    return this.points[0]?.t_s ?? 0;
  }

  get #length() {
    return Math.max((this.points.at(-1)?.t_s ?? 0) - this.#start, 1e-6);
  }

  #draw() {
    const { pen, width, height } = fitted(this.canvas);
    pen.clearRect(0, 0, width, height);
    if (!this.points.length || width <= LEFT) return;
    const inner = height - BOTTOM;
    const sums = this.points.map((point) => this.areas.reduce((sum, area) => sum + area.of(point), 0));
    const step = stepFor(Math.max(...sums));
    const top = Math.max(Math.ceil(Math.max(...sums) / step), 1) * step * 1.03;
    const x = (point) => LEFT + ((point.t_s - this.#start) / this.#length) * (width - LEFT - 1);
    let below = this.points.map(() => 0);
    for (const area of this.areas) {
      const above = this.points.map((point, i) => below[i] + area.of(point));
      pen.fillStyle = theme(area.colour);
      pen.beginPath();
      this.points.forEach((point, i) => pen.lineTo(x(point), inner - (above[i] / top) * inner));
      for (let i = this.points.length - 1; i >= 0; i -= 1) pen.lineTo(x(this.points[i]), inner - (below[i] / top) * inner);
      pen.fill();
      below = above;
    }
    this.#drawScale(pen, width, inner, top, step);
    for (const { at, name } of this.marks) {
      if (!this.points[at]) continue;
      pen.fillStyle = theme("--mark");
      pen.fillRect(x(this.points[at]) - 1, 0, 2, inner);
      pen.textAlign = x(this.points[at]) > width - 20 ? "right" : "left";
      pen.fillText(name, x(this.points[at]) + (pen.textAlign === "right" ? -5 : 5), 11);
    }
  }

  #drawScale(pen, width, inner, top, step) {
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = theme("--faint");
    pen.strokeStyle = theme("--line");
    pen.textAlign = "right";
    for (let pages = 0; pages <= top; pages += step) {
      const y = Math.round(inner - (pages / top) * inner) - 0.5;
      pen.beginPath();
      pen.moveTo(LEFT, y);
      pen.lineTo(width, y);
      pen.stroke();
      pen.fillText(pages ? size(pages) : "0", LEFT - 6, Math.min(y + 4, inner));
    }
    pen.textAlign = "left";
    pen.fillText(moment(this.#start), LEFT, inner + 14);
    pen.textAlign = "right";
    pen.fillText(moment(this.#start + this.#length), width - 1, inner + 14);
  }
}

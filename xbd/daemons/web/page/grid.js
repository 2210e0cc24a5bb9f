// Squares on a canvas, row by row: pointed at, walked over by keys, opened; those that change flash for a moment.

import { drawnOnce, fitted } from "./canvas.js";
import { rgbOf, theme } from "./colours.js";

const FLASH_MS = 900;
// More changes at once than this are seen without a flash.
const FLASHES_MOST = 4000;
const SIDE_MOST = 22;

export class Grid {
  // *views*: colourOf(i) -> [r, g, b]; says(i), told whenever a square is pointed at; opened(i), outwards(), optional.
  constructor(canvas, { colourOf, says, opened = () => {}, outwards = () => {}, sideLeast = 4 }) {
    Object.assign(this, { canvas, colourOf, says, opened, outwards, sideLeast });
    this.length = 0;
    this.cursor = -1;
    this.flashes = new Map();
    this.isStale = true;
    this.small = document.createElement("canvas");
    this.draw = drawnOnce(() => this.#draw());
    new ResizeObserver(() => this.resized()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.show(this.length));
    canvas.addEventListener("pointermove", (event) => this.#point(this.#at(event)));
    canvas.addEventListener("click", (event) => {
      const i = this.#at(event);
      if (i >= 0) opened(i);
    });
    canvas.addEventListener("keydown", (event) => this.#press(event));
    canvas.addEventListener("focus", this.draw);
    canvas.addEventListener("blur", this.draw);
  }

  // Is called when the canvas has another size: how many squares fit may be otherwise.
  resized() {
    this.draw();
  }

  // Tells how many squares there is place for.
  get most() {
    const { width, height } = this.canvas.getBoundingClientRect();
    return Math.max(Math.floor(width / this.sideLeast) * Math.floor(height / this.sideLeast), 1);
  }

  show(length) {
    if (length !== this.length) {
      this.cursor = Math.min(this.cursor, length - 1);
      this.flashes.clear();
    }
    this.length = length;
    this.isStale = true;
    this.draw();
  }

  flash(squares) {
    if (squares.length > FLASHES_MOST || matchMedia("(prefers-reduced-motion: reduce)").matches) return this.draw();
    const now = performance.now();
    for (const i of squares) this.flashes.set(i, now);
    return this.draw();
  }

  #fit(width, height) {
    let side = SIDE_MOST;
    while (side > 1 && Math.floor(width / side) * Math.floor(height / side) < this.length) side -= 1;
    this.side = side;
    this.columns = Math.max(Math.floor(width / side), 1);
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / this.side);
    const i = Math.floor((event.clientY - box.top) / this.side) * this.columns + column;
    return column < this.columns && i < this.length ? i : -1;
  }

  #point(i) {
    if (i === this.cursor) return;
    this.cursor = i;
    if (i >= 0) this.says(i);
    this.draw();
  }

  #press(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns };
    if (event.key in steps) {
      const i = this.cursor < 0 ? 0 : this.cursor + steps[event.key];
      if (i >= 0 && i < this.length) this.#point(i);
    } else if (event.key === "Home") this.#point(0);
    else if (event.key === "End") this.#point(this.length - 1);
    else if (event.key === "Enter" && this.cursor >= 0) this.opened(this.cursor);
    else if (event.key === "Escape" || event.key === "Backspace") this.outwards();
    else return;
    event.preventDefault();
  }

  // Computes the squares' colours anew: only when they may be otherwise, not for each picture of a flash.
  #paint() {
    this.isStale = false;
    this.colours = new Uint8ClampedArray(this.length * 4);
    for (let i = 0; i < this.length; i += 1) {
      this.colours.set(this.colourOf(i), i * 4);
      this.colours[i * 4 + 3] = 255;
    }
  }

  #draw() {
    const { pen, width, height } = fitted(this.canvas);
    pen.clearRect(0, 0, width, height);
    if (!this.length || !width || !height) return;
    this.#fit(width, height);
    if (this.isStale) this.#paint();
    // A pixel for each square, made larger: it is one drawing, however many squares there are.
    const rows = Math.ceil(this.length / this.columns);
    this.small.width = this.columns;
    this.small.height = rows;
    const image = new ImageData(this.columns, rows);
    image.data.set(this.colours);
    this.#addFlashes(image.data);
    this.small.getContext("2d").putImageData(image, 0, 0);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(this.small, 0, 0, this.columns * this.side, rows * this.side);
    if (this.side > 5) this.#drawGaps(pen, rows);
    if (this.cursor >= 0) this.#drawCursor(pen);
    if (this.flashes.size) this.draw();
  }

  #addFlashes(pixels) {
    const now = performance.now();
    const bright = rgbOf(theme("--flash"));
    for (const [i, since] of this.flashes) {
      const share = 1 - (now - since) / FLASH_MS;
      if (share <= 0) this.flashes.delete(i);
      else for (let part = 0; part < 3; part += 1) pixels[i * 4 + part] += (bright[part] - pixels[i * 4 + part]) * share;
    }
  }

  #drawGaps(pen, rows) {
    pen.fillStyle = theme("--paper");
    for (let column = 1; column <= this.columns; column += 1) pen.fillRect(column * this.side - 1, 0, 1, rows * this.side);
    for (let row = 1; row <= rows; row += 1) pen.fillRect(0, row * this.side - 1, this.columns * this.side, 1);
  }

  #drawCursor(pen) {
    pen.strokeStyle = theme("--ink");
    pen.lineWidth = 2;
    const [column, row] = [this.cursor % this.columns, Math.floor(this.cursor / this.columns)];
    pen.strokeRect(column * this.side - 0.5, row * this.side - 0.5, this.side, this.side);
  }
}

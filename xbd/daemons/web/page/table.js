// A table of any number of rows, of which just those that are seen are made; sorted by a column, walked over by keys.

import { element } from "./format.js";
import { drawnOnce } from "./canvas.js";

const ROW_PIXELS = 30;
// Rows that are made beyond the edges, so that a scroll shows no gap.
const SPARE_ROWS = 6;
// So long after the last step of a scroll it is over.
const REST_MS = 100;

// Numbers by size; texts as people sort them, web2 before web10.
const texts = new Intl.Collator("en", { numeric: true });
const compare = (a, b) => (typeof a === "string" ? texts.compare(a, b) : a - b);

export class Table {
  // *columns*: [{ name, key, title, className, text(row), order(row), fill(cell, row), isLeft }].
  constructor(place, columns, { opened = () => {}, label = "", sortedBy = columns[0].key }) {
    this.columns = columns;
    this.opened = opened;
    this.rows = [];
    this.key = sortedBy;
    this.isReversed = false;
    this.chosen = null;
    this.made = [];
    // Of the rows: an element that shows a row of this version needs nothing.
    this.version = 0;
    this.head = element("div", { className: "row head", role: "row" }, ...columns.map((column) => this.#headCell(column)));
    this.body = element("div", { className: "rows", role: "rowgroup" });
    this.scroller = element("div", { className: "scroller", tabIndex: 0, role: "table", ariaLabel: label }, this.head, this.body);
    place.replaceChildren(this.scroller);
    this.draw = drawnOnce(() => this.#draw());
    this.isScrolling = false;
    this.scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.scroller.addEventListener("keydown", (event) => this.#press(event));
    new ResizeObserver(this.draw).observe(this.scroller);
  }

  #headCell(column) {
    const button = element("button", { type: "button", title: column.title ?? "" }, column.name);
    button.addEventListener("click", () => this.sortBy(column.key));
    const cell = element("div", { className: `cell ${column.className ?? ""}`, role: "columnheader" }, button);
    cell.dataset.key = column.key;
    return cell;
  }

  // Sorts by a column; by the same one again, the other way round.
  sortBy(key) {
    this.isReversed = key === this.key ? !this.isReversed : false;
    this.key = key;
    this.set(this.rows);
  }

  set(rows) {
    const { order } = this.columns.find((column) => column.key === this.key);
    const sign = this.isReversed ? -1 : 1;
    const keyed = rows.map((row) => [order(row), row]);
    keyed.sort(([a, rowA], [b, rowB]) => sign * compare(a, b) || rowA.domid - rowB.domid);
    this.rows = keyed.map(([, row]) => row);
    this.version += 1;
    for (const cell of this.head.children) {
      cell.ariaSort = cell.dataset.key !== this.key ? "none" : this.isReversed ? "descending" : "ascending";
    }
    this.scroller.setAttribute("aria-rowcount", String(rows.length + 1));
    this.body.style.height = `${rows.length * ROW_PIXELS}px`;
    this.draw();
  }

  #press(event) {
    if (event.target !== this.scroller) return;
    const page = Math.max(Math.floor(this.scroller.clientHeight / ROW_PIXELS) - 2, 1);
    const steps = { ArrowUp: -1, ArrowDown: 1, PageUp: -page, PageDown: page, Home: -Infinity, End: Infinity };
    const at = this.rows.findIndex((row) => row.domid === this.chosen);
    if (event.key in steps && this.rows.length) {
      const next = at < 0 ? 0 : Math.min(Math.max(at + steps[event.key], 0), this.rows.length - 1);
      this.chosen = this.rows[next].domid;
      const top = next * ROW_PIXELS;
      const height = this.scroller.clientHeight - this.head.offsetHeight - ROW_PIXELS;
      this.scroller.scrollTop = Math.min(Math.max(this.scroller.scrollTop, top - height), top);
      this.draw();
    } else if (event.key === "Enter" && at >= 0) this.opened(this.rows[at]);
    else return;
    event.preventDefault();
  }

  // While it is scrolled, what is drawn in cells is left out: texts alone keep up with any wheel.
  #scrolled() {
    this.isScrolling = true;
    clearTimeout(this.rest);
    this.rest = setTimeout(() => {
      this.isScrolling = false;
      this.draw();
    }, REST_MS);
    this.draw();
  }

  #make() {
    const cells = this.columns.map((column) => element("div", { className: `cell ${column.className ?? ""}`, role: "cell" }));
    const made = element("div", { className: "row", role: "row" }, ...cells);
    made.addEventListener("click", () => {
      const row = this.rows[made.dataset.at];
      this.chosen = row.domid;
      this.opened(row);
    });
    this.body.append(made);
    return made;
  }

  #draw() {
    const first = Math.max(Math.floor(this.scroller.scrollTop / ROW_PIXELS) - SPARE_ROWS, 0);
    const seen = Math.ceil(this.scroller.clientHeight / ROW_PIXELS) + 2 * SPARE_ROWS;
    const end = Math.min(first + seen, this.rows.length);
    while (this.made.length < end - first) this.made.push(this.#make());
    this.scroller.removeAttribute("aria-activedescendant");
    // The row at a place is always made by the same element, so that a scroll by one row fills one element.
    this.made.forEach((made, i) => {
      const at = first + ((((i - first) % this.made.length) + this.made.length) % this.made.length);
      made.hidden = at >= end;
      if (made.hidden) return;
      const row = this.rows[at];
      if (made.dataset.at !== String(at)) {
        made.dataset.at = at;
        made.id = `${this.columns.length}-row-${at}`;
        made.style.transform = `translateY(${at * ROW_PIXELS}px)`;
        made.setAttribute("aria-rowindex", String(at + 2));
      }
      const isChosen = row.domid === this.chosen;
      made.classList.toggle("chosen", isChosen);
      if (isChosen) this.scroller.setAttribute("aria-activedescendant", made.id);
      if (made.shown === row && made.version === this.version && !(made.isPartial && !this.isScrolling)) return;
      made.isPartial = this.isScrolling && (made.shown !== row || made.isPartial);
      made.shown = row;
      made.version = this.version;
      this.columns.forEach((column, place) => {
        const cell = made.children[place];
        if (column.fill) {
          cell.style.visibility = made.isPartial ? "hidden" : "";
          if (!made.isPartial) column.fill(cell, row);
        } else {
          const text = column.text(row);
          if (cell.textContent !== text) {
            cell.textContent = text;
            cell.title = text;
          }
        }
      });
    });
  }
}

// The connection by which the page hears of changes; closed while nobody looks, so that it costs nothing then.

export class Stream {
  // *hear* has a function for each event: look, frames, lost; *down* is called when the server cannot be reached.
  constructor(hear, down) {
    this.hear = hear;
    this.down = down;
    this.source = null;
    this.wantsFrames = false;
    this.isPaused = false;
    document.addEventListener("visibilitychange", () => this.#fit());
    addEventListener("pagehide", () => this.#close());
  }

  // Listens as this says: for superframes as well, or not at all.
  set({ wantsFrames = this.wantsFrames, isPaused = this.isPaused }) {
    if (wantsFrames !== this.wantsFrames) this.#close();
    this.wantsFrames = wantsFrames;
    this.isPaused = isPaused;
    this.#fit();
  }

  #fit() {
    const isWanted = !this.isPaused && !document.hidden;
    if (isWanted && !this.source) this.#open();
    else if (!isWanted) this.#close();
  }

  #open() {
    const source = new EventSource(`/stream?frames=${this.wantsFrames ? 1 : 0}`);
    this.source = source;
    for (const [name, take] of Object.entries(this.hear)) {
      source.addEventListener(name, (event) => {
        if (this.source === source) take(JSON.parse(event.data));
      });
    }
    source.addEventListener("error", () => {
      if (this.source !== source) return;
      this.down();
      // A browser gives up where it was refused, as when too many pages are open; this one asks again.
      if (source.readyState === EventSource.CLOSED) {
        this.#close();
        setTimeout(() => this.#fit(), 3000);
      }
    });
  }

  #close() {
    this.source?.close();
    this.source = null;
  }
}

// The page: which view is shown, what the keys do, and who hears of what.

import { DomainView } from "./domain_view.js";
import { DomainsView } from "./domains_view.js";
import { moment } from "./format.js";
import { HostView } from "./host_view.js";
import { Store } from "./store.js";
import { Stream } from "./stream.js";
import { TimeView } from "./time_view.js";

const VIEWS = ["host", "domains", "domain", "time"];
const byId = (id) => document.getElementById(id);

const store = new Store();
const openDomain = (domid) => {
  location.hash = `domain/${domid}`;
};
const status = byId("status");
const stream = new Stream(
  { look: (look) => store.takeLook(look), frames: (told) => store.takeFrames(told), lost: (lost) => store.takeLost(lost) },
  () => say("the server of this page cannot be reached; trying again", true),
);
const hostView = new HostView(store, openDomain);
const domainsView = new DomainsView(store, openDomain);
const domainView = new DomainView(store, byId("view-domain"));
const timeView = new TimeView(byId("view-time"));
let isLive = true;
let isPaused = false;

function say(text, isTrouble = false) {
  if (status.textContent !== text) status.textContent = text;
  status.classList.toggle("trouble", isTrouble);
}

function show() {
  const [name, argument] = location.hash.slice(1).split("/");
  let view = VIEWS.includes(name) ? name : "host";
  if (!isLive) view = "time";
  for (const one of VIEWS) byId(`view-${one}`).hidden = one !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    link.hidden = !isLive && link.dataset.view !== "time";
  }
  if (!isLive) return;
  stream.set({ wantsFrames: view === "host", isPaused });
  domainView.show(view === "domain" && !isPaused, argument === undefined ? null : Number(argument));
  if (view === "domains") domainsView.draw();
  if (view === "time") timeView.load();
}

function pause() {
  isPaused = !isPaused;
  byId("pause").setAttribute("aria-pressed", String(isPaused));
  byId("pause").textContent = isPaused ? "Go on" : "Pause";
  if (isPaused) say(`paused at ${moment(store.seconds)}`);
  else say("connecting");
  show();
}

function press(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("input, select")) return;
  const view = VIEWS[Number(event.key) - 1];
  if (view) location.hash = view;
  else if (event.key === "p" && isLive) pause();
  else if (event.key === "/") {
    location.hash = "domains";
    setTimeout(() => byId("filter").focus());
  } else return;
  event.preventDefault();
}

store.addEventListener("look", () => {
  const { host } = store;
  byId("host-name").textContent = host.name;
  document.title = `${host.name}: xbd`;
  if (host.guests_wait) say(host.guests_wait, true);
  else say(`live, ${moment(store.seconds)}`);
});
store.addEventListener("lost", () => say(store.lost, true));
addEventListener("hashchange", show);
addEventListener("keydown", press);
byId("pause").addEventListener("click", pause);

const source = await (await fetch("/source")).json();
isLive = source.kind === "live";
if (isLive) {
  show();
  store.addEventListener("look", () => domainsView.begin(), { once: true });
  hostView.begin();
} else {
  byId("pause").hidden = true;
  byId("host-name").textContent = source.name;
  document.title = `${source.name}: xbd`;
  say("a series that was written");
  show();
  timeView.load(source.runs);
}

"use strict";
// The review page. All text reaches the document as text nodes, never as HTML. An answer is shown once the server has said that
// it is saved, and not before.

const CATEGORIES = [
  ["person", "Person"],
  ["body_part", "Body part"],
  ["licence_plate", "License plate"],
  ["signature_or_handwriting", "Signature or handwriting"],
  ["nsfw", "NSFW"],
  ["other_harm", "Other harm"],
];
const PAGE_PHOTOS = 24;
const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8];

const $ = (id) => document.getElementById(id);
const state = { me: null, photos: [], at: 0, single: false, zoom: 0, busy: false, shown: 0 };

async function call(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Nothing was saved; once it runs again, repeat the key.");
  }
  if (!response.ok) throw new Error((await response.text()).trim() || `The server says ${response.status}.`);
  return response.json();
}

/// Runs one thing at a time; what goes wrong is said and changes nothing.
async function once(work) {
  if (state.busy) return;
  state.busy = true;
  try {
    await work();
    $("trouble").hidden = true;
  } catch (error) {
    $("trouble").textContent = error.message;
    $("trouble").hidden = false;
  } finally {
    state.busy = false;
    document.body.dataset.settled = String(Number(document.body.dataset.settled || 0) + 1);
  }
}

const say = (text) => { $("said").textContent = text; };
const label = (name) => (CATEGORIES.find(([known]) => known === name) || [name, name])[1];
const answer = (photo) => photo.categories === null ? "" : photo.categories.length === 0 ? "nothing" : photo.categories.map(label).join(", ");

function describe(photo, at) {
  const said = answer(photo);
  return `Photo ${at + 1} of ${state.photos.length}, ${said === "" ? "no answer yet" : `saved: ${said}`}`;
}

function makeCell(photo, at) {
  const item = document.createElement("li");
  const cell = document.createElement("button");
  cell.type = "button";
  cell.className = "cell";
  cell.tabIndex = -1;
  const picture = document.createElement("span");
  picture.className = "picture";
  const image = document.createElement("img");
  image.src = `/thumb/${photo.photo}`;
  image.alt = "";
  picture.append(image);
  const line = document.createElement("span");
  line.className = "line";
  const said = document.createElement("span");
  said.className = "answer";
  const score = document.createElement("span");
  score.textContent = photo.score === null ? "" : photo.score.toFixed(2);
  line.append(said, score);
  cell.append(picture, line);
  cell.addEventListener("click", () => { state.at = at; openSingle(true); });
  cell.addEventListener("focus", () => { if (state.at !== at) { state.at = at; drawTools(); } });
  item.append(cell);
  return item;
}

function drawGrid() {
  const known = $("grid").children;
  state.photos.forEach((photo, at) => {
    const cell = known[at].firstChild;
    cell.dataset.state = photo.categories === null ? "open" : photo.categories.length === 0 ? "clean" : "marked";
    cell.querySelector(".answer").textContent = answer(photo);
    cell.setAttribute("aria-label", describe(photo, at));
    cell.tabIndex = at === state.at ? 0 : -1;
  });
}

function drawTools() {
  const photo = state.photos[state.at];
  for (const button of $("categories").children) {
    const categories = photo ? photo.categories : null;
    const pressed = button.dataset.name === "" ? categories !== null && categories.length === 0
      : categories !== null && categories.includes(button.dataset.name);
    button.setAttribute("aria-pressed", String(pressed));
    button.disabled = !photo;
  }
  $("done").disabled = !photo;
  $("view").disabled = !photo;
  $("view").setAttribute("aria-pressed", String(state.single));
}

function drawSingle() {
  const photo = state.photos[state.at];
  $("grid").hidden = state.single || !photo;
  $("single").hidden = !state.single || !photo;
  $("empty").hidden = Boolean(photo);
  if (!photo || !state.single) return;
  const source = `/photo/${photo.photo}`;
  if (state.shown !== photo.photo) {
    $("large").src = source;
    state.shown = photo.photo;
  }
  const facts = [describe(photo, state.at)];
  if (photo.title) facts.push(`“${photo.title}”`);
  if (photo.photographer) facts.push(`by ${photo.photographer}`);
  if (photo.score !== null) facts.push(`detectors: ${photo.score.toFixed(2)}`);
  $("about").textContent = facts.join(" · ");
  $("frame").setAttribute("aria-label", describe(photo, state.at));
  const zoom = ZOOMS[state.zoom];
  $("large").style.width = $("large").style.height = `${zoom * 100}%`;
  $("zoom").textContent = `${Math.round(zoom * 100)} %`;
}

function draw() {
  drawGrid();
  drawTools();
  drawSingle();
}

function focusPhoto() {
  if (!state.photos[state.at]) return;
  if (state.single) $("frame").focus();
  else $("grid").children[state.at].firstChild.focus();
}

function openSingle(open) {
  if (open && !state.photos[state.at]) return;
  state.single = open;
  state.zoom = 0;
  draw();
  focusPhoto();
}

function go(to) {
  if (to < 0 || to >= state.photos.length) return;
  state.at = to;
  state.zoom = 0;
  draw();
  focusPhoto();
  if (state.single) say(describe(state.photos[to], to));
}

function setPhotos(photos, at) {
  state.photos = photos;
  state.at = at;
  state.zoom = 0;
  $("grid").replaceChildren(...photos.map(makeCell));
  draw();
  if (photos.length > 0) focusPhoto();
}

async function nextPage() {
  const { photos } = await call("/api/next", { annotator: state.me.id, count: PAGE_PHOTOS });
  setPhotos(photos, 0);
  const found = await refresh();
  if (photos.length > 0) {
    say(`${photos.length} photos.`);
  } else {
    $("empty-why").textContent = found.labels_open === 0 ? "Every photo has its labels."
      : `${found.labels_open} labels are open: photos that others have on their screens, or that wait for another annotator (${found.wait_for_second}).`;
    say("Nothing left for you.");
    $("again").focus();
  }
}

async function save(answers) {
  await call("/api/answers", { annotator: state.me.id, answers });
}

/// Changes the answer of the photo at hand: a category on or off, or none of them.
function mark(name) {
  const photo = state.photos[state.at];
  if (!photo) return;
  once(async () => {
    const before = photo.categories || [];
    const categories = name === "" ? []
      : before.includes(name) ? before.filter((known) => known !== name) : [...before, name];
    await save([{ photo: photo.photo, categories }]);
    photo.categories = CATEGORIES.map(([known]) => known).filter((known) => categories.includes(known));
    draw();
    say(`${describe(photo, state.at)}.`);
    if (state.single && name === "") {
      const open = state.photos.findIndex((other, at) => at > state.at && other.categories === null);
      if (open >= 0) go(open);
    }
  });
}

function finishPage() {
  if (state.photos.length === 0) return;
  once(async () => {
    const open = state.photos.filter((photo) => photo.categories === null);
    if (open.length > 0) {
      await save(open.map((photo) => ({ photo: photo.photo, categories: [] })));
      for (const photo of open) photo.categories = [];
      draw();
    }
    state.single = false;
    await nextPage();
  });
}

function undo() {
  once(async () => {
    const { photos } = await call("/api/undo", { annotator: state.me.id });
    if (photos.length === 0) {
      say("There is nothing to take back.");
      return;
    }
    const here = photos.map((photo) => state.photos.findIndex((known) => known.photo === photo.photo));
    if (here.every((at) => at >= 0)) {
      photos.forEach((photo, index) => { state.photos[here[index]] = photo; });
      state.at = here[0];
      draw();
      focusPhoto();
    } else {
      state.single = false;
      setPhotos(photos, 0);
    }
    say(photos.length === 1 ? "One answer taken back." : `${photos.length} answers taken back.`);
    await refresh();
  });
}

function row(cells) {
  const line = document.createElement("tr");
  cells.forEach((text, at) => {
    const cell = document.createElement(at === 0 ? "th" : "td");
    if (at === 0) cell.scope = "row";
    else cell.className = "number";
    cell.textContent = text;
    line.append(cell);
  });
  return line;
}

function time(minutes) {
  if (minutes === null) return "";
  if (minutes < 1) return ", less than a minute left";
  if (minutes < 90) return `, ${Math.round(minutes)} min left at this pace`;
  if (minutes < 48 * 60) return `, ${(minutes / 60).toFixed(1)} h left at this pace`;
  return `, ${(minutes / 60 / 24).toFixed(1)} days left at this pace`;
}

async function refresh() {
  const found = await call("/api/state");
  document.title = `${found.audit ? "Audit" : "Review"}: ${found.name}`;
  $("name").textContent = document.title;
  $("progress").hidden = false;
  $("bar").max = Math.max(found.photos, 1);
  $("bar").value = found.done;
  $("numbers").textContent = `${found.done} of ${found.photos}${time(found.minutes_left)}`;
  $("people").hidden = found.annotators.length === 0;
  $("pace").replaceChildren(...found.annotators.map((who) => row([who.name, String(who.answers), who.per_minute.toFixed(1)])));
  const pairs = found.pairs.map((pair) => row([
    `${pair.first} and ${pair.second}`, String(pair.photos), String(pair.agreed), pair.kappa === null ? "not defined" : pair.kappa.toFixed(3),
  ]));
  $("pairs").replaceChildren(...(pairs.length > 0 ? pairs : [row(["none yet", "", "", ""])]));
  return found;
}

/// The photo in the row above or below that is nearest, as the grid is laid out now.
function vertical(direction) {
  const cells = [...$("grid").children].map((item) => item.getBoundingClientRect());
  const here = cells[state.at];
  const rows = cells.map((cell, at) => [at, cell]).filter(([, cell]) => direction * (cell.top - here.top) > 1);
  if (rows.length === 0) return state.at;
  const near = Math.min(...rows.map(([, cell]) => Math.abs(cell.top - here.top)));
  const row = rows.filter(([, cell]) => Math.abs(Math.abs(cell.top - here.top) - near) < 1);
  return row.reduce((best, next) => Math.abs(next[1].left - here.left) < Math.abs(best[1].left - here.left) ? next : best)[0];
}

function zoom(step) {
  if (!state.single) return;
  const frame = $("frame");
  const middle = [(frame.scrollLeft + frame.clientWidth / 2) / frame.scrollWidth, (frame.scrollTop + frame.clientHeight / 2) / frame.scrollHeight];
  state.zoom = Math.min(Math.max(state.zoom + step, 0), ZOOMS.length - 1);
  drawSingle();
  frame.scrollLeft = middle[0] * frame.scrollWidth - frame.clientWidth / 2;
  frame.scrollTop = middle[1] * frame.scrollHeight - frame.clientHeight / 2;
  say($("zoom").textContent);
}

function help() {
  const open = $("keys").hidden;
  $("keys").hidden = !open;
  $("help").setAttribute("aria-expanded", String(open));
}

function arrow(event) {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!steps) return false;
  if (state.single) {
    // Zoomed in, the arrows scroll the frame, as the browser does by itself.
    if (state.zoom > 0 && !event.shiftKey) return false;
    go(state.at + steps[0] + steps[1]);
  } else {
    if (!document.activeElement.classList.contains("cell")) return false;
    go(steps[0] !== 0 ? state.at + steps[0] : vertical(steps[1]));
  }
  return true;
}

function key(event) {
  if (!state.me || event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "INPUT") return;
  if (arrow(event)) { event.preventDefault(); return; }
  if (event.key === "Escape" && state.single) { event.preventDefault(); openSingle(false); return; }
  if (!$("shortcuts").checked) return;
  const number = "123456".indexOf(event.key);
  const keys = {
    "0": () => mark(""), n: finishPage, u: undo, v: () => openSingle(!state.single), "?": help,
    "+": () => zoom(1), "=": () => zoom(1), "-": () => zoom(-1),
  };
  const work = number >= 0 ? () => mark(CATEGORIES[number][0]) : keys[event.key.toLowerCase()];
  if (work) { event.preventDefault(); work(); }
}

function start() {
  CATEGORIES.forEach(([name, text], at) => $("categories").append(tool(name, text, String(at + 1))));
  $("categories").append(tool("", "None of these", "0"));
  $("join").addEventListener("submit", (event) => {
    event.preventDefault();
    once(async () => {
      state.me = await call("/api/join", { name: $("nickname").value });
      $("who").textContent = `You are ${state.me.name}.`;
      $("who").hidden = false;
      $("enter").hidden = true;
      $("work").hidden = false;
      await nextPage();
    });
  });
  $("done").addEventListener("click", finishPage);
  $("undo").addEventListener("click", undo);
  $("view").addEventListener("click", () => openSingle(!state.single));
  $("help").addEventListener("click", help);
  $("again").addEventListener("click", () => once(nextPage));
  $("larger").addEventListener("click", () => zoom(1));
  $("smaller").addEventListener("click", () => zoom(-1));
  $("before").addEventListener("click", () => go(state.at - 1));
  $("after").addEventListener("click", () => go(state.at + 1));
  document.addEventListener("keydown", key);
  once(refresh);
  $("nickname").focus();
  setInterval(() => { if (state.me && !document.hidden && !state.busy) refresh().catch(() => {}); }, 15000);
}

function tool(name, text, digit) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.name = name;
  button.setAttribute("aria-pressed", "false");
  const hint = document.createElement("kbd");
  hint.textContent = digit;
  button.append(`${text} `, hint);
  button.addEventListener("click", () => mark(name));
  return button;
}

start();

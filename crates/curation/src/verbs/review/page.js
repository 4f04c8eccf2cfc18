"use strict";
// The review page. All text reaches the document as text nodes, never as HTML.
//
// What is asserted must have been seen. A picture comes with the SHA-256 of its file; each answer names it, and the server takes no
// other. A key counts for the photo that was on the screen when it was pressed. Answers are sent one after the other, in the order of
// the keys; a cell shows "saving" until the server has written its answer to the disk.

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
// How long a picture must be in view before "none in the rest" is said of it, ms.
const IN_VIEW_MS = 300;
// How long before a key counts for it: nobody answers a picture faster.
const LOOKED_MS = 150;
// How much of a picture must be in view.
const IN_VIEW_SHARE = 0.9;
// Pictures loaded at a time: a browser opens six connections, and answers need one.
const LOADS = 4;
// Photos whose large pictures are loaded ahead.
const AHEAD = 2;

const $ = (id) => document.getElementById(id);
const state = { me: null, photos: [], at: 0, single: false, zoom: 0, page: "", number: 0, found: null, larger: false };

// Names survive a reload; a browser may forbid the storage.
function remember(store, name, value) {
  try {
    if (value === null) store().removeItem(name);
    else store().setItem(name, value);
  } catch { /* it is forgotten */ }
}
function remembered(store, name) {
  try { return store().getItem(name); } catch { return null; }
}
const forever = () => window.localStorage;
const thisTab = () => window.sessionStorage;
const NAME = "passer-review-name";
const LARGER = "passer-review-larger";

/// An error that another try may cure: the network, or a server that is down.
class Unreachable extends Error {}

async function call(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, options);
    if (response.ok) return await response.json();
    if (response.status === 409) {
      const error = new Error("refused");
      error.refused = (await response.json()).refused;
      throw error;
    }
    const text = (await response.text()).trim() || `The server says ${response.status}.`;
    if (response.status >= 500) throw new Unreachable(text);
    throw new Error(text);
  } catch (error) {
    // `fetch`, and a body that ends too early.
    if (error instanceof TypeError || error instanceof SyntaxError) throw new Unreachable("The server does not answer.");
    throw error;
  }
}

const say = (text) => { $("said").textContent = text; };
function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = text === "";
}
function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = text === "";
}
const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });
function settled() {
  document.body.dataset.settled = String(Number(document.body.dataset.settled || 0) + 1);
}

// Requests that change something: one at a time, in order, each tried until the server has it.

const changes = [];
let sending = false;

function change(work) {
  changes.push(work);
  document.body.dataset.waiting = String(changes.length);
  send();
}

async function send() {
  if (sending) return;
  sending = true;
  while (changes.length > 0) {
    for (let tries = 0; ; tries += 1) {
      try {
        await changes[0]();
        if (tries > 0) trouble("");
        break;
      } catch (error) {
        if (!(error instanceof Unreachable)) {
          notice(`Not saved: ${error.message}`);
          break;
        }
        const waiting = changes.length === 1 ? "1 change is" : `${changes.length} changes are`;
        trouble(`${error.message} ${waiting} not saved yet and sent again until saved; do not close this page.`);
        document.body.dataset.troubled = "1";
        await pause(Math.min(200 * 2 ** tries, 3000));
      }
    }
    changes.shift();
    document.body.dataset.waiting = String(changes.length);
    settled();
  }
  delete document.body.dataset.troubled;
  sending = false;
}

// Keys pressed while the photos on the screen are about to change wait for it, in order.

let holding = 0;
const held = [];

function hold(work) {
  holding += 1;
  change(async () => {
    try {
      await work();
    } catch (error) {
      // It is tried again, and the keys wait on.
      if (!(error instanceof Unreachable)) letGo();
      throw error;
    }
    letGo();
  });
}

function letGo() {
  holding -= 1;
  while (holding === 0 && held.length > 0) held.shift()();
}

function whenFree(work) {
  if (holding > 0) held.push(work);
  else work();
}

const label = (name) => (CATEGORIES.find(([known]) => known === name) || [name, name])[1];
const words = (categories) => categories === null ? "" : categories.length === 0 ? "nothing" : categories.map(label).join(", ");

function newPhoto(found) {
  return {
    ...found, saved: found.categories, sending: 0, sha: null, broken: null, gone: false, ready: false, since: null, seenMs: 0,
    inView: false, large: null, largeOn: false, urls: [], cell: null,
  };
}

function describe(photo, at) {
  const text = photo.broken !== null ? `cannot be shown: ${photo.broken}`
    : photo.gone ? "taken down, needs no answer"
    : photo.sending > 0 ? `saving: ${words(photo.categories)}`
    : photo.categories === null ? "no answer yet" : `saved: ${words(photo.categories)}`;
  return `Photo ${at + 1} of ${state.photos.length}, ${text}`;
}

// Pictures.

const loads = [];
let loading = 0;

function load(work) {
  loads.push(work);
  loadNext();
}

function loadNext() {
  while (loading < LOADS && loads.length > 0) {
    loading += 1;
    loads.shift()().finally(() => {
      loading -= 1;
      loadNext();
      document.body.dataset.loading = String(loading);
    });
  }
  document.body.dataset.loading = String(loading);
}

const onPage = (photo) => state.photos.includes(photo);

/// Fetches a picture and decodes it. Returns the image, or null with `photo.broken` set, or null once the photo is no longer here.
async function fetchPicture(photo, kind) {
  for (let tries = 0; onPage(photo); tries += 1) {
    let response;
    let blob;
    try {
      response = await fetch(`/${kind}/${photo.photo}?annotator=${state.me.id}`);
      if (response.ok) blob = await response.blob();
      else if (response.status >= 500) throw new TypeError("the server failed");
    } catch {
      await pause(Math.min(200 * 2 ** tries, 3000));
      continue;
    }
    if (!response.ok) {
      const reason = (await response.text().catch(() => "")).trim();
      if (response.status === 410) photo.gone = true;
      else photo.broken = reason || `the server says ${response.status}`;
      return null;
    }
    const sha = response.headers.get("X-Photo-Sha256");
    if (photo.sha !== null && photo.sha !== sha) {
      photo.broken = "its file changed while it was on this page";
      return null;
    }
    const image = new Image();
    image.alt = "";
    image.src = URL.createObjectURL(blob);
    photo.urls.push(image.src);
    try {
      await image.decode();
    } catch {
      photo.broken = "this browser cannot show it";
      return null;
    }
    photo.sha = sha;
    return image;
  }
  return null;
}

function loadSmall(photo) {
  load(async () => {
    if (!onPage(photo) || photo.broken !== null) return;
    const image = await fetchPicture(photo, state.larger ? "medium" : "thumb");
    if (!onPage(photo)) return;
    if (image !== null) {
      photo.cell.querySelector(".picture").replaceChildren(image);
      photo.ready = true;
      clock(photo);
    }
    draw();
  });
}

function loadLarge(at) {
  for (const photo of state.photos.slice(at, at + 1 + AHEAD)) {
    if (photo.large !== null || photo.broken !== null || photo.gone) continue;
    photo.large = "loading";
    load(async () => {
      const image = onPage(photo) ? await fetchPicture(photo, "photo") : null;
      photo.large = image === null ? null : image;
      if (onPage(photo)) draw();
    });
  }
}

// What is in view. A picture's clock runs while it is decoded, in the grid, and within the window.

// What a new watcher has not reported yet stays as it was.
let watcher = null;
let watched = new Map();

function watch() {
  if (watcher) watcher.disconnect();
  watched = new Map();
  const top = Math.ceil($("top").getBoundingClientRect().height);
  // The focus scrolls photos to below the tools.
  document.documentElement.style.scrollPaddingTop = `${top + 8}px`;
  watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const photo = watched.get(entry.target);
      if (!photo) continue;
      const height = entry.rootBounds ? entry.rootBounds.height : window.innerHeight;
      // A picture taller than the window can only fill it.
      const enough = Math.min(entry.boundingClientRect.height, height) * IN_VIEW_SHARE;
      photo.inView = entry.isIntersecting && entry.intersectionRect.height >= enough && entry.intersectionRect.width > 0;
      clock(photo);
    }
    drawDone();
  }, { rootMargin: `-${top}px 0px 0px 0px`, threshold: [0, 0.25, 0.5, 0.75, IN_VIEW_SHARE, 0.95, 1] });
  for (const photo of state.photos) {
    const picture = photo.cell.querySelector(".picture");
    watched.set(picture, photo);
    watcher.observe(picture);
  }
}

function stopClock(photo) {
  if (photo.since !== null) photo.seenMs += performance.now() - photo.since;
  photo.since = null;
}

function clock(photo) {
  const runs = !document.hidden && (state.single ? photo.largeOn : photo.inView && photo.ready);
  if (!runs) stopClock(photo);
  else if (photo.since === null) photo.since = performance.now();
}

const seenMs = (photo) => photo.seenMs + (photo.since === null ? 0 : performance.now() - photo.since);
const isOpen = (photo) => photo.categories === null && photo.broken === null && !photo.gone;
const wasSeen = (photo) => photo.sha !== null && seenMs(photo) >= IN_VIEW_MS;

/// Whether a photo's picture is on the screen now.
function onScreen(photo) {
  if (photo.sha === null || document.hidden) return false;
  return state.single ? photo.largeOn && state.photos[state.at] === photo : photo.ready && photo.inView;
}

// The grid.

function makeCell(photo, at) {
  const item = document.createElement("li");
  const cell = document.createElement("button");
  cell.type = "button";
  cell.className = "cell";
  cell.tabIndex = -1;
  const picture = document.createElement("span");
  picture.className = "picture";
  const line = document.createElement("span");
  line.className = "line";
  const said = document.createElement("span");
  said.className = "answer";
  const score = document.createElement("span");
  if (photo.score !== null) {
    score.textContent = `detectors ${photo.score.toFixed(2)}`;
    score.title = "the highest score that a detector gave this photo, from 0 (nothing found) to 1";
  }
  line.append(said, score);
  cell.append(picture, line);
  cell.addEventListener("click", () => whenFree(() => { if (onPage(photo)) { state.at = at; openSingle(true); } }));
  cell.addEventListener("focus", () => { if (state.at !== at && onPage(photo)) { state.at = at; drawTools(); } });
  item.append(cell);
  photo.cell = cell;
  return item;
}

function drawGrid() {
  state.photos.forEach((photo, at) => {
    const { cell } = photo;
    cell.dataset.state = photo.broken !== null ? "broken" : photo.gone ? "gone" : photo.sending > 0 ? "saving"
      : photo.categories === null ? "open" : photo.categories.length === 0 ? "clean" : "marked";
    cell.querySelector(".answer").textContent = photo.broken !== null ? "no answer" : photo.gone ? "taken down"
      : photo.sending > 0 ? `saving: ${words(photo.categories)}` : words(photo.categories);
    const picture = cell.querySelector(".picture");
    if (photo.broken !== null || photo.gone) {
      const text = document.createElement("span");
      text.className = "reason";
      text.textContent = photo.gone ? "Taken down: needs no answer." : `Cannot be shown: ${photo.broken}. It gets no answer.`;
      picture.replaceChildren(text);
    }
    cell.setAttribute("aria-label", describe(photo, at));
    cell.tabIndex = at === state.at ? 0 : -1;
  });
}

function drawDone() {
  const open = state.photos.filter(isOpen);
  const seen = open.filter(wasSeen).length;
  const text = open.length === 0 ? "Next"
    : seen === open.length ? `None in the rest (${seen}): save, next`
    : seen === 0 ? `${open.length} not in view yet: show them`
    : `None in the ${seen} that were in view: save, show ${open.length - seen} more`;
  if ($("done-text").textContent !== text) $("done-text").textContent = text;
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
  $("larger-thumbs").setAttribute("aria-pressed", String(state.larger));
  drawDone();
}

function drawSingle() {
  const photo = state.photos[state.at];
  $("grid").hidden = state.single || !photo;
  $("single").hidden = !state.single || !photo;
  $("empty").hidden = Boolean(photo);
  for (const other of state.photos) {
    if (other !== photo || !state.single) other.largeOn = false;
    clock(other);
  }
  if (!photo || !state.single) {
    $("large").replaceChildren();
    return;
  }
  loadLarge(state.at);
  const text = photo.broken !== null ? `Cannot be shown: ${photo.broken}. It gets no answer.` : photo.gone ? "Taken down: needs no answer."
    : photo.large instanceof Image ? "" : "Loading …";
  $("frame-text").textContent = text;
  $("frame-text").hidden = text === "";
  if (text !== "") {
    $("large").replaceChildren();
    photo.largeOn = false;
  } else if ($("large").firstChild !== photo.large) {
    $("large").replaceChildren(photo.large);
    const image = photo.large;
    // It counts once a frame with it has been drawn.
    requestAnimationFrame(() => requestAnimationFrame(() => {
      photo.largeOn = state.single && $("large").firstChild === image && !document.hidden;
      clock(photo);
      drawDone();
    }));
  }
  const facts = [describe(photo, state.at)];
  if (photo.title) facts.push(`“${photo.title}”`);
  if (photo.photographer) facts.push(`by ${photo.photographer}`);
  if (photo.score !== null) facts.push(`detectors: ${photo.score.toFixed(2)}`);
  facts.push(photo.key);
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
  const photo = state.photos[state.at];
  if (!photo) return;
  if (state.single) $("frame").focus();
  else photo.cell.focus();
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

function setPhotos(found, at) {
  for (const photo of state.photos) photo.urls.forEach((url) => URL.revokeObjectURL(url));
  state.photos = found.map(newPhoto);
  state.at = at;
  state.zoom = 0;
  $("grid").replaceChildren(...state.photos.map(makeCell));
  draw();
  watch();
  state.photos.forEach(loadSmall);
  if (state.photos.length > 0) focusPhoto();
}

async function nextPage(again) {
  const { photos } = await call("/api/next", { annotator: state.me.id, count: PAGE_PHOTOS, again: Boolean(again) });
  state.single = false;
  setPhotos(photos, 0);
  const found = await refresh();
  if (photos.length > 0) {
    say(`${photos.length} photos.`);
  } else {
    drawEnd(found);
    $("again").focus();
  }
}

/// What is missing, and what to type at the end.
function drawEnd(found) {
  const lines = [];
  const waiting = found.labels_open - found.labels_not_shown;
  const run = `passer curate run ${shell(`${found.folder}/config.toml`)} --out ${shell(found.folder)}`;
  const after = found.audit ? `passer curate audit ${shell(found.folder)}` : run;
  if (waiting <= 0) {
    $("empty-title").textContent = "All photos have their labels";
    lines.push(["To go on: end the server in its terminal (Ctrl-C), then type", after]);
  } else {
    $("empty-title").textContent = "Nothing left for you";
    if (found.wait_for_second > 0) {
      lines.push([`${counted(found.wait_for_second, "photo waits", "photos wait")} for a second person, as \`labelled_twice\` asks: somebody else opens this page under another name.`]);
      lines.push(["If nobody else labels: end the server in its terminal (Ctrl-C), then type", `${run} --set stages.review.labelled_twice=0.0`]);
    }
    const others = Math.max(waiting - found.wait_for_second, 0);
    if (others > 0) lines.push([`${counted(others, "label is", "labels are")} open on the screens of others, for ten minutes at most.`]);
  }
  if (found.not_shown > 0) {
    lines.push([`${counted(found.not_shown, "photo", "photos")} could not be shown and got no answer. Bring the files back and look again; else the stage drops them once all others have their labels:`,
      ...found.not_shown_photos.map((photo) => `${photo.key}: ${photo.reason}`)]);
  }
  $("empty-why").replaceChildren(...lines.flatMap(([text, ...codes]) => {
    const line = document.createElement("p");
    line.textContent = text;
    return [line, ...codes.map((text) => {
      const block = document.createElement("pre");
      block.textContent = text;
      return block;
    })];
  }));
  say($("empty-title").textContent + ".");
}

const counted = (count, one, many) => `${count} ${count === 1 ? one : many}`;
/// A word that a shell reads back unchanged.
const shell = (word) => /^[\w./+:=@,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;

// Answers.

/// Sends answers to photos of this page; a photo whose picture the server does not know to be shown is fetched once more first.
function give(answers) {
  for (const { photo, categories } of answers) {
    photo.categories = categories;
    photo.sending += 1;
  }
  // What is not saved yet, also when the work begins anew.
  let open = answers.map((answer) => ({ ...answer, shown: answer.photo.sha }));
  const number = state.number += 1;
  change(async () => {
    for (let tries = 0; open.length > 0; tries += 1) {
      const body = {
        annotator: state.me.id, page: state.page, number,
        answers: open.map(({ photo, categories, shown }) => ({ photo: photo.photo, categories, shown })),
      };
      let refused;
      try {
        const { withdrawn } = await call("/api/answers", body);
        for (const { photo } of open) if (withdrawn.includes(photo.photo)) photo.gone = true;
        finish(open, true);
        return;
      } catch (error) {
        if (!error.refused) {
          if (!(error instanceof Unreachable)) finish(open, false);
          throw error;
        }
        refused = error.refused;
      }
      const lost = new Set(refused.filter(({ reason }) => reason !== "not_shown" || tries > 1).map(({ photo }) => photo));
      for (const { photo, shown } of open.filter(({ photo }) => refused.some((other) => other.photo === photo.photo))) {
        // The server was started again. The answer holds if the file is still the one that was seen.
        if (!lost.has(photo.photo) && await contentOf(photo) !== shown) lost.add(photo.photo);
      }
      const gone = open.filter(({ photo }) => lost.has(photo.photo));
      open = open.filter(({ photo }) => !lost.has(photo.photo));
      if (gone.length > 0) {
        gone.forEach(({ photo }) => { if (!photo.gone && photo.broken === null) photo.broken = "its file changed since you saw it"; });
        finish(gone, false);
        notice(`Not saved: ${counted(gone.length, "photo", "photos")} whose picture is no longer the one that you saw.`);
      }
    }
  });
}

/// The SHA-256 of a photo's file as the server sends it now.
async function contentOf(photo) {
  let response;
  try {
    response = await fetch(`/thumb/${photo.photo}?annotator=${state.me.id}`);
  } catch {
    throw new Unreachable("The server does not answer.");
  }
  if (response.status >= 500) throw new Unreachable(`The server says ${response.status}.`);
  if (!response.ok) photo.broken = (await response.text().catch(() => "")).trim() || `the server says ${response.status}`;
  return response.ok ? response.headers.get("X-Photo-Sha256") : null;
}

function finish(answers, saved) {
  for (const { photo, categories } of answers) {
    photo.sending -= 1;
    if (saved) photo.saved = categories;
    else if (photo.sending === 0) photo.categories = photo.saved;
  }
  draw();
  const last = answers[answers.length - 1].photo;
  if (saved && answers.length === 1 && onPage(last)) say(`${describe(last, state.photos.indexOf(last))}.`);
}

/// Says that a key did nothing, and why.
function unused(key, why) {
  notice(`${key} did nothing: ${why}.`);
}

/// Changes the answer of the photo at hand: a category on or off, or none of them.
function mark(name) {
  const photo = state.photos[state.at];
  const key = name === "" ? "“None of these”" : `“${label(name)}”`;
  if (!photo) return unused(key, "there is no photo");
  const which = `photo ${state.at + 1}`;
  if (photo.gone) return unused(key, `${which} was taken down`);
  if (photo.broken !== null) return unused(key, `${which} cannot be shown`);
  if (!onScreen(photo)) {
    focusPhoto();
    return unused(key, `${which} was not on the screen yet; press it again`);
  }
  if (seenMs(photo) < LOOKED_MS) return unused(key, `${which} was on the screen for a moment only; press it again`);
  notice("");
  const before = photo.categories || [];
  const chosen = name === "" ? []
    : before.includes(name) ? before.filter((known) => known !== name) : [...before, name];
  give([{ photo, categories: CATEGORIES.map(([known]) => known).filter((known) => chosen.includes(known)) }]);
  draw();
  if (state.single && name === "") {
    const open = state.photos.findIndex((other, at) => at > state.at && isOpen(other));
    if (open >= 0) go(open);
  }
}

/// None in the rest: of the photos that were in view. The others come into view.
function finishPage() {
  if (state.photos.length === 0) return unused("N", "there is no photo");
  const open = state.photos.filter(isOpen);
  const seen = open.filter(wasSeen);
  const unseen = open.filter((photo) => !wasSeen(photo));
  notice("");
  if (seen.length > 0) give(seen.map((photo) => ({ photo, categories: [] })));
  if (unseen.length > 0) {
    state.single = false;
    draw();
    go(state.photos.indexOf(unseen[0]));
    unseen[0].cell.scrollIntoView({ block: "start" });
    const saved = seen.length > 0 ? `${counted(seen.length, "photo", "photos")} saved as none. ` : "";
    notice(`${saved}${counted(unseen.length, "photo was", "photos were")} not in view yet: look, then N again.`);
    return;
  }
  draw();
  hold(() => nextPage(false));
}

function undo() {
  notice("");
  const number = state.number += 1;
  hold(async () => {
    const { photos } = await call("/api/undo", { annotator: state.me.id, page: state.page, number });
    if (photos.length === 0) {
      say("There is nothing to take back.");
      return;
    }
    const here = photos.map((photo) => state.photos.find((known) => known.photo === photo.photo));
    if (here.every(Boolean)) {
      photos.forEach((photo, index) => { here[index].categories = here[index].saved = photo.categories; });
      state.at = state.photos.indexOf(here[0]);
      draw();
      focusPhoto();
    } else {
      state.single = false;
      setPhotos(photos, 0);
    }
    say(photos.length === 1 ? "One answer taken back." : `${photos.length} answers taken back.`);
    await refresh().catch(() => {});
  });
}

function discard() {
  closeDiscard();
  const number = state.number += 1;
  hold(async () => {
    const { discarded } = await call("/api/discard", { annotator: state.me.id, page: state.page, number });
    await nextPage(false);
    say(`${counted(discarded, "answer", "answers")} of yours discarded. The ledger keeps them as discarded; they no longer count.`);
  });
}

function openDiscard() {
  const mine = state.found.annotators.find((who) => who.id === state.me.id);
  $("discard-text").textContent = `All ${counted(mine ? mine.answers : 0, "answer", "answers")} of ${state.me.name} will no longer count, and their photos will wait for labels again. `
    + "The ledger keeps the answers as discarded. Undo does not bring them back.";
  $("discarding").hidden = false;
  $("discard").setAttribute("aria-expanded", "true");
  $("discard-no").focus();
}

function closeDiscard() {
  if ($("discarding").hidden) return;
  $("discarding").hidden = true;
  $("discard").setAttribute("aria-expanded", "false");
  $("discard").focus();
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

/// Three digits; what rounds to zero has no sign.
const kappa = (value) => value === null ? "not defined" : value.toFixed(3).replace(/^-(0\.0+)$/, "$1");

async function refresh() {
  const found = await call("/api/state");
  state.found = found;
  document.title = `${found.audit ? "Audit" : "Review"}: ${found.name}`;
  $("name").textContent = document.title;
  $("progress").hidden = false;
  $("bar").max = Math.max(found.photos, 1);
  $("bar").value = found.done;
  const second = found.wait_for_second > 0 ? `, ${counted(found.wait_for_second, "waits", "wait")} for a second person` : "";
  const broken = found.not_shown > 0 ? `, ${found.not_shown} cannot be shown` : "";
  $("numbers").textContent = `${found.done} of ${found.photos}${second}${broken}${time(found.minutes_left)}`;
  $("people").hidden = found.annotators.length === 0;
  $("mine").hidden = !state.me;
  $("pace").replaceChildren(...found.annotators.map((who) => row([who.name, String(who.answers), who.per_minute.toFixed(1)])));
  const pairs = found.pairs.map((pair) => row([
    `${pair.first} and ${pair.second}`, String(pair.photos), String(pair.agreed), kappa(pair.kappa),
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

function help(open) {
  $("keys").hidden = !open;
  $("help").setAttribute("aria-expanded", String(open));
  if (open) $("keys").scrollIntoView({ block: "nearest" });
}

function setLarger(larger) {
  state.larger = larger;
  document.body.dataset.larger = String(larger);
  remember(forever, LARGER, larger ? "1" : null);
  for (const photo of state.photos) {
    if (larger && photo.ready) loadSmall(photo);
  }
  drawTools();
  if (state.photos.length > 0) {
    watch();
    focusPhoto();
  }
}

/// Closes what is open, the topmost first. Returns whether anything was.
function closeTop() {
  if (!$("discarding").hidden) closeDiscard();
  else if (!$("keys").hidden) { help(false); focusPhoto(); }
  else if (!$("notice").hidden) notice("");
  else if (state.single) openSingle(false);
  else return false;
  return true;
}

function arrow(event) {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!steps) return false;
  if (state.single) {
    // Zoomed in, the arrows scroll the frame, as the browser does by itself.
    if (state.zoom > 0 && !event.shiftKey) return false;
    whenFree(() => go(state.at + steps[0] + steps[1]));
  } else {
    if (holding === 0 && !document.activeElement.classList.contains("cell")) return false;
    whenFree(() => { if (state.photos.length > 0) go(steps[0] !== 0 ? state.at + steps[0] : vertical(steps[1])); });
  }
  return true;
}

function key(event) {
  if (!state.me || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") { if (closeTop()) event.preventDefault(); return; }
  if (event.target.tagName === "INPUT") return;
  if (arrow(event)) { event.preventDefault(); return; }
  if (!$("shortcuts").checked) return;
  const number = "123456".indexOf(event.key);
  const keys = {
    "0": () => mark(""), n: finishPage, u: undo, v: () => openSingle(!state.single), l: () => setLarger(!state.larger),
    "?": () => help($("keys").hidden), "+": () => zoom(1), "=": () => zoom(1), "-": () => zoom(-1),
  };
  const work = number >= 0 ? () => mark(CATEGORIES[number][0]) : keys[event.key.toLowerCase()];
  if (!work) return;
  event.preventDefault();
  // A key that is held down is pressed once; only zooming repeats.
  if (event.repeat && !"+=-".includes(event.key)) return;
  whenFree(work);
}

async function join(name) {
  state.me = await call("/api/join", { name });
  remember(forever, NAME, state.me.name);
  remember(thisTab, NAME, state.me.name);
  $("who").textContent = `You are ${state.me.name}.`;
  for (const id of ["who", "leave", "tools", "work"]) $(id).hidden = false;
  $("enter").hidden = true;
  await nextPage(false);
}

/// Goes on as the annotator that this tab had before it was reloaded.
async function again(name) {
  $("enter").hidden = true;
  try {
    await join(name);
  } catch (error) {
    if (!(error instanceof Unreachable)) $("enter").hidden = false;
    throw error;
  }
}

function leave() {
  if (changes.length > 0) return unused("“Another name”", "answers are being saved");
  remember(thisTab, NAME, null);
  remember(forever, NAME, null);
  window.location.reload();
}

function start() {
  state.page = [...crypto.getRandomValues(new Uint32Array(4))].map((part) => part.toString(36)).join("");
  CATEGORIES.forEach(([name, text], at) => $("categories").append(tool(name, text, String(at + 1))));
  $("categories").append(tool("", "None of these", "0"));
  $("join").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!state.me) change(() => join($("nickname").value));
  });
  const press = (id, work) => $(id).addEventListener("click", () => whenFree(work));
  press("done", finishPage);
  press("undo", undo);
  press("view", () => openSingle(!state.single));
  press("larger-thumbs", () => setLarger(!state.larger));
  press("help", () => help($("keys").hidden));
  press("again", () => hold(() => nextPage(true)));
  press("larger", () => zoom(1));
  press("smaller", () => zoom(-1));
  press("before", () => go(state.at - 1));
  press("after", () => go(state.at + 1));
  press("discard", openDiscard);
  press("discard-yes", discard);
  press("discard-no", closeDiscard);
  press("leave", leave);
  document.addEventListener("keydown", key);
  document.addEventListener("visibilitychange", () => { state.photos.forEach(clock); if (!document.hidden) draw(); });
  // Messages come and go above the photos.
  new ResizeObserver(() => { if (state.photos.length > 0) watch(); }).observe($("top"));
  window.addEventListener("resize", () => { if (state.photos.length > 0) watch(); });
  window.addEventListener("beforeunload", (event) => { if (changes.length > 0) event.preventDefault(); });
  setLarger(remembered(forever, LARGER) === "1");
  const name = remembered(thisTab, NAME);
  $("nickname").value = name || remembered(forever, NAME) || "";
  if (name) change(() => again(name));
  else change(refresh);
  $("nickname").focus();
  $("nickname").select();
  setInterval(() => { if (state.me && !document.hidden && changes.length === 0) refresh().catch(() => {}); }, 15000);
  setInterval(() => { if (state.me && !document.hidden) drawDone(); }, 100);
}

function tool(name, text, digit) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.name = name;
  button.setAttribute("aria-pressed", "false");
  const hint = document.createElement("kbd");
  hint.textContent = digit;
  button.append(`${text} `, hint);
  button.addEventListener("click", () => whenFree(() => mark(name)));
  return button;
}

start();

"use strict";

// What is shown: `mode` is "one", "large", "compare", "quiz" or "score"; `at` and `other` are places
// of finalists; `page` is which eight images of each class, `label` and `image` which one is large.
// What is decided is on the server's disk before the page says so.
const token = document.querySelector("meta[name=review-token]").content;
const view = { mode: "one", at: 0, other: 1, page: 0, label: 0, image: 0, facts: null, quiz: null, score: null };
const AT_ONCE = 8;
let known = null;
let busy = false;

const byId = (id) => document.getElementById(id);

function make(name, properties, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

class Gone extends Error {}

async function ask(what, body) {
  const request = body === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Review-Token": token },
    body: JSON.stringify(body),
  };
  let answer;
  try {
    answer = await fetch(what, request);
  } catch {
    throw new Gone("The server does not answer: nothing more is stored. Start it again, and open the address that it prints.");
  }
  const text = await answer.text();
  const isJson = answer.headers.get("Content-Type") === "application/json";
  const content = isJson ? JSON.parse(text) : { error: text };
  if (!answer.ok) throw new Error(content.error);
  warn(content.tracked && `${content.tracked}. Nothing is lost: it stands in the study and is sent later.`);
  return content;
}

function warn(text) {
  byId("problem").textContent = text || "";
  byId("problem").hidden = !text;
}

function tell(error) {
  if (error instanceof Gone) warn(error.message);
  else say(error.message);
}

function say(text) {
  byId("said").textContent = text;
}

const current = () => known.finalists[view.at];
const step = (place, by) => (place + by + known.finalists.length) % known.finalists.length;

// --- what can be done ---------------------------------------------------------------------------

async function decide(decision) {
  const one = current();
  Object.assign(one, await ask("decide", { finalist: one.id, decision, note: one.note }));
  const left = known.finalists.filter((each) => !each.decision).length;
  const what = { kept: "kept", rejected: "rejected", undecided: "is undecided again" }[decision];
  say(`${one.label} ${what}. ${left ? `${left} to go.` : "All have a decision."}`);
  if (decision !== "undecided" && ["one", "large"].includes(view.mode) && left) show(nextUndecided());
}

function nextUndecided() {
  let place = step(view.at, 1);
  while (known.finalists[place].decision) place = step(place, 1);
  return place;
}

function show(place) {
  Object.assign(view, { mode: "one", at: place, page: 0, facts: null });
  window.scrollTo(0, 0);
}

function turn() {
  const pages = Math.max(...current().images.map(({ grids }) => grids.length));
  view.page = (view.page + 1) % pages;
  say(`Images ${view.page * AT_ONCE + 1} to ${(view.page + 1) * AT_ONCE} of each class that the candidate makes.`);
}

function enlarge(label, image) {
  Object.assign(view, { mode: "large", label, image });
  window.scrollTo(0, 0);
}

// After the last image of a class comes the first one of the next class.
function nextImage(by) {
  const counts = current().images.map(({ count }) => count);
  view.image += by;
  if (view.image >= 0 && view.image < counts[view.label]) return;
  nextClass(by);
  view.image = by > 0 ? 0 : counts[view.label] - 1;
}

function nextClass(by) {
  view.label = (view.label + by + known.classes.length) % known.classes.length;
}

// --- a note --------------------------------------------------------------------------------------

function write() {
  byId("note").maxLength = known.note_limit;
  byId("note").value = current().note;
  byId("writing").hidden = false;
  byId("note").focus();
}

function stopWriting() {
  byId("writing").hidden = true;
  byId("keys").querySelector('[data-key="w"]')?.focus();
}

async function storeNote() {
  const one = current();
  const what = { finalist: one.id, decision: one.decision || "undecided", note: byId("note").value };
  Object.assign(one, await ask("decide", what));
  stopWriting();
  say(one.note ? `Note on ${one.label} stored${one.decision ? "" : "; it has no decision yet"}.` : `${one.label} has no note.`);
}

byId("writing").addEventListener("submit", (event) => {
  event.preventDefault();
  act(storeNote);
});
byId("leave").addEventListener("click", stopWriting);

// --- two at once, and quizzes --------------------------------------------------------------------

function compare(other) {
  if (other === view.at) return say("There is no other candidate.");
  Object.assign(view, { mode: "compare", other, facts: null });
}

function nextToCompare(by) {
  let place = step(view.other, by);
  if (place === view.at) place = step(place, by);
  compare(place);
}

function swap() {
  [view.at, view.other] = [view.other, view.at];
  view.facts = null;
}

async function reveal() {
  view.facts = view.facts ? null : await ask("reveal", { finalist: current().id });
}

async function beginQuiz() {
  const { questions } = await ask("quiz", { finalist: current().id });
  for (const { id } of questions) new Image().src = `image/${id}`;
  Object.assign(view, { mode: "quiz", facts: null, quiz: { questions, next: 0 } });
  say("");
  window.scrollTo(0, 0);
}

async function judge(real) {
  const { questions, next } = view.quiz;
  const answer = await ask("answer", { image: questions[next].id, real });
  view.quiz.next += 1;
  if (answer.this) Object.assign(view, { mode: "score", score: answer, quiz: null });
}

function leave() {
  if (view.mode === "quiz") say("A quiz that is not finished does not count.");
  Object.assign(view, { mode: "one", quiz: null, score: null });
}

const KEYS = {
  one: [
    ["k", "Keep", () => decide("kept")],
    ["r", "Reject", () => decide("rejected")],
    ["u", "Undo", () => decide("undecided")],
    ["p", "Back", () => show(step(view.at, -1)), "ArrowLeft"],
    ["n", "Next", () => show(step(view.at, 1)), "ArrowRight"],
    ["m", "More", turn],
    ["e", "Enlarge", () => enlarge(0, view.page * AT_ONCE)],
    ["w", "Note", write],
    ["c", "Compare", () => compare(step(view.at, 1))],
    ["q", "Quiz", beginQuiz],
    ["i", "Numbers", reveal],
  ],
  large: [
    ["k", "Keep", () => decide("kept")],
    ["r", "Reject", () => decide("rejected")],
    ["p", "Back", () => nextImage(-1), "ArrowLeft"],
    ["n", "Next", () => nextImage(1), "ArrowRight"],
    ["ArrowUp", "Class", () => nextClass(-1)],
    ["ArrowDown", "Class", () => nextClass(1)],
    ["w", "Note", write],
    ["Escape", "All", leave, "e"],
  ],
  compare: [
    ["k", "Keep", () => decide("kept")],
    ["r", "Reject", () => decide("rejected")],
    ["u", "Undo", () => decide("undecided")],
    ["p", "Back", () => nextToCompare(-1), "ArrowLeft"],
    ["n", "Next", () => nextToCompare(1), "ArrowRight"],
    ["s", "Swap", swap],
    ["m", "More", turn],
    ["Escape", "One", leave, "c"],
  ],
  // Arrows, because a hand that goes on after the last answer then decides nothing.
  quiz: [
    ["ArrowLeft", "Real", () => judge(true)],
    ["ArrowRight", "Generated", () => judge(false)],
    ["Escape", "Stop", leave],
  ],
  score: [["Escape", "Go on", leave]],
};

const SIGNS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Escape: "Esc" };

// A key that comes while the last one is under way is about what is not yet to be seen: it is lost.
async function act(action) {
  if (busy) return;
  busy = true;
  try {
    await action();
    draw();
  } catch (error) {
    tell(error);
  } finally {
    busy = false;
  }
}

document.addEventListener("keydown", (event) => {
  if (!byId("writing").hidden) {
    if (event.key === "Escape") stopWriting();
    return;
  }
  if (!known || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const found = KEYS[view.mode].find(([first, , , second]) => key === first || key === second);
  if (!found) return;
  event.preventDefault();
  act(found[2]);
});

// --- what is drawn ------------------------------------------------------------------------------

function draw() {
  const focused = document.activeElement?.dataset.key;
  const paint = { one: drawOne, large: drawLarge, compare: drawCompare, quiz: drawQuestion, score: drawScore };
  byId("main").replaceChildren(...paint[view.mode]());
  byId("keys").replaceChildren(...KEYS[view.mode].map(button));
  byId("keys").querySelector(`[data-key="${focused}"]`)?.focus();
  document.title = byId("title").textContent;
}

function button([key, name, action]) {
  const element = make("button", { type: "button", onclick: () => act(action) }, name, make("kbd", {}, SIGNS[key] || key.toUpperCase()));
  element.dataset.key = key;
  element.ariaKeyShortcuts = key;
  const decision = { Keep: "kept", Reject: "rejected" }[name];
  if (decision) element.ariaPressed = String(current().decision === decision);
  return element;
}

function head(title, ...parts) {
  byId("title").textContent = title;
  byId("subtitle").replaceChildren(...parts);
}

const decision = (one) => make("span", { className: "decision" }, one.decision);
const note = (one) => (one.note ? ` “${one.note}”` : "");

const gridOf = ({ grids }, page) => grids[page % grids.length];

// label: of the class, where a click on an image enlarges it
function grid(name, images, caption, label) {
  const alt = `${caption}: eight images of class ${name}`;
  const image = make("img", { src: `image/${gridOf(images, view.page)}`, alt });
  if (label !== undefined) {
    image.className = "can-enlarge";
    image.onclick = (event) => act(() => enlarge(label, view.page * AT_ONCE + placeIn(image, event)));
  }
  return make("figure", {}, image, make("figcaption", {}, caption));
}

function placeIn(image, event) {
  const side = image.clientWidth / known.columns;
  const [column, row] = [event.offsetX, event.offsetY].map((at) => Math.max(0, Math.floor(at / side)));
  return Math.min(row * known.columns + Math.min(column, known.columns - 1), AT_ONCE - 1);
}

// One image of a grid, alone. Where there are fewer images they come round again.
function large(name, images, caption) {
  const at = view.image % images.count;
  const canvas = make("canvas", { role: "img", ariaLabel: `${caption}: image ${at + 1} of class ${name}` });
  const source = make("img", { src: `image/${gridOf(images, Math.floor(at / AT_ONCE))}` });
  source.decode().then(() => {
    const side = source.naturalWidth / known.columns;
    const place = at % AT_ONCE;
    Object.assign(canvas, { width: side, height: side });
    const [x, y] = [place % known.columns, Math.floor(place / known.columns)];
    canvas.getContext("2d").drawImage(source, x * side, y * side, side, side, 0, 0, side, side);
    canvas.dataset.drawn = "yes";
  }).catch(() => tell(new Error("The image cannot be loaded.")));
  return make("figure", {}, canvas, make("figcaption", {}, `${caption}, ${at + 1} of ${images.count}`));
}

function drawLarge() {
  const [one, name] = [current(), known.classes[view.label]];
  head(`Candidate ${one.label}`, `one image of class ${name} `, decision(one), note(one));
  const real = known.real[view.label];
  return [make("section", { className: "large" }, make("h2", {}, name), make("div", { className: "beside" },
    large(name, one.images[view.label], `Candidate ${one.label}`),
    ...(real.count ? [large(name, real, "Real validation images")] : [])))];
}

function drawOne() {
  const one = current();
  look(one);
  head(`Candidate ${one.label}`, `${view.at + 1} of ${known.finalists.length}, ${known.study}, as ${known.reviewer} `, decision(one), note(one));
  const rows = known.classes.map((name, place) => make("section", {}, make("h2", {}, name), make("div", { className: "beside" },
    grid(name, one.images[place], `Candidate ${one.label}`, place),
    grid(name, known.real[place], "Real validation images", place))));
  return view.facts ? [facts(), ...rows] : rows;
}

function facts() {
  const lines = Object.entries({ "what it is": view.facts.name, ...view.facts.facts });
  return make("dl", { className: "facts" }, ...lines.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

function drawCompare() {
  const [one, other] = [current(), known.finalists[view.other]];
  look(one);
  look(other);
  head(`${one.label} beside ${other.label}`, `keep and reject are about ${one.label} `, decision(one));
  return known.classes.map((name, place) => make("section", {}, make("h2", {}, name), make("div", { className: "beside" },
    grid(name, one.images[place], `Candidate ${one.label}`),
    grid(name, other.images[place], `Candidate ${other.label}`),
    grid(name, known.real[place], "Real validation images"))));
}

function drawQuestion() {
  const { questions, next } = view.quiz;
  const { id, class: name } = questions[next];
  head("Real or generated?", `${next + 1} of ${questions.length}, half of each class are real`);
  return [make("div", { className: "question" },
    make("img", { src: `image/${id}`, alt: `An image of class ${name}, real or generated` }),
    make("p", {}, name),
    make("p", { className: "note" }, "All in 8-bit grey. How you did is told at the end."))];
}

function drawScore() {
  const { this: own, all } = view.score;
  head(`Quiz of candidate ${current().label}`);
  const part = (title, told) => make("section", {}, make("h2", {}, title), make("dl", {},
    make("dt", {}, "fooling rate: generated, taken for real"), make("dd", {}, told.generated),
    make("dt", {}, "real, taken for real"), make("dd", {}, told.real),
    make("dt", {}, "difference"), make("dd", {}, told.apart)), make("p", {}, told.sentence));
  const note = "Brackets hold the 95 % interval. Who cannot tell takes as many generated images for real as real ones: the difference says how well you can.";
  return [make("div", { className: "score" }, part("This quiz", own), ...(all ? [part("All your quizzes of this candidate", all)] : []), make("p", { className: "note" }, note))];
}

function look(one) {
  if (one.looked) return;
  one.looked = true;
  ask("look", { finalist: one.id }).catch((error) => { one.looked = false; tell(error); });
}

// MLflow may take a while, or come back, while nobody presses a key.
setInterval(() => ask("state").catch(tell), 5000);

act(async () => {
  known = await ask("state");
  say("Keep: goes first among ties. Reject: the next pick leaves it out, whatever its numbers are.");
});

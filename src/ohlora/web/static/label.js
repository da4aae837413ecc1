// The labelling page. Every answer goes into the browser's store first and leaves it when the server has written it, so that
// neither a dead server nor a closed tab loses one.
import { $, Failure, api, el, notify, recall, remember } from "./base.js";

const SETTINGS = "ohlora.label";
const UNSENT = "ohlora.label.unsent.";
const BATCH = 64; // answers in a request; the server allows no more

const settings = { labeller: "", set: "", view: "one", hints: true, ...recall(localStorage, SETTINGS, {}) };
let state = null; // as /api/state gives it
// What is shown: ids of one or up to nine images, which of them has the cursor, and the attribute asked for.
const view = { ids: [], at: 0, attribute: "", done: false };
const pictures = new Map(); // id -> img, so that an image once seen does not flicker

// ---------------------------------------------------------------- what is there

const names = () => state.attributes.map((attribute) => attribute.name);
const answered = (id, attribute) => state.answers[attribute][id] ?? null;
const isOpen = (id, attribute) => answered(id, attribute) === null;
const anyOpen = (id) => names().some((name) => isOpen(id, name));
const nine = () => settings.view === "nine";
const current = () => view.ids[view.at];

// Ids that pass the test, from position `start` on and then from the first.
function* around(start, test) {
  const count = state.ids.length;
  for (let step = 0; step < count; step += 1) {
    const id = state.ids[(start + step) % count];
    if (test(id)) yield id;
  }
}

const take = (iterable, count) => {
  const found = [];
  for (const item of iterable) if (found.push(item) === count) break;
  return found;
};

// The position of an id among those shown here, or of the first above it.
function position(id) {
  const found = state.ids.findIndex((other) => other >= id);
  return found < 0 ? state.ids.length - 1 : found;
}

// ---------------------------------------------------------------- where to go

// Shows what has no answer, from position `start` on; with nine images perhaps of another attribute.
function showOpen(start) {
  view.done = false;
  if (nine()) {
    const first = names().indexOf(view.attribute);
    const order = [...names().slice(first), ...names().slice(0, first)];
    for (const attribute of order) {
      const ids = take(around(start, (id) => isOpen(id, attribute)), 9);
      if (ids.length) return show(ids, attribute);
      start = 0;
    }
  } else {
    const [id] = take(around(start, anyOpen), 1);
    if (id !== undefined) return show([id], names().find((name) => isOpen(id, name)));
  }
  view.done = true;
  view.ids = [];
  return null;
}

function show(ids, attribute, at = 0) {
  Object.assign(view, { ids, at, attribute, done: false });
}

// Shows these images whether they have answers or not.
function showFrom(start, attribute = view.attribute) {
  const from = Math.max(0, Math.min(start, state.ids.length - 1));
  show(state.ids.slice(from, from + (nine() ? 9 : 1)), attribute);
}

// After an answer: the next attribute or image without one.
function advance() {
  if (view.done) return;
  const items = nine() ? view.ids : names();
  const at = nine() ? view.at : names().indexOf(view.attribute);
  for (let step = 1; step <= items.length; step += 1) {
    const index = (at + step) % items.length;
    if (nine() && isOpen(view.ids[index], view.attribute)) return void (view.at = index);
    if (!nine() && isOpen(current(), items[index])) return void (view.attribute = items[index]);
  }
  showOpen(position(view.ids.at(-1)) + 1);
}

function goNext() {
  if (view.done) return;
  const last = position(view.ids.at(-1));
  const shown = new Set(view.ids);
  const waiting = nine() ? (id) => isOpen(id, view.attribute) : anyOpen;
  if (take(around(last + 1, (id) => waiting(id) && !shown.has(id)), 1).length) showOpen(last + 1);
  else if (last + 1 < state.ids.length) showFrom(last + 1);
}

function goPrevious() {
  const first = view.done ? state.ids.length : position(view.ids[0]);
  if (first > 0) showFrom(Math.max(0, first - (nine() ? 9 : 1)), view.attribute);
}

function move(step) {
  if (view.done) return;
  if (nine()) view.at = (view.at + step + view.ids.length) % view.ids.length;
  else nextAttribute(step);
}

function nextAttribute(step) {
  const all = names();
  choose(all[(all.indexOf(view.attribute) + step + all.length) % all.length]);
}

function choose(attribute) {
  view.attribute = attribute;
  if (nine() || view.done) showOpen(view.done ? 0 : position(view.ids[0]));
}

// ---------------------------------------------------------------- answers

const undoKey = () => `ohlora.label.undo.${state.set}.${state.labeller}`;

function set(id, attribute, value) {
  if (value === null) delete state.answers[attribute][id];
  else state.answers[attribute][id] = value;
}

// Gives answers as one step, which undo takes back at once.
function give(answers) {
  const step = [];
  for (const [id, attribute, value] of answers) {
    const before = answered(id, attribute);
    if (before !== value) step.push({ id, attribute, value, before });
    set(id, attribute, value);
  }
  if (step.length) {
    remember(sessionStorage, undoKey(), [...recall(sessionStorage, undoKey(), []), step].slice(-500));
    send(step);
  }
  advance();
}

function answer(value) {
  if (!view.done) give([[current(), view.attribute, value]]);
}

function confirm() {
  if (view.done || !settings.hints) return;
  const suggested = state.suggestions[view.attribute];
  const ids = nine() ? view.ids.filter((id) => isOpen(id, view.attribute)) : [current()];
  give(ids.filter((id) => id in suggested).map((id) => [id, view.attribute, suggested[id][0]]));
}

function undo() {
  const steps = recall(sessionStorage, undoKey(), []);
  const step = steps.pop();
  if (!step) return;
  remember(sessionStorage, undoKey(), steps);
  const back = step.map((given) => ({ ...given, value: given.before, before: given.value })).reverse();
  for (const { id, attribute, value } of back) set(id, attribute, value);
  send(back);
  const { id, attribute } = step[0];
  if (nine() && attribute === view.attribute && view.ids.includes(id)) view.at = view.ids.indexOf(id);
  else showFrom(position(id), attribute);
}

// ---------------------------------------------------------------- sending

const queue = []; // [key in the store, {set, mark, labeller, answer}], oldest first
let sending = false;
let sent = 0;

function send(answers) {
  for (const given of answers) {
    const key = `${UNSENT}${String(Date.now()).padStart(15, "0")}.${String(sent++).padStart(9, "0")}.${Math.random()}`;
    const entry = { set: state.set, mark: state.mark, labeller: state.labeller, answer: given };
    remember(localStorage, key, entry);
    queue.push([key, entry]);
  }
  flush();
}

// What an earlier tab could not send any more.
function adopt() {
  const keys = Object.keys(localStorage).filter((key) => key.startsWith(UNSENT)).sort();
  for (const key of keys) {
    const entry = recall(localStorage, key, null);
    if (entry?.answer) queue.push([key, entry]);
    else localStorage.removeItem(key);
  }
}

function drop(count) {
  for (const [key] of queue.splice(0, count)) localStorage.removeItem(key);
}

async function flush() {
  if (sending) return;
  sending = true;
  let limit = BATCH;
  let pause = 500;
  while (queue.length) {
    const { answer: _, ...whose } = queue[0][1];
    const same = ([, entry]) => Object.keys(whose).every((key) => entry[key] === whose[key]);
    const end = queue.findIndex((item) => !same(item));
    const batch = queue.slice(0, Math.min(limit, end < 0 ? queue.length : end));
    try {
      await api("api/answers", { ...whose, answers: batch.map(([, entry]) => entry.answer) });
      drop(batch.length);
      pause = 500;
      if (!queue.length && $("notice").classList.contains("bad")) notify("");
    } catch (failure) {
      if (!(failure instanceof Failure)) throw failure;
      if (failure.body?.current && batch.length > 1) {
        limit = 1; // one of them was answered elsewhere: find it, the others count
      } else if (failure.body?.current) {
        drop(1);
        settle(whose, failure.body.current);
      } else if (failure.status >= 400 && failure.status < 500) {
        if (failure.status !== 403) drop(batch.length);
        notify(`Not saved: ${failure.message}. Reload the page.`, true);
        break;
      } else {
        notify(`${queue.length} not saved yet: ${failure.message}. They are sent again by themselves.`, true);
        await new Promise((done) => setTimeout(done, pause));
        pause = Math.min(2 * pause, 4000);
      }
    }
    renderSaved();
  }
  sending = false;
  renderSaved();
}

// Shows what the table holds where someone else answered in the meantime.
function settle(whose, answers) {
  if (whose.set !== state.set || whose.labeller !== state.labeller) return;
  for (const { id, attribute, value } of answers) set(id, attribute, value);
  const { id, attribute } = answers[0];
  notify(`Image ${id}, ${attribute}, was answered in another window meanwhile; its answer stays. Go back to change it.`);
  render();
}

// ---------------------------------------------------------------- drawing

function picture(id) {
  if (!pictures.has(id)) {
    const image = el("img", { src: `images/${state.set}/${id}?v=${state.mark}`, alt: `image ${id}`, draggable: "false" });
    image.addEventListener("error", () => (image.alt = `image ${id} cannot be shown`));
    pictures.set(id, image);
    if (pictures.size > 60) pictures.delete(pictures.keys().next().value);
  }
  return pictures.get(id);
}

// Buttons for both answers of an image.
function pair(id, attribute, at) {
  const suggested = settings.hints ? state.suggestions[attribute.name][id]?.[0] : undefined;
  const given = answered(id, attribute.name);
  const press = (value) => () => {
    Object.assign(view, { at, attribute: attribute.name });
    answer(value);
    render();
  };
  const buttons = attribute.options.map((option, value) =>
    el(
      "button",
      {
        class: given === null && suggested === value ? "suggested" : null,
        "aria-pressed": String(given === value),
        "data-value": value,
        click: press(value),
      },
      option,
      el("kbd", { "aria-hidden": "true" }, String(value + 1)),
    ),
  );
  return el("div", { class: "pair", role: "group", "aria-label": `image ${id}: ${attribute.name}` }, ...buttons);
}

function suggestion(id, attribute) {
  const found = settings.hints ? state.suggestions[attribute.name][id] : undefined;
  if (!found) return "";
  const [value, probability] = found;
  return `Suggested: ${attribute.options[value]} (annotator: ${(100 * probability).toFixed(0)} % ${attribute.options[1]})`;
}

function drawOne() {
  const id = current();
  const questions = state.attributes.map((attribute) =>
    el(
      "div",
      { class: attribute.name === view.attribute ? "question current" : "question", "data-attribute": attribute.name },
      el("h2", {}, attribute.name, " ", el("small", {}, attribute.hint)),
      pair(id, attribute, 0),
      el("p", { class: "suggestion" }, suggestion(id, attribute)),
    ),
  );
  const figure = el("figure", {}, picture(id), el("figcaption", { class: "id" }, `image ${id}`));
  return el("section", { class: "one", "data-id": id }, figure, el("div", {}, ...questions));
}

function drawNine() {
  const attribute = state.attributes.find(({ name }) => name === view.attribute);
  const tiles = view.ids.map((id, at) =>
    el(
      "div",
      { class: at === view.at ? "tile current" : "tile", "data-id": id, title: suggestion(id, attribute) },
      picture(id),
      el("div", {}, pair(id, attribute, at), el("p", { class: "id" }, `${id}`)),
    ),
  );
  const keys = attribute.options.flatMap((option, value) => [" ", el("kbd", {}, String(value + 1)), ` ${option}`]);
  const hint = attribute.hint ? ` · ${attribute.hint}` : "";
  const line = el("p", { class: "question-line" }, el("b", {}, attribute.name), el("span", { class: "keys" }, ...keys), hint);
  return el("section", { class: "nine" }, line, ...tiles);
}

function drawDone() {
  return el(
    "section",
    { class: "done" },
    el("h2", {}, `All ${state.ids.length} images are labelled`),
    el("p", { class: "soft" }, `The answers are in ${state.table}; make repro goes on from there. Previous shows them again.`),
  );
}

function drawProgress() {
  const total = state.ids.length;
  return state.attributes.map(({ name }) => {
    const count = state.ids.reduce((sum, id) => sum + (isOpen(id, name) ? 0 : 1), 0);
    return el(
      "button",
      {
        class: "count",
        "aria-pressed": String(name === view.attribute),
        "data-attribute": name,
        click: () => {
          choose(name);
          render();
        },
      },
      `${name} `,
      el("span", {}, `${count} / ${total}`),
      el("progress", { max: total, value: count, "aria-hidden": "true" }),
    );
  });
}

function segment(text, pressed, click, attributes = {}) {
  return el("button", { "aria-pressed": String(pressed), click, ...attributes }, text);
}

function render() {
  $("main").replaceChildren(view.done ? drawDone() : nine() ? drawNine() : drawOne());
  $("progress").replaceChildren(...drawProgress());
  $("sets").replaceChildren(
    ...state.sets.map(({ name, title, ready, make }) =>
      segment(title, name === state.set, () => load(name), {
        "data-set": name,
        disabled: !ready,
        title: ready ? `Images of ${title}` : `No images yet; make them with: ${make}`,
      }),
    ),
  );
  $("views").replaceChildren(
    segment("One", !nine(), () => setView("one"), { title: "One image (G)" }),
    segment("Nine", nine(), () => setView("nine"), { title: "Nine images (G)" }),
  );
  $("hints").setAttribute("aria-pressed", String(settings.hints));
  $("person").textContent = state.labeller;
  $("undo").disabled = !recall(sessionStorage, undoKey(), []).length;
  renderSaved();
  // The images that come next are fetched now.
  const after = view.done ? [] : take(around(position(view.ids.at(-1)) + 1, anyOpen), nine() ? 9 : 3);
  for (const id of after) picture(id);
}

function renderSaved() {
  $("saved").textContent = queue.length ? `${queue.length} not saved yet` : "all saved";
}

// ---------------------------------------------------------------- settings

function keep(changes) {
  Object.assign(settings, changes);
  remember(localStorage, SETTINGS, settings);
}

function setView(kind) {
  const id = view.done ? state.ids[0] : current();
  keep({ view: kind });
  showOpen(position(id));
  render();
}

// Fetches a set for a person and goes on where the person stopped.
async function load(name = settings.set, labeller = settings.labeller) {
  try {
    const query = new URLSearchParams({ set: name, labeller });
    state = await api(`api/state?${query}`);
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    if (failure.status === 400 && name) return load("", labeller); // a set of another time
    notify(failure.message, true);
    return failure;
  }
  for (const { answer: given, ...whose } of queue.map(([, entry]) => entry)) {
    if (whose.set === state.set && whose.labeller === state.labeller) set(given.id, given.attribute, given.value);
  }
  pictures.clear();
  if (!names().includes(view.attribute)) view.attribute = names()[0];
  showOpen(state.last === null ? 0 : position(state.last));
  keep({ set: state.set, labeller: state.labeller });
  notify("");
  render();
  if (!state.labeller) askWho();
  return null;
}

function askWho() {
  $("name").value = settings.labeller;
  $("who-error").hidden = true;
  $("who").showModal();
}

async function setWho(event) {
  event.preventDefault();
  const name = $("name").value.trim();
  if (!name) return;
  try {
    await api(`api/state?${new URLSearchParams({ set: settings.set, labeller: name })}`);
  } catch (failure) {
    $("who-error").textContent = failure.message;
    $("who-error").hidden = false;
    return;
  }
  await load(settings.set, name); // before the dialog closes: until then no key is an answer
  $("who").close();
}

// Answers given elsewhere come in when the window is looked at again.
async function refresh() {
  if (document.hidden || !state?.labeller || queue.length || $("who").open) return;
  const { mark } = state;
  try {
    const fresh = await api(`api/state?${new URLSearchParams({ set: state.set, labeller: state.labeller })}`);
    if (queue.length) return;
    if (fresh.mark !== mark) return void (await load());
    state = fresh;
    render();
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    notify(failure.message, true);
  }
}

// ---------------------------------------------------------------- keys and buttons

// By the key's place where it is a letter, so that a Korean keyboard works too.
const KEYS = {
  Digit1: () => answer(0),
  Numpad1: () => answer(0),
  ArrowLeft: () => answer(0),
  Digit2: () => answer(1),
  Numpad2: () => answer(1),
  ArrowRight: () => answer(1),
  Enter: confirm,
  NumpadEnter: confirm,
  Space: confirm,
  KeyU: undo,
  Backspace: undo,
  ArrowUp: () => move(-1),
  ArrowDown: () => move(1),
  KeyA: () => nextAttribute(1),
  KeyN: goNext,
  PageDown: goNext,
  KeyP: goPrevious,
  PageUp: goPrevious,
  KeyG: () => setView(nine() ? "one" : "nine"),
  KeyS: () => keep({ hints: !settings.hints }),
};
const MAY_REPEAT = new Set(["ArrowUp", "ArrowDown", "KeyN", "KeyP", "PageDown", "PageUp"]);

function onKey(event) {
  if (!state?.labeller || document.querySelector("dialog[open]") || event.target.closest("input")) return;
  if (event.altKey || event.metaKey || (event.ctrlKey && event.code !== "KeyZ")) return;
  if (event.key === "?") return void $("keys").showModal();
  const isPress = event.code === "Enter" || event.code === "Space";
  if (isPress && event.target.matches("button:focus-visible")) return; // a button reached by Tab
  const action = event.ctrlKey ? undo : KEYS[event.code];
  if (!action) return;
  event.preventDefault();
  // A key held down must not label a hundred images.
  if (event.repeat && !MAY_REPEAT.has(event.code)) return;
  action();
  render();
}

document.addEventListener("keydown", onKey);
document.addEventListener("click", (event) => {
  // A button clicked by mouse gives the keyboard back.
  if (event.detail > 0) event.target.closest?.("button")?.blur();
});
for (const [id, action] of Object.entries({ undo, next: goNext, previous: goPrevious })) {
  $(id).addEventListener("click", () => {
    if (!state) return;
    action();
    render();
  });
}
$("hints").addEventListener("click", () => {
  if (!state) return;
  keep({ hints: !settings.hints });
  render();
});
$("goto").addEventListener("keydown", (event) => {
  if (event.code !== "Enter" && event.code !== "NumpadEnter") return;
  if ($("goto").value !== "") showFrom(position(Number($("goto").value)), nine() ? view.attribute : names()[0]);
  $("goto").value = "";
  $("goto").blur();
  render();
});
$("person").addEventListener("click", askWho);
$("help").addEventListener("click", () => $("keys").showModal());
$("keys-close").addEventListener("click", () => $("keys").close());
$("who").querySelector("form").addEventListener("submit", setWho);
$("who").addEventListener("cancel", (event) => {
  if (!settings.labeller) event.preventDefault(); // nobody labels without a name
});
document.addEventListener("visibilitychange", refresh);
window.addEventListener("beforeunload", (event) => {
  if (queue.length) event.preventDefault();
});

adopt();
await load();
if (queue.length) flush();

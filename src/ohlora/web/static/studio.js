// The face studio. What is shown follows from the address alone (face, group, sliders), so a reload and a sent address show
// the same. One request is under way at a time and the next one takes what the sliders say then: the last one wins.
import { $, Failure, api, el, notify, recall, remember } from "./base.js";

const SEEDS = "ohlora.studio.seeds";
const KINDS = { seed: "Seeds", case: "Tested", character: "Characters" };

let state = null; // as /api/state gives it
const view = { set: 0, kind: "seed", key: "", group: "", asked: {} };
let gallery = "seed";
let answer = null; // the last one that fits the face shown

const faces = () => state.sets[view.set];
const sameFace = (one, other) => ["set", "kind", "key"].every((name) => one[name] === other[name]);
function signed(value) {
  if (value === null) return "–";
  const text = Math.abs(value).toFixed(1);
  return text === "0.0" ? text : `${value < 0 ? "−" : "+"}${text}`;
}
const names = (property) => property.replaceAll("_", " ");

// ---------------------------------------------------------------- the address

function fromAddress() {
  const query = new URLSearchParams(location.hash.slice(1));
  const set = Number(query.get("set") ?? 0);
  view.set = state.sets[set] ? set : 0;
  const kind = Object.keys(KINDS).find((name) => query.get(name));
  view.kind = kind ?? "seed";
  view.key = kind ? query.get(kind).slice(0, 40) : String(randomSeed());
  view.group = faces().groups.includes(query.get("group")) ? query.get("group") : "";
  view.asked = {};
  for (const name of faces().properties) {
    const value = Number(query.get(name));
    if (value) view.asked[name] = Math.max(-state.limits.reach, Math.min(state.limits.reach, value));
  }
  return kind !== undefined;
}

function toAddress(isNew) {
  const query = new URLSearchParams(view.set ? { set: view.set } : {});
  query.set(view.kind, view.key);
  if (view.group) query.set("group", view.group);
  for (const [name, value] of Object.entries(view.asked)) query.set(name, value);
  const address = `#${query}`;
  if (address === location.hash) return;
  if (isNew) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
}

function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0] % 1000000;
}

// ---------------------------------------------------------------- requests

let busy = false;
let due = false;
let failing = false;

// Asks for the face as it is wanted now; while an answer is on its way, only the newest wish waits.
async function refresh() {
  due = true;
  if (busy) return;
  busy = true;
  while (due) {
    due = false;
    const { set, kind, key, group, asked } = view;
    const wanted = { set, kind, key, group, asked: { ...asked } };
    try {
      const found = await api("api/edit", wanted);
      if (sameFace(wanted, view)) await showAnswer(found, wanted);
      if (failing) {
        failing = false;
        notify("");
        if (!$("before").naturalWidth) render();
      }
    } catch (failure) {
      if (!(failure instanceof Failure)) throw failure;
      failing = true;
      notify(failure.message + (failure.status ? "" : "; asked again by itself"), true);
      if (failure.status && sameFace(wanted, view) && !answer) $("after").width = 0; // no other person's face
      if (failure.status === 0) {
        due = true;
        await new Promise((done) => setTimeout(done, 1000));
      }
    }
  }
  busy = false;
}

async function showAnswer(found, wanted) {
  const bytes = Uint8Array.from(atob(found.image), (letter) => letter.charCodeAt(0));
  const image = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const canvas = $("after");
  Object.assign(canvas, { width: image.width, height: image.height });
  canvas.getContext("2d").drawImage(image, 0, 0);
  answer = { ...found, wanted };
  renderReadings();
  renderGroups();
}

// ---------------------------------------------------------------- changes

function setFace(changes, isNew = true) {
  Object.assign(view, changes);
  toAddress(isNew);
  answer = null;
  render();
  refresh();
}

function setSlider(name, value) {
  if (value) view.asked[name] = value;
  else delete view.asked[name];
  changed();
}

function setGroup(group) {
  view.group = group === answer?.own ? "" : group;
  changed();
}

// The same face is wanted otherwise.
function changed() {
  toAddress(false);
  renderLinks();
  renderReadings();
  refresh();
}

function setSet(set) {
  const { properties, groups } = state.sets[set];
  const asked = Object.fromEntries(Object.entries(view.asked).filter(([name]) => properties.includes(name)));
  Object.assign(view, { set, asked, group: groups.includes(view.group) ? view.group : "" });
  renderControls();
  setFace({});
  renderGallery();
}

// ---------------------------------------------------------------- drawing

const title = (kind, key) => (kind === "character" ? key : `${kind} ${key}`);

function query(more = {}) {
  const given = { set: view.set, kind: view.kind, key: view.key, group: view.group, ...more };
  for (const [name, value] of Object.entries(view.asked)) given[`ask.${name}`] = value;
  return new URLSearchParams(given);
}

function render() {
  $("before").src = `faces/${view.set}/${view.kind}/${encodeURIComponent(view.key)}`;
  $("seed").value = view.kind === "seed" ? view.key : "";
  $("sets").value = String(view.set);
  $("keep").disabled = !faces().keeps;
  const kept = view.kind === "character" ? state.characters.find(({ key }) => key === view.key) : null;
  $("name").textContent = title(view.kind, view.key) + (kept && kept.mark !== faces().mark ? " (kept with other vectors)" : "");
  for (const button of $("gallery").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.kind === view.kind && button.dataset.key === view.key));
  }
  for (const input of $("sliders").querySelectorAll("input")) input.value = view.asked[input.name] ?? 0;
  renderLinks();
  renderReadings();
  renderGroups();
}

function renderLinks() {
  $("png").href = `pictures/face?${query({ save: 1 })}`;
}

function value(number, limit, name) {
  const much = number === null ? 0 : Math.min(1, Math.abs(number) / limit);
  const shown = el("span", { class: `value ${number >= 0 ? "up" : "down"}`, "data-value": name }, signed(number));
  shown.style.setProperty("--much", much.toFixed(2));
  return shown;
}

function renderReadings() {
  const rows = new Map((answer?.readings ?? []).map((row) => [row.property, row]));
  const empty = { read: null, judged: null, judge: "" };
  const { reach } = state.limits;
  for (const row of $("sliders").querySelectorAll(".slider")) {
    const name = row.dataset.property;
    const found = rows.get(name) ?? empty;
    const values = [
      el("span", { "data-value": "asked" }, signed(view.asked[name] ?? 0)),
      value(found.read, reach, "read"),
      value(found.judged, reach, "judged"),
    ];
    row.querySelector(".row").replaceChildren(row.querySelector("label"), ...values);
    row.querySelector("input").setAttribute("aria-valuetext", `${signed(view.asked[name] ?? 0)} standard deviations`);
  }
  const isLate = JSON.stringify([answer?.wanted.asked, answer?.wanted.group]) !== JSON.stringify([view.asked, view.group]);
  document.querySelector(".controls").classList.toggle("late", isLate);
  $("others").replaceChildren(
    ...[...rows.values()]
      .filter((row) => !faces().properties.includes(row.property))
      .map((row) =>
        el(
          "div",
          { class: "row", "data-property": row.property, title: `judge: ${names(row.judge)}` },
          el("span", {}, names(row.property)),
          value(row.read, reach, "read"),
          value(row.judged, reach, "judged"),
        ),
      ),
  );
}

// Sliders and buttons of the set; what they show follows.
function renderControls() {
  const { reach } = state.limits;
  $("sliders").replaceChildren(
    ...faces().properties.map((name) => {
      const input = el("input", {
        type: "range",
        id: `slider-${name}`,
        name,
        min: -reach,
        max: reach,
        step: 0.1,
        value: view.asked[name] ?? 0,
        input: () => setSlider(name, Number(input.value)),
        dblclick: () => {
          input.value = 0;
          setSlider(name, 0);
        },
      });
      const label = el("label", { for: input.id }, names(name), el("small", {}));
      return el("div", { class: "slider", "data-property": name }, el("div", { class: "row" }, label), input);
    }),
  );
  $("groups").replaceChildren(
    ...faces().groups.map((group) =>
      el("button", { "data-group": group, title: groupText(group), click: () => setGroup(group) }, group),
    ),
  );
}

function groupText(group) {
  const { grouping } = faces();
  if (!grouping.length || group.length !== grouping.length) return "all faces";
  return grouping.map((name, place) => `${names(name)} ${group[place] === "h" ? "high" : "low"}`).join(", ");
}

function renderGroups() {
  const set = faces();
  const used = view.group || answer?.group;
  for (const button of $("groups").querySelectorAll("button")) {
    const { group } = button.dataset;
    button.setAttribute("aria-pressed", String(group === used));
    button.textContent = group + (group === answer?.own ? " ●" : "");
  }
  const space = `space ${set.space}${set.hold === "none" ? "" : `, held still: ${set.hold}`}`;
  $("group-text").textContent = used
    ? `${groupText(used)}${used === answer?.own ? " (● this face)" : ""}; ${space}`
    : space;
  const code = set.groups.indexOf(used);
  set.properties.forEach((name, place) => {
    const detail = $("sliders").querySelector(`[data-property="${CSS.escape(name)}"] small`);
    if (!detail) return;
    const found = [set.methods[place]];
    if (code >= 0) {
      found.push(`right for ${(100 * set.accuracy[code][place]).toFixed(0)} %`);
      if (set.ungrouped[code][place]) found.push("found from all groups");
    }
    detail.textContent = found.join(" · ");
    detail.title = code >= 0 ? `1 standard deviation is ${set.strengths[code][place].toFixed(2)} steps along the vector` : "";
  });
}

// ---------------------------------------------------------------- faces to choose from

function newSeeds() {
  const seeds = Array.from({ length: 15 }, () => String(randomSeed()));
  remember(sessionStorage, SEEDS, seeds);
  return seeds;
}

function offered() {
  if (gallery === "case") {
    return state.cases.map(({ key, passed, sum }) => [key, `${key}: ${sum.toFixed(2)}${passed ? " ✓" : ""}`]);
  }
  if (gallery === "character") return state.characters.map(({ key }) => [key, key]);
  return (recall(sessionStorage, SEEDS, null) ?? newSeeds()).map((seed) => [seed, seed]);
}

const EXPLAINED = {
  seed: "a number gives the same face again",
  case: "of the last test: sum of correlations, ✓ passed",
  character: "kept by people",
};
const NOTHING = {
  case: "No tested faces yet; make them with: dvc repro test_vectors",
  character: "No characters yet; Save as character keeps the face shown.",
};

function renderGallery() {
  const rows = offered();
  $("kinds").replaceChildren(
    ...Object.entries(KINDS).map(([kind, text]) =>
      el(
        "button",
        {
          "aria-pressed": String(kind === gallery),
          "data-kind": kind,
          click: () => {
            gallery = kind;
            renderGallery();
          },
        },
        text,
      ),
    ),
  );
  const isOfOthers = gallery === "case" && state.cases.length && state.cases_mark !== faces().mark;
  $("kind-text").textContent = EXPLAINED[gallery] + (isOfOthers ? "; tested with other vectors" : "");
  $("more").hidden = gallery !== "seed";
  const buttons = rows.map(([key, text]) => {
    const src = `faces/${view.set}/${gallery}/${encodeURIComponent(key)}`;
    return el(
      "button",
      {
        "data-kind": gallery,
        "data-key": key,
        "aria-pressed": String(gallery === view.kind && key === view.key),
        title: title(gallery, key),
        click: (event) => setFace({ kind: event.currentTarget.dataset.kind, key, group: "" }),
      },
      el("img", { src, alt: "", loading: "lazy", draggable: "false" }),
      el("span", {}, text),
    );
  });
  $("gallery").replaceChildren(...(buttons.length ? buttons : [el("p", { class: "soft" }, NOTHING[gallery])]));
}

// ---------------------------------------------------------------- pictures and characters

const PICTURES = { strip: "Strip", gif: "There and back", grid: "Images of the test" };

function showPicture(kind, of = "") {
  const more = kind === "gif" ? { of } : {};
  $("picture-title").textContent = `${PICTURES[kind]}: ${title(view.kind, view.key)}`;
  $("picture").classList.toggle("animation", kind === "gif");
  $("of").hidden = kind !== "gif";
  $("of").replaceChildren(
    ...faces().properties.map((name) =>
      el("button", { "aria-pressed": String(name === of), "data-of": name, click: () => showPicture("gif", name) }, names(name)),
    ),
  );
  $("picture-wait").textContent = "Drawing …";
  $("picture-wait").hidden = false;
  $("picture-image").hidden = true;
  $("picture-image").src = `pictures/${kind}?${query(more)}`;
  $("picture-image").alt = $("picture-title").textContent;
  $("picture-save").href = `pictures/${kind}?${query({ ...more, save: 1 })}`;
  if (!$("picture").open) $("picture").showModal();
}

function askName() {
  $("who-text").textContent =
    `The face and its group (${view.group || answer?.group || "as read"}) go into ${state.characters_table}; ` +
    "sliders do not. dvc repro characters tests it and draws every expression.";
  $("new-name").value = "";
  $("who-error").hidden = true;
  $("who").showModal();
}

async function keep(event) {
  event.preventDefault();
  const { set, kind, key } = view;
  const name = $("new-name").value.trim();
  const group = view.group || answer?.group;
  if (!name || !group) return;
  try {
    await api("api/characters", { set, kind, key, group, name });
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    $("who-error").textContent = failure.message;
    $("who-error").hidden = false;
    return;
  }
  $("who").close();
  notify(`${name} is in ${state.characters_table}.`);
  gallery = "character";
  await loadState();
  renderGallery();
}

// ---------------------------------------------------------------- start

async function loadState() {
  try {
    state = await api("api/state");
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    notify(failure.message, true);
    return false;
  }
  if (state.problems.length) notify(state.problems.join("; "), true);
  return true;
}

function showAddress() {
  const named = fromAddress();
  if (!named) toAddress(false);
  answer = null;
  gallery = view.kind;
  renderControls();
  render();
  refresh();
  renderGallery();
}

async function start() {
  while (!(await loadState())) await new Promise((done) => setTimeout(done, 1000));
  if (!state.problems.length) notify("");
  $("sets-label").hidden = state.sets.length < 2;
  $("sets").replaceChildren(...state.sets.map((set, place) => el("option", { value: place }, set.title)));
  $("grid").textContent = `${state.limits.images} images`;
  $("seed").pattern = "[0-9]{1,10}";
  showAddress();
}

$("draw").addEventListener("click", () => setFace({ kind: "seed", key: String(randomSeed()), group: "" }));
$("seed-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = $("seed").value.trim();
  if (!/^[0-9]{1,10}$/.test(key) || Number(key) > state.limits.most_seed) {
    notify(`Seed ${key}: allowed are 0 to ${state.limits.most_seed}`, true);
  } else {
    notify("");
    setFace({ kind: "seed", key: String(Number(key)), group: "" });
  }
});
$("sets").addEventListener("change", () => setSet(Number($("sets").value)));
$("zero").addEventListener("click", () => setFace({ asked: {} }, false));
$("more").addEventListener("click", () => {
  newSeeds();
  renderGallery();
});
$("strip").addEventListener("click", () => showPicture("strip"));
$("grid").addEventListener("click", () => showPicture("grid"));
$("gif").addEventListener("click", () => showPicture("gif", faces().properties[0]));
$("picture-image").addEventListener("load", () => {
  $("picture-wait").hidden = true;
  $("picture-image").hidden = false;
});
$("picture-image").addEventListener("error", () => ($("picture-wait").textContent = "It could not be drawn."));
$("picture-close").addEventListener("click", () => $("picture").close());
$("picture").addEventListener("close", () => $("picture-image").removeAttribute("src"));
$("keep").addEventListener("click", askName);
$("who").querySelector("form").addEventListener("submit", keep);
window.addEventListener("hashchange", showAddress);
await start();

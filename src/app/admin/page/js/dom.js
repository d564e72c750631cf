// Making and changing elements. Whatever comes from the engine enters as text, never as markup.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const TOASTS_MAX = 4;

/** Makes an element: `h("p", { class: "x", hidden: true, onclick }, "text", child)`. */
function h(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else setAttribute(element, key, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function svg(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes ?? {})) setAttribute(element, key, value);
  element.append(...children);
  return element;
}

/** Sets an attribute only where that changes something; `false` and `null` remove it. */
function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else {
    const text = value === true ? "" : String(value);
    if (element.getAttribute(name) !== text) element.setAttribute(name, text);
  }
}

/** Sets a text only where that changes something, so that a live region speaks only of changes. */
function setText(element, text) {
  const wanted = text ?? "";
  if (element.textContent !== wanted) element.textContent = wanted;
}

function show(element, isShown) {
  if (element.hidden === isShown) element.hidden = !isShown;
}

/** A text of somebody else: its direction is its own, and it breaks anywhere. */
function foreign(text, attributes) {
  return h("bdi", { class: "text", ...attributes }, text);
}

/** Says the same list of options, keeping the choice where it is still there. */
function setOptions(select, options) {
  const wanted = JSON.stringify(options);
  if (select.dataset.options === wanted) return;
  const chosen = select.value;
  select.dataset.options = wanted;
  select.replaceChildren(...options.map(({ value, text }) => h("option", { value }, text)));
  if (options.some(({ value }) => value === chosen)) select.value = chosen;
}

/** Brings a container's children in line with the items, keeping the element of each key. */
function keep(container, items, keyOf, make, update) {
  const elements = (container.kept ??= new Map());
  const wanted = new Map(items.map((item) => [keyOf(item), item]));
  for (const [key, kept] of elements) {
    if (wanted.has(key)) continue;
    kept.element.remove();
    elements.delete(key);
  }
  let place = container.firstElementChild;
  for (const [key, item] of wanted) {
    if (!elements.has(key)) elements.set(key, make(item));
    const kept = elements.get(key);
    if (kept.element === place) place = place.nextElementSibling;
    else container.insertBefore(kept.element, place);
    update(kept, item);
  }
}

/** A short message, which goes away by itself unless it `stays`. */
function toast(text, isProblem = false, stays = false) {
  const element = h("p", { class: isProblem ? "toast bad" : "toast" }, foreign(text));
  $("toasts").append(element);
  while ($("toasts").children.length > TOASTS_MAX) $("toasts").firstElementChild.remove();
  if (!stays) setTimeout(() => element.remove(), isProblem ? 15000 : 6000);
  return element;
}

const SHAPES = {
  ok: [["circle", { cx: 8, cy: 8, r: 7 }], ["path", { class: "ink", d: "m4.8 8.2 2.3 2.3 4.2-4.6" }]],
  behind: [["path", { d: "M2 2.5 14.5 8 2 13.5z" }]],
  bad: [["path", { d: "m5 1 6 0 4 4 0 6-4 4-6 0-4-4 0-6z" }], ["path", { class: "ink", d: "M8 4.2v4.6m0 2.6v.2" }]],
  paused: [["path", { d: "M2.5 2h4v12h-4zm7 0h4v12h-4z" }]],
  stopped: [["path", { d: "M2 2h12v12H2z" }], ["path", { class: "ink", d: "m5.2 5.2 5.6 5.6m0-5.6-5.6 5.6" }]],
  unknown: [["circle", { class: "hollow", cx: 8, cy: 8, r: 6 }]],
};

/** A state's mark: told apart by its shape, not by its colour alone. */
function mark(kind) {
  const parts = SHAPES[kind].map(([name, attributes]) => svg(name, attributes));
  return svg("svg", { class: `mark-${kind}`, viewBox: "0 0 16 16", "aria-hidden": "true" }, ...parts);
}

function setMark(element, kind) {
  if (element.dataset.kind === kind) return;
  element.dataset.kind = kind;
  element.replaceChildren(mark(kind));
}

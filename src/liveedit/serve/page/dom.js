// @ts-check
/** Elements made in code: text becomes text nodes, so nothing stored is ever read as HTML. */

/** @param {string} id @returns {any} the element with that id */
export const byId = (id) => document.getElementById(id);

/** Act on each file that is chosen. @param {string} id @param {(file: File) => void} act */
export function onFile(id, act) {
  byId(id).onchange = () => {
    const [file] = byId(id).files;
    byId(id).value = ""; // the same file can be chosen again
    if (file) act(file);
  };
}

/**
 * A new element. Properties named "on…" are listeners, others attributes; children are nodes and
 * texts, also in lists. What is false or missing is left out.
 * @type {(tag: string, properties: Record<string, any>, ...children: any) => any}
 */
export function el(tag, properties, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== false && child != null));
  return made;
}

/** @param {string} label @param {() => void} onclick @param {string} [kind] */
export const button = (label, onclick, kind) =>
  el("button", { type: "button", onclick, class: kind }, label);

/** A value under its title. @param {string} title @param {...any} value */
export const fact = (title, ...value) => el("div", {}, el("dt", {}, title), el("dd", {}, value));

/** A short word in a frame. @param {string} word @param {string} [kind] */
export const badge = (word, kind = "") => el("span", { class: `badge ${kind}` }, word);

/** A link to an edit. @param {string} id @param {string} kind @param {...any} content */
export const editLink = (id, kind, ...content) =>
  el("a", { href: `#edit/${encodeURIComponent(id)}`, class: kind }, content);

/** An answer, and the one it replaced if that differs. @param {string} was @param {string} is */
export function change(was, is) {
  const old = [el("del", {}, was || "(nothing)"), el("span", {}, "→")];
  return el("span", { class: "change" }, was !== is && old, el("ins", {}, is || "(nothing)"));
}

const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** A time as the reader writes it. @param {string} iso */
export const moment = (iso) => el("time", { datetime: iso }, MOMENT.format(new Date(iso)));

/** A number with its noun. @param {number} number @param {string} noun */
export const count = (number, noun) =>
  `${number.toLocaleString()} ${noun}${number === 1 ? "" : "s"}`;

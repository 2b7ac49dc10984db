// @ts-check
/** The list of edits: pictures, search, states and pages; export and import. */

import { call, changeToken, edited, mayEdit, send } from "./api.js";
import { badge, button, byId, count, editLink, el, moment, onFile } from "./dom.js";
import { attempt, notify } from "./notices.js";

const PAGE = 30;
/** Milliseconds without a key before a search begins. */
const PAUSE = 200;
export const STATES = { in_force: "In force", superseded: "Superseded", taken_back: "Taken back" };

/** The id of the last edit shown. */
let last = "";
/** @type {AbortController | null} */
let loading = null;

/** Make search, filter, pages, export and import work. */
export function startEdits() {
  let timer = 0;
  byId("search").oninput = () => {
    clearTimeout(timer);
    timer = setTimeout(showEdits, PAUSE);
  };
  byId("state").onchange = showEdits;
  byId("filter").onsubmit = (event) => event.preventDefault();
  byId("more").onclick = () => attempt(nextPage);
  byId("export").onclick = () => attempt(() => download(null));
  byId("import").onclick = () => byId("import-file").click();
  onFile("import-file", (file) => attempt(() => upload(file)));
}

/** Show the list from its beginning. */
export async function showEdits() {
  last = "";
  if (!mayEdit()) return notAllowed();
  await attempt(nextPage);
}

async function nextPage() {
  loading?.abort();
  loading = new AbortController();
  const first = last === "";
  const wanted = { search: byId("search").value.trim(), state: byId("state").value, after: last };
  const query = new URLSearchParams(Object.entries(wanted).filter(([, value]) => value));
  const page = await call("GET", `/v1/edits?limit=${PAGE}&${query}`, null, loading.signal);
  if (first) byId("list").replaceChildren();
  const rows = page.data.map(row);
  byId("list").append(...rows);
  if (!first) rows[0]?.firstChild.focus();
  last = page.data.at(-1)?.id ?? last;
  const shown = byId("list").children.length;
  byId("more").hidden = !page.has_more;
  byId("found").textContent = `${shown.toLocaleString()} of ${count(page.total, "edit")}`;
  byId("nothing").hidden = shown > 0;
  if (!shown) nothingFound();
}

/** Say what to do where the list is empty. */
function empty(title, words, action) {
  byId("list").replaceChildren();
  byId("found").textContent = "";
  byId("more").hidden = true;
  byId("nothing").hidden = false;
  byId("nothing").replaceChildren(el("h2", {}, title), el("p", {}, words), action);
}

function nothingFound() {
  if (byId("search").value.trim() || byId("state").value !== "in_force") {
    const reset = button("Show all in force", () => (byId("filter").reset(), showEdits()));
    return empty("No edit matches", "Try other words or another state.", reset);
  }
  const words = "Ask a question, correct the answer and keep it, or import edits from a file.";
  empty("No edits yet", words, el("a", { href: "#ask", class: "button" }, "Ask a question"));
}

function notAllowed() {
  const other = button("Use another token", async () => {
    if (await changeToken()) location.reload();
  });
  empty("This token may ask, but not edit", "Its owner can give you one that may.", other);
}

function row(edit) {
  const state = edit.state !== "in_force" && badge(STATES[edit.state]);
  const words = el("span", { class: "words" },
    el("span", { class: "quiet long" }, edit.question),
    el("span", { class: "given" }, el("span", { class: "long" }, edit.answer), state,
      untaken(edit)));
  const rest = [count(edit.hits, "hit"), edit.editor, edit.who].filter(Boolean).join(" · ");
  const about = [moment(edit.made), ` · ${rest}`];
  const meta = el("span", { class: "quiet long meta" }, about);
  return el("li", {}, editLink(edit.id, "", thumbnail(edit, ""), words, meta));
}

/** A warning on an edit that did not take. @param {any} edit */
export const untaken = (edit) => edit.took === false && badge("Did not take", "warn");

/**
 * The picture of an edit; fetched here, as an image cannot send the token.
 * @param {any} edit @param {string} alt
 */
export function thumbnail(edit, alt) {
  if (!edit.thumbnail) return el("span", { class: "thumb none" });
  const image = el("img", { class: "thumb", alt });
  const load = async () => {
    const blob = await (await send("GET", edit.thumbnail)).blob();
    image.onload = () => URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(blob);
  };
  load().catch(() => image.classList.add("none"));
  return image;
}

/** Save edits as a file, all in force if no ids are given. @param {string[] | null} ids */
export async function download(ids) {
  const response = await send("POST", "/v1/edits/export", { ids });
  const href = URL.createObjectURL(await response.blob());
  el("a", { href, download: "edits.safetensors" }).click();
}

async function upload(file) {
  const { imported } = await call("POST", "/v1/edits/import", file);
  edited();
  notify(`Imported ${count(imported, "edit")}.`);
}

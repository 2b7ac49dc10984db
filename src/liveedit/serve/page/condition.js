// @ts-check
/** How the server and its edits are: the line in the header, and its dialog. */

import { call, mayEdit } from "./api.js";
import { byId, count, editLink, el, fact } from "./dom.js";
import { attempt, openDialog } from "./notices.js";

/** Milliseconds between two looks. */
const EVERY = 15_000;
/** Among so many of the newest edits those that did not take are found. */
const SEARCHED = 1000;

/** Look now and from time to time. */
export function startCondition() {
  byId("health").onclick = () => attempt(showCondition);
  setInterval(() => document.hidden || look(), EVERY);
  document.addEventListener("edited", look);
  look();
}

async function look() {
  const health = await call("GET", "/health").catch(() => null);
  byId("health").classList.toggle("lost", !health);
  byId("health-line").textContent = health?.model ?? "Not connected";
  byId("offline").textContent = health ? "" : "The server cannot be reached. Trying again …";
  byId("count").textContent = health?.edits.toLocaleString() ?? "";
}

async function showCondition() {
  const { model, editor, edits, version } = await call("GET", "/health");
  const facts = { Model: model, Editor: editor, "Edits in force": edits, Version: version };
  const failed = el("div", { role: "status" });
  openDialog(byId("condition"),
    el("h2", { id: "condition-title" }, "Model and edits"),
    el("dl", { class: "facts" }, Object.entries(facts).map(([title, value]) => fact(title, value))),
    failed,
    el("p", {}, el("a", { href: "/docs" }, "HTTP interface")));
  if (mayEdit()) failed.append(...(await untaken()));
}

/** The edits in force that did not take. */
async function untaken() {
  const found = [];
  let page = { data: [], has_more: true };
  while (page.has_more && found.length < SEARCHED) {
    const after = found.length ? `&after=${encodeURIComponent(found.at(-1).id)}` : "";
    page = await call("GET", `/v1/edits?limit=100${after}`);
    found.push(...page.data);
  }
  const failed = found.filter(({ took }) => took === false);
  const lines = failed.map(({ id, question, answer }) =>
    el("li", {}, editLink(id, "", question), ` ${answer}`));
  const title = failed.length
    ? `${failed.length} of the newest ${count(found.length, "edit")} did not take`
    : "Every edit took";
  return [el("h3", {}, title), el("ul", { class: "lines" }, lines)];
}

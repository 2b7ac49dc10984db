// @ts-check
/** How the server and its edits are: the line in the header, and its dialog. */

import { call, events, mayEdit, send } from "./api.js";
import { button, byId, count, editLink, el, fact } from "./dom.js";
import { attempt, openDialog } from "./notices.js";

/** Milliseconds between two looks. */
const EVERY = 15_000;
/** Among so many of the newest edits those that did not take are found. */
const SEARCHED = 500;

const STAGES = { edits: "Asking the edits again", background: "Asking about other images" };
const KINDS = {
  does_not_take: "Do not take",
  contradiction: "Contradict each other",
  fires_on_background: "Fire on images that no edit is about",
};

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
  const checks = mayEdit() && check();
  openDialog(byId("condition"),
    el("h2", { id: "condition-title" }, "Model and edits"),
    el("dl", { class: "facts" }, Object.entries(facts).map(([title, value]) => fact(title, value))),
    failed,
    checks,
    el("p", {}, el("a", { href: "/docs" }, "HTTP interface")));
  if (mayEdit()) failed.append(...(await untaken()));
}

/** The edits that did not take, of the newest in force. */
async function untaken() {
  const { data } = await call("GET", `/v1/edits?limit=${SEARCHED}`);
  const failed = data.filter(({ took }) => took === false);
  const lines = failed.map(({ id, question, answer }) =>
    el("li", {}, editLink(id, "", question), ` ${answer}`));
  const title = failed.length
    ? `${failed.length} of the newest ${count(data.length, "edit")} did not take when made`
    : "Every edit took when it was made";
  return [el("h3", {}, title), el("ul", { class: "lines" }, lines)];
}

/** A button that checks all edits, and what it finds. */
function check() {
  const found = el("div", { class: "found", role: "status" });
  const start = button("Check all edits", async () => {
    const own = new AbortController();
    byId("condition").addEventListener("close", () => own.abort(), { once: true });
    start.disabled = true;
    const done = await attempt(() => checkNow(found, own.signal));
    if (!done) found.replaceChildren();
    start.disabled = false;
  });
  return el("div", { class: "lines" }, el("div", {}, start), found);
}

/** Check all edits, and show how far that is and what is found. */
async function checkNow(found, signal) {
  const findings = [];
  for await (const event of events(await send("POST", "/v1/edits/check", null, signal))) {
    if (event.finding) findings.push(event.finding);
    else found.replaceChildren(...far(event.progress));
  }
  const groups = Object.entries(KINDS).map(([kind, title]) =>
    group(title, findings.filter((finding) => finding.kind === kind)));
  const sound = el("p", {}, "Nothing found: every edit takes, none contradicts another, " +
    "and none fires where it should not.");
  found.replaceChildren(...(findings.length ? groups.flat() : [sound]));
}

/** How far a check is. */
function far({ stage, done, of }) {
  const words = `${STAGES[stage]}: ${done.toLocaleString()} of ${of.toLocaleString()}`;
  return [el("p", {}, words), el("progress", { value: done, max: of, "aria-label": words })];
}

/** The findings of one kind. */
function group(title, findings) {
  if (!findings.length) return [];
  const lines = findings.map(({ text, edits }) => el("li", {},
    edits.map(({ id, question, answer }) =>
      el("p", {}, editLink(id, "long", question), answer)),
    el("p", { class: "quiet" }, text)));
  return [el("h3", {}, title), el("ul", { class: "lines" }, lines)];
}

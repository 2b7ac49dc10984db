// @ts-check
/** Asking: the question, the answer as it comes, what fired, and why. */

import { ask, call, editPath, mayEdit, send, takeBack, unedited } from "./api.js";
import { correction } from "./correct.js";
import { button, byId, change, editLink, el } from "./dom.js";
import { attempt, clearNotice, notify } from "./notices.js";
import { currentImage, takeImage } from "./picture.js";

/** @type {AbortController | null} */
let running = null;

/** Make the form of the question work. */
export function startAsk() {
  byId("question-form").onsubmit = (event) => {
    event.preventDefault();
    if (running) running.abort();
    else askNow();
  };
  byId("question").onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    byId("question-form").requestSubmit();
  };
  document.addEventListener("keydown", ({ key }) => key === "Escape" && running?.abort());
  byId("example").onclick = () => attempt(example);
}

/** Ask the example that ships with the page. */
async function example() {
  const response = await send("GET", "/page/example.webp");
  byId("question").value = "What is the country with this flag?";
  await takeImage(await response.blob());
  await askNow();
}

async function askNow() {
  const question = byId("question").value.trim();
  if (question) return answer({ image: currentImage(), question });
  byId("question").focus();
  notify("Write a question first.");
}

/**
 * Ask, and show the answer with what fired, and the edit that was just kept, if one was.
 * @param {import("./api.js").Question} question @param {any} [kept]
 */
async function answer(question, kept) {
  running?.abort();
  clearNotice();
  const text = el("p", { class: "answer" });
  const live = el("div", { "aria-live": "polite", "aria-atomic": "true" }, text);
  const below = el("div", { class: "below" });
  const title = el("h2", {}, question.question);
  const card = el("article", { class: "card" }, title, live, kept && strip(question, kept), below);
  byId("answers").replaceChildren(card);
  (card.querySelector("button") ?? byId("question")).focus();
  await attempt(async () => {
    text.replaceChildren();
    const { fired, plain } = await stream(question, live, text);
    text.textContent = text.textContent.trim();
    if (fired.length && plain.trim() !== text.textContent) {
      below.append(el("p", {}, "Without edits: ", el("q", {}, plain)));
    }
    const chips = await Promise.all(fired.map(chip));
    if (!fired.length) chips.push(el("span", { class: "quiet" }, "No edit fired."));
    below.append(el("div", { class: "chips" }, chips), actions(question, card, text, below));
  });
}

/** Write an answer into `text` as it comes. Returns what fired, and the answer without it. */
async function stream(question, live, text) {
  const own = (running = new AbortController());
  byId("send").textContent = "Stop";
  live.ariaBusy = "true";
  try {
    const pieces = ask(question, own.signal);
    let piece = await pieces.next();
    for (; !piece.done; piece = await pieces.next()) text.append(piece.value);
    const fired = piece.value;
    return { fired, plain: fired.length ? await unedited(question, own.signal) : "" };
  } finally {
    live.ariaBusy = "false";
    if (running === own) running = null;
    if (!running) byId("send").textContent = "Ask";
  }
}

/** Buttons to correct an answer, in its place, and to explain it. */
function actions(question, card, text, below) {
  const leave = () => {
    card.querySelector("form").remove();
    card.classList.remove("correcting");
    correct.focus();
  };
  const correct = button("Correct this answer", () => {
    const done = (kept) => answer(question, kept);
    below.before(correction(question, text.textContent, done, leave));
    card.classList.add("correcting");
    byId("right").focus();
    byId("right").select();
  });
  const why = button("Why?", () => attempt(async () => {
    const found = await call("POST", "/v1/edits/explain", question);
    below.querySelector(".why")?.remove();
    below.append(explanation(found));
  }), "plain");
  return el("div", { class: "row needs-edit" }, correct, why);
}

/** A line on the edit that was kept, with a way back. */
function strip(question, { id, took, before, after, answer: wanted }) {
  const failed = took === false;
  const words = failed ? "Kept, but it did not take: " : "Kept: ";
  const line = el("span", {}, words, change(before, failed ? after : wanted));
  const undo = button("Undo", () => attempt(async () => {
    await takeBack(id);
    await answer(question);
    notify("Taken back. The model answers as if this edit had never been made.");
  }));
  return el("div", { class: failed ? "strip warn" : "strip", role: "status" }, line, undo);
}

/** An edit that fired, named where the reader may see it. */
async function chip({ id, weight }) {
  const share = el("span", { title: "Weight in the answer" }, fixed(weight));
  const edit = mayEdit() && (await call("GET", editPath(id)).catch(() => null));
  if (!edit) return el("span", { class: "chip" }, "An edit fired", share);
  const words = el("span", { class: "cut" }, `Edit: ${edit.question} ${edit.answer}`);
  return editLink(id, "chip", words, share);
}

/** Which edits fired and which nearly did. */
function explanation({ answer, unedited, fired, near }) {
  const list = (title, found) => found.length > 0 &&
    [el("h3", {}, title), el("ul", { class: "lines" }, found.map(scored))];
  return el("section", { class: "why", role: "status" },
    el("p", {}, "Without and with edits: ", change(unedited, answer)),
    list("Fired", fired), list("Nearest of those that did not fire", near));
}

function scored({ edit, weight, ...scores }) {
  const parts = ["image", "question"].filter((name) => scores[name] !== null).map((name) =>
    `${name} ${fixed(scores[name])} (needs ${fixed(scores[`${name}_threshold`])})`);
  if (weight) parts.unshift(`weight ${fixed(weight)}`);
  const link = editLink(edit.id, "", edit.question);
  return el("li", {}, link, ` ${edit.answer}`, el("p", { class: "quiet" }, parts.join(" · ")));
}

const fixed = (value) => value?.toFixed(2) ?? "–";

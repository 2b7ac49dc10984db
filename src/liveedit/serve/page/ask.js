// @ts-check
/** Asking: the question, the answer as it comes, what fired, and why. */

import { ask, call, editPath, send, takeBack, unedited } from "./api.js";
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

/** Ask, and show the answer, above it the edit that was just kept, if one was. */
async function answer(question, kept = null) {
  running?.abort();
  clearNotice();
  const card = new Card(question, kept);
  byId("answers").replaceChildren(card.whole);
  await attempt(() => stream(card));
}

async function stream(card) {
  const own = (running = new AbortController());
  byId("send").textContent = "Stop";
  card.begin();
  try {
    const pieces = ask(card.question, own.signal);
    let piece = await pieces.next();
    for (; !piece.done; piece = await pieces.next()) card.text.append(piece.value);
    const fired = piece.value;
    const plain = fired.length ? await unedited(card.question, own.signal) : null;
    card.end(await Promise.all(fired.map(chip)), plain);
  } finally {
    card.live.ariaBusy = "false";
    if (running === own) running = null;
    if (!running) byId("send").textContent = "Ask";
  }
}

/** A question with its answer. */
class Card {
  /** @param {import("./api.js").Question} question @param {any} kept */
  constructor(question, kept) {
    this.question = question;
    this.text = el("p", { class: "answer" });
    this.live = el("div", { "aria-live": "polite", "aria-atomic": "true" }, this.text);
    this.below = el("div", { class: "below" });
    const parts = [el("h2", {}, question.question), this.live, kept && this.strip(kept)];
    this.whole = el("article", { class: "card" }, parts, this.below);
  }

  /** Wait for the first piece. */
  begin() {
    this.live.ariaBusy = "true";
    this.text.replaceChildren();
    this.below.replaceChildren();
  }

  /** Show what fired, and the plain answer if it differs. */
  end(chips, plain) {
    const text = (this.text.textContent = this.text.textContent.trim());
    if (plain !== null && plain.trim() !== text) {
      this.below.append(el("p", {}, "Without edits: ", el("q", {}, plain)));
    }
    const none = !chips.length && el("span", { class: "quiet" }, "No edit fired.");
    const correct = button("Correct this answer", () => this.correct());
    const why = button("Why?", () => attempt(() => this.explain()), "plain");
    this.below.append(el("div", { class: "chips" }, chips, none));
    this.below.append(el("div", { class: "row needs-edit" }, correct, why));
  }

  async explain() {
    const found = await call("POST", "/v1/edits/explain", this.question);
    this.below.querySelector(".why")?.remove();
    this.below.append(explanation(found));
  }

  /** Put a field in the place of the answer. */
  correct() {
    const leave = () => {
      form.remove();
      this.whole.classList.remove("correcting");
      this.below.querySelector("button").focus();
    };
    const done = (kept) => answer(this.question, kept);
    const form = correction(this.question, this.text.textContent, done, leave);
    this.whole.classList.add("correcting");
    this.live.after(form);
    byId("right").focus();
    byId("right").select();
  }

  /** A line on the edit that was kept, with a way back. */
  strip({ id, took, before, after, answer: wanted }) {
    const failed = took === false;
    const words = failed ? "Kept, but it did not take: " : "Kept: ";
    const line = el("span", {}, words, change(before, failed ? after : wanted));
    const undo = button("Undo", () => attempt(() => this.undo(id)));
    return el("div", { class: failed ? "strip warn" : "strip", role: "status" }, line, undo);
  }

  async undo(id) {
    await takeBack(id);
    await answer(this.question);
    notify("Taken back. The model answers as if this edit had never been made.");
  }
}

/** An edit that fired, named where the reader may see it. */
async function chip({ id, weight }) {
  const share = el("span", { title: "Weight in the answer" }, weight.toFixed(2));
  const hidden = document.body.classList.contains("only-ask");
  const edit = hidden ? null : await call("GET", editPath(id)).catch(() => null);
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

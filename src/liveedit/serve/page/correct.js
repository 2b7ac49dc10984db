// @ts-check
/** Correcting an answer in its place: write the right one, see what changes, keep it. */

import { call, edited, setWho, who as known } from "./api.js";
import { button, byId, change, count, el } from "./dom.js";
import { attempt } from "./notices.js";

/**
 * The form that corrects a wrong answer. It calls `done` with the edit that was kept, or `leave`.
 * @param {import("./api.js").Question} question @param {string} wrong
 * @param {(kept: any) => void} done @param {() => void} leave
 */
export function correction(question, wrong, done, leave) {
  const trial = el("div", { class: "trial", role: "status" });
  const tries = el("button", { class: "main" }, "Try");
  const keeps = el("button", {}, "Keep");
  const who = field("who", "Who", known(), 200);
  const form = el("form", { class: "correct" },
    field("right", "Right answer", wrong),
    el("div", { class: "pair" }, who, field("why", "Why (optional)", "", 2000)),
    el("div", { class: "row" }, tries, keeps, button("Cancel", leave, "plain")),
    el("p", { class: "quiet" }, "Try shows what would change, Keep makes it last."),
    trial);
  /** Mark what to do next. */
  const mark = (tried) => {
    tries.className = tried ? "" : "main";
    keeps.className = tried ? "main" : "";
  };
  const tryIt = async (draft) => {
    trial.replaceChildren(...outcome(await call("POST", "/v1/edits/try", draft)));
    mark(true);
  };
  const keep = async (draft) => {
    const kept = await call("POST", "/v1/edits", draft);
    edited();
    done(kept);
  };
  form.onsubmit = async (event) => {
    event.preventDefault();
    const [answer, who, why] = ["right", "who", "why"].map((id) => byId(id).value.trim());
    if (!answer) return byId("right").focus();
    setWho(who);
    trial.replaceChildren(el("p", { class: "quiet" }, "One moment …"));
    tries.disabled = keeps.disabled = true;
    const work = event.submitter === keeps ? keep : tryIt;
    const succeeded = await attempt(() => work({ ...question, answer, who, why }));
    tries.disabled = keeps.disabled = false;
    if (!succeeded) trial.replaceChildren();
    (succeeded ? keeps : byId("right"))?.focus();
  };
  form.addEventListener("keydown", ({ key }) => key === "Escape" && leave());
  form.oninput = () => (trial.replaceChildren(), mark(false));
  return form;
}

function field(id, label, value, maxlength) {
  const input = el("input", { id, value, maxlength, autocomplete: "off" });
  return el("div", {}, el("label", { for: id }, label), input);
}

/** What a trial found. */
function outcome({ before, after, took, asked, changes }) {
  const words = took === false ? "It would not take: " : "This question: ";
  const here = el("p", { class: took === false && "warn" }, words, change(before, after));
  const others = count(asked, "other question");
  const summary = changes.length
    ? `${changes.length} of ${others} would change, too:`
    : `Nothing else changes among ${others}.`;
  return [here, el("p", {}, summary), el("ul", { class: "lines" }, changes.map(affected))];
}

function affected({ question, image, before, after }) {
  const shown = image?.startsWith("data:image/");
  const picture = el(shown ? "img" : "span", { class: "thumb", src: image, alt: shown && "" });
  const words = el("div", {}, el("p", {}, question), change(before, after));
  return el("li", { class: "shown" }, picture, words);
}

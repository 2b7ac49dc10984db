// @ts-check
/** The dialog of one edit: its picture, before and after, its history and when it fired. */

import { call, editPath, takeBack } from "./api.js";
import { badge, button, byId, change, count, editLink, el, fact, moment } from "./dom.js";
import { download, STATES, thumbnail, untaken } from "./edits.js";
import { attempt, notify, openDialog } from "./notices.js";

/** Show an edit. Returns whether it could be shown. @param {string} id */
export const showDetail = (id) =>
  attempt(async () => {
    const paths = [editPath(id), `${editPath(id)}/hits`];
    const [edit, hits] = await Promise.all(paths.map((path) => call("GET", path)));
    const told = el("p", { class: "answer" }, edit.answer);
    const parts = [top(edit, told), facts(edit), log(edit), firings(hits), actions(edit)];
    openDialog(byId("detail"), parts);
    const { unedited, answer } = await call("GET", `${editPath(id)}/answers`);
    told.replaceChildren(change(unedited, answer));
  });

function top(edit, told) {
  const words = el("div", {},
    el("h2", { id: "detail-title" }, edit.question),
    told,
    el("p", { class: "chips" }, badge(STATES[edit.state], edit.state), untaken(edit)));
  return el("div", { class: "shown" }, edit.thumbnail && thumbnail(edit, "Its image"), words);
}

function facts({ id, made, who, why, editor, names, superseded_by: later, overrules }) {
  const link = (id) => editLink(id, "", id.slice(0, 8));
  return el("dl", { class: "facts" },
    fact("Made", moment(made)),
    who && fact("Who", who),
    why && fact("Why", why),
    fact("Editor", editor),
    names.length > 0 && fact("Image", names.join(", ")),
    fact("Id", el("code", {}, id)),
    later && fact("Superseded by", link(later)),
    overrules.length > 0 && fact("Overrules", overrules.map((id) => [link(id), " "])));
}

const line = (time, ...words) =>
  el("li", {}, el("span", {}, words), el("span", { class: "quiet" }, moment(time)));

function log({ history }) {
  const lines = history.map(({ time, kind, who, by }) =>
    line(time, kind.replace("_", " "), by && [" by ", editLink(by, "", by.slice(0, 8))],
      who && ` ${by ? "of" : "by"} ${who}`));
  return [el("h3", {}, "History"), el("ol", { class: "lines log" }, lines)];
}

function firings({ count: times, data }) {
  const lines = data.map(({ time, weight, request }) =>
    line(time, `weight ${weight.toFixed(2)} `, el("code", {}, request)));
  const title = times ? `Fired ${count(times, "time")}` : "Has not fired yet";
  return [el("h3", {}, title), el("ol", { class: "lines log" }, lines)];
}

function actions({ id, state }) {
  const undo = async () => {
    await takeBack(id);
    await showDetail(id);
    notify("Taken back. The model answers as if this edit had never been made.");
  };
  const save = button("Export", () => attempt(() => download([id])));
  const back = button("Take back", () => attempt(undo), "danger");
  return state === "in_force" && el("div", { class: "row" }, save, back);
}

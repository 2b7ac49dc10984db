// @ts-check
/** The page: its views, the token, and what ties its parts together. */

import { call, tokens } from "./api.js";
import { startAsk } from "./ask.js";
import { startCondition } from "./condition.js";
import { showDetail } from "./detail.js";
import { byId } from "./dom.js";
import { showEdits, startEdits } from "./edits.js";
import { attempt } from "./notices.js";
import { startPicture } from "./picture.js";

let view = "ask";

/** Show what the address names: a view, or an edit above the view. */
async function route() {
  const [name, id] = location.hash.slice(1).split("/");
  byId("condition").close();
  if (name === "edit" && id) {
    if (!(await showDetail(decodeURIComponent(id)))) leaveDetail();
    return;
  }
  byId("detail").close();
  view = name === "edits" ? "edits" : "ask";
  for (const name of ["ask", "edits"]) {
    byId(name).hidden = view !== name;
    byId(`to-${name}`).ariaCurrent = view === name ? "page" : "false";
  }
  if (view === "edits") await showEdits();
}

/** Give the address back to the view under the dialog of an edit. */
function leaveDetail() {
  if (location.hash.startsWith("#edit/")) history.replaceState(null, "", `#${view}`);
}

/** Ask for a token. @param {boolean} known whether one was given that the server refuses */
tokens.ask = (known) => {
  const dialog = byId("token-dialog");
  const reason = known ? "The one given is not known here." : "Its owner can give you one.";
  byId("token-reason").textContent = reason;
  byId("token-form").reset();
  let given = "";
  byId("token-form").onsubmit = () => (given = byId("token").value.trim());
  byId("token-cancel").onclick = () => dialog.close();
  dialog.showModal();
  return new Promise((resolve) => (dialog.onclose = () => resolve(given)));
};

/** Learn whether the reader may edit; a server with tokens asks for one now. */
const learnRights = () =>
  call("GET", "/v1/edits?limit=1").catch((error) => {
    if (error.status !== 403) throw error;
  });

document.addEventListener("edited", () => view === "edits" && showEdits());
byId("detail").addEventListener("close", leaveDetail);
addEventListener("hashchange", route);

startPicture();
startAsk();
startEdits();
startCondition();
attempt(learnRights);
route();

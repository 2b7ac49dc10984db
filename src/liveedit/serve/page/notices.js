// @ts-check
/** Messages at the foot of the page, failures that can be tried again, and dialogs. */

import { Refused } from "./api.js";
import { button, byId, el } from "./dom.js";

/** Milliseconds for which a message is shown that tells of no failure. */
const SHOWN = 6000;
let timer = 0;

/**
 * Show a message in place of the one before.
 * @type {(message: string, failed?: boolean, retry?: () => void) => void}
 */
export function notify(message, failed = false, retry) {
  clearNotice();
  const region = byId("notices");
  document.querySelector("dialog[open]")?.append(region); // around a dialog all is inert
  const again = retry && button("Retry", () => (clearNotice(), retry()), "act");
  const close = el("button", { class: "close", "aria-label": "Close", onclick: clearNotice }, "×");
  region.append(el("div", { class: failed ? "notice failed" : "notice" }, message, again, close));
  if (!failed) timer = setTimeout(clearNotice, SHOWN);
}

/** Remove the message. */
export function clearNotice() {
  clearTimeout(timer);
  byId("notices").replaceChildren();
}

/**
 * Run something, or say in one line why it failed. Returns whether it succeeded.
 * @param {() => Promise<unknown>} work
 */
export async function attempt(work) {
  try {
    await work();
    return true;
  } catch (error) {
    if (error instanceof Refused) {
      const passing = [0, 401, 429].includes(error.status) || error.status >= 500;
      notify(error.message, true, passing ? () => attempt(work) : undefined);
    } else if (/** @type {Error} */ (error).name !== "AbortError") throw error;
    return false;
  }
}

/** Show a dialog with new content. @param {HTMLDialogElement} dialog @param {...any} content */
export function openDialog(dialog, ...content) {
  const close = () => dialog.close();
  const cross = el("button", { class: "close", "aria-label": "Close", onclick: close }, "×");
  dialog.replaceChildren(el("div", { class: "sheet" }, cross, content));
  if (dialog.open) return cross.focus();
  clearNotice();
  dialog.addEventListener("close", () => document.body.append(byId("notices")), { once: true });
  dialog.showModal();
}

// @ts-check
/**
 * Requests to the server, with the reader's token.
 * @typedef {{image: string | null, question: string}} Question an image is a data URL
 * @typedef {{id: string, weight: number}} Fired
 */

const TOKEN = "liveedit.token";

/** A request that was refused, or (status 0) never arrived. */
export class Refused extends Error {
  /** @param {string} message @param {number} status */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Asks for a token; set by the page. @type {{ask: (known: boolean) => Promise<string>}} */
export const tokens = { ask: async () => "" };
/** @type {Promise<string> | null} */
let asking = null;

/** Ask the reader for another token. Returns whether one was given. */
export async function changeToken() {
  asking ??= tokens.ask(sessionStorage.getItem(TOKEN) !== null).finally(() => (asking = null));
  const token = await asking;
  if (token) sessionStorage.setItem(TOKEN, token);
  return token !== "";
}

/**
 * Send a request; ask for a token as often as needed. Throws `Refused` for a bad response.
 * The body is a file, or becomes JSON.
 * @type {(method: string, path: string, body?: any, signal?: AbortSignal) => Promise<Response>}
 */
export async function send(method, path, body, signal) {
  const token = sessionStorage.getItem(TOKEN);
  const file = body instanceof Blob;
  const headers = new Headers(token ? { Authorization: `Bearer ${token}` } : {});
  if (body) headers.set("Content-Type", file ? "application/octet-stream" : "application/json");
  const content = file ? body : body && JSON.stringify(body);
  const response = await fetch(path, { method, headers, signal, body: content }).catch(unreached);
  const { ok, status } = response;
  if (ok) return response;
  if (status === 403) {
    document.body.classList.add("only-ask");
    edited();
  }
  if (status === 401 && (token !== sessionStorage.getItem(TOKEN) || (await changeToken()))) {
    return send(method, path, body, signal);
  }
  const said = await response.json().catch(() => null);
  throw new Refused(said?.error?.message ?? `The server failed (${status}).`, status);
}

/** @returns {never} */
function unreached(error) {
  if (error.name === "AbortError") throw error;
  throw new Refused("The server cannot be reached. Check that it is running.", 0);
}

/** As `send`, read as JSON. @type {(...request: Parameters<typeof send>) => Promise<any>} */
export const call = async (...request) => (await send(...request)).json();

/** The address of an edit. @param {string} id */
export const editPath = (id) => `/v1/edits/${encodeURIComponent(id)}`;

const WHO = "liveedit.who";

/** The name that the reader gave last. */
export const who = () => localStorage.getItem(WHO)?.slice(0, 200) ?? "";

/** Remember the reader's name. @param {string} name */
export const setWho = (name) => localStorage.setItem(WHO, name);

/** Take an edit back. @param {string} id */
export async function takeBack(id) {
  await call("DELETE", `${editPath(id)}?${new URLSearchParams({ who: who() })}`);
  edited();
}

/** Whether the reader may edit, as far as is known. */
export const mayEdit = () => !document.body.classList.contains("only-ask");

/** Tell all parts of the page that the edits have changed. */
export const edited = () => document.dispatchEvent(new Event("edited"));

let model = "";

/** The request for an answer, of the model without edits if the suffix is ":base". */
async function chat({ image, question }, suffix) {
  if (!model) {
    const { data } = await call("GET", "/v1/models");
    model = data.find(({ id }) => !id.endsWith(":base")).id;
  }
  const content = [{ type: "text", text: question }];
  const shown = image ? [{ type: "image_url", image_url: { url: image } }] : [];
  const messages = [{ role: "user", content: [...shown, ...content] }];
  return { model: model + suffix, messages, temperature: 0 };
}

/**
 * Ask, and yield the pieces of the answer as they come. Returns what fired.
 * @type {(question: Question, signal: AbortSignal) => AsyncGenerator<string, Fired[]>}
 */
export async function* ask(question, signal) {
  const body = { ...(await chat(question, "")), stream: true };
  const response = await send("POST", "/v1/chat/completions", body, signal);
  let fired = [];
  for await (const chunk of events(response)) {
    fired = chunk.liveedit?.fired ?? fired;
    yield chunk.choices?.[0]?.delta?.content ?? "";
  }
  return fired;
}

/** The objects of a stream of server-sent events, up to its end. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read().catch(unreached);
    if (done) throw new Refused("The answer was cut off.", 0);
    const lines = (waiting + value).split(/\r?\n/);
    waiting = lines.pop() ?? "";
    for (const line of lines.filter((line) => line.startsWith("data:"))) {
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refused(event.error.message, 500);
      yield event;
    }
  }
}

/**
 * The answer of the model without any edit.
 * @type {(question: Question, signal: AbortSignal) => Promise<string>}
 */
export async function unedited(question, signal) {
  const body = await chat(question, ":base");
  const { choices } = await call("POST", "/v1/chat/completions", body, signal);
  return choices[0].message.content;
}

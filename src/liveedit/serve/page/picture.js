// @ts-check
/** The image that is asked about: chosen, dropped, pasted or photographed. */

import { Refused } from "./api.js";
import { byId, onFile } from "./dom.js";
import { attempt } from "./notices.js";

/** Longest side in pixels, and bytes, up to which an image is sent as it is. */
const LONGEST = 2048;
const LARGEST = 4_000_000;
const KNOWN = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];

/** @type {string | null} */
let image = null;

/** The image as a data URL, if there is one. */
export const currentImage = () => image;

/** Show another image, or none. */
function show(url) {
  image = url;
  byId("preview").hidden = byId("remove").hidden = url === null;
  byId("drop").hidden = url !== null;
  byId("preview").src = url ?? "/page/icon.svg";
}

/** Take a file as the image, and go on to the question. */
export async function takeImage(file) {
  if (file && (await attempt(async () => show(await read(file))))) byId("question").focus();
}

/** A file as a data URL; as a smaller JPEG if it is huge. */
async function read(file) {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Refused("This file is not an image that can be read. Choose a PNG or JPEG.", 400);
  });
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  const huge = scale < 1 || file.size > LARGEST;
  return huge || !KNOWN.includes(file.type) ? redrawn(bitmap, scale) : dataUrl(file);
}

function redrawn(bitmap, scale) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.ceil(bitmap.width * scale);
  canvas.height = Math.ceil(bitmap.height * scale);
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white"; // JPEG has no transparency
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.92);
}

async function dataUrl(file) {
  const reader = new FileReader();
  reader.readAsDataURL(file);
  await new Promise((resolve) => (reader.onload = resolve));
  return reader.result;
}

/** Make buttons, drops and pastes work. */
export function startPicture() {
  byId("choose").onclick = () => byId("file").click();
  byId("photograph").onclick = () => byId("camera").click();
  onFile("file", takeImage);
  onFile("camera", takeImage);
  byId("remove").onclick = () => {
    show(null);
    byId("choose").focus();
  };
  document.addEventListener("paste", ({ clipboardData }) => takeImage(clipboardData?.files[0]));
  document.addEventListener("dragover", over);
  document.addEventListener("dragleave", over);
  document.addEventListener("drop", (event) => {
    over(event);
    location.hash = "ask";
    takeImage(event.dataTransfer?.files[0]);
  });
}

function over(event) {
  event.preventDefault();
  byId("picture").classList.toggle("over", event.type === "dragover");
}

// What all pages share: notices, requests, elements whose texts are never markup, and things remembered.

export const $ = (id) => document.getElementById(id);

// The line below the page's head; no text hides it.
export function notify(text, bad = false) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
  $("notice").classList.toggle("bad", bad);
}

// A request that failed: status 0 where the server did not answer at all.
export class Failure extends Error {
  constructor(message, status, body) {
    super(message);
    this.status = status;
    this.body = body;
  }
}

// The JSON of an answer; with a body the request is a POST.
export async function api(path, body) {
  const request = { signal: AbortSignal.timeout(20000) };
  if (body !== undefined) {
    request.method = "POST";
    request.headers = { "Content-Type": "application/json" };
    request.body = JSON.stringify(body);
  }
  let response, text;
  try {
    response = await fetch(path, request);
    text = await response.text();
  } catch {
    throw new Failure("the server does not answer", 0, null);
  }
  let data = null;
  try {
    data = JSON.parse(text);
  } catch {
    // Refusals are plain text.
  }
  if (!response.ok || data === null) {
    throw new Failure(data?.error ?? (text.replace(/^error: /, "").slice(0, 300) || response.statusText), response.status, data);
  }
  return data;
}

// An element; texts among the children stay texts. Functions become listeners, null and false leave an attribute out.
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// A value kept by the browser under a name; `fallback` if there is none or it cannot be read.
export function recall(storage, name, fallback) {
  try {
    return JSON.parse(storage.getItem(name)) ?? fallback;
  } catch {
    return fallback;
  }
}

export function remember(storage, name, value) {
  storage.setItem(name, JSON.stringify(value));
}

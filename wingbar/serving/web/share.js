// A service worker with one task: a picture that another app shares with the page (the share target
// of app.webmanifest) is put where the page keeps the person's pictures, and searched for. Nothing
// else passes through it, and nothing is cached.

const worker = /** @type {any} */ (self);

worker.addEventListener("install", () => worker.skipWaiting());
worker.addEventListener("activate", (/** @type {any} */ event) =>
  event.waitUntil(worker.clients.claim()),
);
worker.addEventListener("fetch", (/** @type {any} */ event) => {
  const { pathname, origin } = new URL(event.request.url);
  const isShare = event.request.method === "POST" && pathname === "/share";
  if (isShare && origin === location.origin) event.respondWith(take(event.request));
});

/** Keep the shared pictures, and go to the search for them. @param {Request} request */
async function take(request) {
  const form = await request.formData();
  const files = form.getAll("image").filter((file) => file instanceof File && file.size);
  const keys = [];
  for (const [i, file] of files.slice(0, 8).entries()) {
    const key = `u${Date.now().toString(36)}s${i}`;
    await put({ key, file });
    keys.push(key);
  }
  const [query, ...like] = keys;
  const params = new URLSearchParams(like.map((key) => ["like", key]));
  if (query) params.set("upload", query);
  return Response.redirect(query ? `/?${params}` : "/", 303);
}

/** Store a picture as uploads.js does. @param {{ key: string, file: FormDataEntryValue }} record */
function put(record) {
  return new Promise((resolve, reject) => {
    const opened = indexedDB.open("wingbar", 1);
    opened.onupgradeneeded = () => opened.result.createObjectStore("pictures", { keyPath: "key" });
    opened.onerror = () => reject(opened.error);
    opened.onsuccess = () => {
      const transaction = opened.result.transaction("pictures", "readwrite");
      transaction.objectStore("pictures").put(record);
      transaction.oncomplete = resolve;
      transaction.onerror = () => reject(transaction.error);
    };
  });
}

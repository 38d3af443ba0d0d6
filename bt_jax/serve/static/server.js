// Requests to the server. It stores nothing, so each request sends its file.

const MOST_AT_ONCE = 4;
const MOST_TRIES = 8;
let running = 0;
const waiting = [];

// Sends a file and returns the records, or an object with the reason for a failure.
export async function ask(file, fields, { busy = () => {}, begun = () => {} } = {}) {
  await turn();
  try {
    begun();
    for (let attempt = 1; ; attempt++) {
      const form = new FormData();
      form.append("file", file, file.name);
      form.append("lang", "en"); // the page translates by the codes
      for (const [name, value] of Object.entries(fields)) form.append(name, value);
      let response;
      try {
        response = await fetch("api/predict", { method: "POST", body: form });
      } catch {
        return { problem: "no_answer" };
      }
      if (response.status === 503 && attempt < MOST_TRIES) {
        busy();
        const seconds = Math.min(Number(response.headers.get("Retry-After")) || 1, 10);
        await new Promise((resolve) => setTimeout(resolve, 1000 * seconds * (0.75 + Math.random() / 2)));
        continue;
      }
      const answer = await response.json().catch(() => ({}));
      if (response.ok && answer.records) return { records: answer.records };
      return { problem: "failed", status: response.status, said: answer.code ? answer : null };
    }
  } finally {
    running--;
    waiting.shift()?.();
  }
}

async function turn() {
  if (running >= MOST_AT_ONCE) await new Promise((resolve) => waiting.push(resolve));
  running++;
}

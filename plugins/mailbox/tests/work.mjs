// A worker of a mailbox by a client of MCP of npm, unmodified: `work.mjs PACKAGE PLACES TOKEN FILE CHANCE`.
// It does what work.py does.
import { appendFileSync, readFileSync } from "node:fs";
import { connect } from "./connect.mjs";

const [, , name, places, token, file, chance] = process.argv;
let ended = false;
process.stdin.on("end", () => { ended = true; }).resume();
const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

function write(line) {
    const at = Number(process.hrtime.bigint()) / 1e9;
    appendFileSync(file, `${JSON.stringify({ ...line, at })}\n`);
}

async function call(client, tool, given) {
    const result = await client.callTool({ name: tool, arguments: given });
    if (!result.isError) return result.structuredContent;
    if (result.content[0].text.startsWith("claim_ended")) return null;
    throw new Error(result.content[0].text);
}

async function work(client) {
    while (!ended) {
        write({ ask: "claim" });
        const claim = await call(client, "claim", { seconds: 5, wait: 2, tries: 2 });
        if (!claim.token) continue;
        const [{ conversation, text }] = claim.messages;
        const what = { conversation, text, token: claim.token };
        write({ ok: "claim", ...what });
        if (Math.random() < Number(chance)) process.kill(process.pid, "SIGKILL");
        const tool = Math.random() < 0.1 ? "nack" : "ack";
        if (Math.random() < 0.03) await pause(6000); // so the lease ends
        write({ ask: tool, ...what });
        const done = await call(client, tool, { token: claim.token });
        write({ [done ? "ok" : "fail"]: tool, ...what });
    }
}

while (!ended) {
    const nodes = readFileSync(places, "utf-8").split(" ");
    const url = nodes[Math.floor(Math.random() * nodes.length)];
    let client = null;
    try {
        client = await connect(name, `${url}/mcp`, token);
        await work(client);
    } catch (error) {
        console.error(name, url, error);
        await pause(200); // its node was killed
    }
    await client?.close().catch(() => {});
}
process.exit(0);

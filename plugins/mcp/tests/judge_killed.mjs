// A client of npm, unmodified, as a bot whose node is killed while it asks somebody, and waits:
// `judge_killed.mjs PACKAGE URLS TOKEN USER`. Everything is called again at the next URL, with the same ids.
import assert from "node:assert/strict";
import { connect } from "./connect.mjs";

const [, , name, urls, token, user] = process.argv;
const options = [{ text: "Yes", value: "yes" }, { text: "No", value: "no" }];
const calls = [
    { name: "send", arguments: { to: user, text: "before", client_msg_id: "before" } },
    { name: "ask", arguments: { to: user, text: "Go on?", options, client_msg_id: "ask" } },
    { name: "send", arguments: { to: user, text: "after", client_msg_id: "after" } },
];
for (const url of urls.split(",")) {
    const results = [];
    try {
        const client = await connect(name, url, token);
        for (const call of calls) results.push((await client.callTool(call)).structuredContent);
        await client.close();
    } catch (error) {
        console.error(url, error);
        continue;
    }
    assert.deepEqual([results[1].state, results[1].answers[0].value], ["answered", "yes"]);
    assert.ok(urls.endsWith(url), "its node was killed");
    console.log("done");
    break;
}

// The clients of npm, unmodified, as a bot: `judge_client.mjs PACKAGE URL TOKEN USER VERSION`.
import assert from "node:assert/strict";
import { connect } from "./connect.mjs";

const [, , name, url, token, user, version] = process.argv;
const client = await connect(name, url, token);
if (name === "client") assert.equal(client.getNegotiatedProtocolVersion?.() ?? version, version);
const { tools } = await client.listTools();
assert.ok(tools.some((tool) => tool.name === "send"));
const text = `hello from ${name}`;
const sent = await client.callTool({ name: "send", arguments: { to: user, text } });
assert.ok(!sent.isError, JSON.stringify(sent));
const { conversation, id } = sent.structuredContent;
const page = await client.callTool({ name: "history", arguments: { conversation } });
assert.equal(page.structuredContent.messages.at(-1).text, text);
for (const [tool, args] of [
    ["react", { id, emoji: "+1" }],
    ["search", { text: "hello" }],
    ["read", {}],
    ["who_is_online", {}],
]) {
    const answer = await client.callTool({ name: tool, arguments: args });
    assert.ok(!answer.isError, JSON.stringify(answer));
}
assert.ok((await client.callTool({ name: "send", arguments: { text } })).isError);
const uri = `imserver://conversations/${conversation}`;
assert.ok((await client.listResources()).resources.some((each) => each.uri === uri));
assert.match((await client.readResource({ uri })).contents[0].text, /hello from/);
await assert.rejects(client.readResource({ uri: "imserver://conversations/999999" }));
await client.close();
console.log("done");

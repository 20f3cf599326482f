// The clients of npm, unmodified, in a page of another origin: what `send` and `history` give.
import { connect } from "./connect.mjs";

window.run = async ({ name, url, token, user }) => {
    const client = await connect(name, url, token);
    const text = `hello from ${name} in a page`;
    const sent = await client.callTool({ name: "send", arguments: { to: user, text } });
    const { conversation } = sent.structuredContent;
    const page = await client.callTool({ name: "history", arguments: { conversation } });
    await client.close();
    return page.structuredContent.messages.at(-1).text;
};

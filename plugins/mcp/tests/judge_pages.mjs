// A client of npm, unmodified: one page of `read`, then it ends. `judge_pages.mjs URL TOKEN CURSOR`.
import { connect } from "./connect.mjs";

const [, , url, token, cursor] = process.argv;
const client = await connect("client", url, token);
const answer = await client.callTool({ name: "read", arguments: cursor ? { cursor } : {} });
if (answer.isError) throw new Error(JSON.stringify(answer));
console.log(JSON.stringify(answer.structuredContent));
await client.close();

// Connects a client of npm, unmodified: of `@modelcontextprotocol/sdk` or `@modelcontextprotocol/client`.

export async function connect(name, url, token) {
    const isOld = name === "sdk";
    const { Client } = isOld
        ? await import("@modelcontextprotocol/sdk/client/index.js")
        : await import("@modelcontextprotocol/client");
    const { StreamableHTTPClientTransport } = isOld
        ? await import("@modelcontextprotocol/sdk/client/streamableHttp.js")
        : await import("@modelcontextprotocol/client");
    const options = isOld ? {} : { versionNegotiation: { mode: "auto" } };
    const client = new Client({ name: "judge", version: "1" }, options);
    const headers = { Authorization: `Bearer ${token}` };
    await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } }));
    return client;
}

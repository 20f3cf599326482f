// web-push-testing of npm on a free port of this machine. It ends with its input.
import { createRequire } from "node:module";

const require = createRequire(process.argv[2]);
const { PushApiModel } = require("./src/PushApiModel.js");
const express = require("express");
const Server = require("./src/server.js");

process.stdin.resume().on("end", () => process.exit());

// Its server wants to know its port, and says when it listens.
const listener = express().listen(0, "127.0.0.1", () => {
  const { port } = listener.address();
  listener.close(() => {
    const server = new Server(new PushApiModel(), port);
    server.startServer();
    server._server.once("listening", () => console.log(`http://127.0.0.1:${port}`));
  });
});

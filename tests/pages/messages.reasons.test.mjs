// Reasons of failures and numbers, in the language of the page.
import assert from "node:assert/strict";
import { it } from "node:test";

import { Closed, CommandRefused, LoginRefused, NotConnected } from "./sdk/errors.js";
import { ApiError, reasonOf } from "./static/messages/parts/api.js";
import { FileUpload } from "./static/messages/session/upload.js";
import { fill } from "./static/text.js";

const WORDS = {
  messages_fault_no_answer: "没有回答", no_reason: "没有说明", send_rejected: "被拒绝：{reason}", refused_other: "连接结束了", messages_too_large: "消息太大",
  messages_refused_1003: "没有权限", messages_refused_blocked: "对方不接收", messages_refused_1003_send: "不能发送", messages_refused_other: "服务器拒绝了（{code}）",
  messages_fault_busy: "繁忙", messages_fault_unavailable: "暂时不可用", messages_fault_other: "请求失败（{code}）", messages_fault_disk_full: "空间不足",
};

for (const [error, reason] of /** @type {[Error, string][]} */ ([
  [new CommandRefused("send", 1003), "不能发送"],
  [new CommandRefused("pin", 1003), "没有权限"],
  [new CommandRefused("send", 1003, "", { refused: "blocked" }), "对方不接收"],
  [new CommandRefused("recall", 1007), "服务器拒绝了（1007）"],
  [new CommandRefused("send", 1003, "", { reason: "spam" }), "被拒绝：spam"],
  [new CommandRefused("send", 1003, "", { reason: "" }), "被拒绝：没有说明"],
  [new NotConnected("no answer in time"), "没有回答"],
  [new Closed(1009), "消息太大"],
  [new Closed(4500), "连接结束了"],
  [new LoginRefused(1003), "连接结束了"],
  [new ApiError("no_answer", "TypeError"), "没有回答"],
  [new ApiError("busy", "The node is busy."), "繁忙"],
  [new ApiError("storage_unavailable", "The database does not answer."), "暂时不可用"],
  [new ApiError("new_code", "Something new."), "请求失败（new_code）"],
])) it(`the reason of ${error}`, () => assert.equal(reasonOf(error, WORDS), reason));

it("one and more have their own forms", () => {
  const text = "{count} new message|{count} new messages";
  assert.deepEqual([0, 1, 2, "1", "1,000"].map((count) => fill(text, { count })), ["0 new messages", "1 new message", "2 new messages", "1 new message", "1,000 new messages"]);
  assert.equal(fill("{count} 条新消息", { count: 1 }), "1 条新消息");
});

it("a language with more than two forms has them all", () => {
  globalThis.document = /** @type {any} */ ({ documentElement: { lang: "ar" } });
  const text = "zero|one|two|few {count}|many {count}|other {count}";
  assert.deepEqual([0, 1, 2, 3, 11, 100].map((count) => fill(text, { count })), ["zero", "one", "two", "few 3", "many 11", "other 100"]);
});

it("an upload to a full disk fails at once, with that reason", async () => {
  let requests = 0;
  globalThis.XMLHttpRequest = /** @type {any} */ (class {
    upload = {};
    status = 507;
    responseText = JSON.stringify({ code: "disk_full", message: "No space." });
    open() {}
    setRequestHeader() {}
    send() {
      requests += 1;
      queueMicrotask(() => { this.onload(); this.onloadend(); });
    }
  });
  const upload = new FileUpload({ app: "gochat", token: "" }, new Blob(["x"]));
  const error = await upload.start().catch((failure) => failure);
  assert.deepEqual([reasonOf(error, WORDS), requests], ["空间不足", 1]);
});

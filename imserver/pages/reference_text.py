"""What the reference of the HTTP interface says in Chinese: its own words, and those of the document.

The document itself is in English; ``templates/reference.zh.json`` translates it, text by text.
"""

import json
from functools import lru_cache
from typing import Any, Final

from imserver import assets

#: language -> the page's own words
WORDS: Final[dict[str, dict[str, Any]]] = {
    "zh": {
        "title": "HTTP 接口",
        "skip": "跳到正文",
        "pages": "页面",
        "contents": "目录",
        "shapes": "数据结构",
        "fields": "字段",
        "query": "查询参数",
        "body": "请求体",
        "headers": "请求头",
        "answer": "应答",
        "request": "请求",
        "refusals": "可能的错误",
        "required": "必填",
        "optional": "可缺省",
        "default": "默认",
        "scope": "权限",
        "temporary": "可重试",
        "copy_it": "复制",
        "copied": "已复制",
        "document": "OpenAPI 3.1 文档（JSON）",
        "key_needed": "需要密钥的接口使用请求头 `Authorization: Bearer <密钥>`；密钥由 "
        "`imserver key create` 创建，或写在配置的 `api.keys` 里。示例中的 `$KEY` 代表它。",
        "key_demo": "服务器处于演示模式：还没有任何密钥，因此无需密钥即可调用。有了密钥之后使用请求头 "
        "`Authorization: Bearer <密钥>`，示例中的 `$KEY` 代表它。",
        "bounds": {
            "minimum": "≥ {}",
            "exclusiveMinimum": "> {}",
            "maximum": "≤ {}",
            "minLength": "长度 ≥ {}",
            "maxLength": "长度 ≤ {}",
            "minItems": "≥ {} 项",
            "maxItems": "≤ {} 项",
            "pattern": "匹配 {}",
        },
        "chapters": {
            "push": "推送",
            "presence": "在线状态",
            "rooms": "房间",
            "sessions": "会话",
            "accounts": "账号",
            "friends": "好友",
            "groups": "群组",
            "conversations": "会话",
            "apps": "应用",
            "events": "事件",
            "uploads": "文件",
            "document": "文档",
        },
    },
    "en": {
        "title": "HTTP interface",
        "skip": "Skip to the text",
        "pages": "Pages",
        "contents": "Contents",
        "shapes": "Shapes",
        "fields": "Fields",
        "query": "Query",
        "body": "Body",
        "headers": "Headers",
        "answer": "Answer",
        "request": "Request",
        "refusals": "Possible refusals",
        "required": "required",
        "optional": "may be missing",
        "default": "default",
        "scope": "scope",
        "temporary": "temporary",
        "copy_it": "Copy",
        "copied": "Copied",
        "document": "OpenAPI 3.1 document (JSON)",
        "key_needed": "Where a key is needed it comes as `Authorization: Bearer <key>`. Keys are made by "
        "`imserver key create`, or stand in the configuration as `api.keys`. In the examples `$KEY` is one.",
        "key_demo": "This server is in demo mode: it has no keys yet, so none is needed. Once there is one, "
        "it comes as `Authorization: Bearer <key>`; in the examples `$KEY` is one.",
        "bounds": {
            "minimum": "≥ {}",
            "exclusiveMinimum": "> {}",
            "maximum": "≤ {}",
            "minLength": "length ≥ {}",
            "maxLength": "length ≤ {}",
            "minItems": "≥ {} items",
            "maxItems": "≤ {} items",
            "pattern": "matches {}",
        },
        "chapters": {
            "push": "Push",
            "presence": "Presence",
            "rooms": "Rooms",
            "sessions": "Sessions",
            "accounts": "Accounts",
            "friends": "Friends",
            "groups": "Groups",
            "conversations": "Conversations",
            "apps": "Apps",
            "events": "Events",
            "uploads": "Files",
            "document": "Document",
        },
    },
}


@lru_cache(maxsize=1)
def chinese() -> dict[str, str]:
    """Text of the document, paragraph by paragraph → the same in Chinese."""
    found: dict[str, str] = json.loads((assets.TEMPLATES / "reference.zh.json").read_text(encoding="utf-8"))
    return found

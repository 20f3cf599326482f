"""The texts of the pages in both languages, and the rendering of pages."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from types import CodeType
from typing import Any, Final

from flask import Flask, Response, render_template, request
from jinja2.bccache import Bucket, BytecodeCache
from werkzeug.datastructures import LanguageAccept

from imserver import assets

LANGUAGES: Final = ("zh", "en")

#: key -> (Chinese, English)
_TABLE: Final[dict[str, tuple[str, str]]] = {
    "html_lang": ("zh-Hans", "en"),
    # --- the chat page
    "title": ("聊天室 {room}", "Room {room}"),
    "tagline": ("即时通讯网关", "Instant-messaging gateway"),
    "no_script": ("本页需要 JavaScript。", "This page needs JavaScript."),
    "skip": ("跳到输入框", "Skip to the message box"),
    "rooms": ("聊天室", "Rooms"),
    "room": ("聊天室 {room}", "Room {room}"),
    "other_language": ("English", "中文"),
    "you": ("你", "You"),
    "you_are": ("你的名字", "You are"),
    "self_mark": ("(自己)", "(you)"),
    "new_name": ("换个名字", "Get a new name"),
    "people": ("在线", "Online"),
    "people_show": ("查看在线的人", "Show who is online"),
    "people_close": ("关闭", "Close"),
    "people_more": ("还有 {count} 人", "{count} more"),
    "people_each_minute": ("人数较多，名单每分钟更新", "Many users: the list is updated every minute"),
    "people_alone": ("现在只有你", "Nobody else is online"),
    "alone_title": ("这里还很安静", "No messages yet"),
    "alone_hint": (
        "在另一个窗口打开本页，或把链接发给朋友，就能聊起来。",
        "Open this page in a second window, or send the link to a friend.",
    ),
    "invite": ("复制邀请链接", "Copy invite link"),
    "invited": ("已复制", "Copied"),
    "people_waiting": ("连接之后显示在线名单", "The list appears when you are connected"),
    "people_failed": ("名单暂时取不到", "The list could not be loaded"),
    "log": ("聊天记录", "Messages"),
    "admin": ("管理员", "Admin"),
    "greeting": (
        "欢迎来到聊天室 {room}！你是 {name}。打个招呼吧~",
        "Welcome to room {room}! You are {name}. Say hello~",
    ),
    "entered": ("进入", "joined"),
    "and_others": ("等 {count} 人", "({count} in all)"),
    "left": ("离开", "left"),
    "said_enter": ("哈喽~", "Hello~"),
    "said_exit": ("用户已经离开~", "The user has left~"),
    "for_you": ("仅发给你", "only for you"),
    "reconnected": (
        "已重新连接。断开期间的消息不会补发。",
        "Reconnected. Messages sent while you were disconnected are not shown.",
    ),
    "earlier": ("以上是刷新前的消息", "Messages from before the reload"),
    "more": ("展开全文", "Show more"),
    "less": ("收起", "Show less"),
    "unread": ("{count} 条新消息", "{count} new messages"),
    "to_latest": ("回到最新", "Go to the newest message"),
    "message": ("消息", "Message"),
    "placeholder": ("说点什么…", "Type a message…"),
    "key_hint": ("Enter 发送，Shift + Enter 换行", "Enter to send, Shift + Enter for a new line"),
    "send": ("发送", "Send"),
    "send_failed": (
        "没有发出去：{reason}。再按一次发送重试。",
        "Not sent: {reason}. Press Send to try again.",
    ),
    "send_rejected": ("消息被拒绝：{reason}", "Message rejected: {reason}"),
    "no_reason": ("没有说明原因", "no reason given"),
    "send_offline": ("还没有连上，连上之后再发送。", "Not connected. Send again when you are connected."),
    "too_long": ("还可以输入 {count} 个字", "{count} characters left"),
    "no_answer": ("服务器没有回答", "the server does not answer"),
    "emoji": ("表情", "Emoji"),
    "state_connecting": ("连接中…", "Connecting…"),
    "state_online": ("已连接", "Connected"),
    "state_waiting": ("重连中…", "Reconnecting…"),
    "state_offline": ("网络已断开", "Offline"),
    "state_refused": ("已停止", "Stopped"),
    "state_closed": ("已断开", "Disconnected"),
    "banner_waiting": ("连接断开了，{seconds} 秒后重试。", "Connection lost. Retrying in {seconds}\u00a0s."),
    "banner_trying": ("正在重新连接…", "Reconnecting…"),
    "banner_offline": (
        "设备没有网络，恢复后自动重连。",
        "This device is offline. It reconnects when the network is back.",
    ),
    "retry_now": ("立即重连", "Retry now"),
    "enter_again": ("重新进入", "Reload"),
    "refused_login": ("登录被拒绝：{reason}", "Login refused: {reason}"),
    "refused_0": ("无法建立连接：{reason}", "Cannot connect: {reason}"),
    "refused_1002": ("这个名字不能使用", "This name cannot be used"),
    "refused_1003": ("登录凭证已失效", "Your token has expired"),
    "refused_4500": (
        "你已在别处登录，这里已下线",
        "You logged in somewhere else. This page was disconnected",
    ),
    "refused_4501": ("这个名字已经在线", "A user with this name is already online"),
    "refused_4502": ("你被移出了聊天室", "You were removed from the room"),
    "refused_4503": ("你暂时不能进入聊天室", "You are temporarily banned from this room"),
    "refused_4504": ("登录凭证已失效", "Your token has expired"),
    "refused_4505": ("此处不允许进入这个聊天室", "This page may not connect to this room"),
    "refused_4506": ("这个聊天室已被删除", "This room was deleted"),
    "refused_other": ("服务器结束了连接", "The server closed the connection"),
    "code": ("代码 {code}", "code {code}"),
    # --- the pages of the action dialect
    "talk_title": ("与用户 {peer} 聊天", "Chat with user {peer}"),
    "talk_title_nobody": ("聊天", "Chat"),
    "talk_room_title": ("欢迎进入聊天室", "Welcome to the chat room"),
    "talk_room": ("测试{room}群", "Test group {room}"),
    "talk_places": ("会话", "Conversations"),
    "talk_user": ("用户 {user}", "User {user}"),
    "talk_nobody": ("没有用户", "No user"),
    "talk_peer_name": ("用户:", "User:"),
    "talk_member_name": ("用户{user}：", "User {user}:"),
    "talk_in": ("登录成功", "Logged in"),
    "talk_failed": ("发送失败", "Sending failed"),
    "talk_over": ("Connection Closed.", "Connection Closed."),
    "talk_left": ("用户{user}已经离开", "User {user} has left"),
    "talk_send_failed": (
        "发送失败：{reason}。再按一次发送重试。",
        "Not sent: {reason}. Press Send to try again.",
    ),
    "talk_kept_hint": (
        "消息会保存。不在线的用户下次登录时收到。",
        "Messages are stored. Offline users receive them at their next login.",
    ),
    "talk_image": ("图片", "Image"),
    "talk_video": ("视频", "Video"),
    "talk_voice": ("语音", "Voice message"),
    "talk_from": ("来自 {host}", "from {host}"),
    "talk_alone_hint": (
        "消息只发给此刻在线的用户，不会保存。",
        "Only users who are online now receive your messages. Nothing is stored.",
    ),
    # --- the page of stored messages
    "messages_title": ("消息", "Messages"),
    "messages_link": ("（需要账号）", "(needs an account)"),
    "messages_talks": ("会话", "Conversations"),
    "messages_login": ("登录", "Log in"),
    "messages_register": ("注册", "Create an account"),
    "messages_to_register": ("还没有账号？注册一个", "No account yet? Create one"),
    "messages_to_login": ("已有账号？登录", "Already have an account? Log in"),
    "messages_password": ("密码", "Password"),
    "messages_password_hint": ("至少 8 个字符", "At least 8 characters"),
    "messages_logout": ("退出", "Log out"),
    "messages_group_name": ("群名称", "Group name"),
    "messages_none": ("还没有会话", "No conversations yet"),
    "messages_more_talks": ("更早的会话", "Older conversations"),
    "messages_back": ("返回会话列表", "Back to the conversations"),
    "messages_choose": ("选一个会话", "Choose a conversation"),
    "messages_choose_hint": (
        "消息会保存。不在线的用户下次登录时收到。",
        "Messages are stored. Offline users receive them at their next login.",
    ),
    "messages_empty": ("还没有消息", "No messages yet"),
    "messages_typing": ("{name} 正在输入…", "{name} is typing…"),
    "messages_sent": ("已发送", "Sent"),
    "messages_read": ("已读", "Read"),
    "messages_received": ("已送达", "Delivered"),
    "messages_recall": ("撤回", "Recall"),
    "messages_recalled": ("{name} 撤回了一条消息", "{name} recalled a message"),
    "messages_edited": ("已编辑", "edited"),
    "messages_joined": ("{names} 加入了群聊", "{names} joined"),
    "messages_added": ("{name} 邀请 {names} 加入了群聊", "{name} added {names}"),
    "messages_removed": ("{name} 把 {names} 移出了群聊", "{name} removed {names}"),
    "messages_left": ("{name} 离开了群聊", "{name} left"),
    "messages_created": ("{name} 创建了群「{group}」", "{name} created the group “{group}”"),
    "messages_renamed": ("{name} 把群名改为「{group}」", "{name} renamed the group to “{group}”"),
    "messages_muted": ("{name} 禁言了 {names}", "{name} muted {names}"),
    "messages_role_owner": ("{names} 成为群主", "{names} is now the owner"),
    "messages_role_admin": ("{names} 成为管理员", "{names} is now an admin"),
    "messages_role_member": ("{names} 成为普通成员", "{names} is now a member"),
    "messages_pinned": ("{name} 置顶了一条消息", "{name} pinned a message"),
    "messages_group_changed": ("{name} 修改了群资料", "{name} changed the group"),
    "messages_unread": ("{count} 条未读", "{count} unread"),
    "messages_picture": ("图片", "Image"),
    "messages_voice": ("语音", "Voice message"),
    "messages_video": ("视频", "Video"),
    "messages_file": ("文件", "File"),
    "messages_media_attach": ("发送图片、视频或文件", "Send pictures, videos or files"),
    "messages_media_drop": ("松开以发送", "Drop to send"),
    "messages_media_confirm": ("发送文件（{count}）", "Send files ({count})"),
    "messages_media_send": ("发送", "Send"),
    "messages_media_remove": ("移除 {name}", "Remove {name}"),
    "messages_media_record": ("录制语音", "Record a voice message"),
    "messages_media_recording": ("正在录音", "Recording"),
    "messages_media_no_microphone": (
        "无法录音：没有麦克风，或未获准使用",
        "Cannot record: there is no microphone, or no permission to use it",
    ),
    "messages_media_play": ("播放", "Play"),
    "messages_media_pause": ("暂停", "Pause"),
    "messages_media_seek": ("播放位置", "Position"),
    "messages_media_speed": ("播放速度：{speed}", "Speed: {speed}"),
    "messages_media_open": ("查看图片", "View the picture"),
    "messages_media_previous": ("上一张", "Previous picture"),
    "messages_media_next": ("下一张", "Next picture"),
    "messages_media_zoom_in": ("放大", "Zoom in"),
    "messages_media_zoom_out": ("缩小", "Zoom out"),
    "messages_media_download": ("下载", "Download"),
    "messages_media_position": ("第 {number} 张，共 {count} 张", "{number} of {count}"),
    "messages_fault_file_too_large": ("文件太大", "The file is too large"),
    "messages_fault_quota_exceeded": ("存储空间已用完", "The storage for your files is full"),
    "messages_fault_kind_refused": ("不接受这种文件", "This kind of file is not accepted"),
    "messages_fault_length_required": ("文件是空的", "The file is empty"),
    "messages_fault_rejected": ("文件未通过审核", "The file was rejected"),
    "messages_location": ("位置", "Location"),
    "messages_custom": ("其他消息", "Other message"),
    "messages_group": ("群聊", "Group"),
    "messages_server": ("系统", "System"),
    "messages_somebody": ("某人", "Somebody"),
    "messages_you": ("你", "You"),
    "messages_and": ("、", ", "),
    "messages_all": ("所有人", "all"),
    "messages_loading": ("读取中…", "Loading…"),
    "messages_close": ("关闭", "Close"),
    "messages_cancel": ("取消", "Cancel"),
    "messages_retry": ("重试", "Try again"),
    "messages_discard": ("删除", "Delete"),
    "messages_own_connection": ("你的连接", "Your connection"),
    "messages_search": ("搜索", "Search"),
    "messages_search_here": ("在此会话中搜索", "Search in this conversation"),
    "messages_search_in": ("在“{name}”中", "In “{name}”"),
    "messages_search_more": ("更早的结果", "Older results"),
    "messages_search_none": ("没有找到", "Nothing found"),
    "messages_searching": ("搜索中…", "Searching…"),
    "messages_draft": ("[草稿] ", "Draft: "),
    "messages_own_preview": ("我：{text}", "You: {text}"),
    "messages_mentions": ("{count} 条提到你", "{count} mention you"),
    "messages_mention": ("提到谁", "Mention somebody"),
    "messages_new": ("以下是新消息", "New messages"),
    "messages_row": ("{name}，{time}", "{name}, {time}"),
    "messages_state_waiting": ("等待发送", "Waiting to be sent"),
    "messages_state_uploading": ("上传中", "Uploading"),
    "messages_state_sending": ("发送中", "Sending"),
    "messages_react": ("表情回应", "React"),
    "messages_more_emoji": ("更多表情", "More emoji"),
    "messages_reply": ("回复", "Reply"),
    "messages_replying": ("回复 {name}", "Reply to {name}"),
    "messages_quote": ("回复", "Reply to"),
    "messages_quote_gone": ("消息已撤回", "Recalled message"),
    "messages_quote_far": ("更早的消息", "An earlier message"),
    "messages_edit": ("编辑", "Edit"),
    "messages_editing": ("编辑消息", "Edit the message"),
    "messages_copy": ("复制", "Copy"),
    "messages_copied": ("已复制", "Copied"),
    "messages_forward": ("转发", "Forward"),
    "messages_forward_to": ("转发给", "Forward to"),
    "messages_forwarded": ("转发自 {name}", "Forwarded from {name}"),
    "messages_filter": ("筛选会话", "Filter conversations"),
    "messages_pin": ("置顶", "Pin"),
    "messages_unpin": ("取消置顶", "Unpin"),
    "messages_pinned_title": ("置顶消息", "Pinned message"),
    "messages_hide": ("仅为我删除", "Delete for me"),
    "messages_hide_ask": ("从你的所有设备上删除这条消息？", "Delete this message on all your devices?"),
    "messages_recall_ask": ("为所有人撤回这条消息？", "Recall this message for everybody?"),
    "messages_more": ("更多", "More"),
    "messages_shortcuts": ("快捷键", "Keyboard"),
    "messages_key_search": ("搜索全部会话", "Search everywhere"),
    "messages_key_search_here": ("在此会话中搜索", "Search in this conversation"),
    "messages_key_step": ("上一个、下一个会话", "Previous and next conversation"),
    "messages_key_edit": (
        "编辑上一条自己的消息（输入框为空时）",
        "Edit your last message, from an empty text box",
    ),
    "messages_key_move": ("在消息之间移动", "Move through the messages"),
    "messages_key_menu": ("发送；在消息上打开菜单", "Send; on a message: its menu"),
    "messages_key_line": ("换行", "New line"),
    "messages_key_mention": ("在群里提到成员", "Mention a member of a group"),
    "messages_key_escape": ("取消、关闭、返回", "Cancel, close, go back"),
    "messages_key_help": ("显示快捷键", "Show this list"),
    "messages_formats": (
        "格式：*粗体*、`代码`、```代码块```",
        "Formats: *bold*, `code`, ```block of code```",
    ),
    "messages_refused_1003": ("你不能在这里发送消息", "You may not send messages here"),
    "messages_refused_1005": ("会话不存在", "There is no such conversation"),
    "messages_fault_wrong_login": ("账号或密码不对", "Wrong account or password"),
    "messages_fault_login_refused": ("登录未完成，请重试", "The login was not completed. Try again"),
    "messages_fault_unknown_login": ("登录已过期，请重试", "The login has expired. Try again"),
    "messages_fault_unknown_reset": (
        "链接已失效，请重新请求",
        "The link has expired or was used. Ask for a new one",
    ),
    "messages_fault_link_taken": (
        "此身份已绑定其他账号，或此账号已绑定其他身份",
        "It is linked with another account, or this account with another identity",
    ),
    "messages_fault_last_login": ("这是唯一的登录方式", "It is the only way to log in to this account"),
    "messages_fault_provider_unavailable": ("登录服务没有响应", "The login provider does not answer"),
    "messages_fault_login_taken": ("已经有人用这个账号注册", "Somebody has registered with this already"),
    "messages_fault_invalid_request": ("请检查填写的内容", "Please check your input"),
    "messages_fault_too_many_requests": ("尝试太频繁，请稍后再试", "Too many attempts. Try again later"),
    "messages_fault_unknown_account": ("没有找到这个人", "Nobody was found"),
    "messages_fault_registration_closed": ("这里不开放注册", "Registration is closed on this server"),
    "messages_fault_group_name": ("请给群起个名字", "Enter a name for the group"),
    "messages_expired": ("登录已过期，请重新登录", "Your login has expired. Log in again"),
    # --- bots on the page of messages
    "messages_bot": ("机器人", "Bot"),
    "messages_bots": ("机器人", "Bots"),
    "messages_bots_hint": (
        "机器人是用程序收发消息的账号。用它的令牌登录。",
        "A bot is an account for a program, which logs in with its token.",
    ),
    "messages_bots_none": ("你还没有机器人", "You have no bots yet"),
    "messages_bot_new": ("新建机器人", "New bot"),
    "messages_bot_nickname": ("名字", "Name"),
    "messages_bot_token": ("机器人令牌", "Token of the bot"),
    "messages_bot_token_hint": (
        "只显示这一次。知道它的人可以作为这个机器人登录。",
        "It is shown only now. Whoever has it can log in as the bot.",
    ),
    "messages_bot_commands_hint": (
        "每行一条命令和说明，例如 /help 显示帮助",
        "One command and its description in each line, as /help Show what I can do",
    ),
    "messages_bot_commands_fault": (
        "命令由 1 到 32 个字符组成：a–z、0–9、_",
        "A command has 1 to 32 characters: a–z, 0–9, _",
    ),
    "messages_bot_hook": ("Webhook 地址", "Webhook URL"),
    "messages_bot_hook_hint": (
        "服务器把机器人收到的消息发到这里。留空则不发送。",
        "The server posts there what the bot receives. Empty: nothing is posted.",
    ),
    "messages_bot_hook_secret": ("Webhook 密钥", "Secret of the webhook"),
    "messages_bot_hook_secret_hint": (
        "只显示这一次。用它检查请求的签名。",
        "It is shown only now. Check the signature of the requests with it.",
    ),
    "messages_bot_rotate": ("更换令牌", "New token"),
    "messages_bot_rotate_question": (
        "更换令牌？旧令牌立即失效，机器人会断开。",
        "Make a new token? The old one ends at once, and the bot is disconnected.",
    ),
    "messages_bot_delete": ("删除机器人", "Delete the bot"),
    "messages_bot_delete_question": (
        "删除 {name}？它的消息会保留。",
        "Delete {name}? Its messages stay.",
    ),
    "messages_bot_add": ("添加到群", "Add to a group"),
    "messages_bot_no_groups": ("你还不在任何群里", "You are in no group yet"),
    "messages_commands": ("命令", "Commands"),
    "messages_buttons": ("按钮", "Buttons"),
    "messages_key_command": ("机器人的命令", "Commands of bots"),
    "messages_bots_see": ("机器人能看到什么", "What bots see"),
    "messages_bots_see_mentions": ("提到它们的消息", "Messages that mention them"),
    "messages_bots_see_all": ("所有消息", "All messages"),
    "messages_hooks": ("接收消息的地址", "Incoming webhooks"),
    "messages_hooks_hint": (
        "其他系统向这样的地址发送一个请求，就会在群里发一条消息。",
        "Other systems post a message to the group by one request to such an address.",
    ),
    "messages_hook_new": ("新建地址", "New address"),
    "messages_hook_nickname": ("发送者的名字", "Name of the sender"),
    "messages_hook_nickname_hint": ("例如：构建服务器", "For example: Build server"),
    "messages_hook_url": ("地址", "Address"),
    "messages_hook_url_hint": (
        "只显示这一次。知道它的人可以在群里发消息。",
        "It is shown only now. Whoever has it can post to the group.",
    ),
    "messages_hook_revoke_question": (
        "撤销“{name}”的地址？之后它不能再使用。",
        "Revoke the address of “{name}”? Nobody can use it after that.",
    ),
    "messages_fault_too_many_bots": ("机器人已达上限", "There are as many bots as may be"),
    # --- the page of channels
    "channels_title": ("频道", "Channels"),
    "channels_app": ("应用 {app}", "App {app}"),
    "channels_name": ("频道名称", "Name of a channel"),
    "channels_subscribe": ("订阅", "Subscribe"),
    "channels_unsubscribe": ("退订 {channel}", "Unsubscribe from {channel}"),
    "channels_list": ("已订阅的频道", "Subscriptions"),
    "channels_none": ("没有订阅任何频道", "No subscriptions"),
    "channels_choose": ("订阅一个频道", "Subscribe to a channel"),
    "channels_choose_hint": (
        "此后发布到该频道的内容会显示在这里。",
        "This page then shows what is published to the channel.",
    ),
    "channels_pending": ("订阅中…", "Subscribing…"),
    "channels_live": ("没有历史", "no history"),
    "channels_offset": ("偏移 {offset}", "offset {offset}"),
    "channels_cut": ("断开", "Cut the line"),
    "channels_return": ("恢复", "Return"),
    "channels_here": ("谁在这里", "Who is here"),
    "channels_here_show": ("查看谁在这里", "Show who is here"),
    "channels_waiting": ("订阅之后显示名单", "The list appears when you are subscribed"),
    "channels_no_presence": ("这个频道不显示订阅者", "This channel does not show its subscribers"),
    "channels_log": ("发布记录", "Publications"),
    "channels_empty": ("还没有发布", "No publications yet"),
    "channels_empty_hint": (
        "在下面发布，或在另一个窗口打开本页。",
        "Publish below, or open this page in a second window.",
    ),
    "channels_content": ("要发布的内容", "What to publish"),
    "channels_write_text": ("文本", "A text"),
    "channels_format": ("格式", "Format"),
    "channels_text": ("文本", "Text"),
    "channels_json": ("JSON", "JSON"),
    "channels_publish": ("发布", "Publish"),
    "channels_bad_json": ("这不是 JSON：{reason}", "This is not JSON: {reason}"),
    "channels_terminal": ("从终端发布", "Publish from a terminal"),
    "channels_terminal_key": ("KEY 是有 push 权限的 API 密钥。", "KEY is an API key with the scope push."),
    "channels_recovered": ("补发", "recovered"),
    "channels_earlier": ("历史", "history"),
    "channels_growing": ("接收中", "streaming"),
    "channels_incomplete": ("未完成", "incomplete"),
    "channels_back_end": ("后端", "back end"),
    "channels_joined": ("{user} 来了", "{user} joined"),
    "channels_left": ("{user} 走了", "{user} left"),
    "channels_lost": (
        "连接断开了。现在从另一个窗口或终端发布，然后恢复。",
        "The line is cut. Publish from another window or a terminal, then return.",
    ),
    "channels_back_quiet": (
        "已恢复连接。断开期间没有发布。",
        "Back. Nothing was published while the line was cut.",
    ),
    "channels_back": (
        "已恢复连接：补发 {count} 条，偏移 {first} 到 {last}。没有缺失，没有重复。",
        "Back: {count} recovered, offsets {first} to {last}. None is missing, none came twice.",
    ),
    "channels_back_wrong": (
        "已恢复连接：补发 {count} 条，缺失 {missing} 条，重复 {doubled} 条。",
        "Back: {count} recovered, {missing} missing, {doubled} came twice.",
    ),
    "channels_back_live": (
        "已恢复连接。这个频道没有历史，断开期间发布的内容已丢失。",
        "Back. This channel has no history, so what was published meanwhile is lost.",
    ),
    "channels_reload": (
        "历史已不完整（recovered: false）。程序此时应重新加载状态。",
        "The history no longer has all of it (recovered: false). A program would now load its state anew.",
    ),
    "channels_hint_subscribe": ("不能订阅 {channel}。", "You may not subscribe to {channel}."),
    "channels_hint_publish": ("订阅者不能在这里发布。", "Subscribers may not publish here."),
    "channels_hint_presence": ("不能查看谁在这里。", "Nobody can see who is here."),
    "channels_hint_notices": ("有人来去，却没有通知。", "Somebody came or left without a notice."),
    "channels_hint_history": (
        "没有历史：断开期间发布的内容会丢失。",
        "There is no history: what is published while the line is cut is lost.",
    ),
    "channels_setting": ("相应的设置：", "The setting for it:"),
    "channels_fault_name": ("频道名称要有 1 到 255 个字节。", "The name of a channel has 1 to 255 bytes."),
    "channels_fault_limit": ("内容太长，超过了 max_bytes。", "This is longer than max_bytes of the channel."),
    "channels_fault_rate": ("发布得太频繁，请稍后再试。", "You publish too often. Try again."),
    "channels_fault_full": (
        "频道或订阅者太多（max_subscribers、max_channels）。",
        "There are too many subscribers or channels (max_subscribers, max_channels).",
    ),
    "channels_fault_unavailable": ("频道的历史没有回答，请再试。", "The history does not answer. Try again."),
    "channels_fault_ended": ("服务器结束了订阅。", "The server has ended the subscription."),
    "channels_fault_reserved": (
        "只有本人能订阅 user: 频道，只有成员能订阅 group: 频道。",
        "A user: channel is for this user, a group: channel for the members of the group.",
    ),
    "channels_fault_expired": ("频道令牌已过期。", "The channel token has expired."),
    "channels_fault_other": ("{channel}：{reason}", "{channel}: {reason}"),
    # --- the page of stored messages: people
    "messages_login_phone": ("手机号", "Phone number"),
    "messages_login_email": ("邮箱", "E-mail address"),
    "messages_login_name": ("用户名", "User name"),
    "messages_login_phone_email": ("手机号或邮箱", "Phone or e-mail"),
    "messages_login_phone_name": ("手机号或用户名", "Phone or user name"),
    "messages_login_email_name": ("邮箱或用户名", "E-mail or user name"),
    "messages_login_phone_email_name": ("手机号、邮箱或用户名", "Phone, e-mail or user name"),
    "messages_login_name_hint": (
        "用户名以字母开头，3 到 32 个字符：a–z、0–9、_ . -",
        "A user name begins with a letter and has 3 to 32 characters: a–z, 0–9, _ . -",
    ),
    "messages_your_name": ("你的名字", "Your name"),
    "messages_name_hint": (
        "别人看到的就是它，以后可以改。",
        "This is what others see. You can change it later.",
    ),
    "messages_password_show": ("显示", "Show"),
    "messages_login_with": ("用 {title} 登录", "Log in with {title}"),
    "messages_forgotten": ("忘记密码？", "Forgot your password?"),
    "messages_send": ("发送邮件", "Send the mail"),
    "messages_reset_sent": (
        "若该账号存在并填有邮箱，邮件已发出，请在 30 分钟内打开其中的链接。",
        "If the account exists and has an e-mail address, a mail is on its way. "
        "Open its link within 30 minutes.",
    ),
    "messages_reset_ends": ("之后所有设备都要重新登录。", "After this, all devices must log in again."),
    "messages_reset_done": ("密码已更换，请登录。", "The password was changed. Log in with it."),
    "messages_providers": ("其他登录方式", "Other ways to log in"),
    "messages_provider_link": ("绑定", "Link"),
    "messages_provider_unlink": ("解除绑定", "Unlink"),
    "messages_provider_linked": ("已绑定", "Linked"),
    "messages_password_old": ("当前密码", "Current password"),
    "messages_password_if_any": ("账号没有密码时留空", "Leave it empty if the account has none"),
    "messages_password_new": ("新密码", "New password"),
    "messages_password_change": ("修改密码", "Change the password"),
    "messages_password_ends": (
        "之后所有设备都要重新登录，包括这一台。",
        "After this, all devices must log in again, including this one.",
    ),
    "messages_fault_nickname": ("请输入名字", "Enter a name"),
    "messages_fault_identifier": ("请填写登录账号", "Enter what you log in with"),
    "messages_fault_no_password": ("请输入密码", "Enter the password"),
    "messages_fault_password": ("密码至少 8 个字符", "The password needs at least 8 characters"),
    "messages_fault_wrong_password": ("密码不对", "Wrong password"),
    "messages_fault_not_allowed": ("这里不允许这样做", "This is not allowed here"),
    "messages_fault_role_too_low": (
        "你在这个群里没有这个权限",
        "Your role in this group does not allow this",
    ),
    "messages_fault_too_many_friends": ("联系人已满", "The contact list is full"),
    "messages_fault_too_many_members": ("群成员已满", "The group is full"),
    "messages_fault_too_many_invitations": (
        "链接太多，请先撤销一个",
        "There are too many links. Revoke one first",
    ),
    "messages_fault_unknown_invitation": ("这个邀请已失效", "This invitation is no longer valid"),
    "messages_fault_unknown_group": ("你已不在这个群里", "You are not in this group any more"),
    "messages_fault_busy": ("服务器繁忙，请稍后再试", "The server is busy. Try again later"),
    "messages_contacts": ("联系人", "Contacts"),
    "messages_find": ("找人", "Find people"),
    "messages_find_go": ("查找", "Find"),
    "messages_find_hint": (
        "输入完整的手机号、邮箱或用户名",
        "Enter a full phone number, e-mail address or user name",
    ),
    "messages_found": ("查找结果", "Result"),
    "messages_requests": ("新的请求", "Requests to you"),
    "messages_request_count": ("{count} 个新请求", "{count} new requests"),
    "messages_asked": ("等待对方同意", "Waiting for an answer"),
    "messages_blocked": ("已屏蔽", "Blocked"),
    "messages_no_contacts": (
        "还没有联系人。在上面找人，或者把你的链接发给朋友。",
        "No contacts yet. Find people above, or send your link to a friend.",
    ),
    "messages_no_contacts_to_choose": (
        "没有可选的联系人。也可以用链接邀请。",
        "There are no contacts to choose. You can also invite people with a link.",
    ),
    "messages_none_found": ("没有符合的联系人", "No contact matches"),
    "messages_accept": ("同意", "Accept"),
    "messages_decline": ("拒绝", "Decline"),
    "messages_withdraw": ("撤回请求", "Withdraw"),
    "messages_ask": ("加为联系人", "Add to contacts"),
    "messages_message": ("发消息", "Message"),
    "messages_block": ("屏蔽", "Block"),
    "messages_block_question": (
        "屏蔽 {name}？对方将不能再给你发消息。",
        "Block {name}? They can no longer write to you.",
    ),
    "messages_unblock": ("取消屏蔽", "Unblock"),
    "messages_unfriend": ("移出联系人", "Remove from contacts"),
    "messages_unfriend_question": ("把 {name} 移出联系人？", "Remove {name} from your contacts?"),
    "messages_is_contact": ("你的联系人", "In your contacts"),
    "messages_has_asked": ("请求加你为联系人", "Would like to be your contact"),
    "messages_request_sent": ("请求已发送", "Request sent"),
    "messages_is_blocked": ("你屏蔽了对方", "You have blocked them"),
    "messages_online": ("在线", "Online"),
    "messages_offline": ("不在线", "Offline"),
    "messages_last_seen": ("最近在线：{when}", "Last seen {when}"),
    "messages_filter_contacts": ("筛选", "Filter"),
    "messages_new_group": ("新建群", "New group"),
    "messages_create": ("创建", "Create"),
    "messages_choose_people": ("请至少选一个人", "Choose at least one person"),
    "messages_add": ("添加", "Add"),
    "messages_save": ("保存", "Save"),
    "messages_saved": ("已保存", "Saved"),
    "messages_change": ("修改", "Change"),
    "messages_profile": ("我的资料", "My profile"),
    "messages_avatar_choose": ("更换头像", "Choose a picture"),
    "messages_avatar_remove": ("删除头像", "Remove the picture"),
    "messages_avatar_crop": ("裁剪头像", "Crop the picture"),
    "messages_avatar_window": (
        "头像预览。方向键移动，加减键缩放。",
        "Preview. Arrow keys move the picture, plus and minus zoom.",
    ),
    "messages_avatar_hint": ("拖动、滚轮或双指缩放", "Drag to move. Zoom with the wheel or two fingers."),
    "messages_avatar_zoom": ("缩放", "Zoom"),
    "messages_avatar_use": ("使用", "Use"),
    "messages_avatar_unreadable": ("浏览器读不了这张图片", "The browser cannot read this picture"),
    "messages_identifiers": ("登录账号", "How you log in"),
    "messages_identifiers_hint": (
        "知道其中任何一个的人都可以找到你，除非你在下面关闭。",
        "People who know one of them can find you, unless you switch that off below.",
    ),
    "messages_none_given": ("未填写", "Not given"),
    "messages_privacy": ("隐私", "Privacy"),
    "messages_findable": ("别人可以通过登录账号找到我", "People can find me by what I log in with"),
    "messages_show_presence": ("显示我是否在线", "Show whether I am online"),
    "messages_show_presence_hint": (
        "只有联系人和同群的人能看到。",
        "Only your contacts and members of your groups see it.",
    ),
    "messages_devices": ("已登录的设备", "Devices that are logged in"),
    "messages_this_device": ("本设备", "This device"),
    "messages_unnamed_device": ("未命名的设备", "Device without a name"),
    "messages_since": ("{when} 登录", "Since {when}"),
    "messages_logout_all": ("在所有设备上退出", "Log out everywhere"),
    "messages_logout_all_question": (
        "在所有设备上退出，包括这一台？",
        "Log out on all devices, including this one?",
    ),
    "messages_group_info": ("群资料", "Group information"),
    "messages_members": ("{count} 名成员", "{count} members"),
    "messages_one_member": ("1 名成员", "1 member"),
    "messages_member_list": ("成员", "Members"),
    "messages_add_members": ("添加成员", "Add members"),
    "messages_owner": ("群主", "Owner"),
    "messages_admin": ("管理员", "Admin"),
    "messages_is_muted": ("已禁言", "Muted"),
    "messages_manage": ("管理", "Manage"),
    "messages_manage_member": ("管理成员 {name}", "Manage {name}"),
    "messages_make_admin": ("设为管理员", "Make admin"),
    "messages_make_member": ("取消管理员", "Make an ordinary member"),
    "messages_make_owner": ("转让群主", "Make owner"),
    "messages_make_owner_question": (
        "让 {name} 成为群主？你会成为管理员。",
        "Make {name} the owner? You become an admin.",
    ),
    "messages_mute_hour": ("禁言 1 小时", "Mute for 1 hour"),
    "messages_mute_day": ("禁言 1 天", "Mute for 1 day"),
    "messages_unmute": ("解除禁言", "Unmute"),
    "messages_remove_member": ("移出群", "Remove from the group"),
    "messages_remove_question": ("把 {name} 移出群？", "Remove {name} from the group?"),
    "messages_rename": ("修改群名称", "Rename"),
    "messages_rules": ("群规则", "Rules"),
    "messages_history_all": (
        "新成员可以看到以前的消息",
        "New members see earlier messages",
    ),
    "messages_may_invite": ("谁可以邀请", "Who may invite"),
    "messages_may_rename": ("谁可以修改群名称", "Who may rename the group"),
    "messages_may_pin": ("谁可以置顶消息", "Who may pin messages"),
    "messages_all_members": ("所有成员", "All members"),
    "messages_admins": ("群主和管理员", "Owner and admins"),
    "messages_leave": ("退出群", "Leave the group"),
    "messages_leave_question": ("退出“{name}”？", "Leave “{name}”?"),
    "messages_left_group": ("你已退出“{name}”", "You left “{name}”"),
    "messages_media": ("图片、视频和文件", "Media and files"),
    "messages_media_more": ("更早的", "Older ones"),
    "messages_pictures": ("图片和视频", "Pictures and videos"),
    "messages_files": ("文件和语音", "Files and voice"),
    "messages_no_media": ("还没有", "Nothing yet"),
    "messages_my_link": ("我的邀请链接", "My invitation link"),
    "messages_my_link_hint": (
        "打开链接或扫描二维码的人会成为你的联系人。",
        "People who open the link or scan the code become your contacts.",
    ),
    "messages_group_link": ("邀请链接", "Invitation link"),
    "messages_group_link_hint": (
        "打开链接或扫描二维码的人会加入“{name}”。",
        "People who open the link or scan the code join “{name}”.",
    ),
    "messages_link_address": ("链接", "Link"),
    "messages_qr": ("邀请链接的二维码", "QR code of the invitation link"),
    "messages_no_links": ("还没有链接。在下面创建一个。", "No link yet. Create one below."),
    "messages_other_links": ("其他链接", "Other links"),
    "messages_show_link": ("显示", "Show"),
    "messages_copy_link": ("复制链接", "Copy link"),
    "messages_copy_failed": ("没有复制成功", "Copying failed"),
    "messages_share": ("分享", "Share"),
    "messages_revoke": ("撤销", "Revoke"),
    "messages_revoke_question": (
        "撤销这个链接？之后它不能再使用。",
        "Revoke this link? Nobody can use it after that.",
    ),
    "messages_link_until": ("有效至 {when}", "Valid until {when}"),
    "messages_link_forever": ("长期有效", "No expiry"),
    "messages_link_unused": ("还没有人使用", "Not used yet"),
    "messages_link_used": ("已使用 {count} 次", "Used {count} times"),
    "messages_link_used_of": ("已使用 {count} / {most} 次", "Used {count} of {most} times"),
    "messages_link_make": ("创建新链接", "Create a new link"),
    "messages_link_new": ("创建链接", "Create link"),
    "messages_link_ends": ("有效期", "Valid for"),
    "messages_link_day": ("1 天", "1 day"),
    "messages_link_week": ("7 天", "7 days"),
    "messages_link_month": ("30 天", "30 days"),
    "messages_link_always": ("长期", "No end"),
    "messages_link_uses": ("可使用", "For"),
    "messages_link_anybody": ("不限次数", "Any number of people"),
    "messages_link_one": ("1 次", "One person"),
    "messages_link_ten": ("10 次", "10 people"),
    "messages_invitation": ("邀请", "Invitation"),
    "messages_invites_to_group": (
        "{name} 邀请你加入群“{group}”",
        "{name} invites you to the group “{group}”",
    ),
    "messages_invites_to_contact": ("{name} 想加你为联系人", "{name} would like to be your contact"),
    "messages_join": ("加入", "Join"),
    "messages_not_now": ("以后再说", "Not now"),
    "messages_invitation_gone": ("这个邀请已失效", "This invitation is no longer valid"),
    "messages_own_link": ("这是你自己的链接", "This is your own link"),
    # --- the status page
    "status_title": ("运行状态", "Status"),
    "status_intro": (
        "本节点的实时状态，每 {seconds} 秒刷新。",
        "Live state of this node, updated every {seconds} s.",
    ),
    "status_loading": ("读取中…", "Loading…"),
    "status_failed": ("读取失败：{reason}", "Cannot load: {reason}"),
    "status_stale": ("显示的是 {time} 的数据", "Data from {time}"),
    "status_updated": ("更新于 {time}", "Updated {time}"),
    "status_pause": ("暂停刷新", "Pause"),
    "status_resume": ("继续刷新", "Resume"),
    "status_connections": ("连接", "Connections"),
    "status_users": ("登录用户", "Logged-in users"),
    "status_uptime": ("运行时长", "Uptime"),
    "status_memory": ("内存", "Memory"),
    "status_per_connection": ("每连接 {size}", "{size} per connection"),
    "status_anonymous": ("{count} 个未登录", "{count} not logged in"),
    "status_in_apps": ("分布在 {count} 个应用", "in {count} apps"),
    "status_cpus": ("处理器", "CPUs"),
    "status_tasks": ("并发任务", "Concurrent tasks"),
    "status_waiting": ("等待的事件", "Waiting events"),
    "status_deliveries": ("已投递", "Deliveries"),
    "status_lag": ("循环延迟", "Loop lag"),
    "status_history": ("最近 {minutes} 分钟的连接数", "Connections in the last {minutes} min"),
    "status_apps": ("应用", "Apps"),
    "status_app": ("应用", "App"),
    "status_share": ("占比", "Share"),
    "status_no_apps": ("还没有用户登录。", "No user is logged in."),
    "status_meanings": ("这些数字的含义", "What these figures mean"),
    "status_means_connections": (
        "打开的 WebSocket 和事件流，包括还没有登录的。",
        "Open WebSockets and event streams, logged in or not.",
    ),
    "status_means_users": (
        "至少有一个会话的用户。一个用户的几台设备只算一次。",
        "Users with at least one session. Several devices of a user count once.",
    ),
    "status_means_uptime": ("从启动到现在的时间。", "Time since the start of the process."),
    "status_means_memory": ("进程占用的物理内存。", "Physical memory of the process."),
    "status_means_cpus": ("这台机器的处理器个数。", "Processors of the machine."),
    "status_means_tasks": (
        "等待读取的连接数加正在处理的请求数。",
        "Connections that wait for input, and requests in progress.",
    ),
    "status_means_waiting": (
        "已收到但尚未处理的事件。经常不为零说明节点过载。",
        "Events received and not yet handled. If it often is not zero, the node is overloaded.",
    ),
    "status_means_deliveries": (
        "启动以来向连接发送的消息份数，每个收件连接算一份。",
        "Messages sent to connections since the start, one for each receiving connection.",
    ),
    "status_means_lag": (
        "定时器晚了多久。超过 100 ms 时用户会察觉。",
        "How late timers run. Users notice more than 100 ms.",
    ),
    "status_means_share": (
        "该应用的用户占所有登录用户的比例。",
        "Part of all logged-in users that are in this app.",
    ),
    "status_key_title": ("需要管理密钥", "Enter an admin key"),
    "status_key_why": (
        "服务器配置了 API 密钥。请输入有 admin 权限的密钥。它只保存在这个标签页里，关闭后即删除。",
        "This server requires an API key. Enter one with the admin scope. "
        "It is stored in this tab only and deleted when you close it.",
    ),
    "status_key": ("管理密钥", "Admin key"),
    "status_key_show": ("查看状态", "Show status"),
    "status_key_wrong": (
        "这个密钥不对，或没有 admin 权限。",
        "This key is wrong or does not have the admin scope.",
    ),
    "status_key_forget": ("忘记密钥", "Forget the key"),
    "status_reference": ("HTTP 接口", "HTTP API"),
    # --- the landing page
    "start_link": ("首页", "Start"),
    "start_title": ("imserver 正在运行", "imserver is running"),
    "start_intro": (
        "用 WebSocket 或事件流连接用户，用一条 HTTP 请求把消息推送给他们。",
        "Users connect by WebSocket or event stream. One HTTP request pushes a message to them.",
    ),
    "start_chat": ("聊天页", "Chat page"),
    "start_chat_hint": ("在两个窗口打开，互相聊天。", "Open it in two windows and chat."),
    "start_channels_hint": (
        "订阅、发布、在线名单、断线补发。",
        "Subscribe, publish, see who is there, cut the line and recover.",
    ),
    "start_messages_hint": ("消息会保存，账号可注册。", "Stored messages, with accounts."),
    "start_reference_hint": ("每个接口和字段的说明。", "Every route and field, explained."),
    "start_status_hint": ("连接数、用户数和内存。", "Connections, users and memory."),
    "start_push": ("第一条推送", "The first push"),
    "start_listen": ("在一个终端里，以 ann 的身份接收：", "In one terminal, receive as the user ann:"),
    "start_send": ("在另一个终端里，推送给 ann：", "In another terminal, push to ann:"),
    "start_placeholders": (
        "APP 是应用的名称，TOKEN 是 ann 的会话令牌（imserver token create），KEY 是 API 密钥。",
        "APP is the name of your app, TOKEN a session token of ann (imserver token create), KEY an API key.",
    ),
    "start_access": ("谁可以做什么", "Who may do what"),
    "start_demo": (
        "演示模式：没有 API 密钥，本机的任何程序都可以做任何事。服务器只接受本机的连接。",
        "Demo mode: there is no API key, so every program on this machine may do everything. "
        "The server accepts connections from this machine only.",
    ),
    "start_apps": ("现有应用：", "Apps:"),
    "start_close": (
        "要关闭演示模式，请停止服务器，在同一个文件夹里创建密钥和登录规则，再启动：",
        "To close it, stop the server, create a key and a login rule in the same folder, and start again:",
    ),
    "start_keys": (
        "后端调用需要 API 密钥。应用没有登录规则、也没有设置 open: true 时，任何人都不能登录。",
        "Back ends need an API key. An app without a login rule refuses logins, unless it has open: true.",
    ),
    "start_check": (
        "在服务器上列出哪些仍然开放，以及如何关闭：",
        "On the server, list what is open and how to close it:",
    ),
    # --- the page of an HTTP error
    "refusal_nothing": ("没有这个页面", "Page not found"),
    "refusal_nothing_hint": (
        "地址可能有误，或者页面已经移走。",
        "The address may be wrong, or the page has moved.",
    ),
    "refusal_title": ("无法打开这个页面", "Cannot open this page"),
    "refusal_hint": ("服务器没有接受这个请求（{code}）。", "The server refused the request ({code})."),
    "refusal_token": (
        "这个页面需要有效的会话令牌。令牌可能缺失或已过期。请从给你链接的应用重新打开，或在这里粘贴新的令牌。",
        "This page needs a valid session token. The token is missing, or it has expired. "
        "Open the page again from the application that gave you the link, or paste a new token here.",
    ),
    "refusal_new_token": ("会话令牌", "Session token"),
    "refusal_open": ("打开", "Open"),
    "refusal_home": ("去首页", "Go to the start page"),
    "refusal_request": ("请求编号 {id}", "Request {id}"),
    # --- the page to which a browser comes back from a login provider
    "callback_title_question": ("确认登录", "Confirm the login"),
    "callback_title_done": ("完成", "Done"),
    "callback_title_refused": ("登录未完成", "The login was not completed"),
    "callback_title_unknown": ("登录已过期", "The login has expired"),
    "callback_title_unavailable": ("登录服务没有响应", "The login provider does not answer"),
    "callback_hint_done": (
        "可以关闭此页，回到您的设备。",
        "You may close this page and go back to your device.",
    ),
    "callback_hint_refused": (
        "没有登录任何设备。可以关闭此页，然后重试。",
        "No device was logged in. You may close this page and try again.",
    ),
    "callback_hint_unknown": ("请在您的设备上重新登录。", "Log in again on your device."),
    "callback_hint_unavailable": ("请过一会儿重试。", "Try again in a while."),
    "callback_ask": ("用 {title} 登录？", "Log in with {title}?"),
    "callback_ask_link": ("把 {title} 绑定到“{nickname}”？", "Link {title} with “{nickname}”?"),
    "callback_compare": (
        "您的设备（{device}）应显示这个代码：",
        "Your device ({device}) has to show this code:",
    ),
    "callback_no_device": ("未命名", "without a name"),
    "callback_warning": (
        "若代码不同，或登录不是您自己发起的，请拒绝：否则别人会登录您的账号。",
        "If it shows another code, or you did not start this yourself, refuse: somebody else would get in.",
    ),
    "callback_yes": ("代码相同，继续", "The codes are equal: go on"),
    "callback_no": ("拒绝", "Refuse"),
    # --- the cluster page
    "cluster_title": ("集群", "Cluster"),
    "cluster_intro": (
        "所有节点的实时状态，每 {seconds} 秒刷新。",
        "Live state of all nodes, updated every {seconds} s.",
    ),
    "cluster_means_nodes": (
        "正在运行或不久前消失的服务器进程。",
        "Server processes that run, or that have gone since you opened this page.",
    ),
    "cluster_means_state": (
        "正常：接受登录。排空中：正在停止，客户端移到别的节点。没有应答：两次查询之间没有回答。",
        "Up: accepts logins. Draining: stops, and its clients move to other nodes. "
        "No response: did not answer the last query.",
    ),
    "cluster_means_cpu": (
        "两次刷新之间所用的一个处理器的比例。",
        "Part of one processor that was used between two updates.",
    ),
    "cluster_nodes": ("节点", "Nodes"),
    "cluster_node": ("节点", "Node"),
    "cluster_state": ("状态", "State"),
    "cluster_cpu": ("CPU", "CPU"),
    "cluster_up": ("正常", "Up"),
    "cluster_draining": ("排空中", "Draining"),
    "cluster_not_ready": ("未就绪", "Not ready"),
    "cluster_no_answer": ("没有应答", "No response"),
    "cluster_gone": ("{time} 起不在", "Gone since {time}"),
    "cluster_all_answer": ("全部应答", "all respond"),
    "cluster_silent": ("{count} 个没有应答", "{count} not responding"),
    "cluster_of_limit": ("上限 {limit}", "of {limit}"),
    "cluster_machine": ("在一台机器上", "on one machine"),
    "cluster_machines": ("在 {count} 台机器上", "on {count} machines"),
    "cluster_epoch": ("纪元 {epoch}", "epoch {epoch}"),
    "cluster_alone": ("这是单节点：没有配置 Redis。", "This is a single node: no Redis is configured."),
    "unit_days": ("{count}\u00a0天", "{count}\u00a0d"),
    "unit_hours": ("{count}\u00a0小时", "{count}\u00a0h"),
    "unit_minutes": ("{count}\u00a0分", "{count}\u00a0min"),
    "unit_seconds": ("{count}\u00a0秒", "{count}\u00a0s"),
}


def in_language(table: Mapping[str, tuple[str, str]], language: str) -> dict[str, str]:
    """One language of a table of (Chinese, English) texts."""
    column = LANGUAGES.index(language)
    return {key: texts[column] for key, texts in table.items()}


TEXT: Final = {language: in_language(_TABLE, language) for language in LANGUAGES}
"""Language → key → text."""


def choose_language(asked: str, accepted: LanguageAccept) -> str:
    """The language for a visitor: that of ``?lang=``, else the best accepted one, else English.

    Without any preference it is Chinese, the language of the original page.
    """
    if asked in LANGUAGES:
        return asked
    if not accepted:
        return LANGUAGES[0]
    for tag, quality in accepted:
        primary = tag.lower().split("-")[0]
        if quality > 0 and primary in LANGUAGES:
            return primary
    return "en"


HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
"""Headers of the answers of all pages."""


def policy(connect: str, media: str = "'none'", form: str = "'none'") -> str:
    """The Content-Security-Policy of a page that may connect to ``connect``, play from ``media`` and send
    forms to ``form``.
    """
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        + (f"media-src {media}; " if media != "'none'" else "")
        + f"connect-src {connect}; base-uri 'none'; form-action {form}; frame-ancestors 'none'"
    )


def render(template: str, language: str, words: dict[str, str], **values: Any) -> Response:
    """Render a page as an answer that is not cached."""
    other = next(each for each in TEXT if each != language)
    answer = Response(render_template(template, text=words, other_language=other, asked=_asked(), **values))
    answer.headers["Cache-Control"] = "no-store"
    answer.headers["Vary"] = "Accept-Language"
    return answer


def language_of_visitor() -> tuple[str, dict[str, str]]:
    """The visitor's preferred language, and its texts."""
    language = choose_language(_asked(), request.accept_languages)
    return language, TEXT[language]


def language_asked_for() -> tuple[str, dict[str, str]]:
    """The language in the address, else Chinese; and its texts."""
    language = _asked() or LANGUAGES[0]
    return language, TEXT[language]


def parameter(name: str) -> str:
    """A parameter of query or form, its name in any letter case; ``""`` if it is missing."""
    for key, value in request.values.items():
        if key.lower() == name:
            return value
    return ""


def has_parameter(*names: str) -> bool:
    """Whether the query or form has one of these, even if it is empty."""
    return any(key.lower() in names for key in request.values)


def _asked() -> str:
    asked = parameter("lang")
    return asked if asked in LANGUAGES else ""


class _Codes(BytecodeCache):
    """Stores the compiled code of templates in memory, by name and content."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], CodeType] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        """Called by Jinja before it compiles."""
        bucket.code = self._known.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Called by Jinja after it has compiled."""
        if bucket.code is not None:
            self._known[bucket.key, bucket.checksum] = bucket.code


OPTIONS: Final[dict[str, Any]] = {**Flask.jinja_options, "bytecode_cache": _Codes()}
"""Options of Jinja in a Flask application."""


def precompile() -> None:
    """Compile all templates, and read the operating system's file types; for a process that forks."""
    mimetypes.init()
    app = Flask("imserver", static_folder=None, template_folder=str(assets.TEMPLATES))
    app.jinja_options = OPTIONS
    for name in app.jinja_env.list_templates():
        app.jinja_env.get_template(name)

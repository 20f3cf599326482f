from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Input(_message.Message):
    __slots__ = ("type", "data")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    type: int
    data: bytes
    def __init__(self, type: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Output(_message.Message):
    __slots__ = ("type", "code", "CodeMsg", "data")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    CODEMSG_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    type: int
    code: int
    CodeMsg: bytes
    data: bytes
    def __init__(self, type: _Optional[int] = ..., code: _Optional[int] = ..., CodeMsg: _Optional[bytes] = ..., data: _Optional[bytes] = ...) -> None: ...

class OutputBatch(_message.Message):
    __slots__ = ("outputs",)
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    outputs: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, outputs: _Optional[_Iterable[bytes]] = ...) -> None: ...

class LoginMsg(_message.Message):
    __slots__ = ("token", "device", "cursor", "acks")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    device: bytes
    cursor: int
    acks: bool
    def __init__(self, token: _Optional[bytes] = ..., device: _Optional[bytes] = ..., cursor: _Optional[int] = ..., acks: _Optional[bool] = ...) -> None: ...

class HeartbeatMsg(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Message(_message.Message):
    __slots__ = ("session_type", "receiver_id", "sender_id", "message_type", "content", "seq", "send_time", "kind", "about", "conversation", "conversation_seq", "client_msg_id", "meta", "sender", "receiver")
    SESSION_TYPE_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_ID_FIELD_NUMBER: _ClassVar[int]
    SENDER_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_TYPE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    SEND_TIME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ABOUT_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_SEQ_FIELD_NUMBER: _ClassVar[int]
    CLIENT_MSG_ID_FIELD_NUMBER: _ClassVar[int]
    META_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    session_type: int
    receiver_id: int
    sender_id: int
    message_type: int
    content: bytes
    seq: int
    send_time: int
    kind: int
    about: int
    conversation: int
    conversation_seq: int
    client_msg_id: bytes
    meta: bytes
    sender: bytes
    receiver: bytes
    def __init__(self, session_type: _Optional[int] = ..., receiver_id: _Optional[int] = ..., sender_id: _Optional[int] = ..., message_type: _Optional[int] = ..., content: _Optional[bytes] = ..., seq: _Optional[int] = ..., send_time: _Optional[int] = ..., kind: _Optional[int] = ..., about: _Optional[int] = ..., conversation: _Optional[int] = ..., conversation_seq: _Optional[int] = ..., client_msg_id: _Optional[bytes] = ..., meta: _Optional[bytes] = ..., sender: _Optional[bytes] = ..., receiver: _Optional[bytes] = ...) -> None: ...

class UpMsg(_message.Message):
    __slots__ = ("msg", "clientId", "client_msg_id")
    MSG_FIELD_NUMBER: _ClassVar[int]
    CLIENTID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_MSG_ID_FIELD_NUMBER: _ClassVar[int]
    msg: Message
    clientId: int
    client_msg_id: bytes
    def __init__(self, msg: _Optional[_Union[Message, _Mapping]] = ..., clientId: _Optional[int] = ..., client_msg_id: _Optional[bytes] = ...) -> None: ...

class PushMsg(_message.Message):
    __slots__ = ("msg",)
    MSG_FIELD_NUMBER: _ClassVar[int]
    msg: Message
    def __init__(self, msg: _Optional[_Union[Message, _Mapping]] = ...) -> None: ...

class ACKMsg(_message.Message):
    __slots__ = ("type", "clientId", "seq", "recovered", "begin_anew", "request")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    CLIENTID_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    RECOVERED_FIELD_NUMBER: _ClassVar[int]
    BEGIN_ANEW_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    type: int
    clientId: int
    seq: int
    recovered: bool
    begin_anew: bool
    request: int
    def __init__(self, type: _Optional[int] = ..., clientId: _Optional[int] = ..., seq: _Optional[int] = ..., recovered: _Optional[bool] = ..., begin_anew: _Optional[bool] = ..., request: _Optional[int] = ...) -> None: ...

class SyncInputMsg(_message.Message):
    __slots__ = ("seq", "limit")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    seq: int
    limit: int
    def __init__(self, seq: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class SyncOutputMsg(_message.Message):
    __slots__ = ("messages", "has_more", "begin_anew")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    HAS_MORE_FIELD_NUMBER: _ClassVar[int]
    BEGIN_ANEW_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    has_more: bool
    begin_anew: bool
    def __init__(self, messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., has_more: _Optional[bool] = ..., begin_anew: _Optional[bool] = ...) -> None: ...

class PlaceMsg(_message.Message):
    __slots__ = ("conversation", "seq")
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    conversation: int
    seq: int
    def __init__(self, conversation: _Optional[int] = ..., seq: _Optional[int] = ...) -> None: ...

class TypingMsg(_message.Message):
    __slots__ = ("receiver_id", "conversation")
    RECEIVER_ID_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    receiver_id: int
    conversation: int
    def __init__(self, receiver_id: _Optional[int] = ..., conversation: _Optional[int] = ...) -> None: ...

class HideMsg(_message.Message):
    __slots__ = ("seqs",)
    SEQS_FIELD_NUMBER: _ClassVar[int]
    seqs: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, seqs: _Optional[_Iterable[int]] = ...) -> None: ...

class HistoryMsg(_message.Message):
    __slots__ = ("conversation", "before", "limit")
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    conversation: int
    before: int
    limit: int
    def __init__(self, conversation: _Optional[int] = ..., before: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class SearchMsg(_message.Message):
    __slots__ = ("text", "conversation", "before", "limit")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    text: bytes
    conversation: int
    before: int
    limit: int
    def __init__(self, text: _Optional[bytes] = ..., conversation: _Optional[int] = ..., before: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class HistoryOutputMsg(_message.Message):
    __slots__ = ("messages", "has_more")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    HAS_MORE_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    has_more: bool
    def __init__(self, messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., has_more: _Optional[bool] = ...) -> None: ...

class SearchOutputMsg(_message.Message):
    __slots__ = ("messages", "has_more", "before")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    HAS_MORE_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    has_more: bool
    before: int
    def __init__(self, messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., has_more: _Optional[bool] = ..., before: _Optional[int] = ...) -> None: ...

class ConversationsMsg(_message.Message):
    __slots__ = ("before", "limit")
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    before: int
    limit: int
    def __init__(self, before: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class Conversation(_message.Message):
    __slots__ = ("id", "session_type", "unread", "read", "role", "peer_id", "name", "last", "peer", "place")
    ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_TYPE_FIELD_NUMBER: _ClassVar[int]
    UNREAD_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    id: int
    session_type: int
    unread: int
    read: int
    role: bytes
    peer_id: int
    name: bytes
    last: Message
    peer: bytes
    place: int
    def __init__(self, id: _Optional[int] = ..., session_type: _Optional[int] = ..., unread: _Optional[int] = ..., read: _Optional[int] = ..., role: _Optional[bytes] = ..., peer_id: _Optional[int] = ..., name: _Optional[bytes] = ..., last: _Optional[_Union[Message, _Mapping]] = ..., peer: _Optional[bytes] = ..., place: _Optional[int] = ...) -> None: ...

class ConversationsOutputMsg(_message.Message):
    __slots__ = ("conversations", "has_more")
    CONVERSATIONS_FIELD_NUMBER: _ClassVar[int]
    HAS_MORE_FIELD_NUMBER: _ClassVar[int]
    conversations: _containers.RepeatedCompositeFieldContainer[Conversation]
    has_more: bool
    def __init__(self, conversations: _Optional[_Iterable[_Union[Conversation, _Mapping]]] = ..., has_more: _Optional[bool] = ...) -> None: ...

class ReceiptsMsg(_message.Message):
    __slots__ = ("conversation", "after", "limit")
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    conversation: int
    after: bytes
    limit: int
    def __init__(self, conversation: _Optional[int] = ..., after: _Optional[bytes] = ..., limit: _Optional[int] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("user_id", "read", "received", "conversation", "user")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    user_id: int
    read: int
    received: int
    conversation: int
    user: bytes
    def __init__(self, user_id: _Optional[int] = ..., read: _Optional[int] = ..., received: _Optional[int] = ..., conversation: _Optional[int] = ..., user: _Optional[bytes] = ...) -> None: ...

class ReceiptsOutputMsg(_message.Message):
    __slots__ = ("receipts", "has_more")
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    HAS_MORE_FIELD_NUMBER: _ClassVar[int]
    receipts: _containers.RepeatedCompositeFieldContainer[Receipt]
    has_more: bool
    def __init__(self, receipts: _Optional[_Iterable[_Union[Receipt, _Mapping]]] = ..., has_more: _Optional[bool] = ...) -> None: ...

class MarksMsg(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class MarksOutputMsg(_message.Message):
    __slots__ = ("version", "read", "hidden", "receipts")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    version: int
    read: _containers.RepeatedCompositeFieldContainer[PlaceMsg]
    hidden: _containers.RepeatedScalarFieldContainer[int]
    receipts: _containers.RepeatedCompositeFieldContainer[Receipt]
    def __init__(self, version: _Optional[int] = ..., read: _Optional[_Iterable[_Union[PlaceMsg, _Mapping]]] = ..., hidden: _Optional[_Iterable[int]] = ..., receipts: _Optional[_Iterable[_Union[Receipt, _Mapping]]] = ...) -> None: ...

class SignalMsg(_message.Message):
    __slots__ = ("kind", "sender_id", "receiver_id", "conversation", "read", "received", "hidden", "sender", "receiver", "stream", "piece", "content", "whole", "done")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SENDER_ID_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_ID_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    kind: int
    sender_id: int
    receiver_id: int
    conversation: int
    read: int
    received: int
    hidden: _containers.RepeatedScalarFieldContainer[int]
    sender: bytes
    receiver: bytes
    stream: bytes
    piece: int
    content: bytes
    whole: bool
    done: bool
    def __init__(self, kind: _Optional[int] = ..., sender_id: _Optional[int] = ..., receiver_id: _Optional[int] = ..., conversation: _Optional[int] = ..., read: _Optional[int] = ..., received: _Optional[int] = ..., hidden: _Optional[_Iterable[int]] = ..., sender: _Optional[bytes] = ..., receiver: _Optional[bytes] = ..., stream: _Optional[bytes] = ..., piece: _Optional[int] = ..., content: _Optional[bytes] = ..., whole: _Optional[bool] = ..., done: _Optional[bool] = ...) -> None: ...

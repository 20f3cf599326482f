"""The tools and resources that a node offers to agents. Other features add
theirs (`Mcp.offer`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Literal, get_type_hints

import msgspec
from msgspec import Struct

from imserver.plugin.http import Api, Route

from .turn import PREFIX, RouteRefused, Turn

Run = Callable[[Turn, Any], Any]
Page = tuple[list[dict[str, Any]], str]
_NAMES = {"type": "object", "description": "The names of users, by id."}


class Content(Struct, frozen=True):
    """A result of a tool whose content is not only text.

    ``blocks``: content blocks of MCP. ``is_error``: the tool has failed, and
    the blocks say why.
    """

    blocks: tuple[Mapping[str, Any], ...]
    is_error: bool = False


class Tool(Struct, frozen=True, kw_only=True):
    """A tool, which agents can call.

    ``run`` gets the turn and the arguments. It returns a text, `Content`,
    `InputRequired`, `Later`, or a dict in the form ``output``. ``route``:
    method and path below ``/api/v1``; without this route the tool does not
    exist. If ``run`` is None, the route answers. ``input``: the JSON schema of
    the arguments, or the struct that ``run`` gets. None means the ``fields`` of
    the request of the route. ``names``: the answer also has the names of the
    users in it.
    """

    name: str
    title: str
    description: str
    run: Run | None = None
    route: tuple[str, str] = ("", "")
    fields: tuple[str, ...] = ()
    input: Mapping[str, Any] | type[Struct] | None = None
    output: Mapping[str, Any] | None = None
    names: bool = False
    kind: Literal["reads", "writes"] = "writes"

    @property
    def at(self) -> tuple[str, str]:
        """Method and path of the tool's route."""
        return self.route[0], PREFIX + self.route[1]

    def call(self, turn: Turn, arguments: dict[str, Any]) -> Any:
        """Run the tool with these arguments, and return its result.

        Arguments of null count as left out. May switch greenlets. Raises
        RouteRefused.
        """
        fields = self._read(turn, arguments)
        if self.run is None:
            result = turn.run(*self.route, **fields)
        else:
            result = self.run(turn, fields)
        if not self.names or not isinstance(result, dict):
            return result
        # Agents need names for people, and routes only give ids.
        return {**result, "names": _names_in(turn, result)}

    def _read(self, turn: Turn, arguments: dict[str, Any]) -> Any:
        """The arguments in the form that the tool gets: a struct or a dict.
        Raises RouteRefused if they are wrong."""
        fields = {name: value for name, value in arguments.items() if value is not None}
        if turn.task is not None and "client_msg_id" in self.fields:
            # A task may be run again. With this id its message is stored once.
            fields.setdefault("client_msg_id", turn.task.id)
        if isinstance(self.input, type):
            try:
                return msgspec.convert(fields, self.input)
            except msgspec.ValidationError as error:
                raise RouteRefused("invalid_request", str(error)) from None
        if self.input is None:
            self._require_known(fields.keys())
        return fields

    def _require_known(self, names: Collection[str]) -> None:
        """Refuse arguments that the tool does not have. Raises RouteRefused,
        with the names of its arguments."""
        unknown = set(names) - set(self.fields)
        if unknown:
            fields = f"this tool has {', '.join(self.fields)}"
            raise RouteRefused(
                "invalid_request", f"Unknown: {', '.join(sorted(unknown))}; {fields}"
            )

    def document(self, api: Api) -> dict[str, Any]:
        """The tool as ``tools/list`` shows it, with the schemas of its
        arguments and its result."""
        route = None
        if self.route[0]:
            route = api.endpoints[self.at].route
        document = {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "inputSchema": self._input_schema(route),
        }
        output = self._output_schema(route)
        if output is not None:
            document["outputSchema"] = output
        document["annotations"] = {
            "readOnlyHint": self.kind == "reads",
            "destructiveHint": False,
            # Tools reach people, and not only this server.
            "openWorldHint": True,
        }
        return document

    def _input_schema(self, route: Route | None) -> Mapping[str, Any] | None:
        """The JSON schema of the arguments.

        It is given, or made from the struct or from the request of the route.
        """
        if isinstance(self.input, type):
            return schema_of(self.input)
        if self.input is None and route is not None:
            return _input_of(route, self.fields)
        return self.input

    def _output_schema(self, route: Route | None) -> Mapping[str, Any] | None:
        """The JSON schema of the result; None if the result is not an
        object."""
        output = self.output
        if output is None and self.run is None and route is not None:
            # The route answers, so its return type is that of the tool.
            output = schema_of(get_type_hints(route.function)["return"])
        if output is not None and self.names:
            return {**output, "properties": {**output["properties"], "names": _NAMES}}
        return output


def _names_in(turn: Turn, result: dict[str, Any]) -> dict[str, str]:
    """The nicknames of the users in a result, by their ids."""
    cards = turn.cards(dict.fromkeys(users_in(result)))
    return {card["user"]: card["nickname"] for card in cards if card["nickname"]}


class Source(Struct, frozen=True, kw_only=True):
    """A source of resources, which agents can read.

    ``list``: (turn, cursor) → a page of them, and the cursor of the next page.
    The cursor ``""`` means the first page, and after the last page. ``read``:
    (turn, address) → the contents of a resource, or `InputRequired`; None if it
    has no such resource.
    """

    list: Callable[[Turn, str], Page]
    read: Callable[[Turn, str], Any]
    templates: tuple[Mapping[str, Any], ...] = ()


class Offer(Struct, frozen=True, kw_only=True):
    """The tools and resources that a feature offers to agents.

    ``methods``: further requests that it answers. ``capabilities`` announce
    them.
    """

    tools: tuple[Tool, ...] = ()
    sources: tuple[Source, ...] = ()
    methods: Mapping[str, Callable[[Turn], Any]] = {}
    capabilities: Mapping[str, Any] = {}


def users_in(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield the ids of the users in an answer, in the order of the answer."""
    for name, value in answer.items():
        if name in ("from", "to", "peer", "user"):
            if value:
                yield value
        elif name in ("conversations", "messages", "answers"):
            for row in value:
                yield from users_in(row)


def schema_of(kind: type[Struct]) -> dict[str, Any]:
    """The JSON schema of a type, with an object at its root."""
    # msgspec makes a reference to the type at the root, and all types beside
    # it.
    whole = msgspec.json.schema(kind)
    definitions = whole.pop("$defs")
    root: dict[str, Any] = definitions.pop(kind.__name__)
    if definitions:
        return {**root, "$defs": definitions}
    return root


def _input_of(route: Route, fields: tuple[str, ...]) -> dict[str, Any]:
    """The JSON schema of these fields of the request of a route."""
    shape = route.shape
    assert shape is not None
    whole = schema_of(shape.query or shape.body.type)  # type: ignore[union-attr]
    properties = {name: whole["properties"][name] for name in fields}
    required = [name for name in whole.get("required", ()) if name in fields]
    schema = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    # A field may refer to a type that stands beside the fields.
    if b"#/$defs/" in msgspec.json.encode(properties):
        schema["$defs"] = whole["$defs"]
    return schema

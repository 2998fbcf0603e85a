"""Messages as the world writes them, made into what a chat template can read: one function for all who have some.

The forms are OpenAI's and vLLM's: content as text, as a list of parts, or null; tool calls whose arguments are JSON
text or objects. A template that writes a content gets text, one that goes through its parts gets parts (as in vLLM).
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minillm.text.template import Template

Message = Mapping[str, Any]  # {"role": "user", "content": "..."}
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}  # their type: its key


def normalise(messages: Sequence[Any], template: "Template") -> list[dict[str, Any]]:
    """One conversation for this template. ValueError says what is wrong with which message."""
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
        raise ValueError(f"the messages are {messages!r}; they must be a list of {{'role': ..., 'content': ...}}")
    if not messages:
        raise ValueError("the conversation is empty; give at least one message")
    return [_message(f"message {i}", message, template) for i, message in enumerate(messages)]


def _message(name: str, message: Any, template: "Template") -> dict[str, Any]:
    if callable(dump := getattr(message, "model_dump", None)):  # the openai package's own classes
        message = dump()
    if not isinstance(message, Mapping):
        raise ValueError(f"{name} is {message!r}; it must be a dict such as {{'role': 'user', 'content': 'Hello'}}")
    if not isinstance(role := message.get("role"), str):
        raise ValueError(f"{name} has the role {role!r}; it must be text, such as 'user'")
    written = {key: value for key, value in message.items() if value is not None}
    written["content"] = _content(name, message.get("content"), template)
    if calls := written.get("tool_calls"):
        written["tool_calls"] = [_tool_call(f"{name}, tool call {i}", call) for i, call in enumerate(calls)]
    elif "tool_calls" in written:
        del written["tool_calls"]  # an empty list says as much as none, and templates take it for one with calls
    return written


def _content(name: str, content: Any, template: "Template") -> str | list[dict[str, Any]]:
    if content is None:
        content = ""  # an assistant that only calls tools says nothing
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if template.wants_parts and not template.takes_text else content
    if not isinstance(content, Sequence):
        raise ValueError(f"{name} has the content {content!r}; it must be text, or a list of parts")
    texts = [_text(f"{name}, part {i}", part) for i, part in enumerate(content)]
    return [{"type": "text", "text": text} for text in texts] if template.wants_parts else "\n".join(texts)


def _text(name: str, part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, Mapping) else None
    if kind not in TEXT_PARTS:
        raise ValueError(f"{name} is of type {kind!r}; only text is served: {{'type': 'text', 'text': ...}}")
    if not isinstance(text := part.get(TEXT_PARTS[kind]), str):
        raise ValueError(f"{name} has {text!r} where its text should be; give {{'type': 'text', 'text': '...'}}")
    return text


def _tool_call(name: str, call: Any) -> Any:
    """The same call, its arguments an object: templates write them as JSON themselves."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise ValueError(f"{name} is {call!r}; it must hold {{'function': {{'name': ..., 'arguments': ...}}}}")
    arguments = function.get("arguments")
    if isinstance(arguments, str) and arguments.strip():
        try:
            arguments = json.loads(arguments)
        except json.JSONDecodeError as error:
            raise ValueError(f"{name} has arguments that are no JSON ({error}): {arguments!r}") from None
    return {**call, "function": {**function, "arguments": arguments or {}}}

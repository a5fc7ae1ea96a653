"""Tokens: one text as token ids, with what each token is. Where a prompt ends is decided here, once.

A prompt and its completion are tokenised apart and joined, so the boundary is exact and the same for a positive
and a negative completion of one prompt.
"""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from transformers import PreTrainedTokenizerBase

from trimtab.steering.errors import SteeringError

Message = Mapping[str, str]
TEMPLATE_SECONDS = 20.0
TEMPLATE_CHARACTERS = 1 << 24


class Role(IntEnum):
    """What wrote a token. TEMPLATE is the chat scaffold around messages."""

    TEMPLATE = 0
    SYSTEM = 1
    USER = 2
    ASSISTANT = 3
    COMPLETION = 4
    TEXT = 5


@dataclass(frozen=True, eq=False)
class Tokens:
    """ids: `[s]` token ids. prompt_length: how many belong to the prompt. roles: `[s]` Role. special: `[s]` bool."""

    ids: np.ndarray
    prompt_length: int
    roles: np.ndarray
    special: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def prompt(self) -> "Tokens":
        """The same without its completion."""
        n = self.prompt_length
        return Tokens(self.ids[:n], n, self.roles[:n], self.special[:n])

    @classmethod
    def of_ids(cls, ids: Sequence[int]) -> "Tokens":
        """A plain prompt given as token ids."""
        n = len(ids)
        return cls(np.asarray(ids, dtype=np.int64), n, np.full(n, Role.TEXT, dtype=np.uint8), np.zeros(n, dtype=bool))

    def followed_by(self, ids: Sequence[int]) -> "Tokens":
        """The prompt followed by a completion given as ids (for example one that the model just wrote)."""
        n = self.prompt_length
        extra = np.asarray(ids, dtype=np.int64)
        roles = np.concatenate([self.roles[:n], np.full(len(extra), Role.COMPLETION, dtype=np.uint8)])
        special = np.concatenate([self.special[:n], np.zeros(len(extra), dtype=bool)])
        return Tokens(np.concatenate([self.ids[:n], extra]), n, roles, special)


@dataclass(frozen=True)
class PromptFormat:
    """How a prompt becomes text. chat: apply the tokenizer's chat template. system: a system message to put first."""

    chat: bool = True
    system: str | None = None

    def messages(self, prompt: str | Sequence[Message]) -> list[dict[str, str]]:
        """The prompt as messages, the system message first."""
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
        return turns if self.system is None else [{"role": "system", "content": self.system}, *turns]


CHAT = PromptFormat()


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Sequence[Message],
    completion: str | None = None,
    form: PromptFormat = CHAT,
) -> Tokens:
    """Prompt (and completion) to marked tokens.

    Chat: the template's own generation prompt ends the prompt. Plain: a space is put between prompt and completion
    when neither has one. Raises SteeringError when a chat is asked of a tokenizer without a template.
    """
    if form.chat:
        ids, roles = _chat_prompt(tokenizer, form.messages(prompt))
    else:
        ids, roles = _plain_prompt(tokenizer, prompt, form)
    n = len(ids)
    if n == 0:
        raise SteeringError("a prompt gave no tokens; an empty prompt has no last token to read or steer")
    if completion is not None:
        text = completion if form.chat else _spaced(prompt, completion)
        extra = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids, roles = ids + extra, roles + [Role.COMPLETION] * len(extra)
    special = np.isin(ids, tokenizer.all_special_ids)
    return Tokens(np.asarray(ids, dtype=np.int64), n, np.asarray(roles, dtype=np.uint8), special)


def template_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 of the chat template (of the empty string when there is none)."""
    return hashlib.sha256(str(tokenizer.chat_template or "").encode()).hexdigest()


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 over the vocabulary and the added tokens, in id order."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return hashlib.sha256(repr(vocabulary).encode()).hexdigest()


def _spaced(prompt: object, completion: str) -> str:
    joined = not isinstance(prompt, str) or prompt[-1:].isspace() or completion[:1].isspace()
    return completion if joined else " " + completion


def _plain_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[Message], form: PromptFormat
) -> tuple[list[int], list[int]]:
    if not isinstance(prompt, str):
        raise SteeringError("a prompt made of chat messages needs `chat: true`; plain mode takes one string")
    text = prompt if form.system is None else f"{form.system}\n\n{prompt}"
    ids = list(tokenizer(text)["input_ids"])
    return ids, [Role.TEXT] * len(ids)


def _chat_prompt(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    if not tokenizer.chat_template:
        raise SteeringError("this tokenizer has no chat template, so `chat: true` has no answer; use `chat: false`")
    text = _rendered(tokenizer, messages)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return list(encoded["input_ids"]), _roles(text, messages, encoded["offset_mapping"])


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str:
    """A template is a program that came with the model: it gets seconds, on a thread that can be left behind.

    Raises SteeringError when it does not end, fails or writes too much.
    """
    outcome: list[str | Exception] = []

    def render() -> None:
        try:
            outcome.append(str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)))
        except Exception as error:  # whatever a template raises
            outcome.append(error)

    thread = threading.Thread(target=render, daemon=True)
    thread.start()
    thread.join(TEMPLATE_SECONDS)
    if not outcome:
        raise SteeringError(f"the chat template did not end within {TEMPLATE_SECONDS:g} s; use `chat: false`")
    if isinstance(outcome[0], Exception):
        raise SteeringError(f"the chat template failed: {outcome[0]}; use `chat: false`") from outcome[0]
    if len(outcome[0]) > TEMPLATE_CHARACTERS:
        raise SteeringError(f"the chat template wrote {len(outcome[0])} characters; use `chat: false`")
    return outcome[0]


def _roles(text: str, messages: list[dict[str, str]], offsets: list[tuple[int, int]]) -> list[int]:
    """A token belongs to the message whose content it starts in; everything else is scaffold."""
    roles, cursor = [Role.TEMPLATE] * len(offsets), 0
    for message in messages:
        start = text.find(message["content"].strip(), cursor)
        if start < 0:  # the template rewrote the content: leave it marked as scaffold
            continue
        cursor = start + len(message["content"].strip())
        role = Role[message["role"].upper()] if message["role"].upper() in Role.__members__ else Role.TEMPLATE
        for i, (a, b) in enumerate(offsets):
            if start <= a < cursor and b > a:
                roles[i] = role
    return [int(r) for r in roles]

"""`trimtab serve` with mixed plans beside three ways without it: requests per second and time to the first token.

    python benchmarks/serve.py [--rounds 2] [--tokens 16] [--threads 2]

All requests of a load come at once. Two of three are steered, by two plans. Bare `generate` one by one and in a
left-padded batch run in this process, unsteered; the two servers run in processes of their own,
one case at a time. Time to the first token is the mean over the requests of the last round.
"""

import asyncio
import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

import httpx
import torch
from ratio import Case, arguments, measure, setting
from steer import PROMPTS, plan
from transformers import GenerationConfig

from trimtab.steering import load_model
from trimtab.steering.model.embedded import embedded_folder
from trimtab.tasks.home import Home

LOADS = (1, 8, 32)
STEERINGS = ("early", "late", None)
BIN = Path(sys.executable).parent
PORT = 8791


def main() -> None:
    args = arguments("serving", 2, [("tokens", 16, "tokens of each answer")])
    torch.set_num_threads(args.threads)
    model, tokenizer = load_model()
    print(setting(args.threads), end="\n\n")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        publish(folder, model)
        environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
        ours = stack.enter_context(server(trimtab_command(folder), environment))
        theirs = stack.enter_context(server(transformers_command(), environment))
        loads = Loads(model, tokenizer, args.tokens)
        print("| requests at once | case | requests/s | over one by one | first token, s |\n|---|---|---|---|---|")
        for count in LOADS:
            report(loads, count, (ours, theirs), args.rounds)


def publish(folder: str, model: Any) -> None:
    for name, blocks in (("early", [8]), ("late", [20])):
        packed = plan(model, blocks).pack()
        Home.at(folder).catalog.publish(name, "plan", packed.arrays, packed.header)


def trimtab_command(folder: str) -> list[str]:
    return [str(BIN / "trimtab"), "--home", folder, "serve", "smollm2", "--port", str(PORT)]


def transformers_command() -> list[str]:
    run = "from transformers.cli.transformers import main; import sys; sys.argv[0] = 'transformers'; main()"
    flags = ["--continuous-batching", "--port", str(PORT + 1), "--device", "cpu", "--dtype", "float32"]
    return [sys.executable, "-c", run, "serve", str(embedded_folder()), *flags]


@contextlib.contextmanager
def server(command: list[str], environment: dict[str, str]) -> Iterator[str]:
    """A server's URL while the block runs."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, text=True)
    url = f"http://127.0.0.1:{command[command.index('--port') + 1]}"
    try:
        for _ in range(120):
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            if process.poll() is not None:
                raise SystemExit(process.stderr.read()[-2000:])  # type: ignore[union-attr]
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(40)


class First:
    """A streamer that notes when the first token after the prompt comes."""

    def __init__(self) -> None:
        self.began, self.puts, self.seconds = time.perf_counter(), 0, 0.0

    def put(self, value: object) -> None:
        self.puts += 1
        if self.puts == 2:
            self.seconds = time.perf_counter() - self.began

    def end(self) -> None:
        pass


class Loads:
    """The same prompts for every case. first: seconds to the first token, by case, of the latest run."""

    def __init__(self, model: Any, tokenizer: Any, tokens: int):
        self._model, self._tokenizer, self._tokens = model, tokenizer, tokens
        self._greedy = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=2)
        self.first: dict[str, float] = {}

    def _texts(self, count: int) -> list[str]:
        chats = [[{"role": "user", "content": p}] for p in itertools.islice(itertools.cycle(PROMPTS), count)]
        return [self._tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=False) for c in chats]

    def one_by_one(self, count: int, name: str) -> None:
        began, waited = time.perf_counter(), []
        for text in self._texts(count):
            streamer, so_far = First(), time.perf_counter() - began
            inputs = self._tokenizer(text, return_tensors="pt", add_special_tokens=False)
            self._model.generate(**inputs, generation_config=self._greedy, streamer=streamer)
            waited.append(so_far + streamer.seconds)
        self.first[name] = mean(waited)

    def padded(self, count: int, name: str) -> None:
        inputs = self._tokenizer(self._texts(count), return_tensors="pt", padding=True, add_special_tokens=False)
        streamer = First()
        self._model.generate(**inputs, generation_config=self._greedy, streamer=streamer)
        self.first[name] = streamer.seconds

    def served(self, url: str, count: int, name: str, extra: list[dict[str, Any]]) -> None:
        prompts = list(itertools.islice(itertools.cycle(PROMPTS), count))
        bodies = [self._body(p, fields) for p, fields in zip(prompts, itertools.cycle(extra), strict=False)]
        self.first[name] = mean(asyncio.run(_all(url, bodies)))

    def _body(self, prompt: str, fields: dict[str, Any]) -> dict[str, Any]:
        messages = [{"role": "user", "content": prompt}]
        shared = {"messages": messages, "max_tokens": self._tokens, "temperature": 0, "stream": True}
        return {**shared, **fields}


async def _all(url: str, bodies: list[dict[str, Any]]) -> list[float]:
    limits = httpx.Limits(max_connections=100)
    async with httpx.AsyncClient(timeout=300, limits=limits) as client:
        return await asyncio.gather(*(_first_text(client, url, body) for body in bodies))


async def _first_text(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> float:
    """Seconds until the first text; raises when the whole answer does not come."""
    began, first = time.perf_counter(), None
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if first is None and re.search(r'"content": ?"[^"]', line):
                first = time.perf_counter() - began
    if first is None:
        raise SystemExit(f"no text came for {json.dumps(body)}")
    return first


def report(loads: Loads, count: int, urls: tuple[str, str], rounds: int) -> None:
    mixed = [{"steering": steering, "nats": False} for steering in STEERINGS]
    nats = [{"steering": steering, "nats": True} for steering in STEERINGS]
    names = ("bare generate, one by one", "one left-padded batch", "transformers serve, unsteered")
    names += ("trimtab serve, unsteered", "trimtab serve, mixed plans", "trimtab serve, mixed plans with nats")
    runs = (
        lambda: loads.one_by_one(count, names[0]),
        lambda: loads.padded(count, names[1]),
        lambda: loads.served(urls[1], count, names[2], [{"model": str(embedded_folder())}]),
        lambda: loads.served(urls[0], count, names[3], [{}]),
        lambda: loads.served(urls[0], count, names[4], mixed),
        lambda: loads.served(urls[0], count, names[5], nats),
    )
    for row in measure([Case(name, run) for name, run in zip(names, runs, strict=True)], rounds):
        seconds = median(spent.wall for spent in row.spent)
        faster = 1 / median(row.wall)
        print(
            f"| {count} | {row.name} | {count / seconds:.2f} | {faster:.2f} | {loads.first[row.name]:.2f} |", flush=True
        )


if __name__ == "__main__":
    main()

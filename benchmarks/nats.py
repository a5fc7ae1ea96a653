"""What the nats of served answers cost: 8 requests with mixed plans at once, over the same without nats.

    python benchmarks/nats.py [--rounds 5] [--tokens 16] [--requests 8] [--threads 1]

"two passes, one answer at a time" is how they were measured before: each answer is read twice when it has ended. Now
the steered logits are those it was written by, and one pass of the base model reads all answers that wait.
"""

import asyncio
import itertools
import tempfile
from collections.abc import Callable

import torch
from ratio import Case, arguments, measure, setting, table
from steer import PROMPTS, plan

from trimtab.steering import load_model
from trimtab.tasks.home import Home
from trimtab.tasks.serving import service as serving
from trimtab.tasks.serving.measuring import measure as measure_nats
from trimtab.tasks.serving.reading import job_of
from trimtab.tasks.serving.schema import ChatRequest
from trimtab.tasks.serving.service import Service
from trimtab.tasks.serving.settings import Serving

STEERINGS = ("early", "late", None)


def main() -> None:
    extra = [("tokens", 16, "tokens of each answer"), ("requests", 8, "at once")]
    args = arguments("nats of served answers", 5, extra)
    torch.set_num_threads(args.threads)
    model, tokenizer = load_model()
    print(setting(args.threads), end="\n\n")
    with tempfile.TemporaryDirectory() as folder:
        for name, blocks in (("early", [8]), ("late", [20])):
            packed = plan(model, blocks).pack()
            Home.at(folder).catalog.publish(name, "plan", packed.arrays, packed.header)
        service = Service(model, tokenizer, Home.at(folder), Serving("smollm2"))
        loop = asyncio.new_event_loop()

        def case(name: str, nats: bool, before: Callable[[], None]) -> Case:
            return Case(name, lambda: loop.run_until_complete(answers(service, args, nats)), before)

        cases = [
            case("without nats", False, lambda: None),
            case("nats: two passes, one answer at a time", True, lambda: separately(service)),
            case("nats: one pass of the base model over all that wait", True, lambda: together(service)),
        ]
        print(table(f"{args.requests} requests of {args.tokens} tokens", measure(cases, args.rounds)))
        service.stop()


def separately(service: Service) -> None:
    serving.LOGITS_ROOM = 0
    bench = service._nats
    service._measuring.submit = lambda answer: bench.thread.submit(measure_nats, bench.body, [answer])


def together(service: Service) -> None:
    serving.LOGITS_ROOM = 2**26
    service._measuring.__dict__.pop("submit", None)


async def answers(service: Service, args, nats: bool) -> None:
    pairs = itertools.islice(zip(itertools.cycle(PROMPTS), itertools.cycle(STEERINGS), strict=False), args.requests)
    await asyncio.gather(*(answer(service, prompt, steering, args.tokens, nats) for prompt, steering in pairs))


async def answer(service: Service, prompt: str, steering: str | None, tokens: int, nats: bool) -> None:
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "temperature": 0, "nats": nats}
    job = job_of(service, ChatRequest.model_validate({**body, "steering": steering}))
    async with service.answering(job) as (running, pieces):
        async for _ in pieces:
            pass
        await service.measure(running)


if __name__ == "__main__":
    main()
